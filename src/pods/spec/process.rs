//! What a container runs: arguments, working directory, terminal, user, limits.
//!
//! # References
//! - [OCI runtime-spec, process](https://github.com/opencontainers/runtime-spec/blob/main/config.md#process)

use cri_api::v1;
use oci_spec::runtime::{ExecCPUAffinity, LinuxCapabilities, Process, User};

use super::{
    ContainerInputs, ExecCpus, ImageSettings, SpecError,
    environment::{Sources, Terminal, environment},
    resources::oom_score_adj,
    security::apparmor_profile,
    selinux::process_label,
    users::{ResolvedUser, resolve_user},
};

/// A process that cannot be run.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProcessError {
    /// Neither the request nor the image says what to run.
    #[error("no command: neither the container nor its image has one")]
    NoCommand,
    /// An argument has a NUL, which would end it early.
    #[error("argument {index} of the command has NUL in it")]
    Nul {
        /// Its position, from 0.
        index: usize,
    },
    /// The working directory is relative or has a NUL.
    #[error("working directory {path:?} is not an absolute path")]
    WorkingDirectory {
        /// As given.
        path: String,
    },
}

/// The `process` section.
pub(super) fn process(
    inputs: &ContainerInputs<'_>,
    capabilities: LinuxCapabilities,
) -> Result<Process, SpecError> {
    let image = ImageSettings::of(inputs.image);
    let config = inputs.container;
    let security = super::security_context(config);
    let user = resolve_user(security, image.user, inputs.etc)?;
    let terminal = if config.tty { Terminal::Tty } else { Terminal::None };
    let sources = Sources {
        image: image.env,
        hostname: inputs.hostname,
        terminal,
        home: user.home.as_deref(),
    };
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_console_size(None)
        .set_user(oci_user(&user))
        .set_args(Some(arguments(&config.command, &config.args, &image)?))
        .set_command_line(None)
        .set_env(Some(environment(&sources, &config.envs)?))
        .set_cwd(working_directory(&config.working_dir, image.working_dir)?.into())
        .set_capabilities(Some(capabilities))
        .set_rlimits(Some(inputs.node.rlimits.clone()).filter(|rlimits| !rlimits.is_empty()))
        .set_no_new_privileges(Some(security.is_some_and(|security| security.no_new_privs)))
        .set_apparmor_profile(apparmor_profile(
            security,
            inputs.node.apparmor,
            inputs.apparmor_profiles,
        )?)
        .set_oom_score_adj(oom_score_adj(config, inputs.node)?)
        .set_selinux_label(process_label(
            security,
            inputs.node.selinux.as_ref(),
            inputs.selinux_level,
        )?)
        .set_io_priority(None)
        .set_scheduler(None)
        .set_exec_cpu_affinity(exec_affinity(config, inputs.exec_cpus));
    Ok(process)
}

fn exec_affinity(config: &v1::ContainerConfig, cpus: ExecCpus) -> Option<ExecCPUAffinity> {
    let resources = config.linux.as_ref()?.resources.as_ref()?;
    let first = match cpus {
        ExecCpus::Any => None,
        ExecCpus::First => first_of(&resources.cpuset_cpus),
    };
    let mut affinity = ExecCPUAffinity::default();
    affinity.set_initial(Some(first?.to_string()));
    Some(affinity)
}

/// The lowest number of a list like `4-7,2`.
fn first_of(list: &str) -> Option<u32> {
    let begin = |range: &str| range.split('-').next()?.trim().parse().ok();
    list.split(',').filter_map(begin).min()
}

fn oci_user(user: &ResolvedUser) -> User {
    let mut oci = User::default();
    oci.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(user.groups.clone()));
    oci
}

/// A command of the request replaces the image's entry point and arguments, arguments of
/// the request replace the image's arguments.
fn arguments(
    command: &[String],
    args: &[String],
    image: &ImageSettings<'_>,
) -> Result<Vec<String>, ProcessError> {
    let (command, args) = match (command, args) {
        ([], []) => (image.entrypoint, image.cmd),
        ([], args) => (image.entrypoint, args),
        (command, args) => (command, args),
    };
    let all: Vec<String> = command.iter().chain(args).cloned().collect();
    if all.first().is_none_or(String::is_empty) {
        return Err(ProcessError::NoCommand);
    }
    match all.iter().position(|argument| argument.contains('\0')) {
        Some(index) => Err(ProcessError::Nul { index }),
        None => Ok(all),
    }
}

fn working_directory(request: &str, image: &str) -> Result<String, ProcessError> {
    let path = [request, image, "/"].into_iter().find(|path| !path.is_empty()).unwrap_or("/");
    if path.starts_with('/') && !path.contains('\0') {
        Ok(path.to_owned())
    } else {
        Err(ProcessError::WorkingDirectory { path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn command_and_args_against_entrypoint_and_cmd() {
        let (entrypoint, cmd) = (strings(&["/entry", "-e"]), strings(&["cmd"]));
        let image = ImageSettings { entrypoint: &entrypoint, cmd: &cmd, ..ImageSettings::EMPTY };
        for (command, args, expected) in [
            (&[][..], &[][..], &["/entry", "-e", "cmd"][..]),
            (&[], &["a"], &["/entry", "-e", "a"]),
            (&["c"], &[], &["c"]),
            (&["c"], &["-a", "$(x)"], &["c", "-a", "$(x)"]),
        ] {
            let made = arguments(&strings(command), &strings(args), &image).unwrap();
            assert_eq!(made, expected);
        }
        let only_cmd = ImageSettings { cmd: &cmd, ..ImageSettings::EMPTY };
        assert_eq!(arguments(&[], &[], &only_cmd).unwrap(), ["cmd"]);
        assert_eq!(arguments(&[], &[], &ImageSettings::EMPTY), Err(ProcessError::NoCommand));
        assert_eq!(arguments(&strings(&[""]), &[], &only_cmd), Err(ProcessError::NoCommand));
        let nul = strings(&["a", "b\0c"]);
        assert_eq!(arguments(&nul, &[], &only_cmd), Err(ProcessError::Nul { index: 1 }));
    }

    #[test]
    fn working_directories() {
        assert_eq!(working_directory("", "").unwrap(), "/");
        assert_eq!(working_directory("", "/image").unwrap(), "/image");
        assert_eq!(working_directory("/request", "/image").unwrap(), "/request");
        for path in ["relative", "/a\0b"] {
            assert!(working_directory(path, "/image").is_err(), "{path:?}");
        }
    }
}
