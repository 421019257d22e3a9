//! Big layers in several ranges at once, and in one answer where that cannot be.

use std::time::Duration;

use bytes::Bytes;
use orlop::transfer::{Config, PullFailure};

use crate::image::{Layer, serve};
use crate::registry::{Fault, Registry};
use crate::{Node, chain, config};

const PART: u64 = 256 * 1024;

/// What is big is small here, so that there are many parts.
fn in_parts() -> Config {
    Config { ranges_per_layer: 4, range_bytes: PART, least_ranged_bytes: PART, ..config() }
}

/// A registry with an image of one layer, of about seven parts.
async fn seven_parts() -> (Registry, Layer, String) {
    let registry = Registry::start().await;
    let layer = Layer::noise("noise", 1_700_000);
    serve(&registry, Some("v1"), std::slice::from_ref(&layer));
    let name = format!("{}/team/app:v1", registry.authority());
    (registry, layer, name)
}

/// The ranges of the layer that were asked for, in order; everything is `None`.
fn asked(registry: &Registry, layer: &Layer) -> Vec<Option<String>> {
    let seen = registry.seen();
    let of_layer = seen.iter().filter(|seen| seen.path.contains(&layer.digest()));
    of_layer.map(|seen| seen.header("range").map(str::to_owned)).collect()
}

fn part(index: u64, layer: &Layer) -> Option<String> {
    let last = ((index + 1) * PART).min(layer.blob.len() as u64) - 1;
    let to = if last + 1 == layer.blob.len() as u64 { String::new() } else { last.to_string() };
    Some(format!("bytes={}-{to}", index * PART))
}

/// Waits until so many requests for the layer came, and a little for one more that must not.
async fn asked_times(registry: &Registry, layer: &Layer, times: usize) {
    while registry.count(&layer.digest()) < times {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(registry.count(&layer.digest()), times, "{:?}", asked(registry, layer));
}

#[tokio::test]
async fn root_each_part_is_asked_for_once_and_all_together_are_the_layer() {
    let (registry, layer, name) = seven_parts().await;
    Node::with(in_parts()).pull(&name).await.unwrap();
    let mut asked = asked(&registry, &layer);
    assert_eq!(asked[0], part(0, &layer), "the first one shows whether there are ranges");
    asked.sort();
    let mut parts: Vec<_> = (0..7).map(|index| part(index, &layer)).collect();
    parts.sort();
    assert_eq!(asked, parts);
}

#[tokio::test]
async fn root_four_parts_are_under_way_at_once_and_no_more() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 1, Fault::Nothing);
    registry.fault(&layer.digest(), usize::MAX, Fault::Stall(1000));
    let patience = Duration::from_secs(600);
    let limits = Config { stall_timeout: patience, no_progress_timeout: patience, ..in_parts() };
    let node = Node::with(limits);
    tokio::select! {
        ended = node.pull(&name) => panic!("{:?}", ended.is_ok()),
        () = asked_times(&registry, &layer, 5) => {}
    }
    node.assert_nothing_left().await;
}

#[tokio::test]
async fn root_a_registry_with_two_connections_is_asked_for_two_parts() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 1, Fault::Nothing);
    registry.fault(&layer.digest(), usize::MAX, Fault::Stall(1000));
    let patience = Duration::from_secs(600);
    let limits = Config { stall_timeout: patience, no_progress_timeout: patience, ..in_parts() };
    let node = Node::with(Config { connections_per_registry: 2, ..limits });
    tokio::select! {
        ended = node.pull(&name) => panic!("{:?}", ended.is_ok()),
        () = asked_times(&registry, &layer, 3) => {}
    }
}

#[tokio::test]
async fn root_memory_for_one_part_ahead_is_for_one_part_ahead() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 1, Fault::Nothing);
    registry.fault(&layer.digest(), usize::MAX, Fault::Stall(1000));
    let patience = Duration::from_secs(600);
    let limits = Config { stall_timeout: patience, no_progress_timeout: patience, ..in_parts() };
    let memory_bytes = (4 << 20) + PART;
    let node = Node::with(Config { parallel_layers: 1, memory_bytes, ..limits });
    tokio::select! {
        ended = node.pull(&name) => panic!("{:?}", ended.is_ok()),
        () = asked_times(&registry, &layer, 2) => {}
    }
}

#[tokio::test]
async fn root_a_part_that_breaks_is_resumed_where_it_broke() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 1, Fault::Truncate(100_000));
    registry.fault(&layer.digest(), 1, Fault::Nothing);
    registry.fault(&layer.digest(), 1, Fault::Truncate(100_000));
    registry.fault(&layer.digest(), 1, Fault::Stall(200_000));
    Node::with(in_parts()).pull(&name).await.unwrap();
    let asked = asked(&registry, &layer);
    assert_eq!(asked.len(), 7 + 3, "{asked:?}");
    let in_the_middle = |range: &&Option<String>| {
        let from = range.as_deref().and_then(|it| it.strip_prefix("bytes=")?.split_once('-'));
        from.is_some_and(|(from, _)| from.parse::<u64>().unwrap() % PART != 0)
    };
    assert_eq!(asked.iter().filter(in_the_middle).count(), 3, "{asked:?}");
}

#[tokio::test]
async fn root_a_registry_without_ranges_is_asked_once() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), usize::MAX, Fault::NoRanges);
    Node::with(in_parts()).pull(&name).await.unwrap();
    assert_eq!(asked(&registry, &layer), [part(0, &layer)]);
}

#[tokio::test]
async fn root_what_breaks_and_is_then_sent_anew_comes() {
    // The rest of the first part is everything; what came before is skipped.
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 1, Fault::Truncate(100_000));
    registry.fault(&layer.digest(), usize::MAX, Fault::NoRanges);
    Node::with(in_parts()).pull(&name).await.unwrap();
    let rest = Some(format!("bytes=100000-{}", PART - 1));
    assert!(asked(&registry, &layer).contains(&rest));
}

#[tokio::test]
async fn root_where_ranges_fail_the_rest_comes_in_one_answer() {
    // Ranges that are no longer known, that are refused, and that are one too many.
    for fault in [Fault::NoRanges, Fault::Status(416, vec![]), Fault::Status(429, vec![])] {
        let (registry, layer, name) = seven_parts().await;
        registry.fault(&layer.digest(), 1, Fault::Nothing);
        registry.fault(&layer.digest(), 3, fault.clone());
        registry.fault(&layer.digest(), usize::MAX, Fault::Nothing);
        let limits = Config { attempts_per_host: 1, ..in_parts() };
        Node::with(limits).pull(&name).await.unwrap();
        let open = |range: &Option<String>| range.as_ref().is_some_and(|it| it.ends_with('-'));
        let asked = asked(&registry, &layer);
        let rest = asked.iter().find(|range| open(range) && **range != part(6, &layer));
        assert!(rest.is_some(), "{fault:?}: {asked:?}");
    }
}

#[tokio::test]
async fn root_a_registry_that_refuses_every_range_gives_the_layer() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 1, Fault::Status(416, vec![]));
    Node::with(in_parts()).pull(&name).await.unwrap();
    assert_eq!(asked(&registry, &layer), [part(0, &layer), None]);
}

#[tokio::test]
async fn root_other_bytes_in_one_part_are_no_layer() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 2, Fault::Nothing);
    let other = Bytes::from(Layer::noise("other", layer.blob.len()).blob);
    registry.fault(&layer.digest(), 1, Fault::Replace(other.slice(..layer.blob.len())));
    let error = Node::with(in_parts()).fail(&name).await;
    assert_eq!(error.failure(), PullFailure::Corrupt, "{}", chain(&error));
}

#[tokio::test]
async fn root_a_layer_that_is_gone_is_told_to_be_gone() {
    let (registry, layer, name) = seven_parts().await;
    registry.fault(&layer.digest(), 2, Fault::Nothing);
    registry.fault(&layer.digest(), usize::MAX, Fault::Status(404, vec![]));
    let error = Node::with(in_parts()).fail(&name).await;
    assert_eq!(error.failure(), PullFailure::NotFound, "{}", chain(&error));
}
