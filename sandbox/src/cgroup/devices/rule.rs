//! One device rule, read from the spec.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::DeviceRuleError;

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow,
    Deny,
}

/// The two kinds of devices that rules know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Block,
    Char,
}

/// A set of kinds of access; the bits are those of the eBPF context (`BPF_DEVCG_ACC_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(pub(super) u8);

impl Access {
    pub(super) const MAKE: Self = Self(1);
    pub(super) const READ: Self = Self(2);
    pub(super) const WRITE: Self = Self(4);
    pub(super) const ALL: Self = Self(7);

    /// Letters `r`, `w`, `m`; no letters mean all.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::ALL);
        }
        text.chars().try_fold(Self(0), |set, letter| match letter {
            'r' => Some(set.and(Self::READ)),
            'w' => Some(set.and(Self::WRITE)),
            'm' => Some(set.and(Self::MAKE)),
            _ => None,
        })
    }

    /// Both sets together.
    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) const fn overlaps(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The letters, in the kernel's order.
    pub(super) fn letters(self) -> String {
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MAKE, 'm')]
            .into_iter()
            .filter(|(one, _)| self.overlaps(*one))
            .map(|(_, letter)| letter)
            .collect()
    }
}

/// One rule: which devices, which access, what then. `None` matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) verdict: Verdict,
    pub(super) kind: Option<Kind>,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
    pub(super) access: Access,
}

impl Rule {
    /// Reads one rule of the spec; the number -1 is a wildcard, as absence is.
    pub(super) fn parse(rule: &LinuxDeviceCgroup) -> Result<Self, DeviceRuleError> {
        let refuse = || DeviceRuleError::InvalidRule { rule: rule.to_string() };
        let kind = match rule.typ().unwrap_or(LinuxDeviceType::A) {
            LinuxDeviceType::A => None,
            LinuxDeviceType::B => Some(Kind::Block),
            LinuxDeviceType::C | LinuxDeviceType::U => Some(Kind::Char),
            LinuxDeviceType::P => return Err(refuse()),
        };
        let number = |number: Option<i64>| match number {
            None | Some(-1) => Ok(None),
            Some(number) => i32::try_from(number)
                .ok()
                .and_then(|number| u32::try_from(number).ok())
                .map(Some)
                .ok_or_else(refuse),
        };
        let access = rule.access().as_deref().unwrap_or_default();
        Ok(Self {
            verdict: if rule.allow() { Verdict::Allow } else { Verdict::Deny },
            kind,
            major: number(rule.major())?,
            minor: number(rule.minor())?,
            access: Access::parse(access).ok_or_else(refuse)?,
        })
    }

    /// Whether the rule decides for every device and every access.
    pub(super) fn is_total(&self) -> bool {
        self.kind.is_none()
            && self.major.is_none()
            && self.minor.is_none()
            && self.access == Access::ALL
    }
}
