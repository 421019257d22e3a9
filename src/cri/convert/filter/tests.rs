//! Filters, as tables.

use v1::{ContainerState, PodSandboxState};

use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn pod_filter(id: &str, state: Option<i32>, selector: &[(&str, &str)]) -> v1::PodSandboxFilter {
    v1::PodSandboxFilter {
        id: id.into(),
        state: state.map(|state| v1::PodSandboxStateValue { state }),
        label_selector: labels(selector),
    }
}

fn container_filter(
    id: &str,
    pod: &str,
    state: Option<i32>,
    selector: &[(&str, &str)],
) -> v1::ContainerFilter {
    v1::ContainerFilter {
        id: id.into(),
        pod_sandbox_id: pod.into(),
        state: state.map(|state| v1::ContainerStateValue { state }),
        label_selector: labels(selector),
    }
}

#[test]
fn pods() {
    let own = labels(&[("app", "web"), ("tier", "1")]);
    let (ready, not_ready) = (Some(0), Some(1));
    for (filter, expected) in [
        (pod_filter("", None, &[]), true),
        (pod_filter("abcd", None, &[]), true),
        (pod_filter("ab", None, &[]), true),
        (pod_filter("bcd", None, &[]), false),
        (pod_filter("abcde", None, &[]), false),
        (pod_filter("", ready, &[]), true),
        (pod_filter("", not_ready, &[]), false),
        (pod_filter("", None, &[("app", "web")]), true),
        (pod_filter("", None, &[("app", "web"), ("tier", "2")]), false),
        (pod_filter("", None, &[("app", "")]), false),
        (pod_filter("", None, &[("other", "web")]), false),
        (pod_filter("ab", ready, &[("app", "web")]), true),
        (pod_filter("ab", not_ready, &[("app", "web")]), false),
    ] {
        let made = Pods::of_list(Some(&filter)).unwrap();
        assert_eq!(made.means("abcd", PodSandboxState::SandboxReady, &own), expected, "{filter:?}");
    }
    let all = Pods::of_list(None).unwrap();
    assert!(all.means("abcd", PodSandboxState::SandboxNotready, &labels(&[])));
}

#[test]
fn containers() {
    let own = labels(&[("app", "web")]);
    let running = Some(1);
    for (filter, expected) in [
        (container_filter("", "", None, &[]), true),
        (container_filter("c0", "", None, &[]), true),
        (container_filter("c1", "", None, &[]), false),
        (container_filter("", "p0", None, &[]), true),
        (container_filter("c0", "p1", None, &[]), false),
        (container_filter("c0", "p0", running, &[("app", "web")]), true),
        (container_filter("c0", "p0", Some(2), &[("app", "web")]), false),
        (container_filter("c0", "p0", running, &[("app", "db")]), false),
    ] {
        let made = Containers::of_list(Some(&filter)).unwrap();
        let means = made.means("c0ffee", "p0d", ContainerState::ContainerRunning, &own);
        assert_eq!(means, expected, "{filter:?}");
    }
}

#[test]
fn states_out_of_range() {
    let error = Pods::of_list(Some(&pod_filter("", Some(7), &[]))).unwrap_err();
    assert_eq!(error.to_string(), "filter.state is 7, which no PodSandboxState is");
    let error = Containers::of_list(Some(&container_filter("", "", Some(-1), &[]))).unwrap_err();
    assert_eq!(error.to_string(), "filter.state is -1, which no ContainerState is");
}

#[test]
fn statistics() {
    let filter =
        v1::PodSandboxStatsFilter { id: "ab".into(), label_selector: labels(&[("a", "b")]) };
    let pods = Pods::of_stats(Some(&filter));
    assert!(pods.means("abcd", PodSandboxState::SandboxReady, &labels(&[("a", "b")])));
    assert!(!pods.means("abcd", PodSandboxState::SandboxReady, &labels(&[])));
    let filter = v1::ContainerStatsFilter {
        id: String::new(),
        pod_sandbox_id: "p1".into(),
        label_selector: labels(&[]),
    };
    let containers = Containers::of_stats(Some(&filter));
    assert!(!containers.means_pod("p0"));
    assert!(containers.means("c", "p1x", ContainerState::ContainerRunning, &labels(&[])));
    assert!(Pods::of_stats(None).means("", PodSandboxState::SandboxReady, &labels(&[])));
    assert!(Containers::of_stats(None).means_pod("x"));
}
