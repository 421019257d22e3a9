//! The two annotations that limit a pod's traffic, in Kubernetes' notation of quantities.
//!
//! Specification:
//! [bandwidth](https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/network-plugins/#support-traffic-shaping),
//! [quantity](https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/).

use std::collections::BTreeMap;

use super::attachment::Bandwidth;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Kubernetes accepts 1 kbit/s up to 1 Pbit/s.
const LIMITS: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// An annotation does not say a bandwidth.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BandwidthError {
    /// Not a quantity.
    #[error("annotation {annotation}: {value:?} is not a quantity like 10M")]
    Syntax {
        /// The annotation.
        annotation: &'static str,
        /// Its value.
        value: String,
    },
    /// A quantity out of range.
    #[error("annotation {annotation}: {value:?} is not between 1k and 1P")]
    Range {
        /// The annotation.
        annotation: &'static str,
        /// Its value.
        value: String,
    },
}

impl Bandwidth {
    /// Reads the pod's annotations.
    ///
    /// # Errors
    /// [`BandwidthError`] if an annotation is there and is no quantity between 1k and 1P.
    pub fn from_annotations(
        annotations: &BTreeMap<String, String>,
    ) -> Result<Self, BandwidthError> {
        let read = |annotation: &'static str| {
            let Some(value) = annotations.get(annotation) else { return Ok(None) };
            let value = value.clone();
            match parse_quantity(&value) {
                None => Err(BandwidthError::Syntax { annotation, value }),
                Some(bits) if LIMITS.contains(&bits) => Ok(Some(bits)),
                Some(_) => Err(BandwidthError::Range { annotation, value }),
            }
        };
        Ok(Self { ingress_bits: read(INGRESS)?, egress_bits: read(EGRESS)? })
    }
}

/// A quantity, rounded up to a whole number and capped at `u64::MAX`.
fn parse_quantity(text: &str) -> Option<u64> {
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (multiplier, exponent) = scale(suffix)?;
    let exponent = exponent.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    let scaled = digits.saturating_mul(multiplier);
    let power = 10u128.checked_pow(exponent.unsigned_abs()).unwrap_or(u128::MAX);
    let value = if exponent < 0 { scaled.div_ceil(power) } else { scaled.saturating_mul(power) };
    Some(u64::try_from(value).unwrap_or(u64::MAX))
}

/// What a suffix multiplies by: a power of two, and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    let decimal = |exponent| Some((1, exponent));
    let binary = |shift: u32| Some((1u128 << shift, 0));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (-60..=60).contains(&exponent).then_some((1, exponent))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kubernetes_writes() {
        for (text, bits) in [
            ("10M", 10_000_000),
            ("1.5k", 1_500),
            ("1Gi", 1 << 30),
            ("2e6", 2_000_000),
            ("0.1k", 100),
            ("1m", 1),
            (".5M", 500_000),
            ("100E", u64::MAX),
        ] {
            assert_eq!(parse_quantity(text), Some(bits), "{text}");
        }
        for text in ["", "M", "10 M", "-1", "1.2.3", "10Q", "0x10", "1e", "."] {
            assert_eq!(parse_quantity(text), None, "{text}");
        }
    }

    #[test]
    fn a_bad_annotation_is_named() {
        let annotated =
            |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let good = Bandwidth::from_annotations(&annotated(EGRESS, "1M")).unwrap();
        assert_eq!(good, Bandwidth { ingress_bits: None, egress_bits: Some(1_000_000) });
        let error = Bandwidth::from_annotations(&annotated(INGRESS, "fast")).unwrap_err();
        assert!(error.to_string().contains(INGRESS) && error.to_string().contains("fast"));
        let error = Bandwidth::from_annotations(&annotated(INGRESS, "1")).unwrap_err();
        assert!(matches!(error, BandwidthError::Range { .. }));
    }
}
