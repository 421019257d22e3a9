//! What is told of two pictures, and to whom.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::pods::record::{ContainerRecord, ContainerRequest, ImageUsed, PodRecord, PodRequest};
use crate::pods::view::{Exit, ExitCause};

const EXIT: Exit = Exit { code: 0, finished_at_ns: 9, cause: ExitCause::Ended };

fn ready() -> Value {
    json!({ "Ready": { "held": ["Shim"], "shim": { "pid": 7, "start_ticks": 8 } } })
}

fn stopping() -> Value {
    json!({ "Stopping": { "held": ["Shim"], "cause": "Requested" } })
}

fn running() -> ContainerState {
    ContainerState::Running { started_at_ns: 4 }
}

fn exited(started_at_ns: Option<i64>) -> ContainerState {
    ContainerState::Exited { exit: EXIT, started_at_ns }
}

/// A pod `p` in `state` with these containers.
fn picture(state: &Value, containers: &[(&str, ContainerState)]) -> Arc<PodView> {
    let record = json!({ "version": 1, "boot_id": "b", "created_at_ns": 1, "state": state });
    let containers = containers.iter().map(|(id, state)| {
        let mut record = ContainerRecord::new(2, ImageUsed::default(), "/c".into(), 15);
        record.state = state.clone();
        let request = Arc::new(ContainerRequest { config: Default::default() });
        let (id, pod) = ((*id).to_owned(), "p".to_owned());
        (id.clone(), Arc::new(ContainerView { id, pod, request, record, pid: None }))
    });
    Arc::new(PodView {
        id: "p".into(),
        at_ns: 3,
        request: Arc::new(PodRequest { config: Default::default(), runtime_handler: "".into() }),
        record: PodRecord::decode(record.to_string().as_bytes()).unwrap(),
        containers: containers.collect::<BTreeMap<_, _>>(),
    })
}

fn told(old: &Arc<PodView>, new: Option<&Arc<PodView>>) -> Vec<String> {
    let told = between(Some(old), new.map(Arc::as_ref));
    told.into_iter().map(|(id, kind)| format!("{id} {kind:?}")).collect()
}

#[test]
fn a_life_is_told_step_by_step() {
    let none = Vec::<&str>::new();
    let preparing = json!({ "Preparing": { "held": ["Shim"] } });
    let stopped = json!({ "Stopped": { "cause": "Requested" } });
    let pictures = [
        (picture(&preparing, &[]), none.clone()),
        (picture(&ready(), &[]), vec!["p Created", "p Started"]),
        (picture(&ready(), &[("c", ContainerState::Creating)]), none.clone()),
        (picture(&ready(), &[("c", ContainerState::Created)]), vec!["c Created"]),
        (picture(&ready(), &[("c", ContainerState::Starting)]), none.clone()),
        (picture(&ready(), &[("c", running())]), vec!["c Started"]),
        (picture(&ready(), &[("c", exited(Some(4)))]), vec!["c Stopped"]),
        (picture(&ready(), &[("c", ContainerState::Removing)]), vec!["c Deleted"]),
        (picture(&ready(), &[]), none.clone()),
        (picture(&stopping(), &[]), vec!["p Stopped"]),
        (picture(&stopped, &[]), none),
    ];
    for two in pictures.windows(2) {
        assert_eq!(told(&two[0].0, Some(&two[1].0)), two[1].1, "{:?}", two[1].0);
    }
    assert_eq!(told(&pictures[10].0, None), ["p Deleted"]);
    assert_eq!(told(&pictures[0].0, None), Vec::<String>::new(), "nobody knew of it");
}

#[test]
fn a_pod_has_stopped_when_its_containers_have() {
    let up = picture(&ready(), &[("c", running())]);
    let going = picture(&stopping(), &[("c", running())]);
    let down = picture(&stopping(), &[("c", exited(Some(4)))]);
    assert_eq!(told(&up, Some(&going)), Vec::<String>::new());
    assert_eq!(told(&going, Some(&down)), ["c Stopped", "p Stopped"]);
    assert_eq!(told(&up, Some(&down)), ["c Stopped", "p Stopped"]);
    assert_eq!(told(&up, None), ["c Deleted", "p Deleted"]);
}

#[test]
fn steps_between_two_pictures_are_told_too() {
    let created = picture(&ready(), &[("c", ContainerState::Created)]);
    let ended = picture(&ready(), &[("c", exited(Some(4)))]);
    let failed = picture(&ready(), &[("c", exited(None))]);
    let other = picture(&ready(), &[("d", running())]);
    assert_eq!(told(&created, Some(&ended)), ["c Started", "c Stopped"]);
    assert_eq!(told(&created, Some(&failed)), ["c Stopped"], "it never ran");
    assert_eq!(told(&created, Some(&other)), ["c Deleted", "d Created", "d Started"]);
}

fn tell(events: &Events, times: usize) {
    let (old, new) = (picture(&ready(), &[]), picture(&ready(), &[("c", running())]));
    for at in 0..times {
        // Created and started.
        events.tell(Some(&old), Some(&new), i64::try_from(at).unwrap());
    }
}

async fn heard(listener: &mut Listener, count: usize) -> Vec<(EventKind, i64)> {
    let mut heard = Vec::new();
    for _ in 0..count {
        let event = listener.next().await.unwrap();
        assert!(event.pod.is_some_and(|pod| pod.containers.contains_key(&event.id)));
        heard.push((event.kind, event.at_ns));
    }
    heard
}

#[tokio::test]
async fn who_is_slow_is_told_so_and_delays_nobody() {
    let events = Events::new(4);
    let (mut slow, mut quick) = (events.listen(), events.listen());
    for round in 0..3 {
        tell(&events, 1);
        assert_eq!(heard(&mut quick, 2).await.len(), 2, "round {round}");
    }
    assert_eq!(slow.next().await.unwrap_err(), Silence::Missed { missed: 2 });
}

#[tokio::test]
async fn the_first_listener_hears_what_happened_before() {
    let events = Events::new(4);
    tell(&events, 2);
    let mut first = events.listen();
    let all = heard(&mut first, 4).await;
    assert_eq!(all.iter().map(|(_, at)| *at).collect::<Vec<_>>(), [0, 0, 1, 1]);
    let mut second = events.listen();
    tell(&events, 1);
    assert_eq!(heard(&mut second, 2).await.len(), 2);
    events.close();
    assert_eq!(second.next().await.unwrap_err(), Silence::Ending);
}

#[tokio::test]
async fn more_than_the_ring_holds_is_not_kept_for_the_first_listener() {
    let events = Events::new(4);
    tell(&events, 3);
    let mut first = events.listen();
    tell(&events, 1);
    assert_eq!(heard(&mut first, 2).await, [(EventKind::Created, 0), (EventKind::Started, 0)]);
}

#[tokio::test]
async fn the_end_comes_after_what_was_told() {
    let events = Events::new(4);
    let mut listener = events.listen();
    tell(&events, 1);
    events.close();
    assert_eq!(heard(&mut listener, 2).await.len(), 2);
    assert_eq!(listener.next().await.unwrap_err(), Silence::Ending);
    assert_eq!(events.listen().next().await.unwrap_err(), Silence::Ending);
}
