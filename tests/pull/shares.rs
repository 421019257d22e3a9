//! What all pulls together may take of one registry and of the node, and who comes first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use orlop::transfer::{Config, Platform, Progress, Reference, Urgency};

use crate::image::{Layer, serve};
use crate::registry::{Fault, Registry};
use crate::{Node, config};

#[tokio::test]
async fn root_a_registry_that_is_slow_holds_up_itself_alone() {
    let (busy, idle) = (Registry::start().await, Registry::start().await);
    let layers = [Layer::noise("first", 100_000), Layer::noise("second", 100_000)];
    serve(&busy, Some("first"), &layers[..1]);
    serve(&busy, Some("second"), &layers[1..]);
    serve(&idle, Some("v1"), &[Layer::noise("other", 100_000)]);
    busy.fault(&layers[0].digest(), usize::MAX, Fault::Stall(1000));
    let stall_timeout = Duration::from_secs(600);
    let limits = Config { connections_per_registry: 1, stall_timeout, ..config() };
    let node = Node::with(Config { no_progress_timeout: stall_timeout, ..limits });
    let name = |registry: &Registry, tag: &str| format!("{}/a:{tag}", registry.authority());
    let (first, second, other) = (name(&busy, "first"), name(&busy, "second"), name(&idle, "v1"));
    let (mut stuck, mut waiting) = (Box::pin(node.pull(&first)), Box::pin(node.pull(&second)));
    let begun = async {
        while busy.count(&layers[0].digest()) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        ended = &mut stuck => panic!("{:?}", ended.is_ok()),
        () = begun => {}
    }
    // Another registry goes on meanwhile, and the second pull has asked for its manifest alone.
    tokio::select! {
        ended = &mut waiting => panic!("{:?}", ended.is_ok()),
        done = node.pull(&other) => drop(done.unwrap()),
    }
    assert_eq!(busy.count(&layers[1].digest()), 0);
    drop(stuck);
    waiting.await.unwrap();
}

#[tokio::test]
async fn root_a_limited_rate_is_kept_by_all_layers_together() {
    let registry = Registry::start().await;
    serve(&registry, Some("v1"), &[Layer::noise("a", 50_000), Layer::noise("b", 50_000)]);
    let limits = Config { bytes_per_second_per_registry: 500_000, ..config() };
    let begun = Instant::now();
    Node::with(limits).pull(&format!("{}/a:v1", registry.authority())).await.unwrap();
    // 100,000 bytes that gzip cannot make fewer; a slow machine only makes it longer.
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

/// What nobody waits for holds half of the permits at most; a pod's pull goes by.
#[tokio::test]
async fn root_a_pod_does_not_wait_for_what_nobody_waits_for() {
    let registry = Registry::start().await;
    let stuck = [Layer::noise("a", 50_000), Layer::noise("b", 50_000)];
    serve(&registry, Some("stuck"), &stuck);
    serve(&registry, Some("v1"), &[Layer::noise("other", 50_000)]);
    for layer in &stuck {
        registry.fault(&layer.digest(), usize::MAX, Fault::Stall(1000));
    }
    let patience = Duration::from_secs(600);
    let limits = Config { parallel_layers: 2, stall_timeout: patience, ..config() };
    let node = Node::with(Config { no_progress_timeout: patience, ..limits });
    let name = |tag: &str| format!("{}/a:{tag}", registry.authority());
    let reference = Reference::parse(&name("stuck")).unwrap();
    let (progress, platform) = (Arc::new(Progress::default()), Platform::host());
    let patient = Urgency::patient();
    let asked = || stuck.iter().filter(|layer| registry.count(&layer.digest()) > 0).count();
    let mut prefetch =
        Box::pin(node.transfer.pull(&reference, None, &platform, &progress, &patient));
    let pod = async {
        while asked() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.pull(&name("v1")).await.unwrap()
    };
    tokio::select! {
        ended = &mut prefetch => panic!("{:?}", ended.is_ok()),
        pulled = pod => drop(pulled),
    }
    assert_eq!(asked(), 1, "one of two permits");
}

#[tokio::test]
async fn root_under_io_pressure_there_are_fewer_layers_at_once() {
    let registry = Registry::start().await;
    let layers = [Layer::noise("a", 50_000), Layer::noise("b", 50_000)];
    serve(&registry, Some("v1"), &layers);
    for layer in &layers {
        registry.fault(&layer.digest(), usize::MAX, Fault::Stall(1000));
    }
    let pressure = tempfile::NamedTempFile::new().unwrap();
    let asked = || layers.iter().filter(|layer| registry.count(&layer.digest()) > 0).count();
    for (full, expected) in [("75.00", 1), ("10.00", 2)] {
        let text = format!("some avg10=90.00 avg60=0.00\nfull avg10={full} avg60=0.00 total=1\n");
        std::fs::write(pressure.path(), text).unwrap();
        let patience = Duration::from_secs(600);
        let limits = Config { parallel_layers: 2, stall_timeout: patience, ..config() };
        let node = Node::with(Config {
            no_progress_timeout: patience,
            max_io_pressure: 60,
            io_pressure_file: pressure.path().to_owned(),
            ..limits
        });
        let name = format!("{}/a:v1", registry.authority());
        let before = registry.seen().len();
        let watching = Arc::clone(&node.transfer).watch_pressure();
        let stuck = async {
            // The first look is at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            node.pull(&name).await.unwrap();
        };
        let begun = async {
            while asked() < expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // Time for a second one to begin that must not.
            tokio::time::sleep(Duration::from_millis(200)).await;
        };
        tokio::select! {
            () = watching => panic!("the watching ended"),
            () = stuck => panic!("the layers came"),
            () = begun => {}
        }
        let seen = registry.seen();
        let blobs =
            |layer: &&Layer| seen[before..].iter().any(|seen| seen.path.contains(&layer.digest()));
        assert_eq!(layers.iter().filter(blobs).count(), expected, "at {full} percent");
    }
}
