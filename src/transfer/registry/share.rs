//! What all pulls of this node together may take of one registry: connections, bytes per second.
//!
//! Invariant: a share is of the registry that images are named after, whatever mirrors serve it;
//! who waits for a connection holds none, so those who have one always give it back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::transfer::config::Config;
use crate::transfer::permits::{Closed, Permit, Permits, Urgency};

/// The shares of all registries that were asked so far.
#[derive(Debug, Default)]
pub(in crate::transfer) struct Shares(Mutex<HashMap<String, Arc<Share>>>);

/// The share of one registry.
#[derive(Debug)]
pub(in crate::transfer) struct Share {
    connections: Arc<Permits>,
    /// Bytes per second, if there is a limit, and the ledger of them.
    rate: Option<(u64, Mutex<Ledger>)>,
}

/// When the bytes that were taken so far are paid for.
#[derive(Debug, Default)]
struct Ledger {
    paid: Option<Instant>,
}

impl Ledger {
    /// Takes `bytes` now; gives the time from which more may be taken.
    fn take(&mut self, now: Instant, bytes: u64, bytes_per_second: u64) -> Instant {
        let costs = Duration::from_secs_f64(bytes as f64 / bytes_per_second.max(1) as f64);
        // Time in which nothing was taken is not saved up.
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + costs;
        self.paid = Some(paid);
        paid
    }
}

impl Shares {
    /// The share of `registry`.
    pub(in crate::transfer) fn of(&self, registry: &str, config: &Config) -> Arc<Share> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let share =
            shares.entry(registry.to_owned()).or_insert_with(|| Arc::new(Share::new(config)));
        Arc::clone(share)
    }
}

impl Share {
    fn new(config: &Config) -> Self {
        let connections = match config.connections_per_registry {
            0 => usize::MAX,
            limit => limit,
        };
        let limit = config.bytes_per_second_per_registry;
        Self {
            connections: Permits::new(connections),
            rate: (limit > 0).then(|| (limit, Mutex::default())),
        }
    }

    /// The right to one connection, as long as it is held.
    ///
    /// # Errors
    /// Never: nobody closes them.
    pub(in crate::transfer) async fn connection(
        &self,
        urgency: &Arc<Urgency>,
    ) -> Result<Permit, Closed> {
        self.connections.acquire(urgency).await
    }

    /// As [`Self::connection`], if one can be had without waiting.
    pub(in crate::transfer) fn try_connection(&self, urgency: &Urgency) -> Option<Permit> {
        self.connections.try_acquire(urgency)
    }

    /// Returns when bytes that came may be followed by others.
    pub(in crate::transfer) async fn pay(&self, bytes: usize) {
        let Some((limit, ledger)) = &self.rate else { return };
        let next = {
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            ledger.take(Instant::now(), bytes as u64, *limit)
        };
        sleep_until(next).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_paid_for_by_all_together_and_idle_time_is_not_saved() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(ledger.take(now, 1000, 1000), now + second);
        // Another one at the same time comes behind the first.
        assert_eq!(ledger.take(now, 500, 1000), now + second * 3 / 2);
        let later = now + second * 60;
        assert_eq!(ledger.take(later, 1000, 1000), later + second);
    }

    #[tokio::test]
    async fn connections_are_counted_for_each_registry() {
        let config = Config { connections_per_registry: 1, ..Config::default() };
        let shares = Shares::default();
        let first = shares.of("one.example", &config).connection(&Urgency::urgent()).await.unwrap();
        let one = shares.of("one.example", &config);
        let urgency = Urgency::urgent();
        let mut second = std::pin::pin!(one.connection(&urgency));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        let _other =
            shares.of("two.example", &config).connection(&Urgency::urgent()).await.unwrap();
        drop(first);
        let _second = second.await.unwrap();
    }

    #[tokio::test]
    async fn without_limits_nobody_waits() {
        let shares = Shares::default();
        let share = shares.of("one.example", &Config::default());
        let mut held = Vec::new();
        for _ in 0..100 {
            held.push(share.connection(&Urgency::urgent()).await.unwrap());
            share.pay(usize::MAX).await;
        }
    }
}
