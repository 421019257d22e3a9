//! Which network a pod gets, and whether there is one: a look at the CNI configuration
//! directory, and the task that keeps looking.

use std::time::Duration;

use super::cni::{Cni, ConfigList, Directory, Found};
use super::config::{Config, WhenUnconfigured};
use super::error::{NotReady, chain};
use super::{Network, bridge};

/// How often [`Network::watch`] looks. The kubelet asks for the status every 5 s.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Plugins are asked for their STATUS at every so many looks: a process each.
const LOOKS_PER_STATUS: u32 = 5;

/// What attaches pods.
#[derive(Debug)]
pub(super) struct Choice {
    /// The plugins of this list, or (`None`) the built-in bridge.
    pub(super) list: Option<ConfigList>,
}

/// Reads the configuration directory. Blocking.
pub(super) fn read(config: &Config) -> Result<Choice, NotReady> {
    let Some(directory) = &config.conf_dir else { return Ok(Choice { list: None }) };
    let found = Directory(directory.clone())
        .read()
        .map_err(|error| NotReady::new(format!("reading {}: {error}", directory.display())))?;
    let rejected = rejections(&found);
    if found.list.is_some() {
        return Ok(Choice { list: found.list });
    }
    if !rejected.is_empty() {
        return Err(NotReady::new(format!("no valid CNI configuration: {rejected}")));
    }
    match config.when_unconfigured {
        WhenUnconfigured::Bridge => Ok(Choice { list: None }),
        WhenUnconfigured::Wait => Err(NotReady::new(format!(
            "Network plugin returns error: cni plugin not initialized: no network configuration \
             in {}",
            directory.display()
        ))),
    }
}

fn rejections(found: &Found) -> String {
    let each =
        |file: &super::cni::Rejected| format!("{}: {}", file.path.display(), chain(&file.error));
    found.rejected.iter().map(each).collect::<Vec<_>>().join("; ")
}

impl Choice {
    /// Whether what attaches pods is complete. Blocking.
    pub(super) fn check(&self, cni: &Cni) -> Result<(), NotReady> {
        let Some(list) = &self.list else { return Ok(()) };
        let missing = cni.missing(list);
        if missing.is_empty() {
            return Ok(());
        }
        Err(NotReady::new(format!(
            "network {:?} needs CNI plugins that are not installed: {}",
            list.name(),
            missing.join(", ")
        )))
    }
}

impl Network {
    /// Looks at the configuration directory every few seconds, asks plugins for their STATUS
    /// and repairs the built-in bridge's packet rules when somebody flushed them. Runs until
    /// it is dropped; run it once, in a task of the daemon.
    ///
    /// # Cancel safety
    /// Safe at any point.
    pub async fn watch(&self) {
        let mut known = None;
        let mut look: u32 = 0;
        loop {
            let choice = self.choose().await;
            let list = choice.as_ref().ok().and_then(|choice| choice.list.clone());
            let ask =
                list != known || look.is_multiple_of(LOOKS_PER_STATUS) || self.status().is_err();
            let ready = match choice.and_then(|choice| choice.check(&self.cni)) {
                Err(not_ready) => Some(Err(not_ready)),
                Ok(()) if ask => Some(self.ask(list.as_ref()).await),
                // What the plugins said last still holds.
                Ok(()) => None,
            };
            if let Some(ready) = ready {
                self.report(ready);
            }
            known = list;
            look = look.wrapping_add(1);
            self.repair().await;
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    }

    /// The plugins' own word.
    async fn ask(&self, list: Option<&ConfigList>) -> Result<(), NotReady> {
        let Some(list) = list else { return Ok(()) };
        self.cni.status(list).await.map_err(|error| NotReady::new(chain(&error)))
    }

    /// Changes the status, and says so when it is another one.
    fn report(&self, ready: Result<(), NotReady>) {
        let before = self.status();
        match &ready {
            Err(error) if before.as_ref().err() != Some(error) => {
                tracing::warn!(%error, "the network is not ready");
            }
            Ok(()) if before.is_err() => tracing::info!("the network is ready"),
            _ => {}
        }
        self.set_ready(ready);
    }

    async fn repair(&self) {
        match self.bridge.call(bridge::Bridge::repair).await {
            Ok(Ok(())) => {}
            Ok(Err(errno)) => tracing::warn!(%errno, "the bridge's nftables table is not whole"),
            Err(error) => tracing::warn!(%error, "the built-in bridge is not looked after"),
        }
    }
}
