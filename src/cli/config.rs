//! `orlop config default|check`.

use clap::Subcommand;

use crate::config::Overrides;

use super::{ConfigFile, Failure, print};

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Print every key with its default and its meaning.
    Default,
    /// Read the configuration and list all that is wrong with it.
    Check(ConfigFile),
}

/// Prints or checks.
pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Default => print(&crate::config::default_text()),
        Command::Check(file) => {
            file.load(&Overrides::default())?;
            print("the configuration is valid\n")
        }
    }
}
