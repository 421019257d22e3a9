//! Pod networks: CNI plugins when a configuration exists, else the built-in bridge.
//!
//! ```text
//! Network ── add, del, check, gc ──┬── cni      configuration lists, plugin processes
//!                                  └── bridge   links, addresses, nftables over netlink
//! ```
//!
//! Invariants:
//! - This module stores nothing about pods but what can be told again: callers keep each
//!   [`Attachment`] in the pod's record and hand the records back with [`Network::restore`].
//!   The one exception is a small file per CNI attachment, written before ADD, which is read
//!   only when the daemon died before the record was written.
//! - Every name on the host is a function of the pod id or of the instance, so `del` needs no
//!   memory and is harmless for what was never taken.
//! - Pod namespaces have `lo` up from their creation, without a plugin.
//! - A configuration directory with only invalid files is an error, never the bridge: pods
//!   must not end up on a network that nobody chose.
//!
//! Specification: [CNI 1.1](https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md),
//! [conventions](https://github.com/containernetworking/cni/blob/main/CONVENTIONS.md).

use std::fs::DirBuilder;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use sandbox::sys::ns;
use tokio::task::spawn_blocking;

use self::bridge::Host;
use self::cni::Cni;

pub use self::attachment::{
    Attachment, Bandwidth, BridgeAttachment, CniAttachment, Dns, INTERFACE, Origin, PodNetwork,
    PortMapping, Protocol,
};
pub use self::config::{BridgeConfig, Config, Forwarding, PrimaryAddress, WhenUnconfigured};
pub use self::error::{
    AddError, AttachError, BandwidthError, BuildError, CheckError, CniAddError, CniDelError,
    CreateNetnsError, DelError, DetachError, GcError, HostError, IntentError, NotReady,
    OutcomeError, ParseListError, PluginError, PluginFailure, PluginStep, RemoveNetnsError,
    StartError, StartHostError,
};
pub use self::subnet::{ParseSubnetError, Subnet};

mod attachment;
mod bandwidth;
mod bridge;
mod choice;
mod cni;
mod config;
mod error;
mod netlink;
mod subnet;

/// The networks of this node.
#[derive(Debug)]
pub struct Network {
    config: Config,
    cni: Cni,
    bridge: Host,
    ready: ArcSwap<Result<(), NotReady>>,
}

impl Network {
    /// Prepares the private directories and reads the CNI configuration. Nothing is made on
    /// the host's network before the first pod.
    ///
    /// Blocking; call at start. What runs on behalf of this value runs in the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    /// - [`StartError::MakeDirectory`] if a private directory cannot be made.
    /// - [`StartError::Bridge`] if there is no thread or no netlink for the bridge.
    pub fn new(config: Config) -> Result<Self, StartError> {
        for path in [&config.cache_dir, &config.netns_dir] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|source| StartError::MakeDirectory { path: path.clone(), source })?;
        }
        let bridge = Host::start(config.bridge.clone()).map_err(StartError::Bridge)?;
        let cni = Cni::new(&config);
        let ready = choice::read(&config).and_then(|choice| choice.check(&cni));
        let ready = ArcSwap::from_pointee(ready);
        Ok(Self { config, cni, bridge, ready })
    }

    /// Tells about pods that are attached already, from their records. Call once, before the
    /// first `add`: the addresses given here are not given away again.
    pub fn restore<'a>(&self, attached: impl IntoIterator<Item = (&'a str, &'a Attachment)>) {
        let bridged = attached
            .into_iter()
            .filter_map(|(id, attachment)| match &attachment.origin {
                Origin::Bridge(bridged) => Some((id.to_owned(), bridged.clone())),
                Origin::Cni(_) => None,
            })
            .collect();
        // A dead thread is reported by every later call.
        let _ = self.bridge.post(move |bridge| bridge.restore(bridged));
    }

    /// Whether pods can be attached, as of the last look at the configuration. Never blocks.
    ///
    /// # Errors
    /// [`NotReady`] says why not, and which configuration file was rejected.
    pub fn status(&self) -> Result<(), NotReady> {
        Result::clone(&self.ready.load())
    }

    /// The path of the network namespace of the pod `id`: `<netns_dir>/<id>`.
    #[must_use]
    pub fn netns_path(&self, id: &str) -> PathBuf {
        self.config.netns_dir.join(id)
    }

    /// Creates and pins the network namespace of the pod `id`, `lo` up.
    ///
    /// # Errors
    /// [`CreateNetnsError`] with the step; nothing is left.
    ///
    /// # Cancel safety
    /// Not safe: the namespace may be created after the future is dropped; remove it.
    pub async fn create_netns(&self, id: &str) -> Result<PathBuf, CreateNetnsError> {
        let path = self.netns_path(id);
        let at = path.clone();
        match spawn_blocking(move || ns::create_pinned_netns(&at)).await {
            Ok(Ok(())) => Ok(path),
            Ok(Err(source)) => Err(CreateNetnsError::Create { path, source }),
            Err(source) => Err(CreateNetnsError::Run { path, source }),
        }
    }

    /// Unpins and removes the network namespace of the pod `id`, if there is one.
    ///
    /// # Errors
    /// [`RemoveNetnsError`] with the step; call again.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn remove_netns(&self, id: &str) -> Result<(), RemoveNetnsError> {
        let path = self.netns_path(id);
        let at = path.clone();
        match spawn_blocking(move || ns::remove_pinned_netns(&at)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(RemoveNetnsError::Remove { path, source }),
            Err(source) => Err(RemoveNetnsError::Run { path, source }),
        }
    }

    /// Attaches a pod. The caller stores the attachment in the pod's record.
    ///
    /// # Errors
    /// [`AddError`] names plugin or step, and cause; what was done is undone.
    ///
    /// # Cancel safety
    /// Not safe: call `del` for a pod whose `add` was dropped.
    ///
    /// # Crash safety
    /// `del` with no attachment releases whatever an interrupted `add` took.
    pub async fn add(&self, pod: &PodNetwork) -> Result<Attachment, AddError> {
        match self.choose().await.map_err(AddError::NotReady)?.list {
            Some(list) => self.add_by_plugins(&list, pod).await,
            None => self.add_to_bridge(pod).await,
        }
    }

    async fn add_by_plugins(
        &self,
        list: &cni::ConfigList,
        pod: &PodNetwork,
    ) -> Result<Attachment, AddError> {
        let (attachment, outcome) = self.cni.add(list, pod).await.map_err(|source| {
            AddError::Cni { pod: pod.id.clone(), network: list.name().to_owned(), source }
        })?;
        let ips = outcome.ordered(self.config.primary);
        Ok(Attachment {
            interface: INTERFACE.to_owned(),
            gateway: ips.iter().find_map(|(_, gateway)| *gateway),
            ips: ips.into_iter().map(|(ip, _)| ip).collect(),
            mac: outcome.mac,
            dns: outcome.dns,
            origin: Origin::Cni(attachment),
        })
    }

    async fn add_to_bridge(&self, pod: &PodNetwork) -> Result<Attachment, AddError> {
        let asked = pod.clone();
        let id = || pod.id.clone();
        let attached = self
            .bridge
            .call(move |bridge| bridge.add(&asked))
            .await
            .map_err(|source| AddError::Host { pod: id(), source })?
            .map_err(|source| AddError::Bridge { pod: id(), source })?;
        Ok(Attachment {
            interface: INTERFACE.to_owned(),
            ips: vec![IpAddr::V4(attached.address)],
            mac: Some(bridge::mac_text(attached.address)),
            gateway: Some(IpAddr::V4(attached.subnet.gateway())),
            dns: Dns::default(),
            origin: Origin::Bridge(attached),
        })
    }

    /// Detaches a pod: with the attachment of its record, or without one when `add` failed or
    /// never came to an end. Idempotent; harmless for what was never attached.
    ///
    /// # Errors
    /// [`DelError`] names plugin or step, and cause; call again.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn del(
        &self,
        pod: &PodNetwork,
        attachment: Option<&Attachment>,
    ) -> Result<(), DelError> {
        let by_plugins = |source| DelError::Cni { pod: pod.id.clone(), source };
        match attachment.map(|attachment| &attachment.origin) {
            Some(Origin::Cni(attached)) => self.cni.del(pod, attached).await.map_err(by_plugins),
            Some(Origin::Bridge(_)) => self.del_from_bridge(pod).await,
            None => {
                self.cni.del_unrecorded(pod).await.map_err(by_plugins)?;
                self.del_from_bridge(pod).await
            }
        }
    }

    async fn del_from_bridge(&self, pod: &PodNetwork) -> Result<(), DelError> {
        let id = || pod.id.clone();
        self.bridge
            .detach(&pod.id)
            .await
            .map_err(|source| DelError::Host { pod: id(), source })?
            .map_err(|source| DelError::Bridge { pod: id(), source })
    }

    /// Asks the plugins whether the attachment is still as they made it.
    ///
    /// # Errors
    /// [`CheckError`] names the plugin, and the cause.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn check(&self, pod: &PodNetwork, attachment: &Attachment) -> Result<(), CheckError> {
        match &attachment.origin {
            Origin::Cni(attached) => {
                let failed = |source| CheckError { pod: pod.id.clone(), source };
                self.cni.check(pod, attached).await.map_err(failed)
            }
            Origin::Bridge(_) => Ok(()),
        }
    }

    /// Releases everything that belongs to no pod of `live` (pod ids, those being attached
    /// right now included): interrupted attachments, interfaces, port mappings, and by the GC
    /// verb what plugins hold. Call it after [`Network::restore`], and now and then.
    ///
    /// # Errors
    /// [`GcError`] with the first failure; the rest was tried all the same.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn gc(&self, live: &[String]) -> Result<(), GcError> {
        let kept = live.to_vec();
        let bridge = match self.bridge.call(move |bridge| bridge.gc(&kept)).await {
            Ok(collected) => collected.map_err(GcError::Bridge),
            Err(error) => Err(GcError::Host(error)),
        };
        let abandoned = self.gc_abandoned(live).await;
        let plugins = match self.choose().await {
            Ok(choice::Choice { list: Some(list) }) => self.cni.gc(&list, live).await,
            _ => Ok(()),
        };
        bridge.and(abandoned).and(plugins.map_err(GcError::Cni))
    }

    /// DEL for attachments that were begun and belong to no pod.
    async fn gc_abandoned(&self, live: &[String]) -> Result<(), GcError> {
        let mut first = Ok(());
        for id in self.cni.abandoned(live).await.map_err(GcError::Cni)? {
            let netns = Some(self.netns_path(&id));
            let pod = PodNetwork { id, netns, ..PodNetwork::default() };
            first = first.and(self.cni.del_unrecorded(&pod).await.map_err(GcError::Cni));
        }
        first
    }

    /// Gives the host back what the built-in bridge made, if no pod is attached to it.
    ///
    /// # Errors
    /// [`GcError`] with the step; call again.
    ///
    /// # Cancel safety
    /// Safe; call again.
    pub async fn shutdown(&self) -> Result<(), GcError> {
        self.bridge
            .call(bridge::Bridge::shutdown)
            .await
            .map_err(GcError::Host)?
            .map_err(GcError::Bridge)
    }

    /// Looks at the configuration now, for an attachment.
    async fn choose(&self) -> Result<choice::Choice, NotReady> {
        let config = self.config.clone();
        match spawn_blocking(move || choice::read(&config)).await {
            Ok(choice) => choice,
            Err(error) => Err(NotReady::new(format!("reading the CNI configuration: {error}"))),
        }
    }

    fn set_ready(&self, ready: Result<(), NotReady>) {
        if **self.ready.load() != ready {
            self.ready.store(Arc::new(ready));
        }
    }
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
