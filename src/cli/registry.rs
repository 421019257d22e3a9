//! `orlop registry explain`: which hosts are asked for an image, how, and what they say.

use clap::Subcommand;

use crate::admin::{ExplainedRegistry, RegistryHop};

use super::connection::Daemon;
use super::image::Keys;
use super::{Failure, print};

/// What to ask about registries.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Ask every host for an image as a pull would, fetch nothing, and tell what each says.
    Explain {
        #[command(flatten)]
        daemon: Daemon,
        #[command(flatten)]
        keys: Keys,
        /// A reference
        image: String,
    },
}

/// Asks the daemon and prints what it says.
pub(super) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Explain { daemon, keys, image } = command;
    let auth = keys.for_registry_of(&image)?;
    let explained = daemon.connect().await?.explain(&image, auth).await?;
    print(&story(&explained))?;
    if explained.hops.iter().any(|hop| hop.outcome.is_ok()) {
        Ok(())
    } else {
        Err(Failure::NoHost { reference: explained.reference })
    }
}

fn story(explained: &ExplainedRegistry) -> String {
    let by = if explained.file.is_empty() {
        "nothing is configured for its registry".to_owned()
    } else {
        format!("by {}", explained.file)
    };
    let hops = explained.hops.iter().enumerate();
    let hops: String = hops.map(|(index, hop)| chapter(index + 1, hop)).collect();
    format!("{}, {by}\n{hops}", explained.reference)
}

fn chapter(number: usize, hop: &RegistryHop) -> String {
    let mut text = format!("{number}. {}\n", hop.address);
    for (name, value) in &hop.settings {
        text += &format!("   {name}: {value}\n");
    }
    for exchange in &hop.exchanges {
        text += &format!("   > {exchange}\n");
    }
    match &hop.outcome {
        Ok(digest) => text + &format!("   = {digest}\n"),
        Err(why) => text + &format!("   ! {why}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_has_a_chapter_for_each_host() {
        let hop = |address: &str, outcome| RegistryHop {
            address: address.to_owned(),
            settings: vec![("role".to_owned(), "mirror".to_owned())],
            exchanges: vec!["HEAD /v2: 200 OK".to_owned()],
            outcome,
        };
        let explained = ExplainedRegistry {
            reference: "one.example/app:1".to_owned(),
            file: "/c/one.example/hosts.toml".to_owned(),
            hops: vec![
                hop("http://a/v2", Err("status 500".to_owned())),
                hop("http://b/v2", Ok("sha256:1".to_owned())),
            ],
        };
        assert_eq!(
            story(&explained),
            "one.example/app:1, by /c/one.example/hosts.toml\n\
             1. http://a/v2\n   role: mirror\n   > HEAD /v2: 200 OK\n   ! status 500\n\
             2. http://b/v2\n   role: mirror\n   > HEAD /v2: 200 OK\n   = sha256:1\n"
        );
    }
}
