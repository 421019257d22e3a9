//! What is stored of pods and containers: the request as received, and a record.
//!
//! The request is the encoded CRI message and is never edited. The record is JSON with a
//! version; fields are added with a default, so that a record of an older daemon can be
//! read, and unknown fields are ignored, so that one of a newer daemon can be too.
//!
//! This is the one place of `pods`, besides `spec`, that names CRI messages; the others
//! use the words below.

/// Limits, as stored.
mod resources;

use std::collections::BTreeMap;
use std::path::PathBuf;

use cri_api::v1;
use prost::Message as _;
use sandbox::lifecycle::container::ContainerState;
use sandbox::lifecycle::pod::{PodState, StopCause};
use sandbox::protocol::UserNamespace;
use serde::{Deserialize, Serialize};

use crate::cdi;
use crate::network::{Attachment, Bandwidth, Dns, PodNetwork, PortMapping, Protocol};

/// A pod's configuration, as received.
pub type PodConfig = v1::PodSandboxConfig;
/// A container's configuration, as received.
pub type ContainerConfig = v1::ContainerConfig;
/// Limits, as received.
pub type RequestedResources = v1::LinuxContainerResources;

pub use resources::{PodResources, Resources};

/// The version of records that this daemon writes.
const VERSION: u32 = 1;

/// A row that does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The stored request is not the message.
    #[error("decode the request")]
    Request(#[source] prost::DecodeError),
    /// The stored request lacks its configuration.
    #[error("the request has no configuration")]
    NoConfig,
    /// The record is not JSON of its kind.
    #[error("decode the record")]
    Record(#[source] serde_json::Error),
    /// The record cannot be written as JSON.
    #[error("encode the record")]
    Encode(#[source] serde_json::Error),
}

/// What `RunPodSandbox` was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct PodRequest {
    /// The configuration.
    pub config: PodConfig,
    /// The runtime handler; empty: the default.
    pub runtime_handler: String,
}

/// What `CreateContainer` was asked; the pod's configuration that came with it is not
/// kept a second time.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRequest {
    /// The configuration.
    pub config: ContainerConfig,
}

/// What is remembered of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    version: u32,
    /// The boot in which it was made (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: String,
    /// Nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Where it is in its life.
    pub state: PodState,
    /// Its network, once attached.
    #[serde(default)]
    pub attachment: Option<Attachment>,
    /// What its cgroup was last said to be limited to; none: as in the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<PodResources>,
    /// The SELinux level of its processes and files, on a node with SELinux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selinux_level: Option<String>,
    /// What is not done with it yet: a daemon that finds this removes the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
}

/// Why a pod is of no use to anybody yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfinished {
    /// Its containers are being made from a checkpoint.
    Restore,
}

/// What is remembered of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    version: u32,
    /// Nanoseconds since the epoch.
    pub created_at_ns: i64,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Why it did not start, or what there is to say of its end.
    #[serde(default)]
    pub message: String,
    /// Its image, as it was at creation.
    pub image: ImageUsed,
    /// The images that it mounts, by path in the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image_mounts: BTreeMap<String, ImageUsed>,
    /// The log, if it has one.
    #[serde(default)]
    pub log_path: Option<PathBuf>,
    /// Its cgroup.
    pub cgroup_path: String,
    /// The user it runs as.
    #[serde(default)]
    pub user: User,
    /// The number of its stop signal.
    pub stop_signal: i32,
    /// The limits that hold, or will when it is started; none: in a record of a daemon
    /// that could not change them, those of the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// The image of a container. Kept, since the image may be removed while the container
/// lives, and the kubelet rejects a status without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUsed {
    /// Its id on this node.
    pub id: String,
    /// A tag of it, else the id.
    pub name: String,
    /// `repository@digest`, else the id.
    pub reference: String,
}

/// A resolved user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl PodRequest {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        v1::RunPodSandboxRequest {
            config: Some(self.config.clone()),
            runtime_handler: self.runtime_handler.clone(),
        }
        .encode_to_vec()
    }

    /// From what is stored.
    ///
    /// # Errors
    /// The bytes are no such request.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let request = v1::RunPodSandboxRequest::decode(bytes).map_err(RecordError::Request)?;
        let config = request.config.ok_or(RecordError::NoConfig)?;
        Ok(Self { config, runtime_handler: request.runtime_handler })
    }

    /// The pod's network as the network component wants it.
    #[must_use]
    pub fn network(&self, id: &str, netns: Option<PathBuf>) -> PodNetwork {
        let metadata = self.config.metadata.clone().unwrap_or_default();
        let dns = self.config.dns_config.clone().unwrap_or_default();
        PodNetwork {
            id: id.to_owned(),
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            netns,
            port_mappings: self.config.port_mappings.iter().filter_map(port_mapping).collect(),
            dns: Dns {
                nameservers: dns.servers,
                domain: None,
                search: dns.searches,
                options: dns.options,
            },
            bandwidth: Bandwidth::default(),
            cgroup_path: self.config.linux.as_ref().map(|linux| linux.cgroup_parent.clone()),
            annotations: self.config.annotations.clone().into_iter().collect(),
        }
    }

    /// How the pod's namespaces are shared; absent options mean "the pod's own".
    #[must_use]
    pub fn namespaces(&self) -> v1::NamespaceOption {
        super::spec::pod_namespaces(&self.config)
    }

    /// Its user namespace, if it has one of its own.
    #[must_use]
    pub fn user_namespace(&self) -> Option<UserNamespace> {
        super::spec::user_namespace(&self.namespaces())
    }

    /// Whether the pod has a network namespace of its own.
    #[must_use]
    pub fn has_own_network(&self) -> bool {
        self.namespaces().network() != v1::NamespaceMode::Node
    }

    /// Whether the pod has an IPC namespace of its own.
    #[must_use]
    pub fn has_own_ipc(&self) -> bool {
        self.namespaces().ipc() != v1::NamespaceMode::Node
    }

    /// Whether its containers share a PID namespace.
    #[must_use]
    pub fn shares_pids(&self) -> bool {
        self.namespaces().pid() == v1::NamespaceMode::Pod
    }

    /// The cgroup that the kubelet made for the pod, if it did.
    #[must_use]
    pub fn cgroup_parent(&self) -> Option<&str> {
        let linux = self.config.linux.as_ref()?;
        Some(linux.cgroup_parent.as_str()).filter(|parent| !parent.is_empty())
    }

    /// The parts of an SELinux label that are asked for.
    #[must_use]
    pub fn selinux_options(&self) -> Option<&v1::SeLinuxOption> {
        let linux = self.config.linux.as_ref()?;
        linux.security_context.as_ref()?.selinux_options.as_ref()
    }

    /// The pod's host name: the node's own with the host's network, else the one asked
    /// for, else the pod's name.
    #[must_use]
    pub fn hostname(&self) -> String {
        if !self.has_own_network() {
            let own = rustix::system::uname();
            return own.nodename().to_string_lossy().into_owned();
        }
        if self.config.hostname.is_empty() {
            let name = self.config.metadata.as_ref().map(|metadata| metadata.name.clone());
            let name: String = name.unwrap_or_default().chars().take(63).collect();
            return name;
        }
        self.config.hostname.clone()
    }

    /// The name that only one pod can have.
    #[must_use]
    pub fn unique_name(&self) -> String {
        let metadata = self.config.metadata.clone().unwrap_or_default();
        let v1::PodSandboxMetadata { name, uid, namespace, attempt } = metadata;
        format!("{name}_{namespace}_{uid}_{attempt}")
    }
}

impl ContainerRequest {
    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.config.encode_to_vec()
    }

    /// From what is stored.
    ///
    /// # Errors
    /// The bytes are no such request.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let config = ContainerConfig::decode(bytes).map_err(RecordError::Request)?;
        Ok(Self { config })
    }

    /// Whether both ask for the same container. The order of variables of different names
    /// means nothing, and the kubelet's is another one each time.
    #[must_use]
    pub fn means_the_same(&self, other: &Self) -> bool {
        let ordered = |request: &Self| {
            let mut config = request.config.clone();
            config.envs.sort_by(|one, other| one.key.cmp(&other.key));
            config
        };
        ordered(self) == ordered(other)
    }

    /// The name that only one container of a pod can have.
    #[must_use]
    pub fn unique_name(&self) -> String {
        let metadata = self.config.metadata.clone().unwrap_or_default();
        format!("{}_{}", metadata.name, metadata.attempt)
    }

    /// The name that its pod knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str())
    }

    /// The image, as asked for.
    #[must_use]
    pub fn image(&self) -> &str {
        self.config.image.as_ref().map_or("", |image| image.image.as_str())
    }

    /// The limits asked for, if it has any.
    #[must_use]
    pub fn resources(&self) -> Option<&RequestedResources> {
        self.config.linux.as_ref()?.resources.as_ref()
    }

    /// The full names of the CDI devices that it asks for, by field or annotation.
    #[must_use]
    pub fn cdi_devices(&self) -> Vec<String> {
        let mut names: Vec<String> =
            self.config.cdi_devices.iter().map(|device| device.name.clone()).collect();
        names.extend(cdi::names_in_annotations(self.config.annotations.iter()));
        names
    }

    /// The user that it runs as.
    ///
    /// # Errors
    /// The image does not know the user, or the request contradicts itself.
    pub fn resolve_user(
        &self,
        image: &oci_spec::image::ImageConfiguration,
        etc: super::spec::UserFiles<'_>,
    ) -> Result<User, super::spec::UserError> {
        let security = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let image_user = image.config().as_ref().and_then(|config| config.user().as_deref());
        let user = super::spec::resolve_user(security, image_user.unwrap_or_default(), etc)?;
        Ok(User { uid: user.uid, gid: user.gid, groups: user.groups })
    }

    /// Whether it has namespaces of processes of its own, and whose if not.
    #[must_use]
    pub fn pid_mode(&self) -> sandbox::protocol::PidMode {
        use sandbox::protocol::PidMode;
        let options = super::spec::container_namespaces(&self.config);
        match options.pid() {
            v1::NamespaceMode::Pod => PidMode::Pod(true),
            v1::NamespaceMode::Container => PidMode::Container(true),
            v1::NamespaceMode::Node => PidMode::Node(true),
            v1::NamespaceMode::Target => PidMode::Target(options.target_id),
        }
    }
}

impl ContainerRequest {
    /// Whether its PID namespace is its own or its pod's.
    #[must_use]
    pub fn is_within_pod(&self) -> bool {
        use sandbox::protocol::PidMode;
        matches!(self.pid_mode(), PidMode::Container(_) | PidMode::Pod(_))
    }
}

fn port_mapping(mapping: &v1::PortMapping) -> Option<PortMapping> {
    let port = |number: i32| u16::try_from(number).ok();
    Some(PortMapping {
        protocol: match mapping.protocol() {
            v1::Protocol::Tcp => Protocol::Tcp,
            v1::Protocol::Udp => Protocol::Udp,
            v1::Protocol::Sctp => Protocol::Sctp,
        },
        container_port: port(mapping.container_port)?,
        host_port: port(mapping.host_port).filter(|port| *port > 0)?,
        host_ip: mapping.host_ip.parse().ok(),
    })
}

impl PodRecord {
    /// Of a pod that is about to be prepared.
    #[must_use]
    pub fn new(boot_id: String, created_at_ns: i64, state: PodState) -> Self {
        Self {
            version: VERSION,
            boot_id,
            created_at_ns,
            state,
            attachment: None,
            resources: None,
            selinux_level: None,
            unfinished: None,
        }
    }

    /// As stored.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        serde_json::to_vec(self).map_err(RecordError::Encode)
    }

    /// From what is stored.
    ///
    /// # Errors
    /// The bytes are no such record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        serde_json::from_slice(bytes).map_err(RecordError::Record)
    }

    /// Why the pod went down, if it did.
    #[must_use]
    pub fn stop_cause(&self) -> Option<StopCause> {
        match &self.state {
            PodState::Stopping { cause, .. } | PodState::Stopped { cause } => Some(*cause),
            PodState::Preparing { .. } | PodState::Ready { .. } | PodState::Removing => None,
        }
    }
}

impl ContainerRecord {
    /// Of a container that is about to be created.
    #[must_use]
    pub fn new(
        created_at_ns: i64,
        image: ImageUsed,
        cgroup_path: String,
        stop_signal: i32,
    ) -> Self {
        Self {
            version: VERSION,
            created_at_ns,
            state: ContainerState::Creating,
            message: String::new(),
            image,
            log_path: None,
            cgroup_path,
            user: User::default(),
            stop_signal,
            resources: None,
            image_mounts: BTreeMap::new(),
        }
    }

    /// As stored.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        serde_json::to_vec(self).map_err(RecordError::Encode)
    }

    /// From what is stored.
    ///
    /// # Errors
    /// The bytes are no such record.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        serde_json::from_slice(bytes).map_err(RecordError::Record)
    }
}
