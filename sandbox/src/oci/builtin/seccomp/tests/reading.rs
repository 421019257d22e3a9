//! A profile read word for word, as the module's header says it: slow, and without a thought of
//! ranges, tables or jumps.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompOperator as Op,
    LinuxSyscall,
};

use super::arch::{Abi, Machine, X32_BIT};
use super::decide::answer;
use super::interpreter::Call;
use super::table::ROWS;

pub(super) fn read(profile: &LinuxSeccomp, machine: Machine, call: &Call) -> u32 {
    let Some(abi) = abi(profile, machine, call) else { return libc::SECCOMP_RET_KILL_PROCESS };
    let default = answer(profile.default_action(), profile.default_errno_ret()).unwrap();
    let rules = profile.syscalls().clone().unwrap_or_default();
    let name = name(abi, call.number);
    let matter = |rule: &&LinuxSyscall| answer(rule.action(), rule.errno_ret()).unwrap() != default;
    let value = |rule: &LinuxSyscall| answer(rule.action(), rule.errno_ret()).unwrap();

    let named =
        |rule: &&LinuxSyscall| name.is_some_and(|name| rule.names().iter().any(|one| one == name));
    let plain = |rule: &&LinuxSyscall| rule.args().is_none();
    if let Some(rule) = rules.iter().filter(matter).filter(named).find(plain) {
        return value(rule);
    }
    for rule in rules.iter().filter(matter) {
        let by_args = named(&rule) && !plain(&rule) && conditions_hold(rule, abi, call);
        if by_args || (plain(&rule) && behind(rule, abi, name, call)) {
            return value(rule);
        }
    }
    let newest =
        rules.iter().flat_map(|rule| rule.names()).filter_map(|name| abi.number(name)).max();
    let passes = [Action::ScmpActAllow, Action::ScmpActLog, Action::ScmpActTrace]
        .contains(&profile.default_action());
    if !passes && newest.is_some_and(|newest| call.number > newest) {
        return libc::SECCOMP_RET_ERRNO | 38;
    }
    default
}

/// The name of a number, straight from the table.
fn name(abi: Abi, number: u32) -> Option<&'static str> {
    let (column, bit) = match abi {
        Abi::X86_64 => (0, 0),
        Abi::I386 => (1, 0),
        Abi::X32 => (2, X32_BIT),
        Abi::Aarch64 => (3, 0),
    };
    let number = number.checked_sub(bit).and_then(|number| i16::try_from(number).ok())?;
    ROWS.iter().find(|row| row.1[column] == number).map(|row| row.0)
}

/// The interface of a call, if the profile covers it.
fn abi(profile: &LinuxSeccomp, machine: Machine, call: &Call) -> Option<Abi> {
    let listed = |arch| profile.architectures().iter().flatten().any(|one| *one == arch);
    let x32 = call.number & X32_BIT != 0 || call.number >= X32_BIT;
    match (machine, call.token) {
        (Machine::Aarch64, 0xc000_00b7) => Some(Abi::Aarch64),
        (Machine::X86_64, 0x4000_0003) => listed(Arch::ScmpArchX86).then_some(Abi::I386),
        (Machine::X86_64, 0xc000_003e) if x32 && call.number != u32::MAX => {
            listed(Arch::ScmpArchX32).then_some(Abi::X32)
        }
        (Machine::X86_64, 0xc000_003e) => Some(Abi::X86_64),
        _ => None,
    }
}

fn conditions_hold(rule: &LinuxSyscall, abi: Abi, call: &Call) -> bool {
    let args = rule.args().clone().unwrap_or_default();
    let twice =
        args.iter().any(|one| args.iter().filter(|two| one.index() == two.index()).count() > 1);
    let mut holds = args.iter().map(|arg| condition_holds(arg, abi, call));
    if twice { holds.any(|one| one) } else { holds.all(|one| one) }
}

fn condition_holds(arg: &LinuxSeccompArg, abi: Abi, call: &Call) -> bool {
    let width = if abi == Abi::I386 { u64::from(u32::MAX) } else { u64::MAX };
    let [is, value, two] =
        [call.args[arg.index()], arg.value(), arg.value_two().unwrap_or(0)].map(|one| one & width);
    match arg.op() {
        Op::ScmpCmpEq => is == value,
        Op::ScmpCmpNe => is != value,
        Op::ScmpCmpLt => is < value,
        Op::ScmpCmpLe => is <= value,
        Op::ScmpCmpGt => is > value,
        Op::ScmpCmpGe => is >= value,
        Op::ScmpCmpMaskedEq => is & value == two & value,
    }
}

/// Whether the call is the i386 one that stands for one the rule names.
fn behind(rule: &LinuxSyscall, abi: Abi, name: Option<&str>, call: &Call) -> bool {
    rule.names().iter().filter_map(|one| abi.multiplexed(one)).any(|(outer, mask, value)| {
        Some(outer) == name && call.args[0] & mask & u64::from(u32::MAX) == value
    })
}
