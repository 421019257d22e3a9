//! Killing and freezing groups, with the unified hierarchy and without.

use super::resources::{MIB, resources};
use super::*;

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
