//! The CNI caller: executes network configuration lists by running plugins.
//!
//! ```text
//! conflist  the configuration directory, lists, versions
//! request   what one plugin is told: environment, configuration with capabilities
//! plugin    one process: find, run, bound, kill
//! outcome   results of every version, addresses of the pod
//! intent    the file that is written before ADD
//! ```
//!
//! Invariants:
//! - DEL uses the list as it was at ADD, never the one in the directory now.
//! - An intent is on disk before the first plugin of an ADD runs and until DEL succeeded.
//! - An ADD that fails half way is followed by DEL of the whole list.
//!
//! Specification: [CNI 1.1](https://github.com/containernetworking/cni/blob/spec-v1.1.0/SPEC.md),
//! section 3.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use self::conflist::Version;
use self::plugin::{Plugins, Verb};
use self::request::Target;
use super::attachment::{CniAttachment, PodNetwork};
use super::config::Config;

pub use self::conflist::ParseListError;
pub(super) use self::conflist::{ConfigList, Directory, Found, Rejected};
pub use self::error::{CniAddError, CniDelError, PluginStep};
pub use self::intent::IntentError;
pub(super) use self::outcome::Outcome;
pub use self::outcome::OutcomeError;
pub use self::plugin::{PluginError, PluginFailure};

mod conflist;
mod error;
mod intent;
mod outcome;
mod plugin;
mod request;

/// CHECK, and the result of ADD for DEL, came with this version.
const WITH_CHECK: Version = Version::new(0, 4, 0);
/// GC and STATUS came with this version.
const WITH_GC: Version = Version::new(1, 1, 0);

/// Executes configuration lists.
#[derive(Debug)]
pub(super) struct Cni {
    plugins: Plugins,
    cache_dir: PathBuf,
}

impl Cni {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            plugins: Plugins::new(
                config.plugin_dirs.clone(),
                config.plugins_max,
                config.plugin_timeout,
            ),
            cache_dir: config.cache_dir.clone(),
        }
    }

    /// The plugins of the list that are not installed.
    pub(super) fn missing(&self, list: &ConfigList) -> Vec<String> {
        let kinds = list.plugins().iter().map(|plugin| plugin.kind());
        kinds.filter(|kind| self.plugins.find(kind).is_err()).map(str::to_owned).collect()
    }

    /// Fails if a plugin of the list is not installed: then none is run, so that there is
    /// nothing that a DEL, which the same plugin would fail, had to undo.
    fn all_found(&self, list: &ConfigList) -> Result<(), CniAddError> {
        for (nth, plugin) in list.plugins().iter().enumerate() {
            self.plugins.find(plugin.kind()).map_err(|source| CniAddError::Plugin {
                step: PluginStep::new(Verb::Add, list, nth),
                source,
            })?;
        }
        Ok(())
    }

    /// Attaches a pod to the network of `list`.
    pub(super) async fn add(
        &self,
        list: &ConfigList,
        pod: &PodNetwork,
    ) -> Result<(CniAttachment, Outcome), CniAddError> {
        if pod.netns.is_none() {
            return Err(CniAddError::NoNetns);
        }
        self.all_found(list)?;
        let mut attachment = CniAttachment {
            config: list.document().clone(),
            capabilities: request::capabilities(pod),
            args: request::args(pod)?,
            result: None,
        };
        intent::write(&self.cache_dir, &pod.id, &attachment).await.map_err(CniAddError::Intent)?;
        let added = self.add_each(list, pod, &attachment).await;
        let added = added.and_then(|result| {
            let outcome = Outcome::parse(&result).and_then(Outcome::with_addresses);
            Ok((result, outcome.map_err(CniAddError::Outcome)?))
        });
        match added {
            Ok((result, outcome)) => {
                attachment.result = Some(result);
                Ok((attachment, outcome))
            }
            Err(error) => {
                // The intent stays when this fails, and the caller's `del` tries again.
                if let Err(undo) = self.del(pod, &attachment).await {
                    let chain = crate::network::error::chain(&undo);
                    tracing::warn!(pod.id = %pod.id, error = %chain, "undoing a failed CNI ADD");
                }
                Err(error)
            }
        }
    }

    async fn add_each(
        &self,
        list: &ConfigList,
        pod: &PodNetwork,
        attachment: &CniAttachment,
    ) -> Result<Value, CniAddError> {
        let target = Target::of(pod, &attachment.args);
        let mut previous = None;
        for (nth, plugin) in list.plugins().iter().enumerate() {
            let step = || PluginStep::new(Verb::Add, list, nth);
            let config = request::config(list, plugin, &attachment.capabilities, previous.as_ref());
            let printed = self
                .plugins
                .run(plugin.kind(), Verb::Add, &target, &config)
                .await
                .map_err(|source| CniAddError::Plugin { step: step(), source })?;
            let result = outcome::as_version(printed, list.version())
                .map_err(|source| CniAddError::Result { step: step(), source })?;
            previous = Some(result);
        }
        previous.ok_or(CniAddError::NoPlugins)
    }

    /// Detaches a pod with the list, arguments and result of its ADD; an absent namespace is
    /// told to the plugins as such.
    pub(super) async fn del(
        &self,
        pod: &PodNetwork,
        attachment: &CniAttachment,
    ) -> Result<(), CniDelError> {
        let list = ConfigList::from_document(attachment.config.clone())
            .map_err(CniDelError::StoredList)?;
        let mut target = Target::of(pod, &attachment.args);
        target.forget_absent_netns();
        let previous = attachment.result.as_ref().filter(|_| list.version() >= WITH_CHECK).cloned();
        for (nth, plugin) in list.plugins().iter().enumerate().rev() {
            let config =
                request::config(&list, plugin, &attachment.capabilities, previous.as_ref());
            self.plugins.run(plugin.kind(), Verb::Del, &target, &config).await.map_err(
                |source| CniDelError::Plugin {
                    step: PluginStep::new(Verb::Del, &list, nth),
                    source,
                },
            )?;
        }
        intent::remove(&self.cache_dir, &pod.id).await.map_err(CniDelError::Intent)
    }

    /// Detaches a pod whose ADD has no recorded end; nothing if none was begun.
    pub(super) async fn del_unrecorded(&self, pod: &PodNetwork) -> Result<(), CniDelError> {
        match intent::read(&self.cache_dir, &pod.id).await.map_err(CniDelError::Intent)? {
            Some(begun) => self.del(pod, &begun).await,
            None => Ok(()),
        }
    }

    /// Asks the plugins whether the attachment is as they made it, if list and version allow.
    pub(super) async fn check(
        &self,
        pod: &PodNetwork,
        attachment: &CniAttachment,
    ) -> Result<(), CniDelError> {
        let list = ConfigList::from_document(attachment.config.clone())
            .map_err(CniDelError::StoredList)?;
        if list.version() < WITH_CHECK || list.disables_check() {
            return Ok(());
        }
        let target = Target::of(pod, &attachment.args);
        for (nth, plugin) in list.plugins().iter().enumerate() {
            let previous = attachment.result.as_ref();
            let config = request::config(&list, plugin, &attachment.capabilities, previous);
            self.plugins.run(plugin.kind(), Verb::Check, &target, &config).await.map_err(
                |source| CniDelError::Plugin {
                    step: PluginStep::new(Verb::Check, &list, nth),
                    source,
                },
            )?;
        }
        Ok(())
    }

    /// Asks the plugins whether they would take an ADD now.
    pub(super) async fn status(&self, list: &ConfigList) -> Result<(), CniDelError> {
        if list.version() < WITH_GC {
            return Ok(());
        }
        self.each(list, Verb::Status, &[]).await
    }

    /// Tells the plugins which attachments exist, so that they release what belongs to none.
    pub(super) async fn gc(&self, list: &ConfigList, live: &[String]) -> Result<(), CniDelError> {
        if list.version() < WITH_GC || list.disables_gc() {
            return Ok(());
        }
        let valid: Vec<Value> = live
            .iter()
            .map(|pod| json!({"containerID": pod, "ifname": super::INTERFACE}))
            .collect();
        // Older drafts of the specification and of plugins used the second key.
        let keys = ["cni.dev/valid-attachments", "cni.dev/attachments"]
            .map(|key| (key, Value::from(valid.clone())));
        self.each(list, Verb::Gc, &keys).await
    }

    /// Runs every plugin of a list for a verb that is about no pod.
    async fn each(
        &self,
        list: &ConfigList,
        verb: Verb,
        keys: &[(&str, Value)],
    ) -> Result<(), CniDelError> {
        for (nth, plugin) in list.plugins().iter().enumerate() {
            let mut config = request::config(list, plugin, &BTreeMap::new(), None);
            if let Value::Object(config) = &mut config {
                config.extend(keys.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
            }
            self.plugins.run(plugin.kind(), verb, &Target::none(), &config).await.map_err(
                |source| CniDelError::Plugin { step: PluginStep::new(verb, list, nth), source },
            )?;
        }
        Ok(())
    }

    /// The pods with an intent that are not in `live`.
    pub(super) async fn abandoned(&self, live: &[String]) -> Result<Vec<String>, CniDelError> {
        let mut pods = intent::list(&self.cache_dir).await.map_err(CniDelError::Intent)?;
        pods.retain(|pod| !live.contains(pod));
        Ok(pods)
    }
}
