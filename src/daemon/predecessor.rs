//! What a killed daemon holds a moment longer than it lives.
//!
//! A process that it was starting is a copy of it until its program runs: that copy has
//! the daemon's socket and locks open, and the kernel gives them up with the last copy.
//! Who starts anew right then must wait, or a service manager's restart fails.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long the copies of a killed daemon may take to become what they are to be.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often it is tried.
const PAUSE: Duration = Duration::from_millis(10);

/// Tries `take` until it is not refused because something `is_taken`, or for as long as
/// that can be a dead daemon's doing; blocks the thread meanwhile.
///
/// # Errors
/// The last error of `take`.
pub(super) fn outlast<T, E>(
    mut take: impl FnMut() -> Result<T, E>,
    is_taken: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match take() {
            Err(error) if is_taken(&error) && Instant::now() < deadline => sleep(PAUSE),
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_up_is_taken() {
        let mut held = 3;
        let take = || {
            held -= 1;
            if held > 0 { Err(held) } else { Ok("mine") }
        };
        assert_eq!(outlast(take, |_| true), Ok("mine"));
    }

    #[test]
    fn another_failure_is_told_at_once() {
        let mut tries = 0;
        let take = || {
            tries += 1;
            Err::<(), _>("no such directory")
        };
        assert!(outlast(take, |_| false).is_err());
        assert_eq!(tries, 1);
    }
}
