//! Joining by intent: who asks again for what is being made, or for what was made and
//! never given to anybody, gets just that.
//!
//! A client whose deadline passes cannot know how far its call came, and asks again with
//! the same words. The rule for `RunPodSandbox` and `CreateContainer`, by unique name:
//!
//! | the name's holder | the same request | another request |
//! |---|---|---|
//! | is being made | waits for it, and gets what the first call gets | is refused |
//! | was made, and its id given to nobody | gets its id | is refused |
//! | was made, and its id given to somebody | is refused | is refused |
//!
//! An id is given when the future that waited for it returns it. What happens to the answer
//! after that, on its way through the socket, is not known: whoever asks again then is told
//! who holds the name. Use of the id by anybody proves that it was given. A daemon that
//! starts does not know what its predecessor gave to whom, and takes nothing for given
//! without such a proof.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether an id was given to somebody.
#[derive(Debug, Clone, Default)]
pub(super) struct Delivery(Arc<AtomicBool>);

impl Delivery {
    pub(super) fn is_made(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Somebody has the id: it was used.
    pub(super) fn is_proven(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The id, for one of those who wait for it.
    pub(super) fn parcel(&self, id: &str) -> Parcel {
        Parcel { id: id.to_owned(), delivery: self.clone() }
    }
}

/// An id on its way to whoever asked; dropped with his patience, it was not given.
#[derive(Debug, Clone)]
#[must_use]
pub(super) struct Parcel {
    id: String,
    delivery: Delivery,
}

impl Parcel {
    /// Gives the id.
    pub(super) fn deliver(self) -> String {
        self.delivery.is_proven();
        self.id
    }
}
