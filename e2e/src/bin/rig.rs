//! What `hack/critest` and `hack/run` do once their programs are built.
#![forbid(unsafe_code)]

#[path = "rig/bench.rs"]
mod bench;
#[path = "rig/cluster.rs"]
mod cluster;
#[path = "rig/critest.rs"]
mod critest;
#[path = "rig/demo.rs"]
mod demo;
#[path = "rig/powercut.rs"]
mod powercut;

use std::process::ExitCode;

use clap::Parser;

/// Tries orlop from outside.
#[derive(Parser)]
enum Rig {
    /// Compares orlop with its peers.
    Bench(bench::Options),
    /// A Kubernetes cluster of one node.
    Cluster(cluster::Options),
    /// Runs critest and compares the result with what is expected.
    Critest(critest::Options),
    /// Fills a registry with critest's images, for a machine that cannot make them.
    Images(critest::Images),
    /// Runs a demo pod and shows how to go on with crictl.
    Demo(demo::Options),
    /// Takes the power away while images are pulled, and looks at what is served then.
    Powercut(powercut::Options),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Rig::parse() {
        Rig::Bench(options) => bench::run(options).await,
        Rig::Cluster(options) => cluster::run(options).await,
        Rig::Critest(options) => critest::run(options).await,
        Rig::Images(options) => critest::images(&options),
        Rig::Demo(options) => demo::run(options).await,
        Rig::Powercut(options) => powercut::run(options).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
