//! Whole specs, compared with the committed ones in `tests/golden/spec/`.
//!
//! `ORLOP_WRITE_GOLDEN=1` writes them anew; the difference is then for review.

use std::{fs, path::PathBuf};

use serde_json::Value;

use super::{fixture::Fixture, *};

mod crun;

fn golden(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spec");
    directory.join(name).with_extension("json")
}

/// The spec as text that does not depend on the order of hash sets or on the architecture.
fn text(spec: &Spec) -> String {
    let mut value = serde_json::to_value(spec).unwrap();
    if let Some(sets) = value.pointer_mut("/process/capabilities").and_then(Value::as_object_mut) {
        for set in sets.values_mut() {
            set.as_array_mut().unwrap().sort_by_key(|name| name.as_str().unwrap().to_owned());
        }
    }
    if let Some(seccomp) = value.pointer_mut("/linux/seccomp").and_then(Value::as_object_mut) {
        seccomp.remove("architectures");
    }
    serde_json::to_string_pretty(&value).unwrap() + "\n"
}

fn check(name: &str, fixture: &Fixture) {
    let made = text(&fixture.spec().unwrap());
    let path = golden(name);
    if std::env::var_os("ORLOP_WRITE_GOLDEN").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap();
    assert!(
        made == committed,
        "the spec of {name} is not the one in {}; run with ORLOP_WRITE_GOLDEN=1 and look at the difference",
        path.display()
    );
}

/// Nothing but a name: defaults of runtime and image.
#[test]
fn minimal() {
    check("minimal", &Fixture::new());
}

/// As the kubelet asks for an ordinary container.
#[test]
fn kubelet() {
    check("kubelet", &kubelet_container());
}

fn kubelet_container() -> Fixture {
    let mut fixture = Fixture::new();
    let pair = |key: &str, value: &str| v1::KeyValue { key: key.into(), value: value.into() };
    fixture.container.args = vec!["--port=80".into()];
    fixture.container.envs = vec![pair("KUBERNETES_PORT", "tcp://10.0.0.1:443"), pair("LANG", "C")];
    fixture.container.annotations =
        [("run.oci.keep_original_groups".to_owned(), "1".to_owned())].into();
    fixture.container.mounts = vec![
        v1::Mount {
            container_path: "/var/run/secrets/token".into(),
            host_path: "/var/lib/kubelet/pods/1/token".into(),
            readonly: true,
            ..Default::default()
        },
        v1::Mount {
            container_path: "/etc/hosts".into(),
            host_path: "/var/lib/kubelet/pods/1/etc-hosts".into(),
            ..Default::default()
        },
    ];
    *fixture.resources() = v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 128 << 20,
        oom_score_adj: 985,
        unified: [("memory.oom.group".to_owned(), "1".to_owned())].into(),
        ..Default::default()
    };
    let list = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    *fixture.security() = v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: 1000 }),
        supplemental_groups: vec![2000],
        no_new_privs: true,
        readonly_rootfs: true,
        seccomp: Some(v1::SecurityProfile::default()),
        capabilities: Some(v1::Capability {
            drop_capabilities: list(&["ALL"]),
            add_capabilities: list(&["NET_BIND_SERVICE"]),
            ..Default::default()
        }),
        masked_paths: list(&["/proc/kcore", "/proc/keys"]),
        readonly_paths: list(&["/proc/sys"]),
        ..Default::default()
    };
    fixture
}

/// Everything of the node.
#[test]
fn privileged() {
    let mut fixture = Fixture::new();
    fixture.privileged();
    check("privileged", &fixture);
}

/// A debugging container: the node's namespaces, a terminal, devices, volumes.
#[test]
fn host_namespaces() {
    let mut fixture = Fixture::new();
    fixture.namespaces = PodNamespaces {
        net: NamespaceSource::Host,
        ipc: NamespaceSource::Host,
        uts: NamespaceSource::Host,
        pid: PidNamespace::Node,
    };
    fixture.node.cgroups = CgroupVersion::V1;
    fixture.container.tty = true;
    fixture.container.command = vec!["sh".into()];
    fixture.container.devices = vec![v1::Device {
        container_path: "/dev/fuse".into(),
        host_path: "/dev/fuse".into(),
        permissions: "rw".into(),
    }];
    fixture.container.mounts = vec![v1::Mount {
        container_path: "/host".into(),
        host_path: "/".into(),
        propagation: v1::MountPropagation::PropagationHostToContainer.into(),
        ..Default::default()
    }];
    fixture.image_volumes = vec![("/data".into(), "/run/orlop/volumes/1".into())];
    check("host_namespaces", &fixture);
}

#[test]
fn annotations_and_labels_configure_nothing() {
    let plain = kubelet_container();
    let mut loud = kubelet_container();
    let words = [
        ("run.oci.handler", "krun"),
        ("io.kubernetes.cri.container-type", "sandbox"),
        ("org.systemd.property.CPUQuotaPerSecUSec", "1"),
        ("cpu-quota.crio.io", "disable"),
    ];
    let map: HashMap<_, _> =
        words.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    loud.container.annotations = map.clone();
    loud.container.labels = map.clone();
    loud.pod.annotations = map.clone();
    loud.pod.labels = map.clone();
    let mut config = loud.image.config().clone().unwrap();
    config.set_labels(Some(map));
    loud.image.set_config(Some(config));
    assert_eq!(text(&loud.spec().unwrap()), text(&plain.spec().unwrap()));
}

#[test]
fn same_inputs_same_spec_and_nothing_shared() {
    let fixture = kubelet_container();
    assert_eq!(text(&fixture.spec().unwrap()), text(&fixture.spec().unwrap()));
}

#[test]
fn refused_requests() {
    let mut ordinary_pod = Fixture::new();
    ordinary_pod.security().privileged = true;
    assert_eq!(ordinary_pod.spec().unwrap_err(), "the container is privileged but its pod is not");

    let mut target = Fixture::new();
    target.security().namespace_options =
        Some(v1::NamespaceOption { pid: v1::NamespaceMode::Target.into(), ..Default::default() });
    assert_eq!(
        target.spec().unwrap_err(),
        "target_id and the pid namespace mode TARGET must be set together"
    );
}

#[test]
fn words_of_the_kubelet() {
    let mut fixture = Fixture::new();
    fixture.node.recursive_read_only = RecursiveReadOnly::Unsupported;
    fixture.container.mounts = vec![v1::Mount {
        container_path: "/m".into(),
        host_path: "/h".into(),
        readonly: true,
        recursive_read_only: true,
        ..Default::default()
    }];
    let error = fixture.with_inputs(container_spec).unwrap_err();
    assert_eq!(error.kubelet_reason(), Some("RROUnsupported"));

    let image = v1::ImageSpec { image: "x".into(), ..Default::default() };
    fixture.container.mounts = vec![v1::Mount {
        container_path: "/m".into(),
        image: Some(image),
        readonly: true,
        ..Default::default()
    }];
    let error = fixture.with_inputs(container_spec).unwrap_err();
    assert_eq!(error.kubelet_reason(), Some("ImageVolumeMountFailed"));

    fixture.container.mounts = Vec::new();
    fixture.security().run_as_username = "nobody-here".into();
    assert_eq!(fixture.with_inputs(container_spec).unwrap_err().kubelet_reason(), None);
}

#[test]
fn commands_begin_on_the_first_processor_where_that_is_asked_for() {
    let initial = |cpus, set: &str| {
        let mut fixture = Fixture::new();
        fixture.exec_cpus = cpus;
        fixture.resources().cpuset_cpus = set.to_owned();
        let spec = fixture.spec().unwrap();
        let affinity = spec.process().as_ref().unwrap().exec_cpu_affinity().clone()?;
        assert_eq!(affinity.cpu_affinity_final(), &None);
        affinity.initial().clone()
    };
    assert_eq!(initial(ExecCpus::Any, "4-7"), None);
    assert_eq!(initial(ExecCpus::First, ""), None);
    for (set, first) in [("3", "3"), ("4-7", "4"), ("6-7,2,4", "2"), ("0", "0")] {
        assert_eq!(initial(ExecCpus::First, set).as_deref(), Some(first), "{set}");
    }
}
