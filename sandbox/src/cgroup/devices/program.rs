//! Device rules as an eBPF program.
//!
//! The program goes through the rules from the last to the first, with the access still asked
//! for in a register. A rule that allows takes its share away, and nothing left means yes; a rule
//! that denies any of what is left means no. After the first rule: no. A rule that decides for
//! everything ends the program, because the verifier refuses code that cannot be reached.
//!
//! # References
//! - [`struct bpf_cgroup_dev_ctx`](https://docs.ebpf.io/linux/program-type/BPF_PROG_TYPE_CGROUP_DEVICE/)
//! - [the instruction set](https://docs.kernel.org/bpf/standardization/instruction-set.html)

use super::rule::{Access, Kind, Rule, Verdict};
use crate::sys::bpf::Instruction;

// Operations: class, operation and size or source in one byte.
pub(super) const LOAD_WORD: u8 = 0x61;
pub(super) const AND: u8 = 0x57;
pub(super) const SHIFT_RIGHT: u8 = 0x77;
pub(super) const MOVE: u8 = 0xb7;
pub(super) const MOVE_REGISTER: u8 = 0xbf;
pub(super) const JUMP: u8 = 0x05;
pub(super) const JUMP_IF_NOT: u8 = 0x55;
pub(super) const JUMP_IF_ANY: u8 = 0x45;
pub(super) const EXIT: u8 = 0x95;

/// The answer.
const ANSWER: u8 = 0;
/// The context: access and kind, major, minor.
const CONTEXT: u8 = 1;
/// The access still asked for.
const ASKED: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `BPF_DEVCG_DEV_BLOCK` and `BPF_DEVCG_DEV_CHAR`.
pub(super) const fn kind_number(kind: Kind) -> i32 {
    match kind {
        Kind::Block => 1,
        Kind::Char => 2,
    }
}

/// Compiles a list of rules.
pub(super) fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = prologue();
    for rule in rules.iter().rev() {
        program.extend(block(rule));
        if rule.is_total() {
            return program;
        }
    }
    program.extend(answer(Verdict::Deny));
    program
}

/// Loads the four values.
fn prologue() -> Vec<Instruction> {
    let load = |register, offset| Instruction {
        code: LOAD_WORD,
        registers: register | CONTEXT << 4,
        offset,
        immediate: 0,
    };
    let copy =
        Instruction { code: MOVE_REGISTER, registers: KIND | ASKED << 4, offset: 0, immediate: 0 };
    vec![
        load(ASKED, 0),
        copy,
        plain(AND, KIND, 0xffff),
        plain(SHIFT_RIGHT, ASKED, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ]
}

/// One rule: skip it if another device is meant, else decide.
fn block(rule: &Rule) -> Vec<Instruction> {
    let number = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let conditions = [
        (KIND, rule.kind.map(kind_number)),
        (MAJOR, rule.major.map(number)),
        (MINOR, rule.minor.map(number)),
    ];
    let decision = decision(rule);
    let conditions: Vec<(u8, i32)> = conditions
        .into_iter()
        .filter_map(|(register, value)| value.map(|value| (register, value)))
        .collect();
    let total = conditions.len() + decision.len();
    let skips = conditions.iter().enumerate().map(|(index, (register, value))| Instruction {
        offset: distance(total - index - 1),
        ..plain(JUMP_IF_NOT, *register, *value)
    });
    skips.chain(decision.iter().copied()).collect()
}

fn decision(rule: &Rule) -> Vec<Instruction> {
    let access = i32::from(rule.access.0);
    let before = match (rule.verdict, rule.access) {
        (_, Access::ALL) => vec![],
        (Verdict::Allow, _) => vec![
            plain(AND, ASKED, !access),
            Instruction { offset: 2, ..plain(JUMP_IF_NOT, ASKED, 0) },
        ],
        (Verdict::Deny, _) => vec![
            Instruction { offset: 1, ..plain(JUMP_IF_ANY, ASKED, access) },
            Instruction { offset: 2, ..plain(JUMP, 0, 0) },
        ],
    };
    before.into_iter().chain(answer(rule.verdict)).collect()
}

fn answer(verdict: Verdict) -> [Instruction; 2] {
    let value = match verdict {
        Verdict::Allow => 1,
        Verdict::Deny => 0,
    };
    [plain(MOVE, ANSWER, value), plain(EXIT, 0, 0)]
}

const fn plain(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: register, offset: 0, immediate }
}

/// A block has at most seven instructions.
fn distance(instructions: usize) -> i16 {
    i16::try_from(instructions).unwrap_or(i16::MAX)
}
