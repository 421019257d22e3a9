//! What was measured, as a table and as JSON.

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::series::Series;
use crate::process::output;

/// The table in Markdown: medians, the 99th percentile in parentheses where there are enough
/// values for one, and each peer's median as a multiple of the first contestant's.
#[must_use]
pub fn table(series: &Series, contestants: &[&str]) -> String {
    let mut text = format!("| | {} |\n|---|", contestants.join(" | "));
    text += &"---:|".repeat(contestants.len());
    text.push('\n');
    for (metric, unit) in series.metrics() {
        let title = if unit.is_empty() { metric.to_owned() } else { format!("{metric}, {unit}") };
        let _infallible = write!(text, "| {title} |");
        let first = contestants.iter().find_map(|name| series.summary(name, metric));
        for (index, name) in contestants.iter().enumerate() {
            let Some(summary) = series.summary(name, metric) else {
                text += " – |";
                continue;
            };
            let _infallible = write!(text, " {}", number(summary.median));
            if summary.count >= 20 {
                let _infallible = write!(text, " ({})", number(summary.p99));
            }
            let ratio = first.map(|first| summary.median / first.median);
            if let Some(ratio) = ratio.filter(|ratio| index > 0 && ratio.is_finite()) {
                let _infallible = write!(text, " ×{}", number(ratio));
            }
            text += " |";
        }
        text.push('\n');
    }
    text
}

/// Three significant digits.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        value if value >= 100.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

/// Everything, for programs.
///
/// # Errors
/// If this machine does not say what it is.
pub fn document(series: &Series, contestants: &[&str], versions: &[String]) -> Result<Value> {
    let metrics = series.metrics().map(|(metric, unit)| {
        let of = contestants.iter().filter_map(|name| {
            let summary = series.summary(name, metric)?;
            let value = json!({ "count": summary.count, "min": summary.min, "max": summary.max,
                                "median": summary.median, "p99": summary.p99 });
            Some(((*name).to_owned(), value))
        });
        json!({ "name": metric, "unit": unit, "of": Value::Object(of.collect()) })
    });
    let metrics: Vec<_> = metrics.collect();
    Ok(json!({ "machine": machine()?, "versions": versions, "metrics": metrics }))
}

/// Processor, memory and kernel of this machine, and the date.
///
/// # Errors
/// If this machine does not say what it is.
pub fn machine() -> Result<Value> {
    let processors = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |text| text.trim_start_matches(['\t', ' ', ':']));
    let memory = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    let kib = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: u64 = kib.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    Ok(json!({
        "processor": model,
        "processors": std::thread::available_parallelism()?.get(),
        "memory_mib": kib / 1024,
        "kernel": output("uname", &["-r"])?.trim(),
        "cgroup": if fs::exists("/sys/fs/cgroup/cgroup.controllers")? { "v2" } else { "v1" },
        "date": output("date", &["-u", "+%Y-%m-%d"])?.trim(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_medians_and_ratios() {
        let mut series = Series::default();
        for value in [2.0, 1.0, 4.0] {
            series.add_named("ours", "ready", "ms", value);
            series.add_named("theirs", "ready", "ms", value * 100.0);
        }
        series.add_named("theirs", "only theirs", "", 0.5);
        let expected = "| | ours | theirs |\n|---|---:|---:|\n\
                        | ready, ms | 2.00 | 200 ×100 |\n| only theirs | – | 0.500 ×1.00 |\n";
        assert_eq!(table(&series, &["ours", "theirs"]), expected);
    }
}
