//! Groups on the hierarchies of this machine, and on its unified hierarchy alone. Every group is
//! made here, under a name of this process, and removed.

use std::io::{Read, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

mod devices;
mod killing;
mod resources;

const PATIENCE: Duration = Duration::from_secs(60);

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
    assert_eq!(
        scratch.group.stats(crate::cgroup::Detail::All).unwrap(),
        crate::cgroup::Stats::default()
    );
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
    // Now that no process is in it, the group hands its controllers down, and takes none back.
    below.create().unwrap();
    if !host.unified().unwrap().controllers.is_empty() {
        let error = scratch.group.add(init).unwrap_err();
        assert!(matches!(error, CgroupError::Add { .. }), "{error}");
    }
    assert_eq!(scratch.group.processes().unwrap(), [init]);
}
