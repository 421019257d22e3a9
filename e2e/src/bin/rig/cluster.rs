//! A one-node Kubernetes cluster on orlop: up, checked, down.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use e2e::cluster::{Cluster, node};
use e2e::host;

/// Options of `rig cluster`.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Makes the cluster and waits until its node is ready.
    Up(Place),
    /// Checks it, point by point.
    Check {
        #[command(flatten)]
        place: Place,
        /// Only the checks whose name contains this.
        only: Option<String>,
    },
    /// Runs kubectl against it.
    Kubectl {
        #[command(flatten)]
        place: Place,
        /// Arguments for kubectl.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Ends it; the machine is as before.
    Down(Place),
    /// Process 1 of the cluster.
    #[command(hide = true)]
    Node(Place),
}

#[derive(Args)]
struct Place {
    /// Where everything of the cluster is kept.
    #[arg(long, default_value = "/tmp/orlop-cluster")]
    directory: PathBuf,
    /// Where its programs are.
    #[arg(long)]
    programs: PathBuf,
}

impl From<Place> for Cluster {
    fn from(place: Place) -> Self {
        Self { directory: place.directory, programs: place.programs }
    }
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    host::require_root()?;
    match options.action {
        Action::Up(place) => Cluster::from(place).up()?,
        Action::Check { place, only } => {
            return e2e::cluster::checks::run(&Cluster::from(place), only.as_deref());
        }
        Action::Kubectl { place, arguments } => {
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let status = Cluster::from(place).kubectl()?.command(&arguments).status()?;
            return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Action::Down(place) => Cluster::from(place).down()?,
        Action::Node(place) => node::run(&Cluster::from(place)).await?,
    }
    Ok(ExitCode::SUCCESS)
}
