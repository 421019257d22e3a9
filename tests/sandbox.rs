//! The sandbox on the real kernel: shims, containers, execs, logs, exits. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "sandbox/streams.rs"]
mod streams;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandbox::cgroup::{Cgroup, CgroupPath, Hierarchies};
use sandbox::controller::executable::Executable;
use sandbox::controller::{Connected, ExecEnd, Sandbox, SandboxError, SandboxEvent};
use sandbox::protocol::{
    self, Boot, ContainerState, Create, Exec, FailedKind, PidMode, PidNamespace, Rootfs, Signal,
};
use serde_json::{Value, json};

/// A pod in a temporary directory, with a busybox image as its only layer.
struct Pod {
    directory: tempfile::TempDir,
    executable: Executable,
    cgroup: String,
    connected: Connected,
}

const BUSYBOX: &str = "/bin/busybox";

fn layer(at: &Path) {
    for name in ["bin", "etc", "tmp", "proc", "dev", "sys"] {
        std::fs::create_dir_all(at.join(name)).unwrap();
    }
    std::fs::copy(BUSYBOX, at.join("bin/busybox")).expect("busybox-static is installed");
    for applet in [
        "sh", "sleep", "echo", "cat", "id", "true", "kill", "ls", "touch", "ps", "head",
        "hostname", "readlink", "dd", "grep", "stat", "seq", "mount",
    ] {
        std::fs::hard_link(at.join("bin/busybox"), at.join("bin").join(applet)).unwrap();
    }
    std::fs::write(at.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
}

impl Pod {
    async fn start(change: impl FnOnce(&mut Boot)) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test must run as root");
        let directory = tempfile::tempdir().unwrap();
        layer(&directory.path().join("layer"));
        std::fs::create_dir(directory.path().join("pod")).unwrap();
        let executable =
            Executable::seal(&File::open(env!("CARGO_BIN_EXE_orlop")).unwrap()).unwrap();
        let mut boot = Boot {
            pod: "pod".into(),
            directory: directory.path().join("pod").to_str().unwrap().into(),
            own_ipc: true,
            hostname: Some("podhost".into()),
            hierarchies: Hierarchies::detect().unwrap().lines(),
            ..Boot::default()
        };
        change(&mut boot);
        let connected = Sandbox::start(&executable, boot).await.unwrap();
        let name = directory.path().file_name().unwrap().to_str().unwrap().replace('.', "");
        Self { directory, executable, cgroup: format!("/orlop-test/{name}"), connected }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn spec(&self, id: &str, args: &[&str]) -> Value {
        json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "terminal": false, "cwd": "/", "args": args,
                "user": {"uid": 0, "gid": 0},
                "env": ["PATH=/bin", "HOME=/root"],
                "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"]},
                "noNewPrivileges": true
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
                {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
                {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}
            ],
            "linux": {
                "cgroupsPath": format!("{}/{id}", self.cgroup),
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}],
                "maskedPaths": ["/proc/kcore", "/proc/acpi", "/sys/firmware"],
                "readonlyPaths": ["/proc/sys"]
            }
        })
    }

    async fn create_spec(
        &self,
        id: &str,
        spec: &Value,
        pid: PidMode,
    ) -> Result<ContainerState, SandboxError> {
        self.create_with(id, spec, pid, |_| {}).await
    }

    async fn create_with(
        &self,
        id: &str,
        spec: &Value,
        pid: PidMode,
        change: impl FnOnce(&mut Create),
    ) -> Result<ContainerState, SandboxError> {
        let dir = self.path(id);
        for name in ["upper", "work"] {
            std::fs::create_dir_all(dir.join(name)).unwrap();
        }
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let mut create = Create {
            container: id.into(),
            spec: serde_json::to_vec(spec).unwrap(),
            rootfs: Some(Rootfs {
                lower: vec![text(self.path("layer"))],
                upper: text(dir.join("upper")),
                work: text(dir.join("work")),
                ..Rootfs::default()
            }),
            log_path: text(self.path(&format!("{id}.log"))),
            max_log_line: 16384,
            stdin: false,
            external: None,
            deadline_ms: 10_000,
            pid_namespace: Some(PidNamespace { mode: Some(pid) }),
            images: vec![],
            restore: None,
        };
        change(&mut create);
        self.connected.sandbox.create(create).await
    }

    async fn create(&self, id: &str, args: &[&str]) -> ContainerState {
        let spec = self.spec(id, args);
        self.create_spec(id, &spec, PidMode::Container(true)).await.unwrap()
    }

    async fn exit_of(&mut self, id: &str) -> ContainerState {
        let wait = async {
            loop {
                match self.connected.events.recv().await.unwrap() {
                    SandboxEvent::Exited(state) if state.container == id => return state,
                    SandboxEvent::Exited(_) => {}
                    SandboxEvent::Lost => panic!("the shim is lost"),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("an exit")
    }

    /// Runs `args` to its end; returns the exit code and the log without times.
    async fn run(&mut self, id: &str, args: &[&str]) -> (i32, String) {
        let spec = self.spec(id, args);
        self.run_spec(id, &spec).await
    }

    async fn run_spec(&mut self, id: &str, spec: &Value) -> (i32, String) {
        self.create_spec(id, spec, PidMode::Container(true)).await.unwrap();
        self.connected.sandbox.start_container(id).await.unwrap();
        let exit = self.exit_of(id).await.exit.unwrap();
        let log = self.log(id);
        self.connected.sandbox.delete(id).await.unwrap();
        (exit.code, log)
    }

    fn log(&self, id: &str) -> String {
        let text = std::fs::read_to_string(self.path(&format!("{id}.log"))).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned() + "\n").collect()
    }

    async fn exec(&self, id: &str, argv: &[&str]) -> (i32, String) {
        let (read, write) = std::io::pipe().unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let errors = OwnedFd::from(write.try_clone().unwrap());
        let exec = Exec {
            container: id.into(),
            process: vec![],
            argv: argv.iter().map(|&arg| arg.to_owned()).collect(),
            terminal: false,
        };
        let stdio = [null(), write.into(), errors];
        let ExecEnd::Exited(code) = self.connected.sandbox.exec(exec, stdio, None).await.unwrap()
        else {
            panic!("no timeout was asked for");
        };
        let mut output = String::new();
        std::io::Read::read_to_string(&mut std::io::BufReader::new(read), &mut output).unwrap();
        (code, output)
    }

    /// Ends the pod and checks that nothing of it is left.
    async fn end(mut self) {
        self.connected.sandbox.shutdown().await.unwrap();
        while !matches!(self.connected.events.recv().await, Some(SandboxEvent::Lost) | None) {}
        let pid = self.connected.identity.pid;
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the shim is buried");
        let left: Vec<_> = std::fs::read_dir(self.path("pod/c")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.directory.path().to_str().unwrap()), "{mounts}");
        let path = CgroupPath::parse(&self.cgroup).unwrap();
        let group = Cgroup::open(&Hierarchies::detect().unwrap(), path);
        group.remove(Duration::from_secs(1)).unwrap();
    }
}

#[tokio::test]
async fn root_a_container_runs_logs_and_exits() {
    let mut pod = Pod::start(|_| {}).await;
    let (code, log) = pod.run("a", &["sh", "-c", "echo out; echo err >&2; exit 3"]).await;
    assert_eq!(code, 3);
    assert!(log.contains("stdout F out\n") && log.contains("stderr F err\n"), "{log}");
    pod.end().await;
}

#[tokio::test]
async fn root_inside_there_is_nothing_of_the_host() {
    let mut pod = Pod::start(|_| {}).await;
    let script = "hostname; readlink /proc/self; ls /proc/1/root/; cat /proc/mounts; ls /dev /sys/fs/cgroup; ls -l /proc/self/fd; cat /proc/self/status";
    let (code, log) = pod.run("a", &["sh", "-c", script]).await;
    assert_eq!(code, 0, "{log}");
    assert!(log.starts_with("stdout F podhost\n"), "{log}");
    assert!(log.contains("overlay / overlay rw"), "{log}");
    assert!(log.contains("/proc/sys proc ro"), "{log}");
    assert!(!log.contains(" /usr") && !log.contains("ext4"), "{log}");
    assert!(log.contains("CapInh:\t0000000000000000"), "{log}");
    assert!(log.contains("CapEff:\t0000000000000021"), "{log}");
    assert!(log.contains("CapBnd:\t0000000000000021"), "{log}");
    assert!(log.contains("NoNewPrivs:\t1"), "{log}");
    let descriptors = log.lines().filter(|line| line.contains(" -> ")).count();
    assert!(descriptors <= 5, "only stdio and what ls itself opened: {log}");
    pod.end().await;
}

#[tokio::test]
async fn root_exec_sees_the_same_and_reports_its_code() {
    let pod = Pod::start(|_| {}).await;
    pod.create("a", &["sleep", "1000"]).await;
    pod.connected.sandbox.start_container("a").await.unwrap();
    assert_eq!(pod.exec("a", &["sh", "-c", "echo hi; exit 7"]).await, (7, "hi\n".into()));
    let same = "for n in mnt pid ipc uts net cgroup; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo $n differs; done; for f in CapEff CapBnd CapInh NoNewPrivs Seccomp; do [ \"$(grep $f: /proc/1/status)\" = \"$(grep $f: /proc/self/status)\" ] || echo $f differs; done; grep . /proc/1/cgroup > /tmp/1; grep . /proc/self/cgroup > /tmp/2; [ \"$(cat /tmp/1)\" = \"$(cat /tmp/2)\" ] || echo cgroup differs";
    assert_eq!(pod.exec("a", &["sh", "-c", same]).await, (0, String::new()));
    let argv = vec!["nowhere".into()];
    let exec = Exec { container: "a".into(), process: vec![], argv, terminal: false };
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    match pod.connected.sandbox.exec(exec, [null(), null(), null()], None).await {
        Err(SandboxError::Refused(failed)) => {
            assert!(failed.message.contains("executable file not found"), "{failed:?}");
        }
        other => panic!("{other:?}"),
    }
    pod.end().await;
}

#[tokio::test]
async fn root_a_program_that_cannot_start_is_a_failure_with_its_name() {
    let mut pod = Pod::start(|_| {}).await;
    pod.create("a", &["/bin/nothing"]).await;
    match pod.connected.sandbox.start_container("a").await {
        Err(SandboxError::Refused(failed)) => {
            assert!(failed.message.contains("/bin/nothing"), "{failed:?}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(pod.exit_of("a").await.exit.unwrap().code, 128);
    pod.connected.sandbox.delete("a").await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn root_signals_stop_and_kill() {
    let mut pod = Pod::start(|_| {}).await;
    pod.create("a", &["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"]).await;
    pod.connected.sandbox.start_container("a").await.unwrap();
    // Let the shell set its trap.
    while pod.exec("a", &["sh", "-c", "grep -q 'SigCgt:.*4...$' /proc/1/status"]).await.0 != 0 {}
    let term = Signal { container: "a".into(), signal: 15, all: false };
    pod.connected.sandbox.signal(term).await.unwrap();
    assert_eq!(pod.exit_of("a").await.exit.unwrap().code, 9);
    pod.create("b", &["sleep", "1000"]).await;
    pod.connected.sandbox.start_container("b").await.unwrap();
    let kill = Signal { container: "b".into(), signal: 9, all: true };
    pod.connected.sandbox.signal(kill).await.unwrap();
    assert_eq!(pod.exit_of("b").await.exit.unwrap().code, 137);
    pod.end().await;
}

#[tokio::test]
async fn root_a_mount_source_that_hangs_costs_only_its_container() {
    let pod = Pod::start(|_| {}).await;
    let mut spec = pod.spec("a", &["true"]);
    // A FIFO blocks whoever opens it; opening a mount source must not read it.
    rustix::fs::mknodat(
        rustix::fs::CWD,
        pod.path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/fifo", "type": "bind", "source": pod.path("fifo"), "options": ["rbind"]}));
    pod.create_spec("a", &spec, PidMode::Container(true)).await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn root_a_program_that_does_not_come_to_run_is_given_up() {
    let mut pod = Pod::start(|_| {}).await;
    let created = pod.create("a", &["true"]).await;
    let first = rustix::process::Pid::from_raw(created.pid.try_into().unwrap()).unwrap();
    // As one whose program is on a dead server: it will never come to it.
    rustix::process::kill_process(first, rustix::process::Signal::STOP).unwrap();
    pod.create("other", &["sleep", "1000"]).await;
    let (late, other) = tokio::join!(
        pod.connected.sandbox.start_container("a"),
        pod.connected.sandbox.start_container("other"),
    );
    other.unwrap();
    match late {
        Err(SandboxError::Refused(failed)) if failed.kind() == FailedKind::Deadline => {
            assert!(failed.message.starts_with("starting container a took"), "{failed:?}");
        }
        other => panic!("{other:?}"),
    }
    let exited = pod.exit_of("a").await;
    assert_eq!((exited.exit.unwrap().code, exited.started_at_ns), (128, 0));
    pod.connected.sandbox.delete("a").await.unwrap();
    // The end of this one's process is seen after that of the other.
    assert_eq!(pod.exec("other", &["echo", "hi"]).await, (0, "hi\n".into()));
    assert!(!Path::new(&format!("/proc/{}", created.pid)).exists(), "it is buried");
    pod.end().await;
}

#[tokio::test]
async fn root_volumes_and_devices_are_as_asked() {
    let mut pod = Pod::start(|_| {}).await;
    std::fs::create_dir(pod.path("data")).unwrap();
    std::fs::write(pod.path("data/file"), "content\n").unwrap();
    let mut spec = pod.spec("a", &["sh", "-c", "cat /mnt/x/file; touch /mnt/x/new || echo ro; cat /one; [ -c /dev/null ] && echo null; touch /mnt/made/y && echo rw"]);
    let mounts = spec["mounts"].as_array_mut().unwrap();
    mounts.push(json!({"destination": "/mnt/x", "type": "bind", "source": pod.path("data"), "options": ["rbind", "rprivate", "ro"]}));
    mounts.push(json!({"destination": "/one", "type": "bind", "source": pod.path("data/file"), "options": ["rbind", "rprivate", "ro"]}));
    mounts.push(json!({"destination": "/mnt/made", "type": "bind", "source": pod.path("not/there"), "options": ["rbind", "rprivate"]}));
    let (code, log) = pod.run_spec("a", &spec).await;
    assert_eq!(code, 0, "{log}");
    for line in ["stdout F content", "stdout F ro", "stdout F null", "stdout F rw"] {
        assert!(log.contains(line), "{line}: {log}");
    }
    assert!(pod.path("not/there/y").exists());
    pod.end().await;
}

#[tokio::test]
async fn root_containers_can_share_a_pid_namespace() {
    let mut pod = Pod::start(|boot| boot.shared_pid = true).await;
    let spec = pod.spec("a", &["sleep", "1000"]);
    pod.create_spec("a", &spec, PidMode::Pod(true)).await.unwrap();
    pod.connected.sandbox.start_container("a").await.unwrap();
    let (_, seen) = pod.exec("a", &["sh", "-c", "cat /proc/1/comm; ls /proc/1/root 2>&1"]).await;
    assert!(seen.starts_with("orlop-pause\n"), "{seen}");
    assert!(seen.contains("ermission denied"), "process 1 shows nothing of itself: {seen}");
    let spec = pod.spec("b", &["sh", "-c", "ps | grep 'sleep 1000' | grep -v grep | head -n1"]);
    pod.create_spec("b", &spec, PidMode::Pod(true)).await.unwrap();
    pod.connected.sandbox.start_container("b").await.unwrap();
    assert_eq!(pod.exit_of("b").await.exit.unwrap().code, 0);
    assert!(pod.log("b").contains("sleep 1000"), "{}", pod.log("b"));
    pod.end().await;
}

#[tokio::test]
async fn root_the_shim_outlives_its_daemon_and_tells_what_happened() {
    let mut pod = Pod::start(|_| {}).await;
    pod.create("a", &["sh", "-c", "echo before; sleep 0.3; echo after; exit 5"]).await;
    pod.connected.sandbox.start_container("a").await.unwrap();
    let identity = pod.connected.identity;
    let directory = pod.path("pod");
    drop(pod.connected);
    // The daemon is away while the container ends.
    let exits = directory.join("exits/a");
    while !exits.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    pod.connected = Sandbox::adopt(&directory, identity).await.unwrap();
    let state = &pod.connected.welcome.containers[0];
    assert_eq!(state.exit.as_ref().unwrap().code, 5);
    assert!(state.started_at_ns > 0);
    assert!(pod.log("a").contains("stdout F after"));
    let written = sandbox::protocol::decode_exit(&std::fs::read(exits).unwrap()).unwrap();
    assert_eq!(&written, state);
    // Whoever started it would bury it; here nobody does.
    pod.connected.sandbox.shutdown().await.unwrap();
    let _ = &pod.executable;
}

#[tokio::test]
async fn root_what_is_refused_says_why() {
    let pod = Pod::start(|_| {}).await;
    let mut spec = pod.spec("a", &["true"]);
    spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/x", "type": "nosuchfs", "source": "x"}));
    match pod.create_spec("a", &spec, PidMode::Container(true)).await {
        Err(SandboxError::Refused(failed)) => {
            assert!(
                failed.message.contains("/x") && failed.message.contains("nosuchfs"),
                "{failed:?}"
            );
        }
        other => panic!("{other:?}"),
    }
    match pod.connected.sandbox.start_container("a").await {
        Err(SandboxError::Refused(failed)) => assert_eq!(failed.kind(), FailedKind::NotFound),
        other => panic!("{other:?}"),
    }
    pod.end().await;
}

#[tokio::test]
async fn root_a_terminal_is_the_containers_own() {
    let mut pod = Pod::start(|_| {}).await;
    let mut spec = pod.spec(
        "a",
        &["sh", "-c", "[ -t 0 ] && [ -t 1 ] && echo tty; ls /dev/pts; stat -c %F /dev/console; echo there > /dev/console; echo x > /dev/tty && echo controlling"],
    );
    spec["process"]["terminal"] = json!(true);
    spec["process"]["consoleSize"] = json!({"width": 80, "height": 25});
    let (code, log) = pod.run_spec("a", &spec).await;
    assert_eq!(code, 0, "{log}");
    for line in
        ["stdout F tty", "stdout F 0", "character special file", "stdout F there", "controlling"]
    {
        assert!(log.contains(line), "{line}: {log}");
    }
    pod.end().await;
}

#[tokio::test]
async fn root_seccomp_holds_for_the_container_and_for_an_exec() {
    let pod = Pod::start(|_| {}).await;
    let mut spec = pod.spec("a", &["sleep", "1000"]);
    spec["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
    });
    for no_new_privileges in [true, false] {
        let id = format!("a{no_new_privileges}");
        spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
        spec["linux"]["cgroupsPath"] = json!(format!("{}/{id}", pod.cgroup));
        pod.create_spec(&id, &spec, PidMode::Container(true)).await.unwrap();
        pod.connected.sandbox.start_container(&id).await.unwrap();
        let (_, same) =
            pod.exec(&id, &["sh", "-c", "grep Seccomp: /proc/1/status /proc/self/status"]).await;
        assert_eq!(same.matches("Seccomp:\t2").count(), 2, "{same}");
        let (code, refused) = pod.exec(&id, &["busybox", "mkdir", "/tmp/x"]).await;
        assert!(code != 0 && refused.contains("not permitted"), "{refused}");
    }
    pod.end().await;
}

/// Whether any process has a word in its command line.
fn is_named(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.map(|entry| std::fs::read(entry.path().join("cmdline")));
    lines.flatten().any(|line| String::from_utf8_lossy(&line).contains(word))
}

/// The daemon is killed while it starts a shim, which ends when it cannot answer: before or
/// after process 1 of the pod asked to end with it.
#[test]
fn root_process_1_of_a_pod_does_not_outlive_a_shim_that_nobody_hears() {
    for shared_in in ["host", "user"] {
        for round in 0..60 {
            let directory = tempfile::tempdir().unwrap();
            let pod = format!("unheard-{shared_in}-{round}-{}", std::process::id());
            let boot = Boot {
                pod: pod.clone(),
                directory: directory.path().to_str().unwrap().into(),
                own_ipc: true,
                shared_pid: true,
                user_namespace: (shared_in == "user").then_some(protocol::UserNamespace {
                    host_uid: 100_000,
                    uids: 1000,
                    host_gid: 100_000,
                    gids: 1000,
                }),
                hierarchies: Hierarchies::detect().unwrap().lines(),
                ..Boot::default()
            };
            let (reader, answer) = std::io::pipe().unwrap();
            drop(reader);
            let mut shim = std::process::Command::new(env!("CARGO_BIN_EXE_orlop"))
                .args(["shim", &pod])
                .stdin(std::process::Stdio::piped())
                .stdout(answer)
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let order = protocol::encode(&boot).unwrap();
            std::io::Write::write_all(&mut shim.stdin.take().unwrap(), &order).unwrap();
            assert!(!shim.wait().unwrap().success(), "it was heard");
            let deadline = std::time::Instant::now() + Duration::from_secs(5);
            while is_named(&pod) {
                assert!(std::time::Instant::now() < deadline, "{pod} lives on");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
