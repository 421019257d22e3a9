//! All pods of this node: by id, by the beginning of an id, by name, by container.
//!
//! Reading is wait-free: the tables are replaced as a whole. Writing is rare (a pod or a
//! container comes or goes) and short.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;

use super::driver::Command;
use super::events::Events;
use super::node::now_ns;
use super::view::{ContainerView, PodView};

/// One pod, for everybody but its driver.
#[derive(Debug)]
pub(super) struct PodHandle {
    pub(super) id: String,
    pub(super) commands: mpsc::UnboundedSender<Command>,
    pub(super) view: ArcSwap<PodView>,
    pub(super) sandbox: arc_swap::ArcSwapOption<sandbox::controller::Sandbox>,
}

impl PodHandle {
    /// Shows everybody a new picture, and tells what it shows to have happened.
    pub(super) fn show(&self, mut view: PodView, events: &Events) {
        let old = self.view.load_full();
        view.at_ns = now_ns().max(old.at_ns.saturating_add(1));
        let new = Arc::new(view);
        self.view.store(Arc::clone(&new));
        events.tell(Some(&old), Some(&new), new.at_ns);
    }

    /// Tells that the pod is forgotten.
    pub(super) fn show_nothing(&self, events: &Events) {
        let old = self.view.load_full();
        events.tell(Some(&old), None, now_ns().max(old.at_ns.saturating_add(1)));
    }
}

/// An id, or the beginning of one, that names not exactly one thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// Nothing has it.
    #[error("no {kind} {id}")]
    NotFound {
        /// "pod" or "container".
        kind: &'static str,
        /// As asked.
        id: String,
    },
    /// Several have it.
    #[error("{id} is the beginning of the ids of several {kind}s")]
    Ambiguous {
        /// "pod" or "container".
        kind: &'static str,
        /// As asked.
        id: String,
    },
    /// It is empty.
    #[error("the {kind} id is empty")]
    Empty {
        /// "pod" or "container".
        kind: &'static str,
    },
}

type Table = ArcSwap<BTreeMap<String, Arc<PodHandle>>>;

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pods: Table,
    /// Pods by the ids of their containers.
    containers: Table,
    /// Pods by unique name.
    names: Mutex<BTreeMap<String, Arc<PodHandle>>>,
}

impl Registry {
    /// Takes the name for a pod.
    ///
    /// # Errors
    /// The pod that has it.
    pub(super) fn reserve(
        &self,
        name: &str,
        handle: &Arc<PodHandle>,
    ) -> Result<(), Arc<PodHandle>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(name) {
            Some(other) => Err(Arc::clone(other)),
            None => {
                names.insert(name.to_owned(), Arc::clone(handle));
                Ok(())
            }
        }
    }

    pub(super) fn release(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// Inserts pods, with the containers that their pictures show.
    pub(super) fn insert(&self, handles: &[Arc<PodHandle>]) {
        let (mut pods, mut containers) = (Vec::new(), Vec::new());
        for handle in handles {
            let view = handle.view.load();
            let entry = |id: &String| (id.clone(), Arc::clone(handle));
            pods.push(entry(&handle.id));
            containers.extend(view.containers.keys().map(entry));
        }
        add(&self.pods, &pods);
        add(&self.containers, &containers);
    }

    pub(super) fn remove(&self, id: &str) {
        take(&self.pods, id);
    }

    pub(super) fn insert_container(&self, container: &str, handle: &Arc<PodHandle>) {
        add(&self.containers, &[(container.to_owned(), Arc::clone(handle))]);
    }

    pub(super) fn remove_container(&self, container: &str) {
        take(&self.containers, container);
    }

    pub(super) fn all(&self) -> Arc<BTreeMap<String, Arc<PodHandle>>> {
        self.pods.load_full()
    }

    /// The pod whose id is or begins with `id`, listed or not.
    pub(super) fn pod(&self, id: &str) -> Result<Arc<PodHandle>, FindError> {
        find(&self.pods.load(), "pod", id).map(|(_, handle)| handle)
    }

    /// The container whose id is or begins with `id`, with its pod.
    pub(super) fn container(
        &self,
        id: &str,
    ) -> Result<(Arc<PodHandle>, Arc<ContainerView>), FindError> {
        let (full, handle) = find(&self.containers.load(), "container", id)?;
        let view = handle.view.load().containers.get(&full).cloned();
        let missing = || FindError::NotFound { kind: "container", id: id.to_owned() };
        view.map(|view| (handle, view)).ok_or_else(missing)
    }
}

/// Adds all at once: each change copies the table.
fn add(table: &Table, entries: &[(String, Arc<PodHandle>)]) {
    table.rcu(|old| {
        let mut new = BTreeMap::clone(old);
        new.extend(entries.iter().cloned());
        new
    });
}

fn take(table: &Table, key: &str) {
    table.rcu(|old| {
        let mut new = BTreeMap::clone(old);
        new.remove(key);
        new
    });
}

fn find(
    table: &BTreeMap<String, Arc<PodHandle>>,
    kind: &'static str,
    id: &str,
) -> Result<(String, Arc<PodHandle>), FindError> {
    if id.is_empty() {
        return Err(FindError::Empty { kind });
    }
    let mut matching = table.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
    let Some((key, handle)) = matching.next() else {
        return Err(FindError::NotFound { kind, id: id.to_owned() });
    };
    if key != id && matching.next().is_some() {
        return Err(FindError::Ambiguous { kind, id: id.to_owned() });
    }
    Ok((key.clone(), Arc::clone(handle)))
}
