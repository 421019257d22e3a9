//! The `orlop` binary: parse, dispatch, exit code.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser as _;
use orlop::cli::Cli;

fn main() -> ExitCode {
    // Before everything else: a shim has one thread and links nothing into its start.
    if std::env::args_os().nth(1).is_some_and(|word| word == orlop::cli::SHIM) {
        return orlop::cli::shim();
    }
    match orlop::cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("orlop: {}", chain(&failure));
            ExitCode::from(failure.code())
        }
    }
}

/// The whole story of `error`, outermost first.
fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
