//! What a profile decides for every system call of one interface; nothing of BPF.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::SeccompError;
use super::arch::Abi;

/// A value that the filter returns: an action, and its data in the lower half.
pub(super) type Answer = u32;

/// One condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    /// 0 to 5.
    pub(super) argument: u32,
    pub(super) comparison: Comparison,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal(u64),
    NotEqual(u64),
    Less(u64),
    LessOrEqual(u64),
    Greater(u64),
    GreaterOrEqual(u64),
    MaskedEqual { mask: u64, value: u64 },
}

/// What is decided for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// Always this.
    Always(Answer),
    /// The answer of the first rule all of whose conditions hold, else the last.
    FirstOf(Vec<(Vec<Condition>, Answer)>, Answer),
}

/// What is decided for every call of one interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decisions {
    /// By number.
    pub(super) named: BTreeMap<u32, Decision>,
    /// For calls that the profile could know and does not name.
    pub(super) unnamed: Answer,
    /// The greatest number that the profile names, if any, and the answer for greater ones.
    pub(super) newer: Option<(u32, Answer)>,
}

/// Works out what `profile` decides for `abi`.
pub(super) fn decisions(profile: &LinuxSeccomp, abi: Abi) -> Result<Decisions, SeccompError> {
    let default = answer(profile.default_action(), profile.default_errno_ret())?;
    let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
    let mut newest = None;
    for rule in profile.syscalls().iter().flatten() {
        let numbers = rule.names().iter().filter_map(|name| abi.number(name));
        newest = newest.max(numbers.clone().max());
        let answer = answer(rule.action(), rule.errno_ret())?;
        let alternatives = alternatives(rule)?;
        if answer == default {
            continue;
        }
        for number in numbers {
            calls.entry(number).or_default().add(&alternatives, answer);
        }
        if alternatives.is_empty() {
            for (number, condition) in multiplexed(rule, abi) {
                calls.entry(number).or_default().add(&[vec![condition]], answer);
            }
        }
    }
    let decide = |(number, call): (u32, Call)| (number, call.decision(default));
    Ok(Decisions {
        named: calls.into_iter().map(decide).collect(),
        unnamed: default,
        newer: newest.zip(newer(profile)),
    })
}

/// Rules for one call, as they are collected.
#[derive(Default)]
struct Call {
    always: Option<Answer>,
    rules: Vec<(Vec<Condition>, Answer)>,
}

impl Call {
    fn add(&mut self, alternatives: &[Vec<Condition>], answer: Answer) {
        if alternatives.is_empty() {
            self.always = self.always.or(Some(answer));
        }
        self.rules.extend(alternatives.iter().map(|rule| (rule.clone(), answer)));
    }

    fn decision(self, default: Answer) -> Decision {
        match self.always {
            Some(answer) => Decision::Always(answer),
            None => Decision::FirstOf(self.rules, default),
        }
    }
}

/// The sets of conditions any of which makes a rule match; none for a rule without conditions.
fn alternatives(rule: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let all = rule
        .args()
        .iter()
        .flatten()
        .map(|one| condition(rule, one))
        .collect::<Result<Vec<_>, _>>()?;
    let twice = |one: &Condition| all.iter().filter(|two| two.argument == one.argument).count() > 1;
    if all.is_empty() {
        Ok(Vec::new())
    } else if all.iter().any(twice) {
        Ok(all.into_iter().map(|one| vec![one]).collect())
    } else {
        Ok(vec![all])
    }
}

fn condition(rule: &LinuxSyscall, one: &LinuxSeccompArg) -> Result<Condition, SeccompError> {
    let argument = u32::try_from(one.index()).ok().filter(|index| *index < 6);
    let argument = argument.ok_or_else(|| SeccompError::InvalidArgument {
        syscall: rule.names().first().cloned().unwrap_or_default(),
        index: one.index(),
    })?;
    let value = one.value();
    let comparison = match one.op() {
        LinuxSeccompOperator::ScmpCmpEq => Comparison::Equal(value),
        LinuxSeccompOperator::ScmpCmpNe => Comparison::NotEqual(value),
        LinuxSeccompOperator::ScmpCmpLt => Comparison::Less(value),
        LinuxSeccompOperator::ScmpCmpLe => Comparison::LessOrEqual(value),
        LinuxSeccompOperator::ScmpCmpGt => Comparison::Greater(value),
        LinuxSeccompOperator::ScmpCmpGe => Comparison::GreaterOrEqual(value),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Comparison::MaskedEqual { mask: value, value: one.value_two().unwrap_or(0) & value }
        }
    };
    Ok(Condition { argument, comparison })
}

/// The conditions under which another call of `abi` does what the rule names.
fn multiplexed(rule: &LinuxSyscall, abi: Abi) -> impl Iterator<Item = (u32, Condition)> {
    rule.names().iter().filter_map(move |name| {
        let (call, mask, value) = abi.multiplexed(name)?;
        let comparison = Comparison::MaskedEqual { mask, value };
        Some((abi.number(call)?, Condition { argument: 0, comparison }))
    })
}

/// The answer for calls newer than the profile, where it differs from the default.
fn newer(profile: &LinuxSeccomp) -> Option<Answer> {
    const NOT_IMPLEMENTED: u32 = libc::ENOSYS.cast_unsigned();
    let permissive = matches!(
        profile.default_action(),
        LinuxSeccompAction::ScmpActAllow
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActTrace
    );
    (!permissive).then_some(libc::SECCOMP_RET_ERRNO | NOT_IMPLEMENTED)
}

/// The value that the kernel takes for an action; the errno of a rule without one is `EPERM`.
pub(super) fn answer(
    action: LinuxSeccompAction,
    errno: Option<u32>,
) -> Result<Answer, SeccompError> {
    /// `MAX_ERRNO` of the kernel.
    const MAX_ERRNO: u32 = 4095;
    let errno = || match errno.unwrap_or(libc::EPERM.cast_unsigned()) {
        errno if errno > MAX_ERRNO => Err(SeccompError::InvalidErrno { errno }),
        errno => Ok(errno),
    };
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | errno()?,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | errno()?,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(SeccompError::UnsupportedAction { action });
        }
    })
}
