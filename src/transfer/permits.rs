//! Who may work now: so many at once, what somebody waits for first.
//!
//! Invariants: a permit is free or held, and comes back when it is dropped; while somebody waits
//! who is urgent, nobody else gets one; work that nobody waits for never holds more than half of
//! them, so that what is urgent does not wait for it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Whether somebody waits for some work. It may change while the work goes on.
#[derive(Debug)]
pub struct Urgency(AtomicBool);

/// A number of permits, which may change.
#[derive(Debug)]
pub(super) struct Permits(Mutex<State>);

/// One permit.
#[derive(Debug)]
pub(super) struct Permit {
    permits: Arc<Permits>,
    was_urgent: bool,
}

/// No permits are given any more: the daemon is stopping.
#[derive(Debug)]
pub(super) struct Closed;

#[derive(Debug)]
struct State {
    limit: usize,
    /// Held by who was urgent, and by who was not.
    urgent: usize,
    patient: usize,
    waiting: VecDeque<Waiting>,
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    urgency: Arc<Urgency>,
    answer: oneshot::Sender<Permit>,
}

impl Urgency {
    /// Somebody waits: a pod, an operator.
    #[must_use]
    pub fn urgent() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(true)))
    }

    /// Nobody waits.
    #[must_use]
    pub fn patient() -> Arc<Self> {
        Arc::new(Self(AtomicBool::new(false)))
    }

    /// Somebody waits from now on. What queues for a permit moves ahead when the next one is
    /// given.
    pub fn hurry(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether somebody waits.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Permits {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            limit,
            urgent: 0,
            patient: 0,
            waiting: VecDeque::new(),
            closed: false,
        })))
    }

    /// A permit, when it is this work's turn.
    ///
    /// # Errors
    /// [`Closed`].
    ///
    /// # Cancel safety
    /// Dropping the future takes nothing.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        urgency: &Arc<Urgency>,
    ) -> Result<Permit, Closed> {
        let (answer, permit) = oneshot::channel();
        {
            let mut state = self.state();
            if state.closed {
                return Err(Closed);
            }
            state.waiting.push_back(Waiting { urgency: Arc::clone(urgency), answer });
        }
        self.give();
        permit.await.map_err(|_sender_is_gone| Closed)
    }

    /// A permit, if one is left for this work and nobody waits.
    pub(super) fn try_acquire(self: &Arc<Self>, urgency: &Urgency) -> Option<Permit> {
        let was_urgent = urgency.is_urgent();
        let mut state = self.state();
        state.waiting.retain(|waiting| !waiting.answer.is_closed());
        let is_left = state.urgent + state.patient < state.limit
            && (was_urgent || state.patient < state.patient_limit());
        if state.closed || !state.waiting.is_empty() || !is_left {
            return None;
        }
        if was_urgent {
            state.urgent += 1;
        } else {
            state.patient += 1;
        }
        Some(Permit { permits: Arc::clone(self), was_urgent })
    }

    /// Changes how many there are. Who holds one keeps it.
    pub(super) fn set_limit(self: &Arc<Self>, limit: usize) {
        self.state().limit = limit;
        self.give();
    }

    /// Gives none any more; who waits is told.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.waiting.clear();
    }

    /// Gives permits to those whose turn it is.
    fn give(self: &Arc<Self>) {
        loop {
            let next = self.state().next();
            let Some((waiting, was_urgent)) = next else { return };
            let permit = Permit { permits: Arc::clone(self), was_urgent };
            // Who does not wait any more lets it go at once, and so gives it to the next.
            drop(waiting.answer.send(permit));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes the next one out of the queue, and counts its permit.
    fn next(&mut self) -> Option<(Waiting, bool)> {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        if self.urgent + self.patient >= self.limit {
            return None;
        }
        let is_urgent = |waiting: &Waiting| waiting.urgency.is_urgent();
        if let Some(at) = self.waiting.iter().position(is_urgent) {
            self.urgent += 1;
            return self.waiting.remove(at).map(|waiting| (waiting, true));
        }
        if self.patient >= self.patient_limit() {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        self.patient += 1;
        Some((waiting, false))
    }

    fn patient_limit(&self) -> usize {
        (self.limit / 2).max(1)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.permits.state();
            let held = if self.was_urgent { &mut state.urgent } else { &mut state.patient };
            *held -= 1;
        }
        self.permits.give();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};

    use futures_util::poll;

    use super::*;

    type Asked<'a> = Pin<&'a mut dyn Future<Output = Result<Permit, Closed>>>;

    async fn waits(asked: &mut Asked<'_>) -> bool {
        poll!(asked.as_mut()).is_pending()
    }

    #[tokio::test]
    async fn who_is_urgent_goes_first_and_half_is_for_them() {
        let permits = Permits::new(2);
        let (urgent, patient) = (Urgency::urgent(), Urgency::patient());
        let first = permits.acquire(&patient).await.unwrap();
        let mut second: Asked<'_> = pin!(permits.acquire(&patient));
        assert!(waits(&mut second).await, "all is taken by what nobody waits for");
        let pod = permits.acquire(&urgent).await.unwrap();
        let mut other_pod: Asked<'_> = pin!(permits.acquire(&urgent));
        assert!(waits(&mut other_pod).await);
        drop(first);
        assert!(waits(&mut second).await, "a pod waits");
        let other_pod = other_pod.await.unwrap();
        drop(pod);
        let second = second.await.unwrap();
        drop((second, other_pod));
        let state = permits.state();
        assert_eq!((state.urgent, state.patient, state.waiting.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn what_becomes_urgent_moves_ahead() {
        let permits = Permits::new(1);
        let held = permits.acquire(&Urgency::urgent()).await.unwrap();
        let (first, second) = (Urgency::patient(), Urgency::patient());
        let mut earlier: Asked<'_> = pin!(permits.acquire(&first));
        let mut later: Asked<'_> = pin!(permits.acquire(&second));
        assert!(waits(&mut earlier).await && waits(&mut later).await);
        second.hurry();
        drop(held);
        assert!(waits(&mut earlier).await);
        drop(later.await.unwrap());
        earlier.await.unwrap();
    }

    #[tokio::test]
    async fn who_does_not_wait_takes_only_what_is_left() {
        let permits = Permits::new(2);
        let (urgent, patient) = (Urgency::urgent(), Urgency::patient());
        let one = permits.try_acquire(&patient).unwrap();
        assert!(permits.try_acquire(&patient).is_none(), "half is for who is urgent");
        let other = permits.try_acquire(&urgent).unwrap();
        assert!(permits.try_acquire(&urgent).is_none());
        let mut waiting: Asked<'_> = pin!(permits.acquire(&urgent));
        assert!(waits(&mut waiting).await);
        drop(one);
        assert!(permits.try_acquire(&urgent).is_none(), "it is given to who waits");
        drop((waiting.await.unwrap(), other));
        drop(permits.try_acquire(&urgent).unwrap());
        permits.close();
        assert!(permits.try_acquire(&urgent).is_none());
    }

    #[tokio::test]
    async fn who_stops_waiting_takes_nothing() {
        let permits = Permits::new(1);
        let urgent = Urgency::urgent();
        let held = permits.acquire(&urgent).await.unwrap();
        {
            let mut gone: Asked<'_> = pin!(permits.acquire(&urgent));
            assert!(waits(&mut gone).await);
        }
        let mut next: Asked<'_> = pin!(permits.acquire(&urgent));
        assert!(waits(&mut next).await);
        drop(held);
        next.await.unwrap();
        // One that was given and never taken comes back too.
        {
            let held = permits.acquire(&urgent).await.unwrap();
            let mut gone: Asked<'_> = pin!(permits.acquire(&urgent));
            assert!(waits(&mut gone).await);
            drop(held);
        }
        permits.acquire(&urgent).await.unwrap();
    }

    #[tokio::test]
    async fn the_limit_moves_and_closing_ends_all() {
        let permits = Permits::new(2);
        let urgent = Urgency::urgent();
        let (one, two) =
            (permits.acquire(&urgent).await.unwrap(), permits.acquire(&urgent).await.unwrap());
        permits.set_limit(1);
        let mut third: Asked<'_> = pin!(permits.acquire(&urgent));
        assert!(waits(&mut third).await);
        drop(one);
        assert!(waits(&mut third).await, "one is held, and one there is");
        permits.set_limit(2);
        drop(third.await.unwrap());
        drop(permits.acquire(&urgent).await.unwrap());
        permits.set_limit(1);
        let mut last: Asked<'_> = pin!(permits.acquire(&urgent));
        assert!(waits(&mut last).await);
        permits.close();
        assert!(last.await.is_err() && permits.acquire(&urgent).await.is_err());
        drop(two);
    }
}
