//! crun as a judge: it accepts our specs, and the container is what the spec says.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use super::{Fixture, kubelet_container};
use crate::pods::spec::*;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 6] = ["sh", "cat", "grep", "id", "ls", "chroot"];

/// crun with one cgroup hierarchy in sight, whatever the machine has: it refuses a mixture.
/// Limits are not set; they are covered by the tests of our own OCI runtime.
const CRUN: &str = "mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec crun \"$@\"";

/// A bundle with busybox as its root, and what crun remembers about it.
struct Bundle {
    directory: tempfile::TempDir,
    id: String,
}

impl Bundle {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let rootfs = directory.path().join("rootfs");
        for folder in ["bin", "dev", "proc", "sys", "etc", "srv"] {
            fs::create_dir_all(rootfs.join(folder)).unwrap();
        }
        fs::copy(BUSYBOX, rootfs.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        for file in ["resolv.conf", "hosts", "hostname"] {
            fs::write(directory.path().join(file), format!("{file} of the pod\n")).unwrap();
        }
        fs::create_dir(directory.path().join("shm")).unwrap();
        let unique = directory.path().file_name().unwrap().to_string_lossy().replace('.', "");
        Self { directory, id: format!("orlop-spec-{unique}") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `script` in a container made of `fixture` and returns what it printed.
    fn run(&self, mut fixture: Fixture, script: &str) -> String {
        let own = |kind: &str| NamespaceSource::Path(Path::new("/proc/self/ns").join(kind));
        fixture.namespaces = PodNamespaces {
            net: own("net"),
            ipc: own("ipc"),
            uts: own("uts"),
            pid: PidNamespace::Container,
        };
        fixture.files = PodFiles {
            resolv_conf: Some(self.path("resolv.conf")),
            hosts: Some(self.path("hosts")),
            hostname: Some(self.path("hostname")),
            shm: Some(self.path("shm")),
        };
        fixture.container.mounts = vec![v1::Mount {
            container_path: "/srv/volume".into(),
            host_path: self.directory.path().display().to_string(),
            readonly: true,
            ..Default::default()
        }];
        fixture.container.command = vec!["sh".into(), "-c".into(), script.into()];
        fixture.container.args = Vec::new();
        let spec = serde_json::to_vec_pretty(&fixture.spec().unwrap()).unwrap();
        fs::write(self.path("config.json"), spec).unwrap();
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", CRUN, "crun", "--root"])
            .arg(self.path("state"))
            .args(["--cgroup-manager=disabled", "run", "--bundle"])
            .arg(self.directory.path())
            .arg(&self.id)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "crun: {errors}");
        String::from_utf8(output.stdout).unwrap() + &errors
    }
}

fn has(output: &str, line: &str) {
    assert!(output.lines().any(|found| found.trim() == line), "no line {line:?} in:\n{output}");
}

#[test]
fn root_crun_runs_an_ordinary_container() {
    let script = "id -u; id -G; cat /etc/hosts; ls /srv/volume/config.json; \
        grep -E 'CapEff|CapInh|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; \
        echo home=$HOME path=$PATH host=$HOSTNAME; \
        echo x > /srv/file; echo x > /proc/sys/kernel/domainname; \
        cat /proc/keys | grep -c .; chroot /srv ls; true";
    let mut fixture = kubelet_container();
    fixture.container.linux.as_mut().unwrap().resources = None;
    let output = Bundle::new().run(fixture, script);
    for line in [
        "1000",
        "1000 50 2000",
        "hosts of the pod",
        "/srv/volume/config.json",
        "CapInh:\t0000000000000000",
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000400",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "home=/home/app path=/bin host=web-0",
        "sh: can't create /srv/file: Read-only file system",
        "sh: can't create /proc/sys/kernel/domainname: Read-only file system",
        "0",
        "chroot: can't change root directory to '/srv': Operation not permitted",
    ] {
        has(&output, line);
    }
}

#[test]
fn root_crun_runs_a_privileged_container() {
    let mut fixture = Fixture::new();
    fixture.privileged();
    fixture.security().run_as_user = Some(v1::Int64Value { value: 0 });
    let script = "id -u; ls /dev/fuse; grep -E 'CapEff|Seccomp:' /proc/self/status; \
        echo x > /srv/file && echo written; grep -E ' /sys ' /proc/self/mounts";
    let output = Bundle::new().run(fixture, script);
    for line in ["0", "/dev/fuse", "Seccomp:\t0", "written"] {
        has(&output, line);
    }
    assert!(output.contains(" /sys sysfs rw,"), "{output}");
}

#[test]
fn root_crun_applies_the_default_seccomp_profile_as_root() {
    let mut fixture = Fixture::new();
    *fixture.security() = v1::LinuxContainerSecurityContext {
        run_as_user: Some(v1::Int64Value { value: 0 }),
        seccomp: Some(v1::SecurityProfile::default()),
        ..Default::default()
    };
    let script = "grep Seccomp: /proc/self/status; chroot / sh -c 'echo in chroot'; \
        busybox unshare -m echo in a namespace; busybox mount -t tmpfs x /srv";
    let output = Bundle::new().run(fixture, &format!("{script}; true"));
    has(&output, "Seccomp:\t2");
    has(&output, "in chroot");
    has(&output, "unshare: unshare(0x20000): Operation not permitted");
    has(&output, "mount: permission denied (are you root?)");
}
