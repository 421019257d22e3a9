//! Limits, as tables.

use crate::pods::spec::fixture::{Fixture, node};

use super::*;

type Request = v1::LinuxContainerResources;

fn made(request: &Request) -> Result<LinuxResources, String> {
    resources(request, &node()).map_err(|error| error.to_string())
}

#[test]
fn zero_is_not_set() {
    let made = made(&Request::default()).unwrap();
    assert_eq!(made, LinuxResources::default());
}

#[test]
fn cpu_limits() {
    let request = Request {
        cpu_shares: 512,
        cpu_quota: -1,
        cpu_period: 100_000,
        cpuset_cpus: "0-1,3".into(),
        ..Default::default()
    };
    let cpu = made(&request).unwrap().cpu().clone().unwrap();
    assert_eq!((cpu.shares(), cpu.quota(), cpu.period()), (Some(512), Some(-1), Some(100_000)));
    assert_eq!((cpu.cpus().as_deref(), cpu.mems().as_deref()), (Some("0-1,3"), None));
}

#[test]
fn memory_and_swap() {
    for (limit, swap, expected) in [
        (0, 0, (None, None)),
        (100, 0, (Some(100), Some(100))),
        (100, 150, (Some(100), Some(150))),
        (100, -1, (Some(100), Some(-1))),
        (-1, 0, (Some(-1), None)),
        (0, 150, (None, Some(150))),
    ] {
        let request = Request {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..Default::default()
        };
        let memory = made(&request).unwrap().memory().unwrap_or_default();
        assert_eq!((memory.limit(), memory.swap()), expected, "{limit} {swap}");
        let without = Node { swap: SwapLimit::Absent, ..node() };
        let memory = resources(&request, &without).unwrap().memory().unwrap_or_default();
        assert_eq!((memory.limit(), memory.swap()), (expected.0, None), "{limit} {swap}");
    }
}

#[test]
fn huge_pages_not_listed_are_zero() {
    let limit = |page_size: &str, limit| v1::HugepageLimit { page_size: page_size.into(), limit };
    let request = Request {
        hugepage_limits: vec![limit("2MB", 4 << 20), limit("64KB", 0)],
        ..Default::default()
    };
    let limits = made(&request).unwrap().hugepage_limits().clone().unwrap();
    let limits: Vec<_> =
        limits.iter().map(|limit| (limit.page_size().as_str(), limit.limit())).collect();
    assert_eq!(limits, [("1GB", 0), ("2MB", 4 << 20)]);
}

#[test]
fn unified() {
    let request = |key: &str, value: &str| Request {
        unified: [(key.to_owned(), value.to_owned())].into(),
        ..Default::default()
    };
    let made_one = made(&request("memory.oom.group", "1")).unwrap();
    assert_eq!(made_one.unified().as_ref().unwrap()["memory.oom.group"], "1");
    for key in
        ["", "memory", ".max", "memory.", "cgroup.procs", "../memory.max", "memory/x.max", "a.b\n"]
    {
        let expected = format!("unified key {key:?} is not the name of a cgroup file");
        assert_eq!(made(&request(key, "1")), Err(expected));
    }
    assert!(made(&request("memory.max", "1\0")).is_err());
    let old = Node { cgroups: CgroupVersion::V1, ..node() };
    assert_eq!(resources(&request("memory.max", "1"), &old), Err(ResourceError::UnifiedOnV1));
}

#[test]
fn refused() {
    for (request, expected) in [
        (
            Request { cpu_shares: -1, ..Default::default() },
            "cpu_shares is -1, which is not allowed",
        ),
        (
            Request { cpu_period: -1, ..Default::default() },
            "cpu_period is -1, which is not allowed",
        ),
        (Request { cpu_quota: -2, ..Default::default() }, "cpu_quota is -2, which is not allowed"),
        (
            Request { memory_limit_in_bytes: -2, ..Default::default() },
            "memory_limit_in_bytes is -2, which is not allowed",
        ),
        (
            Request {
                memory_limit_in_bytes: 100,
                memory_swap_limit_in_bytes: 99,
                ..Default::default()
            },
            "memory_swap_limit_in_bytes 99 is below memory_limit_in_bytes 100",
        ),
        (
            Request { cpuset_cpus: "0-".into(), ..Default::default() },
            "cpuset_cpus \"0-\" is not a list of numbers and ranges",
        ),
        (
            Request { cpuset_mems: "0\n1".into(), ..Default::default() },
            "cpuset_mems \"0\\n1\" is not a list of numbers and ranges",
        ),
        (
            Request {
                hugepage_limits: vec![v1::HugepageLimit { page_size: "3MB".into(), limit: 1 }],
                ..Default::default()
            },
            "huge pages of \"3MB\" do not exist on this node",
        ),
    ] {
        assert_eq!(made(&request), Err(expected.to_owned()));
    }
}

#[test]
fn oom_scores() {
    let score = |value, floor| {
        let mut fixture = Fixture::new();
        fixture.resources().oom_score_adj = value;
        fixture.node.oom_score_adj_floor = floor;
        oom_score_adj(&fixture.container, &fixture.node)
    };
    assert_eq!(score(0, None), Ok(Some(0)));
    assert_eq!(score(-997, None), Ok(Some(-997)));
    assert_eq!(score(-997, Some(-3)), Ok(Some(-3)));
    assert_eq!(score(1000, Some(-3)), Ok(Some(1000)));
    for value in [-1001, 1001, i64::MAX] {
        assert_eq!(
            score(value, None),
            Err(ResourceError::Number { field: "oom_score_adj", value })
        );
    }
    let nothing = v1::ContainerConfig::default();
    assert_eq!(oom_score_adj(&nothing, &node()), Ok(None));
}
