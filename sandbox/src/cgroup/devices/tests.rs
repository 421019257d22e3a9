//! Lists of rules against their plain meaning: the program, run by a small interpreter, and the
//! exceptions of v1.

use std::collections::BTreeMap;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use proptest::prelude::*;

use super::exceptions::Exceptions;
use super::program::{self, compile};
use super::rule::{Access, Kind, Rule, Verdict};
use super::*;
use crate::sys::bpf::Instruction;

#[derive(Debug, Clone, Copy)]
struct Request {
    kind: Kind,
    major: u32,
    minor: u32,
    access: Access,
}

fn matches(rule: &Rule, request: &Request) -> bool {
    rule.kind.is_none_or(|kind| kind == request.kind)
        && rule.major.is_none_or(|major| major == request.major)
        && rule.minor.is_none_or(|minor| minor == request.minor)
}

/// The meaning of a list: for each single access the last rule that speaks of it.
fn allowed(rules: &[Rule], request: &Request) -> bool {
    [Access::MAKE, Access::READ, Access::WRITE]
        .into_iter()
        .filter(|one| request.access.overlaps(*one))
        .all(|one| {
            rules
                .iter()
                .rev()
                .find(|rule| matches(rule, request) && rule.access.overlaps(one))
                .is_some_and(|rule| rule.verdict == Verdict::Allow)
        })
}

/// Runs a program as the kernel does; a jump backwards or out of it fails the test.
fn run(program: &[Instruction], request: &Request) -> bool {
    let kind = program::kind_number(request.kind) as u64;
    let context =
        [u64::from(request.access.0) << 16 | kind, request.major.into(), request.minor.into()];
    let mut registers = [0_u64; 16];
    let mut at = 0_usize;
    loop {
        let Instruction { code, registers: pair, offset, immediate } = program[at];
        let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
        let constant = i64::from(immediate) as u64;
        at += 1;
        let forward = usize::try_from(offset).unwrap();
        match code {
            program::LOAD_WORD => registers[to] = context[forward / 4],
            program::MOVE => registers[to] = constant,
            program::MOVE_REGISTER => registers[to] = registers[from],
            program::AND => registers[to] &= constant,
            program::SHIFT_RIGHT => registers[to] >>= constant,
            program::JUMP => at += forward,
            program::JUMP_IF_NOT if registers[to] != constant => at += forward,
            program::JUMP_IF_ANY if registers[to] & constant != 0 => at += forward,
            program::JUMP_IF_NOT | program::JUMP_IF_ANY => {}
            program::EXIT => return registers[0] != 0,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}

/// What the v1 files decide.
fn by_exceptions(held: &Exceptions, request: &Request) -> bool {
    let excepted = held.list.iter().any(|((kind, major, minor), access)| {
        *kind == request.kind
            && major.is_none_or(|major| major == request.major)
            && minor.is_none_or(|minor| minor == request.minor)
            && access.overlaps(request.access)
    });
    excepted == (held.default == Verdict::Deny)
}

/// What a group holds after the kernel was told `changes`.
fn told(present: &str, changes: &[(&str, String)]) -> Option<BTreeMap<String, Access>> {
    let split = |line: &str| {
        let (devices, access) = line.rsplit_once(' ').unwrap();
        (devices.to_owned(), Access::parse(access).unwrap())
    };
    let mut held: Option<BTreeMap<String, Access>> =
        (!present.starts_with('a')).then(|| present.lines().map(split).collect());
    for (file, line) in changes {
        if line == "a" {
            held = (*file == "devices.deny").then(BTreeMap::new);
            continue;
        }
        let Some(list) = &mut held else { continue };
        let (devices, access) = split(line);
        let entry = list.entry(devices).or_insert(Access(0));
        *entry = if *file == "devices.allow" { entry.and(access) } else { entry.without(access) };
        list.retain(|_, access| !access.is_empty());
    }
    held
}

fn some_rule() -> impl Strategy<Value = Rule> {
    let verdict = prop::sample::select(vec![Verdict::Allow, Verdict::Deny]);
    let kind = prop::sample::select(vec![None, Some(Kind::Char), Some(Kind::Block)]);
    let number = || proptest::option::of(1_u32..4);
    let access = prop_oneof![3 => Just(7_u8), 1 => 1_u8..8].prop_map(Access);
    (verdict, kind, number(), number(), access).prop_map(|(verdict, kind, major, minor, access)| {
        Rule { verdict, kind, major, minor, access }
    })
}

fn requests() -> impl Iterator<Item = Request> {
    [Kind::Block, Kind::Char].into_iter().flat_map(|kind| {
        (0..5).flat_map(move |major| {
            (0..5).flat_map(move |minor| {
                (1..8).map(move |access| Request { kind, major, minor, access: Access(access) })
            })
        })
    })
}

proptest! {
    #[test]
    fn the_program_means_the_list(rules in proptest::collection::vec(some_rule(), 0..8)) {
        let program = compile(&rules);
        for request in requests() {
            prop_assert_eq!(
                run(&program, &request), allowed(&rules, &request), "{:?}", request
            );
        }
    }

    #[test]
    fn the_exceptions_mean_the_list_or_refuse_it(
        rules in proptest::collection::vec(some_rule(), 0..6)
    ) {
        let Ok(held) = Exceptions::of(&rules) else { return Ok(()) };
        let single = |request: &Request| request.access.0.count_ones() == 1;
        for request in requests().filter(single) {
            prop_assert_eq!(
                by_exceptions(&held, &request), allowed(&rules, &request), "{:?}", request
            );
        }
    }

    #[test]
    fn changes_lead_from_any_list_to_any_other(
        from in proptest::collection::vec(some_rule(), 0..6),
        to in proptest::collection::vec(some_rule(), 0..6),
    ) {
        let (Ok(from), Ok(to)) = (Exceptions::of(&from), Exceptions::of(&to)) else {
            return Ok(());
        };
        let text = |held: &Exceptions| match held.default {
            Verdict::Allow => "a *:* rwm\n".to_owned(),
            Verdict::Deny => told("", &held.changes_from(""))
                .unwrap()
                .iter()
                .map(|(devices, access)| format!("{devices} {}\n", access.letters()))
                .collect(),
        };
        let after = told(&text(&from), &to.changes_from(&text(&from)));
        let wanted = (to.default == Verdict::Deny).then(|| told("", &to.changes_from("")).unwrap());
        prop_assert_eq!(after, wanted);
    }
}

fn oci(allow: bool, kind: Option<LinuxDeviceType>, numbers: (i64, i64), access: &str) -> Rule {
    Rule::parse(&spec(allow, kind, numbers, access)).unwrap()
}

fn spec(
    allow: bool,
    kind: Option<LinuxDeviceType>,
    (major, minor): (i64, i64),
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(kind)
        .set_major(Some(major))
        .set_minor(Some(minor))
        .set_access(Some(access.to_owned()));
    rule
}

#[test]
fn a_usual_list_in_v1_files() {
    use LinuxDeviceType::{B, C};
    let rules = [
        oci(false, None, (-1, -1), "rwm"),
        oci(true, Some(C), (-1, -1), "m"),
        oci(true, Some(B), (-1, -1), "m"),
        oci(true, Some(C), (1, 3), "rwm"),
        oci(true, Some(C), (136, -1), ""),
    ];
    let lines: Vec<String> = Exceptions::of(&rules)
        .unwrap()
        .changes_from("a *:* rwm\n")
        .into_iter()
        .map(|(file, line)| format!("{file} {line}"))
        .collect();
    assert_eq!(
        lines,
        [
            "devices.deny a",
            "devices.allow b *:* m",
            "devices.allow c *:* m",
            "devices.allow c 1:3 rwm",
            "devices.allow c 136:* rwm",
        ]
    );
}

#[test]
fn what_v1_cannot_hold_is_refused() {
    let rules = [
        oci(true, Some(LinuxDeviceType::C), (1, -1), "rwm"),
        oci(false, Some(LinuxDeviceType::C), (1, 3), "w"),
    ];
    let error = Exceptions::of(&rules).unwrap_err();
    assert!(matches!(error, DeviceRuleError::TooFine { rule } if rule == "c 1:3 w"));
}

#[test]
fn rules_that_mean_nothing_are_refused() {
    for rule in [
        spec(true, Some(LinuxDeviceType::P), (1, 3), "r"),
        spec(true, None, (-2, 3), "r"),
        spec(true, None, (1 << 32, 3), "r"),
        spec(true, None, (1, 3), "rx"),
    ] {
        assert!(matches!(Rule::parse(&rule), Err(DeviceRuleError::InvalidRule { .. })), "{rule}");
    }
}

#[test]
fn nothing_follows_a_rule_that_decides_all() {
    let all = oci(true, None, (-1, -1), "rwm");
    let deny = oci(false, None, (-1, -1), "");
    assert_eq!(compile(&[deny, all]), compile(&[all]));
    assert_eq!(compile(&[all]).last().unwrap().code, program::EXIT);
}
