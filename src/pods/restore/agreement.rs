//! What a configuration must have in common with a checkpoint.
//!
//! criu restores processes as they were: their user, capabilities, seccomp filters and all.
//! A configuration that says something else would not be obeyed, so it is refused. What the
//! kernel holds for all of a container (its limits, devices, network, log, names) is made from
//! the configuration, and may differ.

use std::collections::BTreeSet;
use std::path::Path;

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::error::RestoreError;
use super::source::Source;
use crate::pods::record::ContainerRequest;

/// The parts of `process` that are not compared as text: capabilities have no order, variables
/// are compared as they were asked for, and the others are set again.
const APART: [&str; 4] = ["capabilities", "env", "oomScoreAdj", "consoleSize"];

/// The parts of `linux` that are of the processes, or of their mounts.
const OF_PROCESSES: [&str; 4] = ["seccomp", "maskedPaths", "readonlyPaths", "rootfsPropagation"];

/// Compares what was asked for the container then and now.
pub(super) fn check_request(
    request: &ContainerRequest,
    source: &Source,
) -> Result<(), RestoreError> {
    let (config, then) = (&request.config, &source.described);
    let envs: BTreeSet<_> = config.envs.iter().map(|env| (&env.key, &env.value)).collect();
    let then_envs: BTreeSet<_> = then.envs.iter().map(|(key, value)| (key, value)).collect();
    let what = if config.command != then.command {
        "command"
    } else if config.args != then.args {
        "args"
    } else if envs != then_envs {
        "envs"
    } else {
        return Ok(());
    };
    Err(RestoreError::Differs { name: request.name().to_owned(), what: what.to_owned() })
}

/// Compares the OCI specs.
pub(in crate::pods) fn check_spec(name: &str, then: &Spec, now: &Spec) -> Result<(), RestoreError> {
    match difference(then, now) {
        None => Ok(()),
        Some(what) => Err(RestoreError::Differs { name: name.to_owned(), what }),
    }
}

fn difference(then: &Spec, now: &Spec) -> Option<String> {
    let capabilities = |spec: &Spec| spec.process().as_ref().map(|p| p.capabilities().clone());
    if capabilities(then) != capabilities(now) {
        return Some("process.capabilities".to_owned());
    }
    let [one, other] = [then, now].map(|spec| serde_json::to_value(spec).unwrap_or_default());
    let mut parts: BTreeSet<String> = BTreeSet::new();
    for value in [&one, &other] {
        let process = value["process"].as_object().into_iter().flat_map(|map| map.keys());
        parts.extend(process.filter(|key| !APART.contains(&key.as_str())).cloned());
    }
    let differs = |a: &Value, b: &Value, key: &str| a[key] != b[key];
    if let Some(part) =
        parts.into_iter().find(|key| differs(&one["process"], &other["process"], key))
    {
        return Some(format!("process.{part}"));
    }
    if let Some(part) =
        OF_PROCESSES.into_iter().find(|key| differs(&one["linux"], &other["linux"], key))
    {
        return Some(format!("linux.{part}"));
    }
    if one["root"]["readonly"] != other["root"]["readonly"] {
        return Some("root.readonly".to_owned());
    }
    if namespaces(&one) != namespaces(&other) {
        return Some("linux.namespaces".to_owned());
    }
    let [one, other] = [then, now].map(places);
    let missing = one.symmetric_difference(&other).next()?;
    Some(format!("the mount at {}", missing.display()))
}

/// Which namespaces there are, and which of them are somebody else's too.
fn namespaces(spec: &Value) -> BTreeSet<(String, bool)> {
    let all = spec["linux"]["namespaces"].as_array().into_iter().flatten();
    all.map(|one| (one["type"].to_string(), one["path"].is_string())).collect()
}

fn places(spec: &Spec) -> BTreeSet<&Path> {
    spec.mounts().iter().flatten().map(|mount| mount.destination().as_path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Spec {
        serde_json::from_str(json).unwrap()
    }

    const SPEC: &str = r#"{"ociVersion":"1.2.0","root":{"path":"rootfs"},
        "mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
        "process":{"terminal":false,"user":{"uid":0,"gid":0},"cwd":"/","args":["sh"],
                   "env":["A=1"],"noNewPrivileges":true,
                   "capabilities":{"bounding":["CAP_CHOWN"],"effective":["CAP_CHOWN"]}},
        "linux":{"namespaces":[{"type":"pid"}],"maskedPaths":["/proc/kcore"]}}"#;

    #[test]
    fn what_processes_keep_must_be_the_same() {
        let then = spec(SPEC);
        assert_eq!(difference(&then, &then), None);
        for (from, to, part) in [
            (r#""bounding":["CAP_CHOWN"]"#, r#""bounding":[]"#, Some("process.capabilities")),
            (r#""uid":0"#, r#""uid":7"#, Some("process.user")),
            (r#""noNewPrivileges":true,"#, "", Some("process.noNewPrivileges")),
            (r#""args":["sh"]"#, r#""args":["ash"]"#, Some("process.args")),
            (r#"{"type":"pid"}"#, r#"{"type":"pid","path":"/p"}"#, Some("linux.namespaces")),
            (r#"["/proc/kcore"]"#, "[]", Some("linux.maskedPaths")),
            (r#""path":"rootfs""#, r#""path":"rootfs","readonly":true"#, Some("root.readonly")),
            (r#""destination":"/proc""#, r#""destination":"/p""#, Some("the mount at /p")),
            (r#""env":["A=1"]"#, r#""env":["A=2"]"#, None),
        ] {
            assert!(SPEC.contains(from), "{from}");
            let now = spec(&SPEC.replace(from, to));
            assert_eq!(difference(&then, &now).as_deref(), part, "{to}");
        }
    }
}
