//! Where the cgroups of pods and containers are, and who makes them.
//!
//! With the cgroupfs driver orlop makes every group, below those that the kubelet made:
//!
//! ```text
//! <parent>/<container>
//! ```
//!
//! With the systemd driver everything down to a slice is systemd's. Each pod has one scope there,
//! delegated to orlop:
//!
//! ```text
//! <slice>/cri-orlop-<pod>.scope/shim
//! <slice>/cri-orlop-<pod>.scope/<container>
//! ```
//!
//! Invariants:
//! - The shim is in the scope before it does anything, and the scope is there until the shim
//!   ends, or longer: it is stopped when its group is removed. A container's group outlives
//!   the container, and with it what the kernel counted there ("out of memory").
//! - systemd knows nothing of the groups in the scope. What it sets again on
//!   `systemctl daemon-reload`, devices above all, it sets on the scope.
//! - The last element of a container's path is its id: the kubelet's statistics look for it.
//!
//! # References
//! - [Control group APIs and delegation](https://systemd.io/CGROUP_DELEGATION/)

use std::time::Duration;

use rustix::process::Pid;
use sandbox::cgroup::{Cgroup, CgroupError, CgroupPath, Hierarchies, Mode};

use super::error::RequestError;
use crate::systemd::{self, Scope, SystemdError, slice_cgroup};

/// How long putting a shim in its place may take.
pub(super) const SETTLE_DEADLINE: Duration = systemd::PATIENCE;

/// The group of cgroupfs pods that name no parent.
const PARENT: &str = "/orlop";
/// The slice of systemd pods that name no parent.
const SLICE: &str = "orlop.slice";
/// The group of a pod's shim in its scope.
const SHIM: &str = "shim";

/// Who makes the groups of pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupDriver {
    /// orlop, in the cgroup file system.
    Cgroupfs,
    /// systemd, down to a pod's scope.
    Systemd,
}

/// Why the groups of pods cannot be made on this machine as configured.
#[derive(Debug, thiserror::Error)]
pub enum CgroupsError {
    /// The hierarchies.
    #[error(transparent)]
    Detect(#[from] sandbox::cgroup::DetectError),
    /// The systemd driver elsewhere.
    #[error("the cgroup driver systemd needs cgroup v2 alone and systemd as process 1")]
    NoSystemd,
    /// The configured parent.
    #[error("`pods.cgroup_parent` is {parent:?}, and the cgroup driver {driver} needs {needed}")]
    Parent {
        /// As configured.
        parent: String,
        /// The driver in use.
        driver: &'static str,
        /// What it needs.
        needed: &'static str,
    },
}

/// Why a pod's shim is not in a group of its own.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettleError {
    #[error(transparent)]
    Scope(#[from] SystemdError),
    #[error(transparent)]
    Group(#[from] CgroupError),
    #[error("{0:?} cannot be the name of a cgroup")]
    Name(String),
}

/// The groups of this node.
#[derive(Debug, Clone)]
pub(super) struct Cgroups {
    hierarchies: Hierarchies,
    driver: CgroupDriver,
    /// Where pods go that name no parent, in the driver's terms.
    parent: String,
}

impl CgroupDriver {
    /// As the kubelet calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cgroupfs => "cgroupfs",
            Self::Systemd => "systemd",
        }
    }

    /// What a parent must be.
    fn needed(self) -> &'static str {
        match self {
            Self::Cgroupfs => "a path that is not a slice of systemd's",
            Self::Systemd => "the name of a slice",
        }
    }

    /// Whether this driver can put a pod below `parent`.
    fn takes(self, parent: &str) -> bool {
        match self {
            Self::Cgroupfs => !parent.ends_with(".slice"),
            Self::Systemd => slice_cgroup(slice_name(parent)).is_ok(),
        }
    }
}

impl Cgroups {
    /// The hierarchies of this node.
    pub(super) fn hierarchies(&self) -> &Hierarchies {
        &self.hierarchies
    }

    /// Looks at the machine. Without a driver, it is the one that the machine is made for.
    pub(super) fn detect(
        driver: Option<CgroupDriver>,
        parent: Option<&str>,
    ) -> Result<Self, CgroupsError> {
        let hierarchies = Hierarchies::detect()?;
        let has_systemd = hierarchies.mode() == Mode::V2 && systemd::is_running();
        let driver = match (driver, has_systemd) {
            (Some(CgroupDriver::Systemd), false) => return Err(CgroupsError::NoSystemd),
            (Some(driver), _) => driver,
            (None, true) => CgroupDriver::Systemd,
            (None, false) => CgroupDriver::Cgroupfs,
        };
        let default = match driver {
            CgroupDriver::Cgroupfs => PARENT,
            CgroupDriver::Systemd => SLICE,
        };
        let parent = parent.unwrap_or(default).to_owned();
        if !driver.takes(&parent) {
            let (driver, needed) = (driver.name(), driver.needed());
            return Err(CgroupsError::Parent { parent, driver, needed });
        }
        Ok(Self { hierarchies, driver, parent })
    }

    pub(super) fn driver(&self) -> CgroupDriver {
        self.driver
    }

    /// Where pods go that name no parent, in the driver's terms.
    pub(super) fn parent(&self) -> &str {
        &self.parent
    }

    /// Refuses a pod that was made for the other driver, before anything is made for it.
    pub(super) fn check(&self, parent: Option<&str>) -> Result<(), RequestError> {
        match parent {
            Some(parent) if !self.driver.takes(parent) => Err(RequestError::CgroupParent {
                parent: parent.to_owned(),
                driver: self.driver.name(),
                needed: self.driver.needed(),
            }),
            _ => Ok(()),
        }
    }

    /// The group of a pod as a whole: the kubelet's, or one of our own.
    pub(super) fn pod(&self, pod: &str, parent: Option<&str>) -> String {
        match (self.driver, parent) {
            (CgroupDriver::Cgroupfs, Some(parent)) => parent.to_owned(),
            (CgroupDriver::Cgroupfs, None) => format!("{}/{pod}", self.parent),
            (CgroupDriver::Systemd, Some(parent)) => slice(parent),
            (CgroupDriver::Systemd, None) => self.scope(pod, None),
        }
    }

    /// The group of one container.
    pub(super) fn container(&self, pod: &str, parent: Option<&str>, id: &str) -> String {
        match self.driver {
            CgroupDriver::Cgroupfs => format!("{}/{id}", self.pod(pod, parent)),
            CgroupDriver::Systemd => format!("{}/{id}", self.scope(pod, parent)),
        }
    }

    /// The group that comes and goes with the pod, if it has one.
    pub(super) fn own(&self, pod: &str, parent: Option<&str>) -> Option<String> {
        match (self.driver, parent) {
            (CgroupDriver::Cgroupfs, Some(_)) => None,
            (CgroupDriver::Cgroupfs, None) => Some(self.pod(pod, None)),
            (CgroupDriver::Systemd, parent) => Some(self.scope(pod, parent)),
        }
    }

    /// The group above those of all pods without a parent, if it is ours to remove.
    pub(super) fn common_parent(&self) -> Option<Cgroup> {
        match self.driver {
            CgroupDriver::Cgroupfs => self.group(&self.parent),
            CgroupDriver::Systemd => None,
        }
    }

    /// The group at `path`, if that is one.
    pub(super) fn group(&self, path: &str) -> Option<Cgroup> {
        CgroupPath::parse(path).ok().map(|path| Cgroup::open(&self.hierarchies, path))
    }

    /// Puts the process of a pod's new shim where it belongs; blocks no thread.
    ///
    /// # Errors
    /// [`SettleError`]; the process is to be ended.
    pub(super) async fn settle(
        &self,
        pod: &str,
        parent: Option<&str>,
        pid: u32,
    ) -> Result<(), SettleError> {
        if self.driver == CgroupDriver::Cgroupfs {
            return Ok(());
        }
        let scope = Scope {
            name: scope_name(pod),
            slice: slice_name(parent.unwrap_or(&self.parent)).to_owned(),
            description: format!("pod {pod} of orlop"),
        };
        systemd::start_scope(&scope, pid).await?;
        // A group with processes in it can hand no controllers to the groups below.
        let path = format!("{}/{SHIM}", self.scope(pod, parent));
        let group = self.group(&path).ok_or(SettleError::Name(path))?;
        group.create()?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        pid.map_or(Ok(()), |pid| group.add(pid)).map_err(SettleError::Group)
    }

    /// Ends what [`Self::settle`] made, when nothing runs in it and its group is removed.
    ///
    /// # Errors
    /// [`SystemdError`].
    pub(super) async fn forget(&self, pod: &str) -> Result<(), SystemdError> {
        match self.driver {
            CgroupDriver::Cgroupfs => Ok(()),
            CgroupDriver::Systemd => systemd::stop_scope(&scope_name(pod)).await,
        }
    }

    fn scope(&self, pod: &str, parent: Option<&str>) -> String {
        format!("{}/{}", slice(parent.unwrap_or(&self.parent)), scope_name(pod))
    }
}

fn scope_name(pod: &str) -> String {
    format!("cri-orlop-{pod}.scope")
}

/// The kubelet sends the path of a slice, others its name.
fn slice_name(parent: &str) -> &str {
    parent.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// The group of a slice; parents are checked before a pod is made.
fn slice(parent: &str) -> String {
    slice_cgroup(slice_name(parent)).unwrap_or_else(|_no_slice| parent.to_owned())
}
