//! Capabilities and ids: `rustix` has every call that is needed, so nothing is here yet.
