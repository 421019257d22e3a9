//! Device rules as v1 holds them: a default, and exceptions from it.
//!
//! # References
//! - [devices.allow, devices.deny, devices.list](https://docs.kernel.org/admin-guide/cgroup-v1/devices.html)

use std::collections::BTreeMap;

use super::DeviceRuleError;
use super::rule::{Access, Kind, Rule, Verdict};

/// Devices of one exception.
type Devices = (Kind, Option<u32>, Option<u32>);

/// What the v1 files of a group are to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exceptions {
    pub(super) default: Verdict,
    pub(super) list: BTreeMap<Devices, Access>,
}

impl Exceptions {
    /// The meaning of a list of rules.
    pub(super) fn of(rules: &[Rule]) -> Result<Self, DeviceRuleError> {
        let mut all = Self { default: Verdict::Deny, list: BTreeMap::new() };
        for rule in rules {
            if rule.is_total() {
                all = Self { default: rule.verdict, list: BTreeMap::new() };
                continue;
            }
            let both = [Kind::Block, Kind::Char];
            for kind in both.into_iter().filter(|kind| rule.kind.is_none_or(|own| own == *kind)) {
                all.add((kind, rule.major, rule.minor), rule)?;
            }
        }
        Ok(all)
    }

    fn add(&mut self, devices: Devices, rule: &Rule) -> Result<(), DeviceRuleError> {
        if rule.verdict != self.default {
            let access = self.list.entry(devices).or_insert(Access(0));
            *access = access.and(rule.access);
            return Ok(());
        }
        for (exception, access) in &mut self.list {
            if !access.overlaps(rule.access) || !meet(*exception, devices) {
                continue;
            }
            if !holds(devices, *exception) {
                let line = line(devices, rule.access);
                return Err(DeviceRuleError::TooFine { rule: line });
            }
            *access = access.without(rule.access);
        }
        self.list.retain(|_, access| !access.is_empty());
        Ok(())
    }

    /// The writes, file and line, that bring a group from the text of its `devices.list` to this.
    pub(super) fn changes_from(&self, present: &str) -> Vec<(&'static str, String)> {
        let (take, give) = match self.default {
            Verdict::Deny => ("devices.deny", "devices.allow"),
            Verdict::Allow => ("devices.allow", "devices.deny"),
        };
        let wanted = |(devices, access): (&Devices, &Access)| (give, line(*devices, *access));
        let present = match (self.default, parse_list(present)) {
            // Where everything is allowed, the kernel does not tell the exceptions.
            (_, None) | (Verdict::Allow, _) => {
                let first = (take, "a".to_owned());
                return std::iter::once(first).chain(self.list.iter().map(wanted)).collect();
            }
            (Verdict::Deny, Some(present)) => present,
        };
        let missing = self.list.iter().map(|(devices, access)| {
            (*devices, access.without(present.get(devices).copied().unwrap_or(Access(0))))
        });
        let surplus = present.iter().map(|(devices, access)| {
            (*devices, access.without(self.list.get(devices).copied().unwrap_or(Access(0))))
        });
        let lines = |file: &'static str| {
            move |(devices, access): (Devices, Access)| {
                (!access.is_empty()).then(|| (file, line(devices, access)))
            }
        };
        missing.filter_map(lines(give)).chain(surplus.filter_map(lines(take))).collect()
    }
}

/// Reads `devices.list`; `None` when all is allowed.
fn parse_list(text: &str) -> Option<BTreeMap<Devices, Access>> {
    let mut list = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split([' ', ':']);
        let kind = match fields.next()? {
            "c" => Kind::Char,
            "b" => Kind::Block,
            _ => return None,
        };
        let mut number = || fields.next().map(|number| number.parse().ok());
        let (major, minor) = (number()?, number()?);
        list.insert((kind, major, minor), Access::parse(fields.next()?)?);
    }
    Some(list)
}

/// One line as the files take it.
fn line((kind, major, minor): Devices, access: Access) -> String {
    let kind = match kind {
        Kind::Block => 'b',
        Kind::Char => 'c',
    };
    let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |one| one.to_string());
    format!("{kind} {}:{} {}", number(major), number(minor), access.letters())
}

/// Whether some device is in both.
fn meet(a: Devices, b: Devices) -> bool {
    let same = |a: Option<u32>, b: Option<u32>| a.is_none() || b.is_none() || a == b;
    a.0 == b.0 && same(a.1, b.1) && same(a.2, b.2)
}

/// Whether every device of `inner` is in `outer`.
fn holds(outer: Devices, inner: Devices) -> bool {
    let within = |outer: Option<u32>, inner: Option<u32>| outer.is_none() || outer == inner;
    outer.0 == inner.0 && within(outer.1, inner.1) && within(outer.2, inner.2)
}
