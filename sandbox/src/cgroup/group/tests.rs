//! Groups on the hierarchies of this machine, and on its unified hierarchy alone. Every group is
//! made here, under a name of this process, and removed.

use std::io::{Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
};

use super::*;
use crate::cgroup::ResourceError;

const PATIENCE: Duration = Duration::from_secs(10);

/// A group that is killed and removed in the end, and a child process of the test to put into it.
struct Scratch {
    group: Cgroup,
    top: CgroupPath,
    children: Vec<Child>,
}

impl Scratch {
    /// A group two levels deep.
    fn new(hierarchies: &Hierarchies) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("orlop-test-{}-{number}", std::process::id());
        let top = CgroupPath::parse(&name).unwrap();
        let group = Cgroup::open(hierarchies, top.child("inner").unwrap());
        group.create().unwrap();
        Self { group, top, children: Vec::new() }
    }

    /// Runs a shell script in the group; it begins when it is in.
    fn run(&mut self, script: &str) -> &mut Child {
        self.start(script, Cgroup::add)
    }

    fn start(
        &mut self,
        script: &str,
        add: impl FnOnce(&Cgroup, Pid) -> Result<(), CgroupError>,
    ) -> &mut Child {
        let mut child = Command::new("sh")
            .args(["-c", &format!("read begin; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        add(&self.group, Pid::from_child(&child)).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }

    fn output(&mut self, script: &str) -> String {
        let child = self.run(script);
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.wait().unwrap();
        text
    }

    fn read(&self, controller: Controller, name: &str) -> String {
        let (_, directory) = self.group.directory(controller).unwrap();
        file::read(&directory.join(name)).unwrap().trim().to_owned()
    }

    fn reap(&mut self) {
        for mut child in self.children.drain(..) {
            child.wait().unwrap();
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.group.kill_all().unwrap();
        self.reap();
        let top = Cgroup::open(self.group.hierarchies(), self.top.clone());
        top.remove(PATIENCE).unwrap();
        assert!(!top.exists() && !self.group.exists());
    }
}

fn this_host() -> Hierarchies {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
    Hierarchies::detect().unwrap()
}

/// The unified hierarchy of this host, as if it were the only one.
fn unified_alone() -> Hierarchies {
    let unified = this_host().unified().cloned();
    Hierarchies::new(vec![unified.expect("this test needs a cgroup2 mount")]).unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(1));
    }
}

fn resources(memory_bytes: i64, pids: i64) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(memory_bytes)).set_swap(Some(memory_bytes));
    let mut limit = LinuxPids::default();
    limit.set_limit(pids);
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory)).set_pids(Some(limit));
    resources
}

const MIB: i64 = 1 << 20;

#[test]
fn root_a_process_is_in_the_group_everywhere() {
    let mut scratch = Scratch::new(&this_host());
    assert!(!scratch.group.populated().unwrap());
    let pid = Pid::from_child(scratch.run("exec sleep 1000"));
    assert_eq!(scratch.group.processes().unwrap(), [pid]);
    assert!(scratch.group.populated().unwrap());
    let own = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let hierarchies = scratch.group.hierarchies().all().len();
    let inside = own.lines().filter(|line| line.ends_with(scratch.group.path().as_str())).count();
    assert_eq!(inside, hierarchies, "{own}");

    scratch.group.create().unwrap();
    scratch.group.kill_all().unwrap();
    scratch.reap();
    eventually("the group is empty", || !scratch.group.populated().unwrap());
}

#[test]
fn root_remove_takes_nested_groups_and_is_idempotent() {
    let hierarchies = this_host();
    let scratch = Scratch::new(&hierarchies);
    for below in ["a/b/c", "a/d", "e"] {
        let path = format!("{}/{below}", scratch.group.path());
        Cgroup::open(&hierarchies, CgroupPath::parse(&path).unwrap()).create().unwrap();
    }
    scratch.group.remove(PATIENCE).unwrap();
    assert!(!scratch.group.exists());
    scratch.group.remove(PATIENCE).unwrap();
    scratch.group.kill_all().unwrap();
    assert_eq!(scratch.group.processes().unwrap(), []);
    assert_eq!(scratch.group.oom_kills().unwrap(), 0);
    assert_eq!(scratch.group.stats().unwrap(), crate::cgroup::Stats::default());
}

#[test]
fn root_empty_parents_are_removed_up_to_the_ancestor() {
    let hierarchies = this_host();
    let scratch = Scratch::new(&hierarchies);
    let at = |below: &str| {
        let path = CgroupPath::parse(&format!("{}/{below}", scratch.group.path())).unwrap();
        Cgroup::open(&hierarchies, path)
    };
    let (deep, sibling) = (at("a/b/c"), at("a/x"));
    deep.create().unwrap();
    sibling.create().unwrap();
    deep.remove(PATIENCE).unwrap();
    deep.remove_empty_parents(scratch.group.path()).unwrap();
    assert!(!at("a/b").exists(), "empty");
    assert!(at("a").exists(), "has another child");
    sibling.remove(PATIENCE).unwrap();
    sibling.remove_empty_parents(scratch.group.path()).unwrap();
    assert!(!at("a").exists());
    assert!(scratch.group.exists(), "the ancestor stays");
}

#[test]
fn root_a_busy_group_is_named_when_patience_ends() {
    let mut scratch = Scratch::new(&this_host());
    scratch.run("exec sleep 1000");
    let error = scratch.group.remove(Duration::from_millis(20)).unwrap_err();
    assert!(matches!(&error, CgroupError::Remove { source: Errno::BUSY, .. }), "{error}");
}

#[test]
fn root_resources_read_back() {
    let scratch = Scratch::new(&this_host());
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(512)).set_quota(Some(50_000)).set_period(Some(100_000));
    cpu.set_cpus(Some("0".into()));
    let mut resources = resources(64 * MIB, 50);
    resources.set_cpu(Some(cpu));
    scratch.group.apply(&resources).unwrap();
    let v1 = scratch.group.hierarchies().version(Controller::Memory) == Some(Version::V1);
    let read = |controller, one, two| scratch.read(controller, if v1 { one } else { two });
    let memory = Controller::Memory;
    assert_eq!(read(memory, "memory.limit_in_bytes", "memory.max"), "67108864");
    let swap = if v1 { "67108864" } else { "0" };
    assert_eq!(read(memory, "memory.memsw.limit_in_bytes", "memory.swap.max"), swap);
    let (shares, quota) = if v1 { ("512", "50000") } else { ("59", "50000 100000") };
    assert_eq!(read(Controller::Cpu, "cpu.shares", "cpu.weight"), shares);
    assert_eq!(read(Controller::Cpu, "cpu.cfs_quota_us", "cpu.max"), quota);
    assert_eq!(scratch.read(Controller::Cpuset, "cpuset.cpus"), "0");
    assert_eq!(scratch.read(Controller::Pids, "pids.max"), "50");

    let stats = scratch.group.stats().unwrap();
    assert_eq!(stats.memory.unwrap().limit_bytes, Some(64 << 20));
    assert_eq!(stats.pids.unwrap().limit, Some(50));
}

#[test]
fn root_memory_limits_move_in_both_directions() {
    let scratch = Scratch::new(&this_host());
    for mib in [64, 256, 32, 128] {
        scratch.group.update(&resources(mib * MIB, 10)).unwrap();
        let limit = scratch.group.memory_stats().unwrap().unwrap().limit_bytes;
        assert_eq!(limit, u64::try_from(mib * MIB).ok());
    }
    scratch.group.update(&resources(-1, -1)).unwrap();
    assert_eq!(scratch.group.memory_stats().unwrap().unwrap().limit_bytes, None);
}

#[test]
fn root_an_update_is_all_or_nothing() {
    let scratch = Scratch::new(&this_host());
    let mut first = LinuxCpu::default();
    first.set_shares(Some(512)).set_quota(Some(50_000)).set_period(Some(100_000));
    let mut before = resources(64 * MIB, 50);
    before.set_cpu(Some(first));
    scratch.group.apply(&before).unwrap();
    let files: Vec<(Controller, &str)> =
        match scratch.group.hierarchies().version(Controller::Memory) {
            Some(Version::V1) => vec![
                (Controller::Memory, "memory.limit_in_bytes"),
                (Controller::Memory, "memory.memsw.limit_in_bytes"),
                (Controller::Cpu, "cpu.shares"),
                (Controller::Cpu, "cpu.cfs_quota_us"),
                (Controller::Cpu, "cpu.cfs_period_us"),
            ],
            _ => vec![(Controller::Memory, "memory.max"), (Controller::Cpu, "cpu.max")],
        };
    let all =
        || -> Vec<String> { files.iter().map(|(one, name)| scratch.read(*one, name)).collect() };
    let old = all();

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(Some(2048)).set_quota(Some(10_000)).set_period(Some(20_000));
    cpu.set_cpus(Some("4000-5000".into()));
    let mut change = resources(512 * MIB, 70);
    change.set_cpu(Some(cpu));
    let error = scratch.group.update(&change).unwrap_err();
    assert!(matches!(&error, ResourceError::Write { .. }), "{error}");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("4000-5000") && cause.contains("cpuset.cpus"), "{cause}");
    assert_eq!(all(), old);
}

#[test]
fn root_missing_controllers_matter_only_when_asked_for() {
    let scratch = Scratch::new(&unified_alone());
    let has = scratch.group.hierarchies().version(Controller::Memory).is_some();
    let empty = LinuxResources::default();
    scratch.group.apply(&empty).unwrap();
    let error = scratch.group.apply(&resources(64 * MIB, 0));
    match error {
        Ok(()) => assert!(has),
        Err(error) => {
            assert!(!has);
            assert!(matches!(error, ResourceError::NoController { .. }), "{error}");
        }
    }
}

#[test]
fn root_memory_kills_are_counted() {
    let mut scratch = Scratch::new(&this_host());
    scratch.group.apply(&resources(32 * MIB, 50)).unwrap();
    assert_eq!(scratch.group.oom_kills().unwrap(), 0);
    let status = scratch.run("exec tail /dev/zero").wait().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(scratch.group.oom_kills().unwrap(), 1);
    let stats = scratch.group.memory_stats().unwrap().unwrap();
    assert!(stats.max_usage_bytes.is_none_or(|most| most > 16 << 20), "{stats:?}");
}

/// Forks as fast as it can, up to the limit.
const FORKS: &str = "while :; do sh -c 'sleep 1000 & sleep 1000 & sleep 0.05' & done";

fn kill_forking(mut scratch: Scratch) {
    for _ in 0..3 {
        scratch.run(FORKS);
    }
    eventually("many processes", || scratch.group.processes().unwrap().len() > 50);
    scratch.group.kill_all().unwrap();
    scratch.reap();
    eventually("all are dead", || scratch.group.processes().unwrap().is_empty());
}

#[test]
fn root_kill_all_takes_forking_processes() {
    let scratch = Scratch::new(&this_host());
    scratch.group.apply(&resources(512 * MIB, 200)).unwrap();
    kill_forking(scratch);
}

/// The v1 way, by the freezer: what a host without a unified hierarchy does.
#[test]
fn root_kill_all_without_a_unified_hierarchy() {
    let all = this_host();
    let v1: Vec<Hierarchy> =
        all.all().iter().filter(|one| one.version == Version::V1).cloned().collect();
    let Ok(v1) = Hierarchies::new(v1) else { return };
    let scratch = Scratch::new(&v1);
    scratch.group.apply(&resources(512 * MIB, 200)).unwrap();
    kill_forking(scratch);
}

#[test]
fn root_frozen_processes_are_stopped_and_can_be_killed() {
    let hierarchies = this_host();
    let v1: Vec<Hierarchy> =
        hierarchies.all().iter().filter(|one| one.version == Version::V1).cloned().collect();
    for host in std::iter::once(hierarchies).chain(Hierarchies::new(v1)) {
        let mut scratch = Scratch::new(&host);
        let pid = Pid::from_child(scratch.run("while :; do :; done"));
        let ticks = || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.split(' ').nth(13).unwrap().parse::<u64>().unwrap()
        };
        scratch.group.freeze(PATIENCE).unwrap();
        assert!(scratch.group.is_frozen().unwrap());
        let before = ticks();
        sleep(Duration::from_millis(50));
        assert_eq!(ticks(), before);
        scratch.group.thaw().unwrap();
        assert!(!scratch.group.is_frozen().unwrap());
        eventually("it runs again", || ticks() > before);
        scratch.group.freeze(PATIENCE).unwrap();
        scratch.group.kill_all().unwrap();
        scratch.reap();
        eventually("it is dead", || scratch.group.processes().unwrap().is_empty());
    }
}

fn device(allow: bool, minor: Option<i64>, access: &str) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_access(Some(access.to_owned()));
    if minor.is_some() {
        rule.set_typ(Some(LinuxDeviceType::C)).set_major(Some(1)).set_minor(minor);
    }
    rule
}

fn devices(rules: Vec<LinuxDeviceCgroup>) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(rules));
    resources
}

/// What a process in the group may do with `null` (1:3) and `zero` (1:5).
const PROBE: &str = "for f in null zero; do \
    (: < /dev/$f) && printf \"$f:r \"; (: > /dev/$f) && printf \"$f:w \"; done";

fn device_rules(mut scratch: Scratch) {
    assert_eq!(scratch.output(PROBE), "null:r null:w zero:r zero:w ");
    let null = vec![device(false, None, "rwm"), device(true, Some(3), "rwm")];
    scratch.group.apply(&devices(null)).unwrap();
    assert_eq!(scratch.output(PROBE), "null:r null:w ");
    let read =
        vec![device(false, None, ""), device(true, Some(3), "r"), device(true, Some(5), "rw")];
    scratch.group.update(&devices(read)).unwrap();
    assert_eq!(scratch.output(PROBE), "null:r zero:r zero:w ");
    scratch.group.update(&devices(vec![device(true, None, "rwm")])).unwrap();
    assert_eq!(scratch.output(PROBE), "null:r null:w zero:r zero:w ");
    scratch.group.update(&devices(vec![device(false, None, "rwm")])).unwrap();
    assert_eq!(scratch.output(PROBE), "");
}

#[test]
fn root_device_rules_hold() {
    device_rules(Scratch::new(&this_host()));
}

#[test]
fn root_device_rules_hold_on_v2() {
    device_rules(Scratch::new(&unified_alone()));
}

/// A list with wildcards, as the default rules are, on both versions.
#[test]
fn root_default_device_rules_are_taken() {
    for host in [this_host(), unified_alone()] {
        let mut scratch = Scratch::new(&host);
        let rules = crate::oci::builtin::devices::cgroup_rules(&[device(false, None, "rwm")]);
        scratch.group.apply(&devices(rules)).unwrap();
        assert_eq!(scratch.output(PROBE), "null:r null:w zero:r zero:w ");
        assert_eq!(scratch.output("(: < /dev/kmsg) || printf no"), "no");
    }
}

#[test]
fn root_the_unified_directory_is_there_after_create() {
    let host = unified_alone();
    let scratch = Scratch::new(&host);
    assert!(scratch.group.unified_directory().unwrap().is_some());
    let none = Cgroup::open(&host, scratch.group.path().child("none").unwrap());
    assert!(matches!(none.unified_directory(), Err(CgroupError::Open { .. })));
}

/// A container that makes groups of its own and hands controllers to them.
#[test]
fn root_a_process_beside_init_goes_where_init_is() {
    let host = unified_alone();
    let mut scratch = Scratch::new(&host);
    let init = Pid::from_child(scratch.run("exec sleep 1000"));
    let directory = || {
        let opened = scratch.group.unified_directory_beside(init).unwrap().unwrap();
        let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
        std::fs::read_link(link).unwrap()
    };
    assert!(directory().ends_with("inner"));
    let below = Cgroup::open(&host, scratch.group.path().child("init.scope").unwrap());
    below.create().unwrap();
    below.add(init).unwrap();
    assert!(directory().ends_with("inner/init.scope"));
    assert_eq!(scratch.group.processes().unwrap(), [init]);
}

/// Limits of a controller of the unified hierarchy, where this host has one.
#[test]
fn root_limits_on_huge_pages_are_set() {
    let host = this_host();
    let Some(version) = host.version(Controller::Hugetlb) else { return };
    let scratch = Scratch::new(&host);
    let limit = oci_spec::runtime::LinuxHugepageLimitBuilder::default()
        .page_size("2MB")
        .limit(4_i64 << 20)
        .build()
        .unwrap();
    let mut resources = LinuxResources::default();
    resources.set_hugepage_limits(Some(vec![limit]));
    scratch.group.apply(&resources).unwrap();
    let file = match version {
        Version::V1 => "hugetlb.2MB.limit_in_bytes",
        Version::V2 => "hugetlb.2MB.max",
    };
    assert_eq!(scratch.read(Controller::Hugetlb, file), "4194304");
    let stats = scratch.group.stats().unwrap();
    assert!(stats.hugetlb.iter().any(|one| one.page_size == "2MB" && one.usage_bytes == 0));
}
