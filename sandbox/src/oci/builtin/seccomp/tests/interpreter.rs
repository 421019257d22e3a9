//! Runs a filter as the kernel does. Every instruction that the compiler emits is known here;
//! any other, a jump out of the program, or falling off its end, fails the test.

use super::assemble::{
    AND, ARGUMENTS, EQUAL, GREATER, GREATER_OR_EQUAL, JUMP, LOAD, NUMBER, RETURN, TOKEN,
};
use crate::sys::seccomp::Instruction;

/// `struct seccomp_data`, the instruction pointer left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub(super) token: u32,
    pub(super) number: u32,
    pub(super) args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            NUMBER => self.number,
            TOKEN => self.token,
            _ => {
                let word = (offset - ARGUMENTS) / 4;
                assert!(offset >= ARGUMENTS && offset.is_multiple_of(4) && word < 12, "{offset}");
                let value = self.args[word as usize / 2];
                if word.is_multiple_of(2) { value as u32 } else { (value >> 32) as u32 }
            }
        }
    }
}

pub(super) fn run(filter: &[Instruction], call: &Call) -> u32 {
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = filter[at];
        at += 1;
        let mut branch = |yes| at += usize::from(if yes { jt } else { jf });
        match code {
            LOAD => accumulator = call.word(k),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            EQUAL => branch(accumulator == k),
            GREATER => branch(accumulator > k),
            GREATER_OR_EQUAL => branch(accumulator >= k),
            RETURN => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}
