//! Where a container's log goes.
//!
//! The kubelet gives a directory with the pod and a relative path with the container. The
//! joined path stays below the directory (CVE-2025-0750).

use std::path::{Component, Path, PathBuf};

use cri_api::v1;

/// What a file's name may have (`NAME_MAX`).
const NAME_BYTES_MAX: usize = 255;

/// A log path that leads elsewhere.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LogPathError {
    /// The directory is relative or climbs.
    #[error("log directory {path:?} is not an absolute path without '..'")]
    Directory {
        /// As given.
        path: String,
    },
    /// The path is absolute or climbs.
    #[error("log path {path:?} is not a relative path without '..'")]
    Path {
        /// As given.
        path: String,
    },
    /// No file can have such a name.
    #[error("log path {path:?} has a name of more than {NAME_BYTES_MAX} bytes")]
    Long {
        /// As given.
        path: String,
    },
}

/// The absolute path of the log; none when either half is missing, which means no log.
///
/// # Errors
/// [`LogPathError`] when a half is not what it has to be.
pub fn log_path(
    pod: &v1::PodSandboxConfig,
    container: &v1::ContainerConfig,
) -> Result<Option<PathBuf>, LogPathError> {
    let (directory, path) = (Path::new(&pod.log_directory), Path::new(&container.log_path));
    if pod.log_directory.is_empty() || container.log_path.is_empty() {
        return Ok(None);
    }
    let plain = |path: &Path| {
        let mut parts = path.components();
        parts.all(|part| {
            matches!(part, Component::Normal(_) | Component::RootDir | Component::CurDir)
        }) && !path.as_os_str().as_encoded_bytes().contains(&0)
    };
    if !directory.is_absolute() || !plain(directory) {
        return Err(LogPathError::Directory { path: pod.log_directory.clone() });
    }
    let names_a_file = path.file_name().is_some() && !container.log_path.ends_with('/');
    if path.is_absolute() || !plain(path) || !names_a_file {
        return Err(LogPathError::Path { path: container.log_path.clone() });
    }
    if path.components().any(|part| part.as_os_str().len() > NAME_BYTES_MAX) {
        return Err(LogPathError::Long { path: container.log_path.clone() });
    }
    Ok(Some(directory.join(path).components().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let join = |directory: &str, path: &str| {
            let pod =
                v1::PodSandboxConfig { log_directory: directory.into(), ..Default::default() };
            let container = v1::ContainerConfig { log_path: path.into(), ..Default::default() };
            log_path(&pod, &container)
                .map(|path| path.map(|path| path.display().to_string()))
                .map_err(|error| error.to_string())
        };
        for (directory, path, expected) in [
            ("/var/log/pods/x", "c/0.log", Some("/var/log/pods/x/c/0.log")),
            ("/var//log/", "./c.log", Some("/var/log/c.log")),
            ("", "c.log", None),
            ("/var/log", "", None),
        ] {
            assert_eq!(join(directory, path), Ok(expected.map(str::to_owned)));
        }
        for directory in ["var/log", "/var/../etc", "/var\0"] {
            let expected =
                format!("log directory {directory:?} is not an absolute path without '..'");
            assert_eq!(join(directory, "c.log"), Err(expected));
        }
        for path in ["/etc/passwd", "../x", "a/../../x", "..", ".", "a/", "a\0"] {
            let expected = format!("log path {path:?} is not a relative path without '..'");
            assert_eq!(join("/var/log", path), Err(expected));
        }
    }
}
