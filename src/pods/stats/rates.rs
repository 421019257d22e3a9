//! The processor rate: the difference of two readings by the time between them.
//!
//! The last reading of each group is kept, and a rate is taken over at least
//! [`RATE_INTERVAL`], so that two clients who ask at once do not make each other's rates
//! meaningless.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The shortest time over which a rate is taken.
const RATE_INTERVAL: Duration = Duration::from_millis(500);

/// Earlier readings, by the id of a pod or a container.
#[derive(Debug, Default)]
pub(in crate::pods) struct Rates(Mutex<BTreeMap<String, Reading>>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    read_at: Instant,
    cpu_ns: u64,
    nano_cores: Option<u64>,
}

impl Rates {
    /// Takes a reading; returns the rate since an earlier one, in billionths of a core.
    pub(super) fn take(&self, id: &str, read_at: Instant, cpu_ns: u64) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(kept) = all.get_mut(id) else {
            all.insert(id.to_owned(), Reading { read_at, cpu_ns, nano_cores: None });
            return None;
        };
        let elapsed = read_at.saturating_duration_since(kept.read_at);
        if elapsed >= RATE_INTERVAL {
            let used = u128::from(cpu_ns.saturating_sub(kept.cpu_ns));
            let nano_cores = u64::try_from(used * 1_000_000_000 / elapsed.as_nanos()).ok();
            *kept = Reading { read_at, cpu_ns, nano_cores };
        }
        kept.nano_cores
    }

    /// Forgets a pod or a container.
    pub(in crate::pods) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_readings_some_time_apart() {
        let rates = Rates::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(rates.take("a", at(0), 5_000), None);
        assert_eq!(rates.take("a", at(1), 5_001), None);
        // Half a second of one core in one second.
        assert_eq!(rates.take("a", at(1000), 500_005_000), Some(500_000_000));
        assert_eq!(rates.take("a", at(1007), 900_000_000), Some(500_000_000));
        rates.forget("a");
        assert_eq!(rates.take("a", at(9000), 900_000_000), None);
    }

    #[test]
    fn a_group_that_was_made_anew_uses_nothing_rather_than_everything() {
        let rates = Rates::default();
        let start = Instant::now();
        rates.take("a", start, 5_000);
        assert_eq!(rates.take("a", start + Duration::from_secs(1), 0), Some(0));
    }
}
