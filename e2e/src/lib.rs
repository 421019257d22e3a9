//! End-to-end tests of the `orlop` binary; everything is in `tests/`.
