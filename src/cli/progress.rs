//! How far a transfer is, on standard error: a bar on a terminal, lines of JSON for programs,
//! a plain line now and then for a log. Results go to standard output.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use crate::admin::Shown;

use super::table::size;

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
const BAR: &str =
    "[{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg} eta {eta}";
const OPEN_END: &str = "{spinner} {binary_bytes} {binary_bytes_per_sec} {msg}";

/// What the progress looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Style {
    /// A bar on a terminal, else plain lines
    Auto,
    /// A line every few seconds
    Plain,
    /// A JSON object on each line, several times a second
    Json,
    /// Nothing
    None,
}

/// Whether and how progress is shown.
#[derive(Debug, clap::Args)]
pub(super) struct Choice {
    /// How progress is shown on standard error
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    progress: Style,
}

/// One transfer's progress. What it drew on a terminal is gone when it is dropped.
#[derive(Debug)]
pub(super) struct Display {
    kind: Kind,
    begun: Instant,
}

#[derive(Debug)]
enum Kind {
    Bar(ProgressBar),
    Plain { last: Instant },
    Json,
    Nothing,
}

impl Choice {
    /// The display of a transfer that begins now.
    pub(super) fn begin(&self) -> Display {
        let begun = Instant::now();
        let kind = match self.progress {
            Style::Auto if std::io::stderr().is_terminal() => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                Kind::Bar(bar)
            }
            Style::Auto | Style::Plain => Kind::Plain { last: begun },
            Style::Json => Kind::Json,
            Style::None => Kind::Nothing,
        };
        Display { kind, begun }
    }
}

impl Display {
    /// Shows how far it is.
    pub(super) fn show(&mut self, shown: Shown) {
        match &mut self.kind {
            Kind::Bar(bar) => draw(bar, shown),
            Kind::Plain { last } if last.elapsed() >= PLAIN_EVERY => {
                *last = Instant::now();
                say(&plain(shown, self.begun.elapsed()));
            }
            Kind::Json => say(&json_line(shown, self.begun.elapsed())),
            Kind::Plain { .. } | Kind::Nothing => {}
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, shown: Shown) {
    let (template, total) = match shown.total_bytes {
        0 => (OPEN_END, None),
        total => (BAR, Some(total)),
    };
    if bar.length() != total {
        match total {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        // The templates are ours; one that is wrong would leave the default style.
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
    }
    bar.set_position(shown.bytes);
    bar.set_message(layers(shown));
    bar.tick();
}

fn say(line: &str) {
    // Nobody has to read it.
    let _closed = writeln!(std::io::stderr(), "{line}");
}

fn layers(shown: Shown) -> String {
    match shown.layers {
        0 => String::new(),
        all => format!("{} of {all} layers", shown.layers_done),
    }
}

/// Bytes per second, and the seconds that are left where that can be told.
fn pace(shown: Shown, elapsed: Duration) -> (u64, Option<u64>) {
    let rate = u128::from(shown.bytes) * 1000 / elapsed.as_millis().max(1);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    let left = shown.total_bytes.checked_sub(shown.bytes).filter(|_| shown.total_bytes > 0);
    (rate, left.and_then(|left| left.checked_div(rate)))
}

fn plain(shown: Shown, elapsed: Duration) -> String {
    let (rate, eta) = pace(shown, elapsed);
    let mut parts = vec![match shown.total_bytes {
        0 => size(shown.bytes),
        total => format!("{} of {}", size(shown.bytes), size(total)),
    }];
    parts.push(format!("{}/s", size(rate)));
    if shown.layers > 0 {
        parts.push(layers(shown));
    }
    parts.extend(eta.map(|eta| format!("{eta} s left")));
    parts.join(", ")
}

fn json_line(shown: Shown, elapsed: Duration) -> String {
    let (rate, eta) = pace(shown, elapsed);
    json!({
        "bytes": shown.bytes,
        "total_bytes": shown.total_bytes,
        "bytes_per_second": rate,
        "layers_done": shown.layers_done,
        "layers": shown.layers,
        "eta_seconds": eta,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF: Shown = Shown { bytes: 2048, total_bytes: 6144, layers_done: 1, layers: 3 };
    const TWO_SECONDS: Duration = Duration::from_secs(2);

    #[test]
    fn a_line_says_how_far_how_fast_and_how_long() {
        assert_eq!(
            plain(HALF, TWO_SECONDS),
            "2.0 KiB of 6.0 KiB, 1.0 KiB/s, 1 of 3 layers, 4 s left"
        );
        let open = Shown { bytes: 10, ..Shown::default() };
        assert_eq!(plain(open, TWO_SECONDS), "10 B, 5 B/s");
    }

    #[test]
    fn json_has_numbers_and_no_guesses() -> serde_json::Result<()> {
        let line: serde_json::Value = serde_json::from_str(&json_line(HALF, TWO_SECONDS))?;
        assert_eq!(
            line,
            json!({ "bytes": 2048, "total_bytes": 6144, "bytes_per_second": 1024,
                    "layers_done": 1, "layers": 3, "eta_seconds": 4 })
        );
        let line: serde_json::Value =
            serde_json::from_str(&json_line(Shown::default(), Duration::ZERO))?;
        assert_eq!(line["eta_seconds"], serde_json::Value::Null);
        Ok(())
    }

    #[test]
    fn the_templates_are_templates() {
        for template in [BAR, OPEN_END] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
