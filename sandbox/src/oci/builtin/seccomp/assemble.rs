//! Decisions to classic BPF.
//!
//! Per architecture token the filter is a binary search over ranges of call numbers with one
//! decision each: about six comparisons for a usual profile. Only the number and the token are
//! looked at where no argument matters, so the kernel can work the answer out beforehand (its
//! seccomp action cache).
//!
//! The program is emitted from its end to its beginning: whatever an instruction jumps to is
//! already there, so distances are known. A conditional jump reaches 255 instructions; farther
//! targets get an unconditional jump close by.

use std::collections::BTreeMap;

use super::arch::{Abi, X32_BIT};
use super::decide::{Answer, Comparison, Condition, Decision, Decisions};
use crate::sys::seccomp::Instruction;

// Operations of classic BPF: class, operation and source in one word.
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const EQUAL: u16 = 0x15;
pub(super) const GREATER: u16 = 0x25;
pub(super) const GREATER_OR_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const TOKEN: u32 = 4;
pub(super) const ARGUMENTS: u32 = 16;

/// How far a conditional jump is made to go at most; two less than it could, for the two
/// unconditional jumps that may come between.
const REACH: usize = 253;

/// The answer to a call of an interface that the profile does not list.
const FOREIGN: Answer = libc::SECCOMP_RET_KILL_PROCESS;

/// Assembles the filter for the decisions of each interface, the native one first.
pub(super) fn assemble(all: &[(Abi, Decisions)]) -> Vec<Instruction> {
    let mut tokens: Vec<u32> = Vec::new();
    for (abi, _) in all {
        if !tokens.contains(&abi.token()) {
            tokens.push(abi.token());
        }
    }
    let mut program = Emitter::default();
    let mut next = program.answer(FOREIGN);
    for token in tokens.into_iter().rev() {
        let ranges = ranges(token, all);
        let tree = program.tree(&ranges);
        program.fall_to(tree);
        let found = program.load(NUMBER);
        next = program.branch(EQUAL, token, found, next);
    }
    program.fall_to(next);
    program.load(TOKEN);
    program.finish()
}

/// One range of call numbers: its first, and what is decided up to the next range.
type Range<'a> = (u32, Outcome<'a>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome<'a> {
    Answer(Answer),
    Rules(&'a [(Vec<Condition>, Answer)], Answer, Abi),
}

/// The ranges of one token, from number 0, neighbours with one answer put together.
fn ranges(token: u32, all: &[(Abi, Decisions)]) -> Vec<Range<'_>> {
    let mut map: BTreeMap<u32, Outcome<'_>> = BTreeMap::new();
    if token == Abi::X32.token() {
        map.insert(X32_BIT, Outcome::Answer(FOREIGN));
    }
    for (abi, decisions) in all.iter().filter(|(abi, _)| abi.token() == token) {
        let first = if *abi == Abi::X32 { X32_BIT } else { 0 };
        let (last_known, newer) = decisions.newer.unwrap_or((u32::MAX - 1, decisions.unnamed));
        map.insert(first, Outcome::Answer(decisions.unnamed));
        for (number, decision) in &decisions.named {
            let outcome = match decision {
                Decision::Always(answer) => Outcome::Answer(*answer),
                Decision::FirstOf(rules, otherwise) => Outcome::Rules(rules, *otherwise, *abi),
            };
            map.insert(*number, outcome);
            map.entry(*number + 1).or_insert(Outcome::Answer(decisions.unnamed));
        }
        if last_known < u32::MAX - 1 {
            map.insert(last_known + 1, Outcome::Answer(newer));
        }
        if *abi != Abi::X32 {
            // No call: a tracer, or a program that asks for -1.
            map.insert(u32::MAX, Outcome::Answer(newer));
        }
    }
    let mut merged: Vec<Range<'_>> = Vec::new();
    for (first, outcome) in map {
        if merged.last().is_none_or(|(_, last)| *last != outcome) {
            merged.push((first, outcome));
        }
    }
    merged
}

/// A place in the program: how many instructions there were when its first one had been emitted.
type Label = usize;

/// The program from its end.
#[derive(Default)]
struct Emitter {
    reversed: Vec<Instruction>,
    /// The latest place of each answer.
    answers: BTreeMap<Answer, Label>,
}

impl Emitter {
    fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    fn push(&mut self, code: u16, k: u32, jt: u8, jf: u8) -> Label {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len()
    }

    fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD, offset, 0, 0)
    }

    /// Distance of the jump that an instruction emitted now would make.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target
    }

    /// A place that returns `answer`, near enough to be jumped to.
    fn answer(&mut self, answer: Answer) -> Label {
        if let Some(label) = self.answers.get(&answer)
            && self.distance(*label) < REACH / 2
        {
            return *label;
        }
        let label = self.push(RETURN, answer, 0, 0);
        self.answers.insert(answer, label);
        label
    }

    /// Makes what was emitted last lead to `target`.
    fn fall_to(&mut self, target: Label) {
        if self.distance(target) > 0 {
            self.jump(target);
        }
    }

    fn jump(&mut self, target: Label) -> Label {
        // The instruction limit is far below 2^32.
        let distance = u32::try_from(self.distance(target)).unwrap_or(u32::MAX);
        self.push(JUMP, distance, 0, 0)
    }

    /// A place close enough for a conditional jump that leads to `target`.
    fn reachable(&mut self, target: Label) -> Label {
        if self.distance(target) > REACH { self.jump(target) } else { target }
    }

    /// A conditional jump.
    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        let yes = self.reachable(yes);
        let no = self.reachable(no);
        let near = |label: Label| u8::try_from(self.distance(label)).unwrap_or(u8::MAX);
        let (jt, jf) = (near(yes), near(no));
        self.push(code, k, jt, jf)
    }

    /// Binary search over ranges; the number is loaded.
    fn tree(&mut self, ranges: &[Range<'_>]) -> Label {
        match ranges {
            [] => self.answer(FOREIGN),
            [(_, Outcome::Answer(answer))] => self.answer(*answer),
            [(_, Outcome::Rules(rules, otherwise, abi))] => self.rules(rules, *otherwise, *abi),
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let first = high.first().map_or(0, |(first, _)| *first);
                let high = self.tree(high);
                let low = self.tree(low);
                self.branch(GREATER_OR_EQUAL, first, high, low)
            }
        }
    }

    /// The rules of one call, one after the other.
    fn rules(&mut self, rules: &[(Vec<Condition>, Answer)], otherwise: Answer, abi: Abi) -> Label {
        let mut next = self.answer(otherwise);
        for (conditions, answer) in rules.iter().rev() {
            let mut then = self.answer(*answer);
            for condition in conditions.iter().rev() {
                then = self.condition(condition, abi, then, next);
            }
            next = then;
        }
        next
    }

    /// One condition: goes to `yes` or `no`.
    fn condition(&mut self, condition: &Condition, abi: Abi, yes: Label, no: Label) -> Label {
        let at = ARGUMENTS + 8 * condition.argument;
        let (code, value, mask) = match condition.comparison {
            Comparison::NotEqual(value) => {
                return self.compare(at, abi, (EQUAL, value, u64::MAX), no, yes);
            }
            Comparison::Less(value) => {
                return self.compare(at, abi, (GREATER_OR_EQUAL, value, u64::MAX), no, yes);
            }
            Comparison::LessOrEqual(value) => {
                return self.compare(at, abi, (GREATER, value, u64::MAX), no, yes);
            }
            Comparison::Equal(value) => (EQUAL, value, u64::MAX),
            Comparison::Greater(value) => (GREATER, value, u64::MAX),
            Comparison::GreaterOrEqual(value) => (GREATER_OR_EQUAL, value, u64::MAX),
            Comparison::MaskedEqual { mask, value } => (EQUAL, value, mask),
        };
        self.compare(at, abi, (code, value, mask), yes, no)
    }

    /// Compares the 64 bits at `at`: first the upper half, and where it is equal the lower one.
    /// Both architectures are little-endian.
    fn compare(
        &mut self,
        at: u32,
        abi: Abi,
        (code, value, mask): (u16, u64, u64),
        yes: Label,
        no: Label,
    ) -> Label {
        let low = self.branch(code, low_half(value), yes, no);
        let low = self.load_masked(at, low_half(mask), low);
        if abi.is_narrow() {
            return low;
        }
        let mut top = self.branch(EQUAL, high_half(value), low, no);
        if code != EQUAL {
            top = self.branch(GREATER, high_half(value), yes, top);
        }
        self.load_masked(at + 4, high_half(mask), top)
    }

    /// Loads a word and takes a part of it; `next`, which uses it, was emitted last.
    fn load_masked(&mut self, at: u32, mask: u32, next: Label) -> Label {
        self.fall_to(next);
        if mask != u32::MAX {
            self.push(AND, mask, 0, 0);
        }
        self.load(at)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the upper half is taken elsewhere")]
const fn low_half(value: u64) -> u32 {
    value as u32
}

const fn high_half(value: u64) -> u32 {
    low_half(value >> 32)
}
