//! Architectures of system calls: their tokens in the filter, and their numbers.

use oci_spec::runtime::Arch;

use super::table::ROWS;

/// The kernel a filter is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Machine {
    X86_64,
    Aarch64,
}

impl Machine {
    /// This machine, if it has a table.
    pub(super) const fn own() -> Option<Self> {
        if cfg!(target_arch = "x86_64") {
            Some(Self::X86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::Aarch64)
        } else {
            None
        }
    }

    pub(super) const fn native(self) -> Abi {
        match self {
            Self::X86_64 => Abi::X86_64,
            Self::Aarch64 => Abi::Aarch64,
        }
    }

    /// The interfaces a profile asks for that this machine's kernel has: its own one always, and
    /// of the listed ones those that its programs can use. The others never occur.
    pub(super) fn abis(self, listed: &[Arch]) -> Vec<Abi> {
        let others = match self {
            Self::X86_64 => {
                [(Arch::ScmpArchX86, Abi::I386), (Arch::ScmpArchX32, Abi::X32)].as_slice()
            }
            Self::Aarch64 => &[],
        };
        let asked = others.iter().filter(|(arch, _)| listed.contains(arch)).map(|(_, abi)| *abi);
        std::iter::once(self.native()).chain(asked).collect()
    }
}

/// A system call interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Abi {
    X86_64,
    I386,
    /// 32-bit pointers in 64-bit mode: the token of x86-64 and bit 30 in the number.
    X32,
    Aarch64,
}

/// `__X32_SYSCALL_BIT`.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// The token in `seccomp_data.arch`: `AUDIT_ARCH_*`.
    pub(super) const fn token(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::I386 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    /// The number in `seccomp_data.nr` of a call, if the interface has it.
    pub(super) fn number(self, name: &str) -> Option<u32> {
        let row = ROWS.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        let [x86_64, i386, x32, aarch64] = ROWS.get(row)?.1;
        let (number, bit) = match self {
            Self::X86_64 => (x86_64, 0),
            Self::I386 => (i386, 0),
            Self::X32 => (x32, X32_BIT),
            Self::Aarch64 => (aarch64, 0),
        };
        u32::try_from(number).ok().map(|number| number | bit)
    }

    /// Whether arguments are 32 bits wide, so that the upper half is no part of them.
    pub(super) const fn is_narrow(self) -> bool {
        matches!(self, Self::I386)
    }

    /// The call that stands for several others by its first argument, if `name` is one of them:
    /// that call, the argument's mask, and its value.
    ///
    /// On i386 sockets and System V IPC were first reached only this way.
    pub(super) fn multiplexed(self, name: &str) -> Option<(&'static str, u64, u64)> {
        const SOCKET: [&str; 20] = [
            "socket",
            "bind",
            "connect",
            "listen",
            "accept",
            "getsockname",
            "getpeername",
            "socketpair",
            "send",
            "recv",
            "sendto",
            "recvfrom",
            "shutdown",
            "setsockopt",
            "getsockopt",
            "sendmsg",
            "recvmsg",
            "accept4",
            "recvmmsg",
            "sendmmsg",
        ];
        const IPC: [(&str, u64); 12] = [
            ("semop", 1),
            ("semget", 2),
            ("semctl", 3),
            ("semtimedop", 4),
            ("msgsnd", 11),
            ("msgrcv", 12),
            ("msgget", 13),
            ("msgctl", 14),
            ("shmat", 21),
            ("shmdt", 22),
            ("shmget", 23),
            ("shmctl", 24),
        ];
        if self != Self::I386 {
            return None;
        }
        let socket = (1..).zip(SOCKET).find(|(_, one)| *one == name).map(|(value, _)| value);
        let ipc = IPC.iter().find(|(one, _)| *one == name).map(|(_, value)| *value);
        socket
            .map(|value| ("socketcall", u64::from(u32::MAX), value))
            // The upper half of the argument is a version.
            .or_else(|| ipc.map(|value| ("ipc", 0xffff, value)))
    }
}
