//! What the service manager hears: readiness, stopping, signs of life.
//!
//! # References
//! - [sd_notify(3)](https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html)

use sd_notify::NotifyState;

/// Tells the service manager, if there is one.
pub(super) fn tell(state: NotifyState<'_>) {
    if let Err(refusal) = sd_notify::notify(&[state]) {
        tracing::warn!(error = %refusal, "cannot notify the service manager");
    }
}

/// Gives signs of life as often as the service manager asked for, if it did; never ends.
/// They come from the threads that serve, so their absence means that nothing is served.
///
/// # Cancel safety
/// Safe at any point.
pub(super) async fn watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut tick = tokio::time::interval(patience / 3);
    loop {
        tick.tick().await;
        tell(NotifyState::Watchdog);
    }
}
