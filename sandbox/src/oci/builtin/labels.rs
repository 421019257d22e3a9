//! Labels of security modules that a process takes on with its program: the AppArmor
//! profile, the SELinux context.
//!
//! Both are words written to a file of `/proc`, which take effect at the next exec and at
//! nothing before. They are written while `/proc` is still the host's: in the container it
//! may be anything that an image or a volume put there (CVE-2019-16884).
//!
//! A label that the kernel cannot apply is an error; "unconfined" without AppArmor is what
//! holds anyway.
//!
//! # References
//! - [proc_pid_attr(5)](https://man7.org/linux/man-pages/man5/proc_pid_attr.5.html)
//! - [AppArmor](https://gitlab.com/apparmor/apparmor/-/wikis/AppArmorInterfaces)

use std::io;
use std::path::Path;

use oci_spec::runtime::Process;

/// The AppArmor profile that confines nothing.
const UNCONFINED: &str = "unconfined";

/// What a process is after its next exec, to whichever module came first.
const EXEC: &str = "/proc/thread-self/attr/exec";

/// The labels of a process; none where nothing is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

/// A label that this process cannot take on.
#[derive(Debug, thiserror::Error)]
pub(super) enum LabelError {
    #[error("the {module} label {label:?} is asked for and {module} is off on this node")]
    Off { module: &'static str, label: String },
    #[error("take on the {module} label {label:?}")]
    Write { module: &'static str, label: String, source: io::Error },
}

impl Labels {
    /// Those of a process.
    pub(super) fn of(process: &Process) -> Self {
        let named = |label: &Option<String>| label.clone().filter(|label| !label.is_empty());
        Self {
            apparmor: named(process.apparmor_profile()),
            selinux: named(process.selinux_label()),
        }
    }

    /// Says what this process is to be from its next exec on. The host's `/proc` is still
    /// there.
    pub(super) fn set_for_exec(&self) -> Result<(), LabelError> {
        if let Some(profile) = &self.apparmor
            && (is_apparmor_on() || profile != UNCONFINED)
        {
            // The first is AppArmor's whatever other modules there are; older kernels have
            // the second only.
            let files = ["/proc/thread-self/attr/apparmor/exec", EXEC];
            write("AppArmor", is_apparmor_on(), profile, &format!("exec {profile}"), &files)?;
        }
        if let Some(context) = &self.selinux {
            write("SELinux", is_selinux_on(), context, context, &[EXEC])?;
        }
        Ok(())
    }
}

fn write(
    module: &'static str,
    is_on: bool,
    label: &str,
    word: &str,
    files: &[&str],
) -> Result<(), LabelError> {
    let label = label.to_owned();
    if !is_on {
        return Err(LabelError::Off { module, label });
    }
    let there = files.iter().find(|file| Path::new(file).exists()).unwrap_or(&EXEC);
    // One write, as the kernel demands.
    std::fs::write(there, word).map_err(|source| LabelError::Write { module, label, source })
}

fn is_apparmor_on() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.starts_with('Y'))
}

fn is_selinux_on() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::ProcessBuilder;

    use super::*;

    fn labels(apparmor: &str, selinux: &str) -> Labels {
        let process = ProcessBuilder::default()
            .apparmor_profile(apparmor)
            .selinux_label(selinux)
            .build()
            .unwrap();
        Labels::of(&process)
    }

    #[test]
    fn nothing_is_written_for_nothing() {
        labels("", "").set_for_exec().unwrap();
        if !is_apparmor_on() {
            labels(UNCONFINED, "").set_for_exec().unwrap();
        }
    }

    #[test]
    fn a_label_without_its_module_is_refused() {
        let off = |outcome: Result<(), _>, module: &str| match outcome {
            Err(error @ LabelError::Off { .. }) => assert!(error.to_string().contains(module)),
            other => panic!("{other:?}"),
        };
        if !is_apparmor_on() {
            off(labels("web", "").set_for_exec(), "AppArmor");
        }
        if !is_selinux_on() {
            off(labels("", "system_u:system_r:container_t:s0").set_for_exec(), "SELinux");
        }
    }

    /// A kernel without the module says so; with it, there is no such profile.
    #[test]
    fn a_word_that_the_kernel_does_not_know_is_an_error() {
        let outcome = write("AppArmor", true, "no-such", "exec orlop-no-such-profile", &[EXEC]);
        assert!(matches!(outcome, Err(LabelError::Write { .. })), "{outcome:?}");
    }
}
