//! What is to be done when a client comes with a token: each one is good for one session
//! and for a minute, and so many are outstanding at most.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::target::{AttachOrder, ExecOrder, Streams};

/// How long a token waits for its client. The kubelet connects at once.
const TTL: Duration = Duration::from_secs(60);

/// How many tokens wait at once; each of them holds a request in memory.
const OUTSTANDING_MAX: usize = 1000;

/// Random bytes in a token: who can connect to the port but not ask for a token must not
/// guess one.
const TOKEN_BYTES: usize = 16;

/// Why there is no URL.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Too many clients were given a URL and did not come.
    #[error("{OUTSTANDING_MAX} streaming requests wait for their clients already")]
    TooMany,
    /// The kernel gives no random bytes.
    #[error("make a token")]
    Random(#[source] getrandom::Error),
}

/// Ports of a pod to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortForwardOrder {
    /// The pod's whole id.
    pub pod: String,
    /// The ports that the request names, in its order. Clients that name them with each
    /// connection leave it empty.
    pub ports: Vec<u16>,
}

/// What a session will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    Command(CommandOrder),
    PortForward(PortForwardOrder),
}

/// A program whose streams a client gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CommandOrder {
    Exec(ExecOrder),
    Attach(AttachOrder),
}

impl Order {
    /// The first part of its URL's path.
    pub(super) fn path(&self) -> &'static str {
        match self {
            Self::Command(CommandOrder::Exec(_)) => "exec",
            Self::Command(CommandOrder::Attach(_)) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

impl CommandOrder {
    pub(super) fn streams(&self) -> Streams {
        match self {
            Self::Exec(order) => order.streams,
            Self::Attach(order) => order.streams,
        }
    }
}

/// The outstanding tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    waiting: Mutex<HashMap<String, (Order, Instant)>>,
}

impl Tokens {
    /// A new token for `order`.
    pub(super) fn give(&self, order: Order, now: Instant) -> Result<String, TokenError> {
        let mut random = [0; TOKEN_BYTES];
        getrandom::fill(&mut random).map_err(TokenError::Random)?;
        let token = hex::encode(random);
        let mut waiting = self.lock();
        if waiting.len() >= OUTSTANDING_MAX {
            waiting.retain(|_, (_, until)| *until > now);
        }
        if waiting.len() >= OUTSTANDING_MAX {
            return Err(TokenError::TooMany);
        }
        waiting.insert(token.clone(), (order, now + TTL));
        Ok(token)
    }

    /// What `token` stands for, if it is good.
    pub(super) fn look(&self, token: &str, now: Instant) -> Option<Order> {
        let waiting = self.lock();
        let (order, until) = waiting.get(token)?;
        (*until > now).then(|| order.clone())
    }

    /// Uses `token` up; false when somebody else was faster.
    pub(super) fn take(&self, token: &str) -> bool {
        self.lock().remove(token).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Order, Instant)>> {
        // Nothing panics with the map half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        Order::PortForward(PortForwardOrder { pod: "p".to_owned(), ports: Vec::new() })
    }

    #[test]
    fn a_token_is_good_once_and_for_a_minute() -> Result<(), TokenError> {
        let (tokens, now) = (Tokens::default(), Instant::now());
        let (used, late) = (tokens.give(order(), now)?, tokens.give(order(), now)?);
        assert_eq!(tokens.look(&used, now), Some(order()));
        assert!(tokens.take(&used));
        assert!(!tokens.take(&used));
        assert_eq!(tokens.look(&used, now), None);
        assert_eq!(tokens.look(&late, now + TTL), None);
        Ok(())
    }

    #[test]
    fn so_many_wait_at_most_until_they_are_too_old() -> Result<(), TokenError> {
        let (tokens, now) = (Tokens::default(), Instant::now());
        for _ in 0..OUTSTANDING_MAX {
            tokens.give(order(), now)?;
        }
        assert!(matches!(tokens.give(order(), now), Err(TokenError::TooMany)));
        tokens.give(order(), now + TTL)?;
        assert_eq!(tokens.lock().len(), 1);
        Ok(())
    }
}
