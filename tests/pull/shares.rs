//! What all pulls together may take of one registry.

use std::time::{Duration, Instant};

use orlop::transfer::Config;

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
