//! The compiled filter, run by a small interpreter, against the profile read word for word; and
//! a real process under a real filter.

use std::process::Command;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompBuilder, LinuxSeccompFilterFlag, LinuxSeccompOperator as Op, LinuxSyscall,
    LinuxSyscallBuilder,
};
use proptest::prelude::*;

use super::arch::{Abi, Machine, X32_BIT};
use super::table::ROWS;
use super::*;

/// What the kernel does with a filter.
mod interpreter;
/// What a profile says.
mod reading;

use interpreter::{Call, run};
use reading::read;

const ERRNO: u32 = libc::SECCOMP_RET_ERRNO;
const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;

fn rule(names: &[&str], action: Action) -> LinuxSyscall {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    LinuxSyscallBuilder::default().names(names).action(action).build().unwrap()
}

fn arg(index: usize, op: Op, value: u64, value_two: u64) -> LinuxSeccompArg {
    LinuxSeccompArgBuilder::default()
        .index(index)
        .op(op)
        .value(value)
        .value_two(value_two)
        .build()
        .unwrap()
}

fn when(mut rule: LinuxSyscall, args: &[LinuxSeccompArg]) -> LinuxSyscall {
    rule.set_args(Some(args.to_vec()));
    rule
}

fn profile(default: Action, archs: &[Arch], rules: Vec<LinuxSyscall>) -> LinuxSeccomp {
    LinuxSeccompBuilder::default()
        .default_action(default)
        .architectures(archs.to_vec())
        .syscalls(rules)
        .build()
        .unwrap()
}

fn call(abi: Abi, name: &str, args: [u64; 6]) -> Call {
    Call { token: abi.token(), number: abi.number(name).unwrap(), args }
}

fn answers(profile: &LinuxSeccomp, name: &str, args: [u64; 6]) -> u32 {
    let filter = compile(profile, Machine::X86_64).unwrap();
    run(&filter, &call(Abi::X86_64, name, args))
}

const NONE: [u64; 6] = [0; 6];

#[test]
fn table_is_sorted_and_each_number_has_one_name() {
    assert!(ROWS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    for column in 0..4 {
        let mut numbers: Vec<i16> =
            ROWS.iter().map(|(_, row)| row[column]).filter(|number| *number >= 0).collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "column {column}");
    }
    for (name, number) in [
        ("read", libc::SYS_read),
        ("openat", libc::SYS_openat),
        ("clone3", libc::SYS_clone3),
        ("mount_setattr", libc::SYS_mount_setattr),
    ] {
        let native = Machine::own().unwrap().native();
        assert_eq!(native.number(name).map(i64::from), Some(number), "{name}");
    }
}

#[test]
fn allow_list() {
    let profile = profile(
        Action::ScmpActErrno,
        &[],
        vec![rule(&["read", "write", "no_such_call"], Action::ScmpActAllow)],
    );
    assert_eq!(answers(&profile, "read", NONE), ALLOW);
    assert_eq!(answers(&profile, "write", NONE), ALLOW);
    // `write` is number 1, the newest one named: what is greater is not known to the profile.
    assert_eq!(answers(&profile, "close", NONE), ERRNO | 38);
    assert_eq!(answers(&profile, "openat2", NONE), ERRNO | 38);
}

#[test]
fn unnamed_older_calls_get_the_default() {
    let allow = rule(&["read", "openat2"], Action::ScmpActAllow);
    let mut profile = profile(Action::ScmpActErrno, &[], vec![allow]);
    assert_eq!(answers(&profile, "mount", NONE), ERRNO | 1);
    profile.set_default_errno_ret(Some(99));
    assert_eq!(answers(&profile, "mount", NONE), ERRNO | 99);
    assert_eq!(answers(&profile, "fchmodat2", NONE), ERRNO | 38);
}

#[test]
fn every_action_has_its_value() {
    for (action, value) in [
        (Action::ScmpActAllow, ALLOW),
        (Action::ScmpActKill, libc::SECCOMP_RET_KILL_THREAD),
        (Action::ScmpActKillThread, libc::SECCOMP_RET_KILL_THREAD),
        (Action::ScmpActKillProcess, KILL),
        (Action::ScmpActTrap, libc::SECCOMP_RET_TRAP),
        (Action::ScmpActLog, libc::SECCOMP_RET_LOG),
        (Action::ScmpActTrace, libc::SECCOMP_RET_TRACE | 7),
        (Action::ScmpActErrno, ERRNO | 7),
    ] {
        let mut one = rule(&["mount"], action);
        one.set_errno_ret(Some(7));
        let default = if action == Action::ScmpActAllow {
            Action::ScmpActErrno
        } else {
            Action::ScmpActAllow
        };
        assert_eq!(answers(&profile(default, &[], vec![one]), "mount", NONE), value, "{action:?}");
    }
}

#[test]
fn comparisons_are_of_64_bits() {
    const BIG: u64 = 0x1_0000_0005;
    for (op, value, two, yes, no) in [
        (Op::ScmpCmpEq, BIG, 0, vec![BIG], vec![5, 0x1_0000_0004, 0x2_0000_0005]),
        (Op::ScmpCmpNe, BIG, 0, vec![5, BIG + 1], vec![BIG]),
        (Op::ScmpCmpLt, BIG, 0, vec![0, 6, BIG - 1], vec![BIG, BIG + 1, u64::MAX]),
        (Op::ScmpCmpLe, BIG, 0, vec![0, 6, BIG], vec![BIG + 1, 0x2_0000_0000]),
        (Op::ScmpCmpGt, BIG, 0, vec![BIG + 1, 0x2_0000_0000], vec![BIG, 6, 0]),
        (Op::ScmpCmpGe, BIG, 0, vec![BIG, u64::MAX], vec![BIG - 1, 6]),
        (Op::ScmpCmpMaskedEq, 0xf_0000_000f, BIG, vec![BIG, BIG | 0x10], vec![5, BIG ^ 1]),
    ] {
        let rules = vec![when(rule(&["ioctl"], Action::ScmpActAllow), &[arg(1, op, value, two)])];
        let profile = profile(Action::ScmpActErrno, &[], rules);
        for (list, expected) in [(yes, ALLOW), (no, ERRNO | 1)] {
            for one in list {
                let args = [0, one, 0, 0, 0, 0];
                assert_eq!(answers(&profile, "ioctl", args), expected, "{op:?} {one:#x}");
            }
        }
    }
}

#[test]
fn conditions_of_a_rule_hold_together_but_two_on_one_argument_do_not() {
    let (eq, allow) = (Op::ScmpCmpEq, Action::ScmpActAllow);
    let both = when(rule(&["socket"], allow), &[arg(0, eq, 2, 0), arg(1, eq, 1, 0)]);
    let either = when(rule(&["clone"], allow), &[arg(0, eq, 2, 0), arg(0, eq, 3, 0)]);
    let profile = profile(Action::ScmpActErrno, &[], vec![both, either]);
    assert_eq!(answers(&profile, "socket", [2, 1, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answers(&profile, "socket", [2, 2, 0, 0, 0, 0]), ERRNO | 1);
    assert_eq!(answers(&profile, "clone", [2, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answers(&profile, "clone", [3, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answers(&profile, "clone", [4, 0, 0, 0, 0, 0]), ERRNO | 1);
}

#[test]
fn interfaces_that_are_not_listed_kill() {
    let allow = rule(&["read", "getpid"], Action::ScmpActAllow);
    let native = profile(Action::ScmpActErrno, &[Arch::ScmpArchX86_64], vec![allow.clone()]);
    let filter = compile(&native, Machine::X86_64).unwrap();
    assert_eq!(run(&filter, &call(Abi::X86_64, "getpid", NONE)), ALLOW);
    assert_eq!(run(&filter, &call(Abi::I386, "getpid", NONE)), KILL);
    assert_eq!(run(&filter, &call(Abi::X32, "getpid", NONE)), KILL);
    assert_eq!(run(&filter, &call(Abi::Aarch64, "getpid", NONE)), KILL);

    let three = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
    let all = profile(Action::ScmpActErrno, &three, vec![allow]);
    let filter = compile(&all, Machine::X86_64).unwrap();
    for abi in [Abi::X86_64, Abi::I386, Abi::X32] {
        assert_eq!(run(&filter, &call(abi, "getpid", NONE)), ALLOW, "{abi:?}");
        assert_eq!(run(&filter, &call(abi, "mount", NONE)), ERRNO | 38, "{abi:?}");
    }
}

#[test]
fn i386_calls_behind_another_one_are_found() {
    let deny = rule(&["connect", "shmget"], Action::ScmpActErrno);
    let profile = profile(Action::ScmpActAllow, &[Arch::ScmpArchX86], vec![deny]);
    let filter = compile(&profile, Machine::X86_64).unwrap();
    let at = |name, first| run(&filter, &call(Abi::I386, name, [first, 0, 0, 0, 0, 0]));
    assert_eq!(at("connect", 0), ERRNO | 1);
    assert_eq!(at("socketcall", 3), ERRNO | 1);
    assert_eq!(at("socketcall", 4), ALLOW);
    assert_eq!(at("ipc", 23), ERRNO | 1);
    assert_eq!(at("ipc", 0x1_0017), ERRNO | 1);
    assert_eq!(at("ipc", 24), ALLOW);
}

#[test]
fn what_cannot_be_kept_is_an_error() {
    let compile = |profile: &LinuxSeccomp| Filter::compile(profile).unwrap_err();
    let notify = profile(Action::ScmpActAllow, &[], vec![rule(&["read"], Action::ScmpActNotify)]);
    assert!(matches!(compile(&notify), SeccompError::UnsupportedAction { .. }));
    let mut errno = profile(Action::ScmpActErrno, &[], vec![]);
    errno.set_default_errno_ret(Some(4096));
    assert!(matches!(compile(&errno), SeccompError::InvalidErrno { errno: 4096 }));
    let seventh = when(rule(&["read"], Action::ScmpActAllow), &[arg(6, Op::ScmpCmpEq, 0, 0)]);
    let index = profile(Action::ScmpActErrno, &[], vec![seventh]);
    assert!(matches!(compile(&index), SeccompError::InvalidArgument { index: 6, .. }));
    let mut wait = profile(Action::ScmpActAllow, &[], vec![]);
    wait.set_flags(Some(vec![LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv]));
    assert!(matches!(compile(&wait), SeccompError::UnsupportedFlag));
    let rules = (0..2000)
        .map(|n| when(rule(&["read"], Action::ScmpActAllow), &[arg(0, Op::ScmpCmpEq, n, 0)]))
        .collect();
    let long = profile(Action::ScmpActErrno, &[], rules);
    assert!(matches!(compile(&long), SeccompError::TooLong { .. }));
}

/// An allow-list of the size of a usual default profile, for all interfaces, stays small.
#[test]
fn a_usual_profile_is_short() {
    let kept: Vec<&str> =
        ROWS.iter().enumerate().filter(|(n, _)| n % 5 != 0).map(|(_, row)| row.0).collect();
    let three = [Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
    let profile = profile(Action::ScmpActErrno, &three, vec![rule(&kept, Action::ScmpActAllow)]);
    let filter = compile(&profile, Machine::X86_64).unwrap();
    assert!(filter.len() < 1000, "{}", filter.len());
}

fn some_rule() -> impl Strategy<Value = LinuxSyscall> {
    let names = proptest::collection::vec(0..ROWS.len() + 5, 1..40);
    let action = prop::sample::select(vec![
        Action::ScmpActAllow,
        Action::ScmpActErrno,
        Action::ScmpActKillProcess,
        Action::ScmpActLog,
        Action::ScmpActTrap,
    ]);
    let op = prop::sample::select(vec![
        Op::ScmpCmpEq,
        Op::ScmpCmpNe,
        Op::ScmpCmpLt,
        Op::ScmpCmpLe,
        Op::ScmpCmpGt,
        Op::ScmpCmpGe,
        Op::ScmpCmpMaskedEq,
    ]);
    let one = (0_usize..3, op, some_value(), some_value())
        .prop_map(|(index, op, value, two)| arg(index, op, value, two));
    let args = proptest::collection::vec(one, 0..3);
    (names, action, proptest::option::of(0_u32..4), args).prop_map(
        |(names, action, errno, args)| {
            let names: Vec<&str> =
                names.iter().map(|index| ROWS.get(*index).map_or("unknown", |row| row.0)).collect();
            let mut rule = rule(&names, action);
            rule.set_errno_ret(errno);
            rule.set_args((!args.is_empty()).then_some(args));
            rule
        },
    )
}

fn some_value() -> impl Strategy<Value = u64> {
    let small = 0_u64..4;
    (small.clone(), small).prop_map(|(high, low)| high << 32 | low)
}

fn some_profile() -> impl Strategy<Value = LinuxSeccomp> {
    let default = prop::sample::select(vec![
        Action::ScmpActErrno,
        Action::ScmpActAllow,
        Action::ScmpActKillProcess,
        Action::ScmpActTrace,
    ]);
    let archs = prop::sample::subsequence(
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32, Arch::ScmpArchArm],
        0..=4,
    );
    let rules = proptest::collection::vec(some_rule(), 0..8);
    (default, archs, rules, proptest::option::of(0_u32..4)).prop_map(
        |(default, archs, rules, errno)| {
            let mut profile = profile(default, &archs, rules);
            profile.set_default_errno_ret(errno);
            profile
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For every number there is, under each token, and for any arguments.
    #[test]
    fn the_filter_does_what_the_profile_says(
        profile in some_profile(),
        machine in prop::sample::select(vec![Machine::X86_64, Machine::Aarch64]),
        args in proptest::collection::vec(proptest::array::uniform6(some_value()), 2),
    ) {
        let filter = compile(&profile, machine).unwrap();
        let edges = [X32_BIT - 1, X32_BIT, X32_BIT + 700, u32::MAX - 1, u32::MAX, 1 << 31];
        let numbers = (0..600).flat_map(|number| [number, number | X32_BIT]).chain(edges);
        for number in numbers {
            for token in [Abi::X86_64, Abi::I386, Abi::Aarch64].map(Abi::token) {
                for args in &args {
                    let call = Call { token, number, args: *args };
                    prop_assert_eq!(
                        run(&filter, &call), read(&profile, machine, &call), "{:?}", call
                    );
                }
            }
        }
    }
}

/// The other half of [`a_real_process_is_bound`], run in a process of its own.
#[test]
#[ignore = "run by another test, in its own process"]
fn bound_process() {
    let deny = when(rule(&["mkdirat", "mkdir"], Action::ScmpActErrno), &[]);
    let mut personality =
        when(rule(&["personality"], Action::ScmpActErrno), &[arg(0, Op::ScmpCmpEq, 0x42, 0)]);
    personality.set_errno_ret(Some(77));
    let profile = profile(Action::ScmpActAllow, &[], vec![deny, personality]);
    rustix::thread::set_no_new_privs(true).unwrap();
    Filter::compile(&profile).unwrap().install().unwrap();
    let directory = std::env::temp_dir().join(format!("orlop-seccomp-{}", std::process::id()));
    let made = std::fs::create_dir(directory).unwrap_err();
    assert_eq!(made.raw_os_error(), Some(libc::EPERM));
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.lines().any(|line| line == "Seccomp:\t2"), "{status}");
    println!("bound");
}

#[test]
fn a_real_process_is_bound() {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own)
        .args(["--exact", "oci::builtin::seccomp::tests::bound_process", "--ignored"])
        .arg("--nocapture")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("bound"), "{text}");
}
