//! Metrics of pods and containers under cAdvisor's names, as the kubelet republishes them
//! at `/metrics/cadvisor`.
//!
//! A family is a line of a table: name, help, its own labels, and how its values are found.
//! The descriptors and the metrics are both made from the tables, so they cannot disagree.
//! Values are whole numbers on this wire, so times are whole seconds, rounded down.
//!
//! Rows of the pod's own cgroup have empty `container`, `name` and `image` labels, as
//! cAdvisor's have; traffic is counted there, once per pod. What the kernel does not tell
//! has no row.
//!
//! # References
//! - [cAdvisor's metrics](https://github.com/google/cadvisor/blob/master/docs/storage/prometheus.md)
//! - [KEP-2371](https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/2371-cri-pod-container-stats)

mod cpu;
mod disk;
mod memory;
mod network;
mod process;
mod spec;

use cri_api::v1;

use crate::pods::view::{ContainerView, PodView};
use crate::pods::{ContainerDetail, ContainerUsage, GroupUsage, Interface, Metrics, PodUsage};

/// The labels that every metric has, as the kubelet attaches them to cAdvisor's.
const BASE_LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// All metrics of one kind.
struct Family {
    name: &'static str,
    help: &'static str,
    kind: v1::MetricType,
    /// Labels besides the base.
    labels: &'static [&'static str],
    values: Values,
}

/// How the values of a family are found.
enum Values {
    /// At most one.
    One(fn(&Subject<'_>) -> Option<u64>),
    /// Any number; each has as many labels as the family.
    Many(fn(&Subject<'_>, &mut Rows<'_>)),
}

/// What metrics are told of: a container, or a pod as a whole.
struct Subject<'a> {
    node: &'a Metrics,
    group: &'a GroupUsage,
    started_at_ns: i64,
    /// Of a pod.
    network: &'a [Interface],
    /// Of a container.
    container: Option<(&'a ContainerView, &'a ContainerUsage)>,
}

impl Subject<'_> {
    fn detail(&self) -> Option<&ContainerDetail> {
        self.container.and_then(|(_, usage)| usage.detail.as_ref())
    }
}

/// Metrics in the making.
struct Rows<'a> {
    base: &'a [String],
    family: &'a Family,
    metrics: Vec<v1::Metric>,
}

impl Rows<'_> {
    fn push(&mut self, labels: &[&str], value: u64) {
        let own = labels.iter().map(|&label| label.to_owned());
        self.metrics.push(v1::Metric {
            name: self.family.name.to_owned(),
            // Read now.
            timestamp: 0,
            metric_type: self.family.kind.into(),
            label_values: self.base.iter().cloned().chain(own).collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }
}

const fn counter(
    name: &'static str,
    help: &'static str,
    value: fn(&Subject<'_>) -> Option<u64>,
) -> Family {
    Family { name, help, kind: v1::MetricType::Counter, labels: &[], values: Values::One(value) }
}

const fn gauge(
    name: &'static str,
    help: &'static str,
    value: fn(&Subject<'_>) -> Option<u64>,
) -> Family {
    Family { name, help, kind: v1::MetricType::Gauge, labels: &[], values: Values::One(value) }
}

const fn counters(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    values: fn(&Subject<'_>, &mut Rows<'_>),
) -> Family {
    Family { name, help, kind: v1::MetricType::Counter, labels, values: Values::Many(values) }
}

const fn gauges(
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    values: fn(&Subject<'_>, &mut Rows<'_>),
) -> Family {
    Family { name, help, kind: v1::MetricType::Gauge, labels, values: Values::Many(values) }
}

fn families() -> impl Iterator<Item = &'static Family> {
    [
        cpu::FAMILIES,
        disk::FAMILIES,
        memory::FAMILIES,
        network::FAMILIES,
        process::FAMILIES,
        spec::FAMILIES,
    ]
    .into_iter()
    .flatten()
}

/// What there is; always the same.
#[must_use]
pub fn descriptors() -> Vec<v1::MetricDescriptor> {
    let descriptor = |family: &Family| {
        let keys = BASE_LABELS.iter().chain(family.labels).map(|&key| key.to_owned());
        v1::MetricDescriptor {
            name: family.name.to_owned(),
            help: family.help.to_owned(),
            label_keys: keys.collect(),
        }
    };
    families().map(descriptor).collect()
}

/// The metrics of every pod, each made when it is asked for: they are ten times as long as
/// the numbers in them.
pub fn pods(metrics: Metrics) -> impl Iterator<Item = v1::PodSandboxMetrics> + Send + 'static {
    (0..metrics.pods.len()).filter_map(move |place| {
        let (view, usage) = metrics.pods.get(place)?;
        Some(pod(&metrics, view, usage))
    })
}

fn pod(node: &Metrics, view: &PodView, usage: &PodUsage) -> v1::PodSandboxMetrics {
    let subject = Subject {
        node,
        group: &usage.group,
        started_at_ns: view.record.created_at_ns,
        network: usage.network.as_deref().unwrap_or_default(),
        container: None,
    };
    let containers = usage.containers.iter();
    v1::PodSandboxMetrics {
        pod_sandbox_id: view.id.clone(),
        metrics: rows(&subject, &base(view, &usage.group, None)),
        container_metrics: containers
            .map(|(one, usage)| container(node, view, one, usage))
            .collect(),
    }
}

fn container(
    node: &Metrics,
    pod: &PodView,
    view: &ContainerView,
    usage: &ContainerUsage,
) -> v1::ContainerMetrics {
    let subject = Subject {
        node,
        group: &usage.group,
        started_at_ns: super::container::started_at(&view.record.state),
        network: &[],
        container: Some((view, usage)),
    };
    v1::ContainerMetrics {
        container_id: view.id.clone(),
        metrics: rows(&subject, &base(pod, &usage.group, Some(view))),
    }
}

fn rows(subject: &Subject<'_>, base: &[String]) -> Vec<v1::Metric> {
    families().fold(Vec::new(), |metrics, family| {
        let mut rows = Rows { base, family, metrics };
        match family.values {
            Values::One(value) => {
                value(subject).into_iter().for_each(|value| rows.push(&[], value))
            }
            Values::Many(values) => values(subject, &mut rows),
        }
        rows.metrics
    })
}

/// The values of [`BASE_LABELS`].
fn base(pod: &PodView, group: &GroupUsage, view: Option<&ContainerView>) -> [String; 6] {
    let sandbox = pod.request.config.metadata.clone().unwrap_or_default();
    let metadata = view.and_then(|view| view.request.config.metadata.clone());
    [
        metadata.unwrap_or_default().name,
        group.path.clone(),
        view.map(|view| view.record.image.name.clone()).unwrap_or_default(),
        view.map(|view| view.id.clone()).unwrap_or_default(),
        sandbox.namespace,
        sandbox.name,
    ]
}

/// Whole seconds.
const fn seconds(ns: u64) -> u64 {
    ns / 1_000_000_000
}

#[cfg(test)]
mod tests;
