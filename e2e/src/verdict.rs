//! What a run of critest says, compared with what is expected of it.
//!
//! Two lists are committed: `not-yet.txt` names specs that fail (or skip because the
//! runtime lacks something) and must shrink; `skip.txt` names specs that the machine
//! cannot run. Everything else must pass.
//!
//! # References
//! - [ginkgo's JSON report](https://onsi.github.io/ginkgo/#generating-machine-readable-reports)

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// How one spec ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed, panicked, timed out or was interrupted; the first words of why.
    Failed(String),
    /// It skipped itself, with its reason.
    Skipped(String),
    /// It was left out by a filter of this run.
    LeftOut,
}

/// One spec of a report.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Containers and leaf, joined by blanks.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawSuite {
    spec_reports: Option<Vec<RawSpec>>,
    #[serde(default)]
    special_suite_failure_reasons: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawSpec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    #[serde(default)]
    failure: RawFailure,
}

#[derive(Default, Deserialize)]
struct RawFailure {
    #[serde(rename = "Message", default)]
    message: String,
}

/// Reads a JSON report of ginkgo. Setup that failed counts as a failed spec.
///
/// # Errors
/// If it is not such a report, or if it has no spec at all.
pub fn read_report(json: &str) -> Result<Vec<Spec>> {
    let suites: Vec<RawSuite> = serde_json::from_str(json).context("read critest's report")?;
    let mut specs = Vec::new();
    for suite in suites {
        for raw in suite.spec_reports.unwrap_or_default() {
            let is_spec = raw.leaf_node_type == "It";
            let outcome = outcome(&raw);
            if is_spec || matches!(outcome, Outcome::Failed(_)) {
                let mut words = raw.container_hierarchy_texts.unwrap_or_default();
                words.push(if is_spec { raw.leaf_node_text } else { raw.leaf_node_type });
                words.retain(|word| !word.is_empty());
                specs.push(Spec { name: words.join(" "), outcome });
            }
        }
        for reason in suite.special_suite_failure_reasons.unwrap_or_default() {
            // "Detected pending specs" and the like; a failed spec is told by itself.
            if reason.contains("Interrupted") || reason.contains("timeout") {
                specs.push(Spec { name: "the suite".to_owned(), outcome: Outcome::Failed(reason) });
            }
        }
    }
    if specs.is_empty() {
        bail!("critest's report has no spec");
    }
    specs.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(specs)
}

fn outcome(raw: &RawSpec) -> Outcome {
    let mut reason = raw.failure.message.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((cut, _)) = reason.char_indices().nth(300) {
        reason.truncate(cut);
    }
    match raw.state.as_str() {
        "passed" => Outcome::Passed,
        "skipped" | "pending" if reason.is_empty() => Outcome::LeftOut,
        "skipped" | "pending" => Outcome::Skipped(reason),
        _ => Outcome::Failed(reason),
    }
}

/// A committed list of patterns, each with its reason.
#[derive(Clone, Debug, Default)]
pub struct List(Vec<(String, String)>);

impl List {
    /// Reads `PATTERN  # REASON` lines; empty lines and lines that start with `#` are skipped.
    ///
    /// # Errors
    /// If a line has no reason.
    pub fn read(text: &str) -> Result<Self> {
        let lines =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines
            .map(|line| {
                let (pattern, reason) =
                    line.split_once("  # ").with_context(|| format!("no reason given: {line}"))?;
                Ok((pattern.trim().to_owned(), reason.trim().to_owned()))
            })
            .collect::<Result<_>>()
            .map(Self)
    }

    fn reason(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(pattern, _)| name.contains(pattern)).map(|(_, reason)| reason.as_str())
    }

    fn unused<'a>(&'a self, specs: &'a [Spec]) -> impl Iterator<Item = &'a str> {
        let used = |pattern: &str| specs.iter().any(|spec| spec.name.contains(pattern));
        self.0.iter().map(|(pattern, _)| pattern.as_str()).filter(move |pattern| !used(pattern))
    }
}

/// Whether a run was as expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Failures and skips are exactly those of the lists.
    AsExpected,
    /// Something failed, skipped or passed that should not have.
    Unexpected,
}

/// Compares a run with the lists; tells what it finds to `tell`, one line each.
pub fn judge(specs: &[Spec], not_yet: &List, skip: &List, mut tell: impl FnMut(String)) -> Verdict {
    let mut verdict = Verdict::AsExpected;
    for Spec { name, outcome } in specs {
        let known = not_yet.reason(name);
        match (outcome, known) {
            (Outcome::Passed, None) | (Outcome::LeftOut, _) => continue,
            (Outcome::Failed(why), Some(reason)) => {
                tell(format!("not yet ({reason}): {name}: {why}"))
            }
            (Outcome::Skipped(why), Some(reason)) => {
                tell(format!("not yet ({reason}): {name}: skipped: {why}"))
            }
            (Outcome::Skipped(why), None) if skip.reason(name).is_some() => {
                tell(format!("skipped: {name}: {why}"))
            }
            (Outcome::Skipped(why), None) => {
                verdict = Verdict::Unexpected;
                tell(format!("UNEXPECTED SKIP: {name}: {why}"));
            }
            (Outcome::Failed(why), None) => {
                verdict = Verdict::Unexpected;
                tell(format!("FAILED: {name}: {why}"));
            }
            (Outcome::Passed, Some(_)) => {
                verdict = Verdict::Unexpected;
                tell(format!("PASSES NOW, take it off not-yet.txt: {name}"));
            }
        }
    }
    for pattern in not_yet.unused(specs) {
        verdict = Verdict::Unexpected;
        tell(format!("NO SUCH SPEC, take it off not-yet.txt: {pattern}"));
    }
    verdict
}

/// `N passed, M failed, K skipped`; specs left out by a filter count as skipped.
#[must_use]
pub fn totals(specs: &[Spec]) -> String {
    let count =
        |wanted: fn(&Outcome) -> bool| specs.iter().filter(|spec| wanted(&spec.outcome)).count();
    let passed = count(|outcome| *outcome == Outcome::Passed);
    let failed = count(|outcome| matches!(outcome, Outcome::Failed(_)));
    format!("{passed} passed, {failed} failed, {} skipped", specs.len() - passed - failed)
}

#[cfg(test)]
mod tests;
