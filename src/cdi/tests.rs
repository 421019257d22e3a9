//! Directories, names and edits.

use oci_spec::runtime::{Linux, LinuxDeviceType, ProcessBuilder, UserBuilder};
use tempfile::TempDir;

use super::*;

const GPU: &str = r#"{
    "cdiVersion": "0.5.0",
    "kind": "vendor.com/gpu",
    "devices": [
        {"name": "0", "containerEdits": {
            "env": ["GPU=0"],
            "deviceNodes": [{"path": "/dev/gpu0", "hostPath": "/dev/null"}]
        }},
        {"name": "1", "containerEdits": {
            "env": ["GPU=1"],
            "deviceNodes": [{
                "path": "/dev/gpu1", "type": "c", "major": 7, "minor": 8, "permissions": "rw",
                "fileMode": 384, "uid": 5
            }]
        }}
    ],
    "containerEdits": {
        "env": ["DRIVER=5"],
        "mounts": [{"hostPath": "/lib/gpu.so", "containerPath": "/usr/lib/gpu.so",
                    "options": ["ro", "bind"]}],
        "hooks": [{"hookName": "createContainer", "path": "/bin/ldcache", "args": ["x"],
                   "timeout": 3}]
    }
}"#;

const NET: &str = "
cdiVersion: 1.1.0
kind: vendor.com/net
devices:
- name: a
  containerEdits:
    netDevices:
    - {hostInterfaceName: eth7, name: rdma0}
    additionalGids: [0, 77]
    intelRdt: {closID: fast}
";

fn places() -> (TempDir, Cdi) {
    let place = tempfile::tempdir().unwrap();
    let directories = ["etc", "run", "missing"].map(|name| place.path().join(name));
    for directory in &directories[..2] {
        std::fs::create_dir(directory).unwrap();
    }
    let cdi = Cdi::new(directories.to_vec());
    (place, cdi)
}

fn write(place: &TempDir, path: &str, content: &str) {
    std::fs::write(place.path().join(path), content).unwrap();
}

fn spec() -> Spec {
    let user = UserBuilder::default().uid(1000_u32).gid(0_u32).build().unwrap();
    let env = ["PATH=/bin", "GPU=none"].map(str::to_owned);
    let process = ProcessBuilder::default().env(env).user(user).build().unwrap();
    let mut spec = Spec::default();
    spec.set_process(Some(process)).set_mounts(None).set_linux(Some(Linux::default()));
    spec
}

fn injected(cdi: &Cdi, names: &[&str]) -> Result<Spec, String> {
    let mut spec = spec();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let found = cdi.find_now(&names).and_then(|devices| devices.apply(&mut spec));
    found.map(|()| spec).map_err(|error| {
        let source = std::error::Error::source(&error);
        format!("{error}{}", source.map_or(String::new(), |cause| format!(": {cause}")))
    })
}

fn env(spec: &Spec) -> String {
    spec.process().as_ref().unwrap().env().as_ref().unwrap().join(" ")
}

#[test]
fn edits_of_the_kind_are_made_once_and_those_of_each_device() {
    let (place, cdi) = places();
    write(&place, "etc/gpu.json", GPU);
    let spec = injected(&cdi, &["vendor.com/gpu=1", "vendor.com/gpu=0", "vendor.com/gpu=1"]);
    let spec = spec.unwrap();
    assert_eq!(env(&spec), "PATH=/bin GPU=0 DRIVER=5");
    let mounts = spec.mounts().as_ref().unwrap();
    assert_eq!(mounts.len(), 1);
    assert_eq!(mounts[0].typ().as_deref(), Some("bind"));
    let hooks = spec.hooks().as_ref().unwrap().create_container().as_ref().unwrap();
    assert_eq!((hooks.len(), hooks[0].timeout()), (1, Some(3)));
    let linux = spec.linux().as_ref().unwrap();
    let [first, second] = &linux.devices().as_ref().unwrap()[..] else { panic!("two devices") };
    assert_eq!((first.major(), first.minor(), first.uid()), (7, 8, Some(5)));
    assert_eq!(first.file_mode(), Some(0o600));
    // The numbers of the host's device, the process's user.
    assert_eq!((second.major(), second.minor(), second.uid()), (1, 3, Some(1000)));
    assert_eq!((second.typ(), second.gid()), (LinuxDeviceType::C, None));
    let resources = linux.resources().as_ref().unwrap();
    let rules = resources.devices().as_ref().unwrap();
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| (rule.allow(), rule.major(), rule.minor(), rule.access().clone()))
        .collect();
    let expected = [
        (true, Some(7), Some(8), Some("rw".to_owned())),
        (true, Some(1), Some(3), Some("rwm".to_owned())),
    ];
    assert!(rules.ends_with(&expected), "{rules:?}");
}

#[test]
fn yaml_and_what_is_newer() {
    let (place, cdi) = places();
    write(&place, "etc/net.yaml", NET);
    let spec = injected(&cdi, &["vendor.com/net=a"]).unwrap();
    let groups = spec.process().as_ref().unwrap().user().additional_gids().clone();
    assert_eq!(groups, Some(vec![77]));
    let linux = spec.linux().as_ref().unwrap();
    let device = &linux.net_devices().as_ref().unwrap()["eth7"];
    assert_eq!(device.name().as_deref(), Some("rdma0"));
    assert_eq!(linux.intel_rdt().as_ref().unwrap().clos_id().as_deref(), Some("fast"));
}

#[test]
fn the_later_directory_wins_and_equals_conflict() {
    let (place, cdi) = places();
    write(&place, "etc/gpu.json", GPU);
    write(&place, "run/gpu.json", &GPU.replace("GPU=1", "GPU=new"));
    assert_eq!(env(&injected(&cdi, &["vendor.com/gpu=1"]).unwrap()), "PATH=/bin GPU=new DRIVER=5");
    write(&place, "run/other.json", GPU);
    let error = injected(&cdi, &["vendor.com/gpu=1"]).unwrap_err();
    assert!(error.contains("run/gpu.json and") && error.contains("run/other.json"), "{error}");
    // What is written next is seen next.
    std::fs::remove_file(place.path().join("run/other.json")).unwrap();
    injected(&cdi, &["vendor.com/gpu=1"]).unwrap();
}

#[test]
fn what_is_not_there_is_named_with_where_it_was_looked_for() {
    let (place, cdi) = places();
    write(&place, "run/broken.json", "{");
    for ignored in ["run/ignored.txt", "run/ignored.yml", "run/ignored.json.new"] {
        write(&place, ignored, GPU);
    }
    let error = injected(&cdi, &["vendor.com/gpu=1"]).unwrap_err();
    for word in ["vendor.com/gpu=1", "/etc, ", "/missing", "broken.json is left out"] {
        assert!(error.contains(word), "{word}: {error}");
    }
    assert!(!error.contains("ignored"), "{error}");
    for name in ["gpu", "vendor.com/gpu", "vendor.com/gpu=", "/gpu=1", "1v/gpu=1", "v/g=a b"] {
        let error = injected(&cdi, &[name]).unwrap_err();
        assert!(error.contains("not the full name"), "{error}");
    }
    assert_eq!(injected(&cdi, &[]), Ok(spec()));
}

#[test]
fn files_that_are_no_specs() {
    let device = |edits: &str| {
        format!(
            r#"{{"cdiVersion":"0.3.0","kind":"v.com/c","devices":[{{"name":"a","containerEdits":{edits}}}]}}"#
        )
    };
    for (file, word) in [
        (GPU.replace("0.5.0", "2.0.0"), "\"2.0.0\" is not known"),
        (GPU.replace("0.5.0", "five"), "\"five\" is not known"),
        (GPU.replace("0.5.0", "0.4.0"), "came with 0.5.0"),
        (GPU.replace("vendor.com/gpu", "gpu"), "kind"),
        (GPU.replace("\"name\": \"1\"", "\"name\": \"0\""), "two devices"),
        (GPU.replace("\"rw\"", "\"rx\""), "permissions"),
        (GPU.replace("createContainer", "sometime"), "sometime"),
        (GPU.replace("GPU=1", "GPU"), "env"),
        (GPU.replace("hostPath", "hostpath"), "hostpath"),
        (device(r#"{"additionalGids":[1]}"#), "0.7.0"),
        (device(r#"{"mounts":[{"hostPath":"/a","containerPath":"/b","type":"tmpfs"}]}"#), "0.4.0"),
        (device(r#"{"netDevices":[{"hostInterfaceName":"a","name":"b"}]}"#), "1.1.0"),
        (r#"{"cdiVersion":"0.3.0","kind":"v.com/c","devices":[]}"#.to_owned(), "no devices"),
    ] {
        let (place, cdi) = places();
        write(&place, "etc/file.json", &file);
        let error = injected(&cdi, &["vendor.com/gpu=1"]).unwrap_err();
        assert!(error.contains("file.json is left out") && error.contains(word), "{word}: {error}");
    }
}

#[test]
fn a_device_that_is_another_one_is_refused() {
    for (from, to, word) in [
        ("/dev/null", "/dev/no-such", "/dev/no-such"),
        ("/dev/null", "/etc", "/etc is not a device"),
        ("\"hostPath\"", "\"type\": \"b\", \"hostPath\"", "of type c, not b"),
    ] {
        let (place, cdi) = places();
        write(&place, "etc/gpu.json", &GPU.replace(from, to));
        let error = injected(&cdi, &["vendor.com/gpu=0"]).unwrap_err();
        assert!(error.contains(word) && error.contains("vendor.com/gpu=0"), "{error}");
    }
}

#[test]
fn annotations_ask_too() {
    let annotations: BTreeMap<String, String> = [
        ("cdi.k8s.io/b", "v.com/c=2,v.com/c=3"),
        ("cdi.k8s.io/a", "v.com/c=1"),
        ("other/cdi.k8s.io", "v.com/c=4"),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect();
    assert_eq!(names_in_annotations(annotations.iter()), ["v.com/c=1", "v.com/c=2", "v.com/c=3"]);
}

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let (place, cdi) = places();
    let pipe = place.path().join("etc/pipe.json");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    std::fs::create_dir(place.path().join("etc/directory.yaml")).unwrap();
    write(&place, "run/gpu.json", GPU);
    std::os::unix::fs::symlink("../run/gpu.json", place.path().join("etc/link.json")).unwrap();
    injected(&cdi, &["vendor.com/gpu=1"]).unwrap();
    let error = injected(&cdi, &["vendor.com/gpu=7"]).unwrap_err();
    for word in ["pipe.json is left out: it is no regular", "directory.yaml is left out"] {
        assert!(error.contains(word), "{error}");
    }
    assert!(!error.contains("link.json"), "{error}");
}

#[test]
fn errors_and_directories_are_bounded() {
    let (place, cdi) = places();
    for number in 0..NAMED + 3 {
        write(&place, &format!("etc/{number}.json"), "{");
    }
    let error = injected(&cdi, &["vendor.com/gpu=1"]).unwrap_err();
    assert_eq!(error.matches("left out").count(), NAMED, "{error}");
    assert!(error.ends_with("; so are 3 more"), "{error}");
    write(&place, "run/gpu.json", GPU);
    for number in 0..FILES_MAX {
        write(&place, &format!("run/{number}"), "");
    }
    let error = injected(&cdi, &["vendor.com/gpu=1"]).unwrap_err();
    assert!(error.contains("so are 4 more"), "{error}");
}

/// Threads that hang are not joined by further ones; who waits for them is told.
#[tokio::test]
async fn readers_that_hang_cost_no_more_than_themselves() {
    let (place, mut cdi) = places();
    cdi.patience = Duration::from_millis(50);
    write(&place, "etc/gpu.json", GPU);
    let name = || vec!["vendor.com/gpu=1".to_owned()];
    let hanging = Arc::clone(&cdi.readers).acquire_many_owned(4).await.unwrap();
    let error = cdi.find(name()).await.unwrap_err();
    assert!(error.to_string().contains("took longer than 20 s"), "{error}");
    drop(hanging);
    cdi.patience = PATIENCE;
    assert_eq!(cdi.find(name()).await.unwrap().edits.len(), 2);
}
