//! Numbers of v1, which OCI and CRI speak, as numbers of v2.
//!
//! The kubelet and the OCI runtimes use the same conversions, so a pod's groups, made by the
//! kubelet, and its containers' groups, made here, weigh against each other as asked.

/// `cpu.shares` (2 to 262144, default 1024) as `cpu.weight` (1 to 10000, default 100).
///
/// The curve is a parabola in the logarithms through the minima, the defaults and the maxima:
/// `log10(weight) = (log2(shares)^2 + 125 log2(shares)) / 612 - 7/34`.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 10000"
    )]
    let weight = 10_f64.powf(exponent).ceil() as u64;
    weight
}

/// `blkio.weight` (10 to 1000) as `io.weight` (1 to 10000), linear.
pub(super) fn io_weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight.max(10)) - 10) * 9999 / 990
}

/// What `memory.swap` of OCI, memory and swap together, means as a limit on swap alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Swap {
    /// Leave as it is.
    Keep,
    /// `memory.swap.max`.
    Set(Option<u64>),
    /// Less than the memory limit, or without one.
    Invalid,
}

/// Converts a limit on memory and swap together; -1 is none, 0 is absent.
pub(super) fn swap_alone(limit: i64, both: i64) -> Swap {
    match (limit, both) {
        (_, -1) | (-1, 0) => Swap::Set(None),
        (_, 0) => Swap::Keep,
        (limit, both) if limit > 0 && both >= limit => Swap::Set(u64::try_from(both - limit).ok()),
        _ => Swap::Invalid,
    }
}
