//! What one plugin is told: the environment, and its configuration with what the pod adds.
//!
//! Specification: CNI 1.1, section 2 (parameters) and section 3 (deriving requests);
//! [conventions](https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md).

use std::collections::BTreeMap;
use std::path::PathBuf;

use rustix::fs::statfs;
use serde_json::{Map, Value, json};

use super::conflist::{ConfigList, PluginConfig};
use super::error::CniAddError;
use crate::network::attachment::{INTERFACE, PodNetwork};

/// `NSFS_MAGIC`: the file is a namespace, and not what is left of a pin.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A token bucket may hold this many bits: as much as the bandwidth plugin accepts, because
/// the annotations say nothing of bursts.
const BURST_BITS: u64 = i32::MAX as u64;

/// What a plugin works on.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) container_id: String,
    pub(super) netns: Option<PathBuf>,
    pub(super) interface: &'static str,
    pub(super) args: String,
}

impl Target {
    pub(super) fn of(pod: &PodNetwork, args: &str) -> Self {
        Self {
            container_id: pod.id.clone(),
            netns: pod.netns.clone(),
            interface: INTERFACE,
            args: args.to_owned(),
        }
    }

    /// For verbs that are about no pod.
    pub(super) fn none() -> Self {
        Self { container_id: String::new(), netns: None, interface: "", args: String::new() }
    }

    /// A plugin that is given the path of a namespace which is gone fails, and one that is
    /// given none releases what it can.
    pub(super) fn forget_absent_netns(&mut self) {
        self.netns = self.netns.take().filter(|path| {
            statfs(path).is_ok_and(|filesystem| filesystem.f_type.cast_unsigned() == NSFS_MAGIC)
        });
    }
}

/// `CNI_ARGS` of a pod.
pub(super) fn args(pod: &PodNetwork) -> Result<String, CniAddError> {
    let pairs = [
        ("K8S_POD_NAMESPACE", &pod.namespace),
        ("K8S_POD_NAME", &pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", &pod.id),
        ("K8S_POD_UID", &pod.uid),
    ];
    let mut args = "IgnoreUnknown=1".to_owned();
    for (key, value) in pairs {
        if value.contains(|c: char| matches!(c, ';' | '=') || c.is_control()) {
            return Err(CniAddError::Argument { key, value: value.clone() });
        }
        args.push_str(&format!(";{key}={value}"));
    }
    Ok(args)
}

/// What can be offered to plugins about a pod.
pub(super) fn capabilities(pod: &PodNetwork) -> BTreeMap<String, Value> {
    let mut offered = BTreeMap::new();
    let mut offer = |key: &str, value: Value| drop(offered.insert(key.to_owned(), value));
    let mappings: Vec<_> = pod.port_mappings.iter().filter(|m| m.host_port != 0).collect();
    if !mappings.is_empty() {
        offer("portMappings", json!(mappings));
    }
    if let Some(bandwidth) = bandwidth(pod) {
        offer("bandwidth", bandwidth);
    }
    let dns = &pod.dns;
    if !(dns.nameservers.is_empty() && dns.search.is_empty() && dns.options.is_empty()) {
        offer(
            "dns",
            json!({"servers": dns.nameservers, "searches": dns.search, "options": dns.options}),
        );
    }
    if !pod.annotations.is_empty() {
        offer("io.kubernetes.cri.pod-annotations", json!(pod.annotations));
    }
    if let Some(path) = &pod.cgroup_path {
        offer("cgroupPath", json!(path));
    }
    offered
}

fn bandwidth(pod: &PodNetwork) -> Option<Value> {
    let mut limits = Map::new();
    let both = [("ingress", pod.bandwidth.ingress_bits), ("egress", pod.bandwidth.egress_bits)];
    for (direction, bits) in both {
        if let Some(bits) = bits {
            limits.insert(format!("{direction}Rate"), bits.into());
            limits.insert(format!("{direction}Burst"), BURST_BITS.into());
        }
    }
    (!limits.is_empty()).then_some(Value::Object(limits))
}

/// The configuration of one plugin as it is given to it.
pub(super) fn config(
    list: &ConfigList,
    plugin: &PluginConfig,
    offered: &BTreeMap<String, Value>,
    previous: Option<&Value>,
) -> Value {
    let mut config = plugin.object().clone();
    config.insert("name".to_owned(), list.name().into());
    config.insert("cniVersion".to_owned(), list.version().to_string().into());
    let declared = config.remove("capabilities");
    let wants = |key: &str| declared.as_ref().and_then(|d| d.get(key)) == Some(&Value::Bool(true));
    let given: Map<String, Value> = offered
        .iter()
        .filter(|(key, _)| wants(key))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    config.remove("runtimeConfig");
    if !given.is_empty() {
        config.insert("runtimeConfig".to_owned(), Value::Object(given));
    }
    config.remove("prevResult");
    if let Some(previous) = previous {
        config.insert("prevResult".to_owned(), previous.clone());
    }
    Value::Object(config)
}

#[cfg(test)]
mod tests;
