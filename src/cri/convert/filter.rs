//! Which pods and containers a filter means.
//!
//! Every criterion that is set must hold. An id may be the beginning of one. A filter that
//! matches nothing is no error: the list is empty.

use std::collections::HashMap;

use cri_api::v1;

use super::request::{InvalidRequest, state};

type Labels = HashMap<String, String>;

/// A filter for pods that is known to be meaningful.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pods<'a> {
    id: &'a str,
    state: Option<v1::PodSandboxState>,
    labels: Option<&'a Labels>,
}

impl<'a> Pods<'a> {
    /// Of a list request.
    ///
    /// # Errors
    /// [`InvalidRequest::Enum`] if the state is none that exists.
    pub fn of_list(filter: Option<&'a v1::PodSandboxFilter>) -> Result<Self, InvalidRequest> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        let wanted = filter.state.map(|wanted| state("filter.state", wanted.state)).transpose()?;
        Ok(Self { id: &filter.id, state: wanted, labels: Some(&filter.label_selector) })
    }

    /// Of a statistics request.
    pub fn of_stats(filter: Option<&'a v1::PodSandboxStatsFilter>) -> Self {
        filter.map_or_else(Self::default, |filter| Self {
            id: &filter.id,
            state: None,
            labels: Some(&filter.label_selector),
        })
    }

    /// Whether it means a pod with this id, state and labels.
    pub fn means(&self, id: &str, state: v1::PodSandboxState, labels: &Labels) -> bool {
        id.starts_with(self.id)
            && self.state.is_none_or(|wanted| wanted == state)
            && self.labels.is_none_or(|selector| selects(selector, labels))
    }
}

/// A filter for containers that is known to be meaningful.
#[derive(Debug, Clone, Copy, Default)]
pub struct Containers<'a> {
    id: &'a str,
    pod: &'a str,
    state: Option<v1::ContainerState>,
    labels: Option<&'a Labels>,
}

impl<'a> Containers<'a> {
    /// Of a list request.
    ///
    /// # Errors
    /// [`InvalidRequest::Enum`] if the state is none that exists.
    pub fn of_list(filter: Option<&'a v1::ContainerFilter>) -> Result<Self, InvalidRequest> {
        let Some(filter) = filter else { return Ok(Self::default()) };
        let wanted = filter.state.map(|wanted| state("filter.state", wanted.state)).transpose()?;
        Ok(Self {
            id: &filter.id,
            pod: &filter.pod_sandbox_id,
            state: wanted,
            labels: Some(&filter.label_selector),
        })
    }

    /// Of a statistics request.
    pub fn of_stats(filter: Option<&'a v1::ContainerStatsFilter>) -> Self {
        filter.map_or_else(Self::default, |filter| Self {
            id: &filter.id,
            pod: &filter.pod_sandbox_id,
            state: None,
            labels: Some(&filter.label_selector),
        })
    }

    /// Whether it means any container of the pod, so that a list can skip whole pods.
    pub fn means_pod(&self, pod: &str) -> bool {
        pod.starts_with(self.pod)
    }

    /// Whether it means a container with this id, pod, state and labels.
    pub fn means(&self, id: &str, pod: &str, state: v1::ContainerState, labels: &Labels) -> bool {
        id.starts_with(self.id)
            && self.means_pod(pod)
            && self.state.is_none_or(|wanted| wanted == state)
            && self.labels.is_none_or(|selector| selects(selector, labels))
    }
}

/// Every pair of the selector is among the labels.
fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests;
