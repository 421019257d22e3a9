//! Measured values: by what was measured, and of whom.

use std::collections::BTreeMap;

/// What was measured, and in which unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// In words.
    pub name: &'static str,
    /// "ms", "KiB".
    pub unit: &'static str,
}

/// All values of a run, metrics in the order in which they first came.
#[derive(Debug, Default)]
pub struct Series {
    metrics: Vec<(String, &'static str)>,
    values: BTreeMap<(usize, String), Vec<f64>>,
}

/// A summary of one contestant's values of one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many values there are.
    pub count: usize,
    /// The smallest.
    pub min: f64,
    /// Half of them are at most this.
    pub median: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Series {
    /// Adds a value.
    pub fn add(&mut self, contestant: &str, metric: Metric, value: f64) {
        self.add_named(contestant, metric.name, metric.unit, value);
    }

    /// Adds a value of a metric whose name is made up on the way.
    pub fn add_named(&mut self, contestant: &str, name: &str, unit: &'static str, value: f64) {
        let found = self.metrics.iter().position(|(known, _)| known == name);
        let index = found.unwrap_or_else(|| {
            self.metrics.push((name.to_owned(), unit));
            self.metrics.len() - 1
        });
        self.values.entry((index, contestant.to_owned())).or_default().push(value);
    }

    /// Names and units of the metrics, in their order.
    pub fn metrics(&self) -> impl Iterator<Item = (&str, &'static str)> {
        self.metrics.iter().map(|(name, unit)| (name.as_str(), *unit))
    }

    /// One contestant's values of one metric, summed up; none if there are none.
    #[must_use]
    pub fn summary(&self, contestant: &str, metric: &str) -> Option<Summary> {
        let index = self.metrics.iter().position(|(name, _)| name == metric)?;
        summary(self.values.get(&(index, contestant.to_owned()))?)
    }
}

fn summary(values: &[f64]) -> Option<Summary> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    Some(Summary {
        count: sorted.len(),
        min,
        median: quantile(&sorted, 0.5)?,
        p99: quantile(&sorted, 0.99)?,
        max,
    })
}

/// The smallest value that so large a part of the sorted values does not exceed.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_of_a_hundred_and_of_one() {
        let hundred: Vec<_> = (1..=100).rev().map(f64::from).collect();
        let expected = Summary { count: 100, min: 1.0, median: 50.0, p99: 99.0, max: 100.0 };
        assert_eq!(summary(&hundred), Some(expected));
        let expected = Summary { count: 1, min: 7.0, median: 7.0, p99: 7.0, max: 7.0 };
        assert_eq!(summary(&[7.0]), Some(expected));
        assert_eq!(summary(&[]), None);
    }

    #[test]
    fn metrics_keep_their_order_and_contestants_apart() {
        let mut series = Series::default();
        series.add("one", Metric { name: "z", unit: "ms" }, 1.0);
        series.add("two", Metric { name: "a", unit: "KiB" }, 2.0);
        series.add("two", Metric { name: "z", unit: "ms" }, 3.0);
        assert_eq!(series.metrics().collect::<Vec<_>>(), [("z", "ms"), ("a", "KiB")]);
        assert_eq!(series.summary("two", "z").map(|summary| summary.median), Some(3.0));
        assert_eq!(series.summary("one", "a"), None);
    }
}
