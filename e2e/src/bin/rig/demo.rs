//! A demo pod.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

/// Options of `rig demo`.
#[derive(Args)]
pub(crate) struct Options {}

pub(crate) async fn run(_: Options) -> Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
