//! What the checks ask of a cluster: one function for each point, in a namespace of
//! the API of its own, which is deleted when the check has passed.

mod checkpoints;
mod devices;
mod lifecycle;
mod mistakes;
mod node;
mod pressure;
mod resources;
mod security;
mod streams;
mod volumes;
mod workloads;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Cluster;
use super::kubectl::Kubectl;

/// The image whose one program answers to many names.
const AGNHOST: &str = "registry.invalid/cluster/agnhost:1";
/// The same, a version later.
const AGNHOST_2: &str = "registry.invalid/cluster/agnhost:2";
/// The image with a shell.
const BUSYBOX: &str = "registry.invalid/cluster/busybox:1";

/// One point: its name, and what must succeed.
type Check = (&'static str, fn(&Kubectl) -> Result<()>);

fn all() -> impl Iterator<Item = Check> {
    let groups: [&[Check]; 11] = [
        &workloads::CHECKS,
        &lifecycle::CHECKS,
        &streams::CHECKS,
        &volumes::CHECKS,
        &security::CHECKS,
        &resources::CHECKS,
        &devices::CHECKS,
        &pressure::CHECKS,
        &mistakes::CHECKS,
        &node::CHECKS,
        &checkpoints::CHECKS,
    ];
    groups.into_iter().flatten().copied()
}

/// Runs the checks whose name contains `only`, prints a line for each, and the sum.
///
/// # Errors
/// If the cluster is not up.
pub fn run(cluster: &Cluster, only: Option<&str>) -> Result<ExitCode> {
    let kubectl = cluster.kubectl()?;
    let (mut passed, mut failed) = (0, 0);
    for (name, check) in all().filter(|(name, _)| only.is_none_or(|only| name.contains(only))) {
        let began = Instant::now();
        let outcome = in_own_namespace(&kubectl, name, check);
        let seconds = began.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => {
                passed += 1;
                println!("pass  {name} ({seconds:.1} s)");
            }
            Err(error) => {
                failed += 1;
                println!("FAIL  {name} ({seconds:.1} s)\n{error:#}");
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn in_own_namespace(
    kubectl: &Kubectl,
    name: &str,
    check: fn(&Kubectl) -> Result<()>,
) -> Result<()> {
    let namespace: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    // What an earlier check of the same name left, for a look, goes now.
    kubectl.run(&["delete", "namespace", &namespace, "--ignore-not-found", "--timeout=60s"])?;
    kubectl.run(&["create", "namespace", &namespace])?;
    let own = kubectl.in_namespace(&namespace);
    own.until(Duration::from_secs(20), || own.run(&["get", "serviceaccount", "default"]))
        .context("the namespace has no default service account")?;
    check(&own)?;
    own.run(&["delete", "pods", "--all", "--grace-period=1", "--wait=false"])?;
    kubectl.run(&["delete", "namespace", &namespace, "--wait=false"]).map(drop)
}

/// A pod with these containers (and whatever else `spec` says).
fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    if let Some(fields) = spec.as_object_mut() {
        fields.entry("terminationGracePeriodSeconds").or_insert(json!(2));
        fields.entry("automountServiceAccountToken").or_insert(json!(false));
        fields.entry("dnsPolicy").or_insert(json!("Default"));
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name }, "spec": spec })
}

/// A container that runs a line of shell.
fn shell(name: &str, line: &str) -> Value {
    json!({ "name": name, "image": BUSYBOX, "command": ["sh", "-c", line] })
}

/// The object with more fields at the top of it.
fn with(mut object: Value, more: Value) -> Value {
    if let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) {
        fields.extend(more);
    }
    object
}

impl Kubectl {
    fn create(&self, object: &Value) -> Result<()> {
        self.apply(&object.to_string())
    }

    fn exec(&self, pod: &str, line: &str) -> Result<String> {
        self.run(&["exec", pod, "--", "sh", "-c", line])
    }
}
