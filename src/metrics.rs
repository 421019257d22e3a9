//! The registry of metrics and its exporter.
//!
//! Each component declares its own metrics and registers them at start. Names are
//! `orlop_<component>_<what>_<unit>` in base units; labels have few values, never an id.
//!
//! # References
//! - [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/)

mod exporter;
mod process;

pub use exporter::Exporter;

/// All metrics of this process.
#[derive(Debug)]
pub struct Registry {
    inner: prometheus_client::registry::Registry,
}

impl Registry {
    /// A registry with the metrics of the process itself.
    #[must_use]
    pub fn new() -> Self {
        let mut inner = prometheus_client::registry::Registry::default();
        inner.register_collector(Box::new(process::Process));
        Self { inner }
    }

    /// Adds `metric` as `orlop_<name>`; keep a clone of it to change it.
    pub fn register<M>(&mut self, name: &str, help: &str, metric: M)
    where
        M: prometheus_client::registry::Metric,
    {
        self.inner.register(format!("orlop_{name}"), help, metric);
    }

    /// The text form.
    ///
    /// # Errors
    /// Never in practice: writing to a `String` does not fail, metrics might.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.inner)?;
        Ok(text)
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
