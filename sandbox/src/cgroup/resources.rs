//! OCI resources to values in files, and writing them.
//!
//! What is to be written is worked out first, without touching the group ([`plan`]); then it is
//! written. Values that bind each other (a memory limit and the limit with swap; quota, period
//! and burst) form a step: they are tried in every order until the kernel takes one, so nothing
//! here has to know which of them grows. On an update the old values are read first and written
//! back when a later one is refused.
//!
//! As everywhere in CRI and OCI, an absent value, and a zero where zero is no sensible limit,
//! means "leave as it is"; -1 means "no limit".
//!
//! Specification: <https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#control-groups>

use std::path::PathBuf;

use oci_spec::runtime::LinuxResources;
use rustix::io::Errno;

use super::devices::DeviceRuleError;
use super::file::{self, FileError};
use super::group::Cgroup;
use super::hierarchies::{Controller, Version};

/// Numbers of v1 as numbers of v2.
mod convert;
/// Which values go where.
mod plan;
#[cfg(test)]
mod tests;
/// The files of v1.
mod v1;
/// The files of v2.
mod v2;

use plan::{IfMissing, Step, Write};

/// Why resources could not be set.
#[derive(Debug, thiserror::Error)]
pub enum ResourceError {
    /// A value needs a controller that this host does not have, or the parent group did not hand
    /// down.
    #[error(
        "{setting} = {value:?} needs the cgroup controller {controller}, which is not available"
    )]
    NoController {
        /// The setting, by the name of its file.
        setting: String,
        /// The value asked for.
        value: String,
        /// The controller.
        controller: Controller,
    },
    /// A setting that exists only on the other version of cgroups.
    #[error("{setting} is not available on cgroup {}", match version { Version::V1 => "v1", Version::V2 => "v2" })]
    NotInVersion {
        /// The setting.
        setting: String,
        /// The version of this host.
        version: Version,
    },
    /// A value that means nothing.
    #[error("{setting} = {value} is not valid")]
    InvalidValue {
        /// The setting.
        setting: String,
        /// The value.
        value: String,
    },
    /// A new memory limit below what is in use, which would kill a process.
    #[error("memory limit {limit_bytes} is below the {usage_bytes} bytes in use")]
    BelowUsage {
        /// The limit asked for.
        limit_bytes: u64,
        /// What is in use.
        usage_bytes: u64,
    },
    /// The kernel has no such file in this group.
    #[error("{setting} = {value:?}: the kernel has no such setting in this cgroup")]
    NoSuchSetting {
        /// The setting, by the name of its file.
        setting: String,
        /// The value asked for.
        value: String,
    },
    /// The kernel refused a value.
    #[error("set a resource of a cgroup")]
    Write {
        /// The file, the value, and what the kernel said.
        #[source]
        source: FileError,
    },
    /// A value was refused, and then an earlier one could not be written back.
    #[error("after {} was refused: restore an earlier resource of the cgroup", .refused.display())]
    Restore {
        /// The file whose value was refused.
        refused: PathBuf,
        /// The file that could not be restored.
        #[source]
        source: FileError,
    },
    /// The present values could not be read.
    #[error("read the present resources of a cgroup")]
    ReadPresent {
        /// The file.
        #[source]
        source: FileError,
    },
    /// The device rules could not be set.
    #[error("set the device rules of a cgroup")]
    Devices {
        /// What failed.
        #[source]
        source: DeviceRuleError,
    },
}

/// Whom the kernel kills when a group is out of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomGroup {
    /// One process, the kernel's choice.
    One,
    /// All processes of the group.
    All,
}

/// What to do with values already written when a later one is refused.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnRefusal {
    /// Leave them: the group is new and will be removed.
    Leave,
    /// Write the old ones back.
    Restore,
}

impl Cgroup {
    /// Sets the resources of a new group, device rules included.
    ///
    /// # Errors
    /// The first value that cannot be set, with its file. Values before it stay set.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), ResourceError> {
        self.carry_out(resources, OnRefusal::Leave).map(drop)
    }

    /// Changes the resources of a group in use: all of them, or none. Returns what was
    /// there before, should the caller have to change its mind.
    ///
    /// # Errors
    /// The first value that cannot be set, with its file; the old values are back then.
    /// [`ResourceError::BelowUsage`] before anything is written.
    pub fn update(&self, resources: &LinuxResources) -> Result<Replaced, ResourceError> {
        self.refuse_below_usage(resources)?;
        self.carry_out(resources, OnRefusal::Restore).map_err(|error| self.below_usage(error))
    }

    /// Chooses whom the kernel kills when the group is out of memory. On v1 it is always one.
    ///
    /// # Errors
    /// [`ResourceError::Write`].
    pub fn set_oom_group(&self, whom: OomGroup) -> Result<(), ResourceError> {
        let Some((Version::V2, directory)) = self.directory(Controller::Memory) else {
            return Ok(());
        };
        let value = match whom {
            OomGroup::One => "0",
            OomGroup::All => "1",
        };
        file::write(&directory.join("memory.oom.group"), value)
            .map_err(|source| ResourceError::Write { source })
    }

    fn carry_out(
        &self,
        resources: &LinuxResources,
        on_refusal: OnRefusal,
    ) -> Result<Replaced, ResourceError> {
        let steps = plan::steps(resources, self)?;
        let mut written = Vec::new();
        let mut result = steps.iter().try_for_each(|step| {
            written.extend(self.write_step(step, on_refusal)?);
            Ok(())
        });
        if result.is_ok() {
            // Last, because rules have no old value to go back to.
            let rules = resources.devices().as_deref().unwrap_or_default();
            result = self.apply_devices(rules).map_err(|source| ResourceError::Devices { source });
        }
        match (result, on_refusal) {
            (Err(error), OnRefusal::Restore) => Err(restore(&written, error)),
            (result, _) => result.map(|()| Replaced(written)),
        }
    }

    /// Writes the values of one step, in the first order that the kernel takes.
    ///
    /// Returns how to undo it. A step that fails has undone itself.
    fn write_step(&self, step: &Step, on_refusal: OnRefusal) -> Result<Vec<Old>, ResourceError> {
        let values = step
            .iter()
            .map(|write| self.locate(write))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect::<Vec<_>>();
        let keep = on_refusal == OnRefusal::Restore || values.len() > 1;
        let mut first_error = None;
        for order in orders(values.len()) {
            let ordered: Vec<&Located<'_>> =
                order.iter().filter_map(|index| values.get(*index)).collect();
            match write_in_order(&ordered, keep)? {
                Ok(old) => return Ok(old),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        match first_error {
            None => Ok(Vec::new()),
            Some(source) => Err(ResourceError::Write { source }),
        }
    }

    /// The file of a value; `None` when it is missing and need not be there.
    fn locate<'a>(&self, write: &'a Write) -> Result<Option<Located<'a>>, ResourceError> {
        let place = match write.controller {
            Some(controller) => self.directory(controller).map(|(_, directory)| directory),
            None => self.unified(),
        };
        let file = place.as_ref().and_then(|directory| {
            write.files.iter().map(|name| directory.join(name)).find(|file| file.exists())
        });
        let setting = || write.files.first().cloned().unwrap_or_default();
        match (file, write.if_missing, write.controller) {
            (Some(file), _, _) => Ok(Some(Located { file, write })),
            (None, IfMissing::Skip, _) => Ok(None),
            (None, IfMissing::Fail, Some(controller))
                if place.is_none() || !self.has_controller(controller) =>
            {
                let (setting, value) = (setting(), write.value.clone());
                Err(ResourceError::NoController { setting, value, controller })
            }
            (None, IfMissing::Fail, _) => {
                Err(ResourceError::NoSuchSetting { setting: setting(), value: write.value.clone() })
            }
        }
    }

    /// Whether the parents have handed a v2 controller down to this group.
    fn has_controller(&self, controller: Controller) -> bool {
        match self.directory(controller) {
            Some((Version::V1, _)) => true,
            Some((Version::V2, directory)) => {
                let text = file::read(&directory.join("cgroup.controllers")).unwrap_or_default();
                text.split_whitespace().any(|name| Some(name) == controller.v2_name())
            }
            None => false,
        }
    }

    /// v1 refuses a limit below what it cannot reclaim, with a word that says less.
    fn below_usage(&self, error: ResourceError) -> ResourceError {
        let ResourceError::Write { source: FileError::Write { file, value, source: Errno::BUSY } } =
            &error
        else {
            return error;
        };
        let is_limit = file.to_string_lossy().ends_with(".limit_in_bytes");
        let usage = self
            .directory(Controller::Memory)
            .filter(|(_, directory)| is_limit && file.starts_with(directory))
            .and_then(|(_, one)| file::read_number(&one.join("memory.usage_in_bytes")).ok());
        match (value.parse(), usage) {
            (Ok(limit_bytes), Some(usage_bytes)) => {
                ResourceError::BelowUsage { limit_bytes, usage_bytes }
            }
            _ => error,
        }
    }

    /// v2 takes a limit below usage and kills; v1 refuses by itself.
    fn refuse_below_usage(&self, resources: &LinuxResources) -> Result<(), ResourceError> {
        let limit = resources.memory().as_ref().and_then(|memory| memory.limit()).unwrap_or(0);
        let (Ok(limit_bytes), Some((Version::V2, directory))) =
            (u64::try_from(limit), self.directory(Controller::Memory))
        else {
            return Ok(());
        };
        let file = directory.join("memory.current");
        if limit_bytes == 0 || !file.exists() {
            return Ok(());
        }
        let usage_bytes =
            file::read_number(&file).map_err(|source| ResourceError::ReadPresent { source })?;
        if limit_bytes < usage_bytes {
            return Err(ResourceError::BelowUsage { limit_bytes, usage_bytes });
        }
        Ok(())
    }
}

/// A value and the file it goes to.
struct Located<'a> {
    file: PathBuf,
    write: &'a Write,
}

/// The values that an update replaced, device rules apart.
#[derive(Debug)]
#[must_use = "the old values are lost with it"]
pub struct Replaced(Vec<Old>);

impl Replaced {
    /// Writes them back.
    ///
    /// # Errors
    /// [`ResourceError::Write`] for the first that was refused; the others are back.
    pub fn put_back(self) -> Result<(), ResourceError> {
        put_back(&self.0).map_err(|source| ResourceError::Write { source })
    }
}

/// A value to be written back.
#[derive(Debug)]
struct Old {
    file: PathBuf,
    value: String,
}

/// Writes values in this order; the inner error is the kernel's refusal, after which the earlier
/// ones have been written back.
fn write_in_order(
    values: &[&Located<'_>],
    keep: bool,
) -> Result<Result<Vec<Old>, FileError>, ResourceError> {
    let mut written = Vec::new();
    for Located { file, write } in values {
        if keep {
            let present =
                file::read(file).map_err(|source| ResourceError::ReadPresent { source })?;
            let value = write.undo.value(&present);
            written.push(Old { file: file.clone(), value });
        }
        if let Err(refused) = file::write(file, &write.value) {
            written.pop();
            put_back(&written)
                .map_err(|source| ResourceError::Restore { refused: file.clone(), source })?;
            return Ok(Err(refused));
        }
    }
    Ok(Ok(written))
}

/// Writes all old values back; the error to report is the one that made it necessary.
fn restore(written: &[Old], error: ResourceError) -> ResourceError {
    match put_back(written) {
        Ok(()) => error,
        Err(source) => {
            let refused = match &error {
                ResourceError::Write { source: FileError::Write { file, .. } } => file.clone(),
                _ => PathBuf::new(),
            };
            ResourceError::Restore { refused, source }
        }
    }
}

/// Writes old values back, last first: the kernel took the values one by one in the other
/// direction. One that it refuses all the same does not keep the others from being restored.
fn put_back(written: &[Old]) -> Result<(), FileError> {
    let mut first_error = Ok(());
    for old in written.iter().rev() {
        let result = file::write(&old.file, &old.value);
        first_error = first_error.and(result);
    }
    first_error
}

/// All orders of `count` values; steps have at most three.
fn orders(count: usize) -> Vec<Vec<usize>> {
    (0..count).fold(vec![Vec::new()], |shorter: Vec<Vec<usize>>, new| {
        shorter
            .iter()
            .flat_map(|order| {
                (0..=order.len()).rev().map(|place| {
                    let mut longer = order.clone();
                    longer.insert(place, new);
                    longer
                })
            })
            .collect()
    })
}
