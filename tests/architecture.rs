//! The rules of the house, as a test: who may import whom, which crates may be named
//! where, where `unsafe` may stand, and how files begin and are called.
//!
//! The table below is the one of `ARCHITECTURE.md`. A crossing that is really needed is a
//! change of the table, made on purpose and explained there.

#[path = "architecture/source.rs"]
mod source;

use std::path::{Path, PathBuf};
use std::process::Command;

use source::{Source, paths_of};

/// Modules of the root package and what each may import from it and from `sandbox`.
/// `metrics` is open to all of them.
const ORLOP: &[(&str, &[&str])] = &[
    ("cli", &["config", "daemon", "install", "admin", "sandbox::shim", "sandbox::oci"]),
    ("install", &["config", "admin", "systemd"]),
    (
        "daemon",
        &[
            "admin",
            "content",
            "cri",
            "images",
            "metadata",
            "network",
            "pods",
            "sandbox",
            "snapshots",
            "streaming",
            "transfer",
        ],
    ),
    (
        "config",
        &["daemon", "images", "network", "pods", "snapshots", "streaming", "transfer", "sandbox"],
    ),
    ("cri", &["pods", "images", "streaming"]),
    ("streaming", &[]),
    ("admin", &["pods", "images", "transfer", "content", "snapshots"]),
    ("pods", &["images", "snapshots", "network", "cdi", "metadata", "systemd", "sandbox"]),
    ("images", &["transfer", "snapshots", "content", "metadata"]),
    ("transfer", &["content", "snapshots", "metadata"]),
    ("snapshots", &["metadata", "sandbox::sys"]),
    ("content", &["metadata"]),
    ("network", &["sandbox::sys"]),
    ("cdi", &[]),
    ("systemd", &[]),
    ("metadata", &[]),
    ("metrics", &[]),
];

/// Modules of `sandbox` and what each may import from it. The daemon's side
/// (`controller`) and the shim's side never meet but in `protocol`.
const SANDBOX: &[(&str, &[&str])] = &[
    ("controller", &["lifecycle", "protocol", "sys"]),
    ("shim", &["lifecycle", "protocol", "oci", "cgroup", "sys"]),
    ("oci", &["cgroup", "lifecycle", "protocol", "sys"]),
    ("protocol", &["lifecycle", "sys"]),
    ("cgroup", &["sys"]),
    ("lifecycle", &[]),
    ("sys", &[]),
];

/// Crates that may be named only under these paths.
const CRATES: &[(&str, &[&str])] = &[
    ("tonic", &["src/cri", "src/admin", "src/daemon", "src/snapshots/remote", "cri-api", "e2e"]),
    ("tonic_prost", &["src/admin", "src/snapshots/remote", "cri-api"]),
    // The command line's client speaks CRI to the daemon like any other client.
    (
        "cri_api",
        &[
            "src/cri",
            "src/admin/client",
            "src/pods/spec",
            "src/pods/record",
            "cri-api",
            "e2e",
            "tests",
        ],
    ),
    ("rusqlite", &["src/metadata", "src/content", "src/snapshots", "src/images", "src/pods"]),
    ("zbus", &["src/systemd"]),
    ("anyhow", &["src/main.rs", "tests", "e2e"]),
];

/// Name parts that say nothing (`ARCHITECTURE.md`, names).
const BANNED: &[&str] = &[
    "util", "utils", "common", "helper", "helpers", "misc", "base", "core", "types", "manager",
    "handler", "handlers", "service", "services", "data", "info",
];

/// Words of the specifications that contain a banned part.
const SPECIFIED: &[&str] =
    &["RuntimeService", "ImageService", "RuntimeHandler", "runtime_service", "image_service"];

/// Crates that a shim must not carry.
const NOT_IN_A_SHIM: &[&str] = &[
    "tonic",
    "hyper",
    "h2",
    "reqwest",
    "rustls",
    "rusqlite",
    "libsqlite3-sys",
    "tower",
    "clap",
    "zbus",
];

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of the project, with its path below the root.
fn files() -> std::io::Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        ["src", "tests", "sandbox/src", "sandbox/tests", "cri-api/src", "cri-api/tests", "e2e"]
            .iter()
            .map(|at| root().join(at))
            .filter(|at| at.exists())
            .collect();
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|is| is == "rs") {
                let below = path.strip_prefix(root()).unwrap_or(&path).to_path_buf();
                found.push(Source::new(&below.to_string_lossy(), &std::fs::read_to_string(path)?));
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn is_generated(file: &Source) -> bool {
    // `runtime.v1.rs`, `orlop.admin.v1.rs`: the protobuf package is the name.
    file.path.ends_with(".v1.rs")
}

fn report(violations: &[String]) -> Outcome {
    if violations.is_empty() { Ok(()) } else { Err(format!("\n{}", violations.join("\n")).into()) }
}

#[test]
fn imports_follow_the_table() -> Outcome {
    let mut violations = Vec::new();
    for file in files()? {
        if let Some(below) = file.path.strip_prefix("src/") {
            violations.extend(crossings(&file, below, ORLOP, &["crate", "orlop"], true));
        } else if let Some(below) = file.path.strip_prefix("sandbox/src/") {
            violations.extend(crossings(&file, below, SANDBOX, &["crate"], false));
        }
    }
    report(&violations)
}

/// The imports in `file` that `table` does not allow.
fn crossings(
    file: &Source,
    below: &str,
    table: &[(&str, &[&str])],
    roots: &[&str],
    names_sandbox: bool,
) -> Vec<String> {
    let module = below.split(['/', '.']).next().unwrap_or_default();
    // A test may ask a layer above for what the daemon would give it.
    let is_test = below.ends_with("/tests.rs") || below.contains("/tests/");
    if module == "lib" || module == "main" || is_test {
        return Vec::new();
    }
    let Some((_, allowed)) = table.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: module `{module}` is not in the table", file.path)];
    };
    let mut named: Vec<(usize, String)> = Vec::new();
    for crate_root in roots {
        for (line, path) in paths_of(&file.code, crate_root) {
            named.extend(path.first().map(|name| (line, name.clone())));
        }
    }
    // `super` is the parent; as many of them as the file is deep lead to the crate.
    let depth = below.split('/').count();
    for (line, path) in paths_of(&file.code, "super") {
        let climbed = 1 + path.iter().take_while(|part| *part == "super").count();
        let first = path.get(climbed - 1).cloned().unwrap_or_default();
        if climbed >= depth && table.iter().any(|(name, _)| *name == first) {
            named.push((line, first));
        }
    }
    if names_sandbox {
        for (line, path) in paths_of(&file.code, "sandbox") {
            let part = path.first().cloned().unwrap_or_default();
            named.push((line, format!("sandbox::{part}")));
        }
    }
    let mut violations: Vec<String> = named
        .into_iter()
        .filter(|(_, name)| {
            let whole = name.split("::").next().unwrap_or_default();
            name != module
                && name != "metrics"
                && !allowed.contains(&name.as_str())
                && !allowed.contains(&whole)
        })
        .map(|(line, name)| format!("{}:{line}: `{module}` must not import `{name}`", file.path))
        .collect();
    violations.dedup();
    violations
}

#[test]
fn every_module_is_in_the_table() -> Outcome {
    for (library, table) in [("src/lib.rs", ORLOP), ("sandbox/src/lib.rs", SANDBOX)] {
        let source = Source::new(library, &std::fs::read_to_string(root().join(library))?);
        let declared = source.words().into_iter().zip(source.words().into_iter().skip(1));
        let mut modules: Vec<_> = declared
            .filter(|((_, before), _)| before == "mod")
            .map(|(_, (_, name))| name)
            .collect();
        let mut expected: Vec<_> = table.iter().map(|(name, _)| (*name).to_owned()).collect();
        modules.sort();
        expected.sort();
        assert_eq!(modules, expected, "modules of {library} and the table above");
    }
    Ok(())
}

#[test]
fn crates_are_named_where_they_belong() -> Outcome {
    let mut violations = Vec::new();
    for file in files()? {
        for (name, places) in CRATES {
            if places.iter().any(|place| file.path.starts_with(place)) {
                continue;
            }
            for (line, _) in paths_of(&file.code, name) {
                violations.push(format!("{}:{line}: `{name}` is not named here", file.path));
            }
        }
    }
    report(&violations)
}

#[test]
fn unsafe_is_in_one_directory() -> Outcome {
    let violations: Vec<_> = files()?
        .iter()
        .filter(|file| !file.path.starts_with("sandbox/src/sys/") && !is_generated(file))
        .flat_map(|file| {
            let found = file.words().into_iter().filter(|(_, word)| word == "unsafe");
            found.map(|(line, _)| format!("{}:{line}: unsafe", file.path)).collect::<Vec<_>>()
        })
        .collect();
    report(&violations)
}

#[test]
fn every_file_says_why_it_exists() -> Outcome {
    let violations: Vec<_> = files()?
        .iter()
        .filter(|file| !is_generated(file) && !file.text.starts_with("//! "))
        .map(|file| format!("{}: does not begin with `//! `", file.path))
        .collect();
    report(&violations)
}

#[test]
fn names_say_something() -> Outcome {
    let mut violations = Vec::new();
    for file in files()?.iter().filter(|file| !is_generated(file)) {
        let stem = Path::new(&file.path).file_stem().and_then(|stem| stem.to_str());
        if let Some(part) = banned_part(stem.unwrap_or_default()) {
            violations.push(format!("{}: the file name has `{part}`", file.path));
        }
        let words = file.words();
        for pair in words.windows(2) {
            let [(_, keyword), (line, name)] = pair else { continue };
            if !["struct", "enum", "trait", "mod"].contains(&keyword.as_str()) {
                continue;
            }
            if let Some(part) = banned_part(name) {
                violations.push(format!("{}:{line}: `{name}` has `{part}`", file.path));
            }
        }
    }
    report(&violations)
}

/// The part of a snake-case or camel-case `name` that is banned.
fn banned_part(name: &str) -> Option<String> {
    if SPECIFIED.contains(&name) {
        return None;
    }
    let mut parts = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter == '-' || letter.is_uppercase() {
            parts.push(String::new());
        }
        if let (true, Some(last)) = (letter.is_alphanumeric(), parts.last_mut()) {
            last.extend(letter.to_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    if parts == ["runtime"] {
        return Some("runtime, unqualified".to_owned());
    }
    parts.into_iter().find(|part| BANNED.contains(&part.as_str()))
}

#[test]
fn a_shim_carries_no_server() -> Outcome {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "-p", "sandbox", "-e", "normal", "--prefix", "none", "--offline"])
        .current_dir(root())
        .output()?;
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let listed = String::from_utf8(tree.stdout)?;
    let violations: Vec<_> = listed
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| NOT_IN_A_SHIM.contains(name))
        .map(|name| format!("`sandbox` depends on `{name}`"))
        .collect();
    report(&violations)
}

#[test]
fn planted_violations_are_found() {
    let crossing = |path: &str, text: &str| {
        let below = path.trim_start_matches("src/");
        crossings(&Source::new(path, text), below, ORLOP, &["crate"], true).len()
    };
    assert_eq!(crossing("src/content/gc.rs", "use crate::pods::Registry;"), 1);
    assert_eq!(crossing("src/content/gc.rs", "use crate::{metadata, pods::{self, x}};"), 1);
    assert_eq!(crossing("src/content/gc.rs", "fn f() { crate::pods::run() }"), 1);
    assert_eq!(crossing("src/content/gc.rs", "use super::super::pods;"), 1);
    assert_eq!(crossing("src/content.rs", "use super::pods;"), 1);
    assert_eq!(crossing("src/network/ns.rs", "use sandbox::{sys, controller};"), 1);
    assert_eq!(crossing("src/unheard_of.rs", ""), 1);
}

#[test]
fn legal_code_is_accepted() {
    let crossing = |path: &str, text: &str| {
        let below = path.trim_start_matches("src/");
        crossings(&Source::new(path, text), below, ORLOP, &["crate"], true)
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(crossing("src/pods/run.rs", "use crate::{images, network::Config};"), none);
    assert_eq!(crossing("src/content/gc.rs", "// crate::pods\n/* crate::pods */"), none);
    assert_eq!(crossing("src/content/gc.rs", r#"let x = "crate::pods"; let c = '"';"#), none);
    assert_eq!(crossing("src/content.rs", "mod tests { use super::*; }"), none);
    assert_eq!(crossing("src/content/gc/list.rs", "use super::super::pods;"), none);
    assert_eq!(crossing("src/content/gc/tests.rs", "use crate::pods;"), none);
    assert_eq!(crossing("src/network/ns.rs", "use sandbox::sys::mount;"), none);
    assert_eq!(crossing("src/pods/run.rs", "use sandbox::controller::Shim;"), none);
    assert_eq!(crossing("src/network/ns.rs", "let pod_sandbox: u8 = my_sandbox::x();"), none);
    assert_eq!(banned_part("FsInfo").as_deref(), Some("info"));
    assert_eq!(banned_part("Metadata"), None);
    assert_eq!(banned_part("OciRuntime"), None);
}
