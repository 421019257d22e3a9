//! CDI against another implementation: the crate `container-device-interface`, by its
//! program `cdi`, which `hack/test` builds (`ORLOP_CDI`).
//!
//! Each case is a set of spec files and the devices asked for. Both implementations edit the
//! same OCI spec; what comes out must be equal, or both must refuse. Where the oracle is
//! wrong by the specification the case says so, and that it still is is checked, too.
//!
//! The program reads `/etc/cdi` and `/var/run/cdi` and no others, so it runs in a mount
//! namespace of its own with the case's files there.
//!
//! # References
//! - [CDI](https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md)

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use e2e::host;
use e2e::programs::on_path;
use oci_spec::runtime::Spec;
use orlop::cdi::Cdi;
use serde_json::{Value, json};

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Given,
    Refused,
}
use Fate::{Given, Refused};

struct Case {
    name: &'static str,
    /// Path below the case's directory, content.
    files: Vec<(&'static str, String)>,
    devices: &'static [&'static str],
    fate: Fate,
    /// Why the oracle does otherwise.
    oracle_errs: Option<&'static str>,
}

fn case(
    name: &'static str,
    fate: Fate,
    files: Vec<(&'static str, String)>,
    devices: &'static [&'static str],
) -> Case {
    Case { name, files, devices, fate, oracle_errs: None }
}

impl Case {
    fn oracle_errs(mut self, why: &'static str) -> Self {
        self.oracle_errs = Some(why);
        self
    }
}

const ONE: &[&str] = &["e2e.test/thing=one"];

/// A spec of one device with these edits.
fn spec(version: &str, edits: &str) -> String {
    format!(
        "cdiVersion: \"{version}\"\nkind: e2e.test/thing\ndevices:\n- name: one\n  containerEdits: \
         {{{edits}}}\n"
    )
}

/// The same with the edit that shows whose it is.
fn saying(word: &str) -> String {
    spec("0.6.0", &format!("env: [\"WHO={word}\"]"))
}

/// One file, asked for its device.
fn single(name: &'static str, fate: Fate, version: &str, edits: &str) -> Case {
    case(name, fate, vec![("etc/one.yaml", spec(version, edits))], ONE)
}

fn versions() -> Vec<Case> {
    let env = "env: [A=1]";
    let mut cases = vec![
        single("the first version", Refused, "0.1.0", env),
        single("0.3.0", Given, "0.3.0", env),
        single("0.8.0", Given, "0.8.0", env),
        single("1.0.0", Given, "1.0.0", env),
        single("1.1.0", Given, "1.1.0", env),
        single("a v before it", Given, "v0.6.0", env),
        single("a later version", Refused, "2.0.0", env),
        single("a version that never was", Refused, "0.9.0", env),
        single("no version", Refused, "", env),
        single("half a version", Refused, "1.0", env),
    ];
    for (name, since, before, edits) in [
        (
            "a mount's type",
            "0.4.0",
            "0.3.0",
            "mounts: [{hostPath: /a, containerPath: /b, type: tmpfs}]",
        ),
        ("a host path", "0.5.0", "0.4.0", "deviceNodes: [{path: /dev/x, hostPath: /dev/null}]"),
        ("groups", "0.7.0", "0.6.0", "additionalGids: [7]"),
        ("a class of RDT", "0.7.0", "0.6.0", "intelRdt: {closID: fast}"),
        ("a network device", "1.1.0", "1.0.0", "netDevices: [{hostInterfaceName: a, name: b}]"),
        ("schemata", "1.1.0", "1.0.0", "intelRdt: {closID: fast, schemata: [\"L3:0=f\"]}"),
    ] {
        cases.push(single(name, Given, since, edits));
        cases.push(single(name, Refused, before, edits));
    }
    cases
}

fn names() -> Vec<Case> {
    let with = |kind: &str, device: &str| {
        vec![("etc/one.yaml", saying("x").replace("e2e.test/thing", kind).replace("one", device))]
    };
    vec![
        case(
            "letters of all sorts",
            Given,
            with("a-b_c.d/e_f-g", "9.x:y_z-0"),
            &["a-b_c.d/e_f-g=9.x:y_z-0"],
        ),
        case("a dot in the class", Given, with("a.b/c.d", "one"), &["a.b/c.d=one"]),
        case("a kind without a class", Refused, with("vendor", "one"), &["vendor=one"]),
        case("a kind of three", Refused, with("a/b/c", "one"), &["a/b/c=one"]),
        case("a vendor that begins with a digit", Refused, with("1a/b", "one"), &["1a/b=one"]),
        case("a class that ends with a dash", Refused, with("a/b-", "one"), &["a/b-=one"]),
        case("a device of two words", Refused, with("a/b", "one two"), &["a/b=one two"]),
        case("a device that ends with a dot", Refused, with("a/b", "one."), &["a/b=one."]),
        case("a device that is not there", Refused, with("a/b", "one"), &["a/b=two"]),
        case("a vendor that is not there", Refused, with("a/b", "one"), &["c/b=one"]),
        case("no full name", Refused, with("a/b", "one"), &["one"]),
        case("one there, one not", Refused, with("a/b", "one"), &["a/b=one", "a/b=two"])
            .oracle_errs("its program leaves out names that it does not know"),
    ]
}

fn shapes() -> Vec<Case> {
    let file = |text: &str| vec![("etc/one.yaml", text.to_owned())];
    let json = json!({
        "cdiVersion": "0.6.0", "kind": "e2e.test/thing",
        "annotations": {"a": "b"},
        "devices": [{"name": "one", "annotations": {"c": "d"}, "containerEdits": {"env": ["A=1"]}}],
        "containerEdits": {"env": ["B=2"]},
    });
    vec![
        case("JSON", Given, vec![("run/one.json", json.to_string())], ONE),
        case(
            "no devices",
            Refused,
            file("cdiVersion: 0.6.0\nkind: e2e.test/thing\ndevices: []\n"),
            ONE,
        ),
        case("no list of devices", Refused, file("cdiVersion: 0.6.0\nkind: e2e.test/thing\n"), ONE),
        case("a field of the future", Refused, file(&(saying("x") + "later: {}\n")), ONE),
        case(
            "two devices of a name",
            Refused,
            file(&(saying("x") + "- name: one\n  containerEdits: {env: [A=1]}\n")),
            ONE,
        ),
        case("no YAML", Refused, file("{"), ONE),
        case("nothing", Refused, file(""), ONE),
        case("another extension", Refused, vec![("etc/one.yml", saying("x"))], ONE),
        case("no extension", Refused, vec![("etc/one", saying("x"))], ONE),
    ]
}

fn directories() -> Vec<Case> {
    let two = "cdiVersion: 0.6.0\nkind: e2e.test/thing\ncontainerEdits: {env: [ALL=1]}\ndevices:\n\
               - {name: one, containerEdits: {env: [ONE=1]}}\n- {name: two, containerEdits: {env: [TWO=1]}}\n";
    vec![
        case(
            "the later directory wins",
            Given,
            vec![("etc/a.yaml", saying("etc")), ("run/z.yaml", saying("run"))],
            ONE,
        ),
        case(
            "the later one, by any name",
            Given,
            vec![("etc/z.yaml", saying("etc")), ("run/a.yaml", saying("run"))],
            ONE,
        ),
        case(
            "two files of a directory",
            Refused,
            vec![("etc/a.yaml", saying("a")), ("etc/b.yaml", saying("b"))],
            ONE,
        )
        .oracle_errs("it finds the conflict and forgets to act on it"),
        case(
            "a conflict that is overruled",
            Given,
            vec![
                ("etc/a.yaml", saying("a")),
                ("etc/b.yaml", saying("b")),
                ("run/c.yaml", saying("c")),
            ],
            ONE,
        ),
        case(
            "a broken file beside it",
            Given,
            vec![("etc/a.yaml", saying("a")), ("etc/b.yaml", "{".into())],
            ONE,
        )
        .oracle_errs(
            "one broken file hides all; the specification and the Go library leave out that file",
        ),
        case(
            "edits of the kind come once",
            Given,
            vec![("etc/a.yaml", two.into())],
            &["e2e.test/thing=one", "e2e.test/thing=two"],
        ),
        case(
            "a device twice",
            Given,
            vec![("etc/a.yaml", two.into())],
            &["e2e.test/thing=one", "e2e.test/thing=one"],
        ),
        case(
            "two kinds",
            Given,
            vec![("etc/a.yaml", two.into()), ("run/b.yaml", saying("b").replace("thing", "zoo"))],
            &["e2e.test/thing=two", "e2e.test/zoo=one"],
        ),
    ]
}

fn edits() -> Vec<Case> {
    let v = "1.1.0";
    let node = |rest: &str| format!("deviceNodes: [{{path: /dev/x, {rest}}}]");
    vec![
        single("variables", Given, v, "env: [NEW=1, NEW=2, EMPTY=]"),
        single("a variable there already", Given, v, "env: [PATH=/new]")
            .oracle_errs("it leaves both; the Go library replaces the first, as with NEW above"),
        single("a variable without a value", Refused, v, "env: [A]"),
        single("a variable without a name", Refused, v, "env: [\"=a\"]"),
        single("a node by its own path", Given, v, "deviceNodes: [{path: /dev/zero}]"),
        single("a node by the host's", Given, v, &node("hostPath: /dev/null")),
        single(
            "a node with all said",
            Given,
            v,
            &node("type: b, major: 7, minor: 8, fileMode: 416, permissions: rw, uid: 5, gid: 6"),
        ),
        single("root's node", Given, v, &node("hostPath: /dev/null, uid: 0, gid: 0")),
        single(
            "a node there already",
            Given,
            v,
            "deviceNodes: [{path: /dev/present, hostPath: /dev/null}]",
        ),
        single("a pipe", Given, v, &node("type: p")),
        single("read only", Given, v, &node("hostPath: /dev/null, permissions: r")),
        single("no access", Given, v, &node("hostPath: /dev/null, permissions: none")),
        single("access that is none", Refused, v, &node("hostPath: /dev/null, permissions: rx")),
        single("a type that is none", Refused, v, &node("hostPath: /dev/null, type: d")),
        single("a node of another type", Refused, v, &node("hostPath: /dev/null, type: b")),
        single("a node that is not there", Refused, v, &node("hostPath: /dev/no-such")),
        single("a node that is a file", Refused, v, &node("hostPath: /bin/sh")),
        single("a node without a path", Refused, v, "deviceNodes: [{path: \"\"}]"),
        single(
            "a network device",
            Given,
            v,
            "netDevices: [{hostInterfaceName: a, name: b}, {hostInterfaceName: c, name: d}]",
        ),
        single(
            "one network device twice",
            Refused,
            v,
            "netDevices: [{hostInterfaceName: a, name: b}, {hostInterfaceName: a, name: d}]",
        ),
        single(
            "two of a name",
            Refused,
            v,
            "netDevices: [{hostInterfaceName: a, name: b}, {hostInterfaceName: c, name: b}]",
        ),
        single(
            "a network device without a name",
            Refused,
            v,
            "netDevices: [{hostInterfaceName: a, name: \"\"}]",
        ),
        single(
            "mounts",
            Given,
            v,
            "mounts: [{hostPath: /a, containerPath: /data/x, options: [ro, bind, nosuid]}, {hostPath: t, containerPath: /t, type: tmpfs, options: [size=1m]}]",
        ),
        single(
            "a mount there already",
            Given,
            v,
            "mounts: [{hostPath: /a, containerPath: /data, type: bind, options: [bind]}]",
        ),
        single("a mount from nowhere", Refused, v, "mounts: [{hostPath: \"\", containerPath: /a}]"),
        single("a mount to nowhere", Refused, v, "mounts: [{hostPath: /a, containerPath: \"\"}]"),
        single(
            "hooks of all kinds",
            Given,
            v,
            "hooks: [{hookName: prestart, path: /a}, {hookName: createRuntime, path: /b, args: [b, -x]}, {hookName: createContainer, path: /c, env: [A=1]}, {hookName: startContainer, path: /d, timeout: 5}, {hookName: poststart, path: /e}, {hookName: poststop, path: /f}, {hookName: poststop, path: /g}]",
        ),
        single("a hook of no kind", Refused, v, "hooks: [{hookName: sometime, path: /a}]"),
        single("a hook without a program", Refused, v, "hooks: [{hookName: prestart, path: \"\"}]"),
        single(
            "a hook with half a variable",
            Refused,
            v,
            "hooks: [{hookName: prestart, path: /a, env: [A]}]",
        ),
        single("groups, there already, root's", Given, v, "additionalGids: [7, 42, 0, 8, 7]"),
        single(
            "RDT",
            Given,
            v,
            "intelRdt: {closID: fast, l3CacheSchema: \"L3:0=f\", memBwSchema: \"MB:0=20\", enableMonitoring: true, schemata: [\"L3:0=f\"]}",
        ),
        single(
            "RDT of before",
            Given,
            "0.7.0",
            "intelRdt: {closID: fast, enableCMT: true, enableMBM: true}",
        ),
        single("RDT of before, later", Refused, v, "intelRdt: {closID: fast, enableCMT: true}"),
        single("RDT with a path", Refused, v, "intelRdt: {closID: a/b}"),
        single("RDT with dots", Refused, v, "intelRdt: {closID: ..}"),
        single("RDT with an unknown field", Refused, v, "intelRdt: {closID: a, later: 1}"),
    ]
}

/// What is edited.
fn before() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "process": {
            "user": {"uid": 1000, "gid": 1001, "additionalGids": [42]},
            "args": ["sleep"], "cwd": "/", "env": ["PATH=/bin", "HOME=/"],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/old", "options": ["rbind"]},
            {"destination": "/data/inner", "type": "bind", "source": "/inner", "options": ["rbind"]},
        ],
        "linux": {
            "devices": [{"path": "/dev/present", "type": "c", "major": 1, "minor": 5}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
        },
    })
}

fn ours(place: &Path, devices: &[&str]) -> Result<Value> {
    let mut spec: Spec = serde_json::from_value(before())?;
    let cdi = Cdi::new(vec![place.join("etc"), place.join("run")]);
    let names = devices.iter().map(|&name| name.to_owned()).collect();
    let found = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(cdi.find(names))?;
    found.apply(&mut spec)?;
    Ok(serde_json::to_value(&spec)?)
}

const UNSHARED: &str = "set -e; mount -t tmpfs cdi /etc; mount -t tmpfs cdi /var/run; \
                        mkdir /etc/cdi /var/run/cdi; cp -r \"$1\"/etc/. /etc/cdi; \
                        cp -r \"$1\"/run/. /var/run/cdi; oracle=$2; spec=$1/spec.json; shift 2; \
                        exec \"$oracle\" inject -o json \"$spec\" \"$@\"";

/// What the oracle prints: a complaint, if it has one, and a spec.
fn oracle(program: &Path, place: &Path, devices: &[&str]) -> Result<(String, Value)> {
    let said = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", UNSHARED, "sh"])
        .args([place, program])
        .args(devices)
        .output()?;
    ensure!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let text = String::from_utf8(said.stdout)?;
    let (complaint, spec) = text.split_once("Updated OCI Spec:").context("the oracle is mute")?;
    Ok((complaint.to_owned(), serde_json::from_str(spec)?))
}

/// What the specification leaves open is put in one form: the order of mounts and of devices,
/// absence as nothing, a bind mount said by its type or by its options, and a rule that allows
/// nothing as no rule, because runtimes take it for one that allows all.
fn normal(mut spec: Value) -> Value {
    let by = |list: Option<&mut Value>, key: &str| {
        if let Some(list) = list.and_then(Value::as_array_mut) {
            list.sort_by_key(|one| one[key].to_string());
        }
    };
    by(spec.pointer_mut("/mounts"), "destination");
    by(spec.pointer_mut("/linux/devices"), "path");
    let rules = spec.pointer_mut("/linux/resources/devices").and_then(Value::as_array_mut);
    rules.into_iter().for_each(|rules| rules.retain(|rule| rule["access"] != ""));
    for mount in spec["mounts"].as_array_mut().into_iter().flatten() {
        let options = mount["options"].as_array();
        if options.is_some_and(|options| options.contains(&json!("bind"))) {
            mount["type"] = json!("bind");
        }
    }
    without_nothing(&mut spec);
    spec
}

fn without_nothing(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(without_nothing);
            fields
                .retain(|_, field| !field.is_null() && *field != json!([]) && *field != json!({}));
        }
        Value::Array(list) => list.iter_mut().for_each(without_nothing),
        _ => {}
    }
}

fn write(case: &Case) -> Result<tempfile::TempDir> {
    let place = tempfile::tempdir()?;
    for directory in ["etc", "run"] {
        fs::create_dir(place.path().join(directory))?;
    }
    for (path, text) in &case.files {
        fs::write(place.path().join(path), text)?;
    }
    fs::write(place.path().join("spec.json"), before().to_string())?;
    Ok(place)
}

/// What is wrong with a case, if anything.
fn examine(case: &Case, program: &Path, untouched: &Value) -> Result<()> {
    let place = write(case)?;
    let ours = ours(place.path(), case.devices);
    let (complaint, theirs) = oracle(program, place.path(), case.devices)?;
    let theirs = normal(theirs);
    let theirs = (complaint.is_empty() && theirs != *untouched).then_some(theirs);
    match (&ours, case.fate) {
        (Ok(_), Given) | (Err(_), Refused) => {}
        (Ok(spec), Refused) => bail!("given, not refused: {spec}"),
        (Err(error), Given) => bail!("refused, not given: {error:#}"),
    }
    let ours = ours.ok().map(normal);
    match case.oracle_errs {
        None => {
            let text =
                |spec: &Option<Value>| spec.as_ref().map_or("refused".into(), Value::to_string);
            let (one, other) = (text(&ours), text(&theirs));
            ensure!(ours == theirs, "\nours:       {one}\nthe oracle: {other} {complaint}");
        }
        Some(why) => ensure!(ours != theirs, "the oracle does not err any more: {why}"),
    }
    Ok(())
}

#[test]
fn root_devices_are_those_of_the_oracle() -> Result<()> {
    host::require_root()?;
    let program = std::env::var_os("ORLOP_CDI").map(PathBuf::from).or_else(|| on_path("cdi"));
    let program = program.context("no cdi: set ORLOP_CDI, as hack/test does")?;
    let nothing = case("nothing", Refused, vec![], &["a/b=c"]);
    let untouched = normal(oracle(&program, write(&nothing)?.path(), nothing.devices)?.1);
    let mut wrong = Vec::new();
    for case in [versions(), names(), shapes(), directories(), edits()].into_iter().flatten() {
        if let Err(error) = examine(&case, &program, &untouched) {
            wrong.push(format!("{}: {error:#}", case.name));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    Ok(())
}
