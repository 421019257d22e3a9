//! Changes of limits, as tables.

use crate::pods::spec::fixture::node;

use super::*;

type Limits = v1::LinuxContainerResources;

fn memory(limit: i64, swap: i64) -> Limits {
    Limits { memory_limit_in_bytes: limit, memory_swap_limit_in_bytes: swap, ..Default::default() }
}

#[test]
fn what_is_not_said_stays() {
    let current = Limits {
        cpu_period: 100_000,
        cpu_quota: 50_000,
        cpu_shares: 512,
        cpuset_cpus: "0".into(),
        cpuset_mems: "0".into(),
        oom_score_adj: 7,
        unified: [("memory.high".to_owned(), "1".to_owned())].into(),
        ..memory(100, 100)
    };
    let nothing = change(&current, &Limits::default(), &node(), Progress::Started).unwrap();
    assert_eq!(nothing, Change { after: current.clone(), write: LinuxResources::default() });
    let asked = Limits { cpu_quota: -1, cpuset_cpus: "1".into(), ..Default::default() };
    let Change { after, write } = change(&current, &asked, &node(), Progress::Started).unwrap();
    let expected = Limits { cpu_quota: -1, cpuset_cpus: "1".into(), ..current };
    assert_eq!(after, expected);
    let cpu = write.cpu().clone().unwrap();
    assert_eq!((cpu.quota(), cpu.period(), cpu.shares()), (Some(-1), None, None));
    assert_eq!((cpu.cpus().as_deref(), cpu.mems().as_deref()), (Some("1"), None));
    assert_eq!(write.memory(), &None);
}

#[test]
fn the_amount_of_swap_stays_unless_it_is_named() {
    for (current, asked, after, written) in [
        // Without swap.
        ((100, 100), (200, 0), (200, 200), Some((200, 200))),
        ((100, 100), (50, 0), (50, 50), Some((50, 50))),
        // With some.
        ((100, 150), (200, 0), (200, 250), Some((200, 250))),
        ((100, 150), (0, 180), (100, 180), Some((100, 180))),
        ((100, 150), (0, 0), (100, 150), None),
        // Without a limit on it.
        ((100, -1), (200, 0), (200, -1), Some((200, -1))),
        ((100, 100), (0, -1), (100, -1), Some((100, -1))),
        // Without a limit on either.
        ((100, 100), (-1, 0), (-1, -1), Some((-1, -1))),
        ((0, 0), (100, 0), (100, 100), Some((100, 100))),
        ((0, 0), (100, 150), (100, 150), Some((100, 150))),
    ] {
        let made = change(
            &memory(current.0, current.1),
            &memory(asked.0, asked.1),
            &node(),
            Progress::Started,
        )
        .unwrap();
        assert_eq!(made.after, memory(after.0, after.1), "{current:?} {asked:?}");
        let memory = made.write.memory().map(|one| (one.limit().unwrap(), one.swap().unwrap()));
        assert_eq!(memory, written, "{current:?} {asked:?}");
    }
    let below = change(&memory(100, 100), &memory(0, 50), &node(), Progress::Started);
    assert_eq!(below, Err(ResourceError::SwapBelowMemory { swap: 50, limit: 100 }));
}

#[test]
fn maps_are_merged() {
    let page = |size: &str, limit| v1::HugepageLimit { page_size: size.into(), limit };
    let current = Limits {
        hugepage_limits: vec![page("1GB", 1 << 30), page("2MB", 2 << 20)],
        unified: [("a.x".to_owned(), "1".to_owned()), ("a.y".to_owned(), "2".to_owned())].into(),
        ..Default::default()
    };
    let asked = Limits {
        hugepage_limits: vec![page("2MB", 4 << 20)],
        unified: [("a.y".to_owned(), "3".to_owned())].into(),
        ..Default::default()
    };
    let Change { after, write } = change(&current, &asked, &node(), Progress::Started).unwrap();
    assert_eq!(after.hugepage_limits, [page("1GB", 1 << 30), page("2MB", 4 << 20)]);
    let unified = [("a.x".to_owned(), "1".to_owned()), ("a.y".to_owned(), "3".to_owned())];
    assert_eq!(after.unified, unified.into());
    let sizes: Vec<_> = write.hugepage_limits().iter().flatten().collect();
    assert_eq!(sizes.len(), 1, "{sizes:?}");
    assert_eq!(sizes[0].page_size(), "2MB");
    assert_eq!(write.unified().as_ref().unwrap().len(), 1);
}

#[test]
fn the_score_of_running_processes_stays() {
    let current = Limits { oom_score_adj: 7, ..Default::default() };
    let asked = Limits { oom_score_adj: 900, ..Default::default() };
    let score = |progress| change(&current, &asked, &node(), progress).unwrap().after.oom_score_adj;
    assert_eq!(score(Progress::Started), 7);
    assert_eq!(score(Progress::Waiting), 900);
}

#[test]
fn what_holds_is_told_with_what_the_node_adds() {
    let made = effective(&memory(100, 0), &node()).unwrap();
    assert_eq!(made, memory(100, 100));
    let without = Node { swap: SwapLimit::Absent, ..node() };
    assert_eq!(effective(&memory(100, 0), &without).unwrap(), memory(100, 0));
    let floor = Node { oom_score_adj_floor: Some(5), ..node() };
    assert_eq!(effective(&Limits::default(), &floor).unwrap().oom_score_adj, 5);
}
