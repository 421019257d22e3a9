//! Fewer layers at once while everything on the node waits for its disk.
//!
//! The kernel says for how much of the last ten seconds nothing could go on because of I/O. Above
//! the limit the permits for layers are halved, again and again down to one; below it they come
//! back one by one. Where the kernel does not say, there are always all.
//!
//! Specification: <https://docs.kernel.org/accounting/psi.html>

use std::sync::Arc;
use std::time::Duration;

use super::pull::Pipeline;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

impl Pipeline {
    /// Watches the pressure for ever; ends where the kernel does not tell it or nobody set a
    /// limit.
    ///
    /// # Cancel safety
    /// Dropping the future ends the watching, with the permits as they are.
    pub async fn watch_pressure(self: Arc<Self>) {
        let (all, most) = (self.config.layers_at_once(), self.config.max_io_pressure);
        let mut limit = all;
        if most >= 100 {
            return;
        }
        loop {
            let file = self.config.io_pressure_file.clone();
            let read = self.tasks.run_blocking(move || std::fs::read_to_string(file)).await;
            let Some(full) = read.ok().and_then(Result::ok).as_deref().and_then(full_percent)
            else {
                tracing::debug!("the kernel does not tell the I/O pressure");
                return;
            };
            let next =
                if full > f64::from(most) { (limit / 2).max(1) } else { (limit + 1).min(all) };
            if next != limit {
                tracing::debug!(full, layers = next, "I/O pressure: how many layers at once");
                self.permits.set_limit(next);
                limit = next;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// How much of the last ten seconds nothing went on, in percent.
fn full_percent(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("full "))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("avg10="))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says() {
        let text = "some avg10=0.32 avg60=0.68 avg300=1.02 total=293327028\n\
                    full avg10=12.50 avg60=0.32 avg300=0.68 total=145179894\n";
        assert_eq!(full_percent(text), Some(12.5));
        assert_eq!(full_percent("some avg10=0.32 avg60=0.68 avg300=1.02 total=1\n"), None);
        assert_eq!(full_percent("full avg10=much\n"), None);
    }
}
