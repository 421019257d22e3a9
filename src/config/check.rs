//! What must hold between values, and between a value and the kernel.

use crate::images::Reference;

use super::Settings;
use super::setting::{Findings, Problem, nearest};

/// The kernel's limit for the path of a unix socket (`sun_path` without its end mark).
const SOCKET_PATH_BYTES: usize = 107;

/// The longest name of a network interface (`IFNAMSIZ` without its end mark).
const INTERFACE_NAME_BYTES: usize = 15;

/// Less would count as no progress where several layers share it.
const MAX_RATE_LEAST: u64 = 64 << 10;

/// Below, a line would be mostly prefix; above, one container could make its shim large.
const LOG_LINE_BYTES: std::ops::RangeInclusive<u64> = 64..=(1 << 20);

/// The name of the handler that needs no table.
const BUILTIN: &str = "builtin";

/// Notes what is wrong with `settings` as a whole.
pub(super) fn check(settings: &Settings, findings: &mut Findings) {
    let mut note = |key: &str, what: String| {
        let origin = findings.origins.get(key).cloned();
        findings.problems.push(Problem { origin, what: format!("`{key}`: {what}") });
    };
    let socket_bytes = settings.socket().as_os_str().len();
    if socket_bytes > SOCKET_PATH_BYTES {
        note(
            "listen",
            format!("a socket path has at most {SOCKET_PATH_BYTES} bytes, not {socket_bytes}"),
        );
    }
    if settings.root == settings.state {
        note("state", "must not be the same directory as `root`".to_owned());
    }
    if let Some(bridge) =
        settings.network.bridge.written.as_ref().filter(|name| !is_interface(name))
    {
        note("network.bridge", format!("`{bridge}` cannot be the name of an interface"));
    }
    if settings.network.parallel_plugins == 0 {
        note("network.parallel_plugins", "at least one plugin runs at a time".to_owned());
    }
    if settings.registry.parallel_layers == 0 {
        note("registry.parallel_layers", "at least one layer is fetched at a time".to_owned());
    }
    if (1..MAX_RATE_LEAST).contains(&settings.registry.max_rate.0) {
        let least = MAX_RATE_LEAST >> 10;
        note("registry.max_rate", format!("must be 0 or at least {least}KiB, or pulls time out"));
    }
    if !LOG_LINE_BYTES.contains(&settings.pods.log_line_size.0) {
        let (least, most) = (LOG_LINE_BYTES.start(), LOG_LINE_BYTES.end());
        note("pods.log_line_size", format!("must be between {least} and {most} bytes"));
    }
    let parent = settings.pods.cgroup_parent.written.as_deref().unwrap_or("/");
    let is_slice = parent.ends_with(".slice") && !parent.contains('/');
    let is_path = parent.starts_with('/') && parent.split('/').all(|part| part != "..");
    if !is_slice && !is_path {
        note("pods.cgroup_parent", format!("`{parent}` is neither an absolute cgroup nor a slice"));
    }
    if settings.runtimes.contains_key(BUILTIN) {
        note("runtimes.builtin", "the built-in runtime is not configured here".to_owned());
    }
    for (name, _) in settings.runtimes.iter().filter(|(_, of)| of.path.written.is_none()) {
        note(&format!("runtimes.{name}"), "`path` must be given".to_owned());
    }
    for image in &settings.prefetch.images {
        if let Err(error) = Reference::parse(image) {
            note("prefetch.images", error.to_string());
        }
    }
    let tls = &settings.streaming;
    match (&tls.tls_certificate.written, &tls.tls_key.written) {
        (Some(_), None) => note("streaming.tls_certificate", "needs `tls_key`".to_owned()),
        (None, Some(_)) => note("streaming.tls_key", "needs `tls_certificate`".to_owned()),
        (Some(_), Some(_)) | (None, None) => {}
    }
    check_default_runtime(settings, &mut note);
}

/// Whether the kernel takes `name` for an interface.
fn is_interface(name: &str) -> bool {
    !["", ".", ".."].contains(&name)
        && name.len() <= INTERFACE_NAME_BYTES
        && name.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':')
}

fn check_default_runtime(settings: &Settings, note: &mut impl FnMut(&str, String)) {
    let chosen = settings.pods.default_runtime.as_str();
    let mut known: Vec<&str> = settings.runtimes.keys().map(String::as_str).collect();
    known.push(BUILTIN);
    if known.contains(&chosen) {
        return;
    }
    let wanted = nearest(chosen, &known).map_or_else(
        || format!("there are: {}", known.join(", ")),
        |name| format!("did you mean `{name}`?"),
    );
    note("pods.default_runtime", format!("no runtime handler is called `{chosen}`; {wanted}"));
}
