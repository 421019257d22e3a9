//! Installing into a directory in the place of a node's root.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use super::node::{Kernel, check};
use super::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A node with systemd, and a place for what is to be installed.
struct Scene {
    directory: tempfile::TempDir,
    request: Request,
}

impl Scene {
    fn set() -> std::io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = directory.path();
        fs::create_dir_all(at.join("root/run/systemd/system"))?;
        fs::write(at.join("orlop"), "version 1")?;
        let request = Request {
            root: at.join("root"),
            program: at.join("orlop"),
            config: None,
            hosts_dir: None,
        };
        Ok(Self { directory, request })
    }

    fn root(&self) -> &Path {
        &self.request.root
    }

    fn configure(&mut self, text: &str) -> std::io::Result<()> {
        let path = self.directory.path().join("values.toml");
        fs::write(&path, text)?;
        self.request.config = Some(path);
        Ok(())
    }

    fn registry(&mut self, host: &str, text: &str) -> std::io::Result<()> {
        let hosts = self.directory.path().join("hosts");
        fs::create_dir_all(hosts.join(host))?;
        fs::write(hosts.join(host).join("hosts.toml"), text)?;
        self.request.hosts_dir = Some(hosts);
        Ok(())
    }

    /// What systemd would be asked to do: `start`, without it.
    fn restarted(&self) -> Result<(), InstallError> {
        let record = recorded(self.root())?;
        Ok(Record { restart_due: false, ..record }.write(self.root())?)
    }

    fn read(&self, path: &str) -> std::io::Result<String> {
        fs::read_to_string(below(self.root(), Path::new(path)))
    }

    fn mode(&self, path: &str) -> std::io::Result<u32> {
        Ok(fs::metadata(below(self.root(), Path::new(path)))?.permissions().mode() & 0o7777)
    }

    /// All files, relative to the root.
    fn files(&self) -> std::io::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut open = vec![self.root().to_owned()];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(directory)? {
                let path = entry?.path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let below = path.strip_prefix(self.root()).unwrap();
                    found.push(below.display().to_string());
                }
            }
        }
        found.sort();
        Ok(found)
    }
}

#[test]
fn what_is_installed_is_there_once() -> Outcome {
    let mut scene = Scene::set()?;
    scene.configure("[log]\nlevel = \"debug\"\n")?;
    scene.registry("docker.io", "server = \"https://mirror.test\"\n")?;
    let said = lay(&scene.request)?;
    assert_eq!(
        said,
        [
            "wrote /usr/local/bin/orlop",
            "wrote /etc/systemd/system/orlop.service",
            "wrote /etc/tmpfiles.d/orlop.conf",
            "wrote /etc/orlop/config.toml.d/50-installed.toml",
            "wrote /etc/orlop/certs.d/docker.io/hosts.toml",
        ]
    );
    assert_eq!(
        scene.files()?,
        [
            "etc/orlop/certs.d/docker.io/hosts.toml",
            "etc/orlop/config.toml.d/50-installed.toml",
            "etc/orlop/installed.json",
            "etc/systemd/system/orlop.service",
            "etc/tmpfiles.d/orlop.conf",
            "usr/local/bin/orlop",
        ]
    );
    assert_eq!(scene.read(PROGRAM_PATH)?, "version 1");
    assert_eq!(scene.mode(PROGRAM_PATH)?, 0o755);
    assert_eq!(scene.mode(UNIT_PATH)?, 0o644);
    assert_eq!(scene.mode(DROP_IN_PATH)?, 0o600);
    assert!(recorded(scene.root())?.restart_due);
    scene.restarted()?;
    assert_eq!(lay(&scene.request)?, Vec::<String>::new());
    assert!(!recorded(scene.root())?.restart_due);
    Ok(())
}

#[test]
fn a_new_program_or_configuration_needs_a_restart_and_a_registry_none() -> Outcome {
    let mut scene = Scene::set()?;
    lay(&scene.request)?;
    scene.restarted()?;

    fs::write(&scene.request.program, "version 2")?;
    assert_eq!(lay(&scene.request)?, ["wrote /usr/local/bin/orlop"]);
    assert!(recorded(scene.root())?.restart_due);
    // It was interrupted: the next run finds all files in place, and still restarts.
    assert_eq!(lay(&scene.request)?, Vec::<String>::new());
    assert!(recorded(scene.root())?.restart_due);
    scene.restarted()?;

    scene.registry("docker.io", "server = \"https://mirror.test\"\n")?;
    assert_eq!(lay(&scene.request)?, ["wrote /etc/orlop/certs.d/docker.io/hosts.toml"]);
    assert!(!recorded(scene.root())?.restart_due);

    scene.configure("[log]\nlevel = \"debug\"\n")?;
    assert_eq!(lay(&scene.request)?, ["wrote /etc/orlop/config.toml.d/50-installed.toml"]);
    assert!(recorded(scene.root())?.restart_due);
    Ok(())
}

#[test]
fn what_is_no_longer_wanted_goes() -> Outcome {
    let mut scene = Scene::set()?;
    scene.configure("[log]\nlevel = \"debug\"\n")?;
    scene.registry("docker.io", "")?;
    lay(&scene.request)?;
    scene.restarted()?;
    scene.request.config = None;
    scene.request.hosts_dir = None;
    assert_eq!(
        lay(&scene.request)?,
        [
            "removed /etc/orlop/certs.d/docker.io/hosts.toml",
            "removed /etc/orlop/config.toml.d/50-installed.toml",
        ]
    );
    assert!(!scene.root().join("etc/orlop/certs.d").exists());
    assert!(recorded(scene.root())?.restart_due);
    Ok(())
}

#[test]
fn what_somebody_else_wrote_stays() -> Outcome {
    let mut scene = Scene::set()?;
    let theirs = scene.root().join("etc/orlop/certs.d/docker.io");
    fs::create_dir_all(&theirs)?;
    fs::write(theirs.join("hosts.toml"), "theirs")?;
    scene.registry("docker.io", "ours")?;
    let refusal = lay(&scene.request).unwrap_err();
    assert!(
        matches!(&refusal, InstallError::Foreign { path } if *path == theirs.join("hosts.toml"))
    );
    assert_eq!(scene.files()?, ["etc/orlop/certs.d/docker.io/hosts.toml"]);
    // The very same bytes may have been left by one that was killed; they are taken over.
    scene.registry("docker.io", "theirs")?;
    fs::set_permissions(theirs.join("hosts.toml"), fs::Permissions::from_mode(0o600))?;
    lay(&scene.request)?;
    Ok(())
}

#[test]
fn files_that_are_taken_over_are_not_known_to_run() -> Outcome {
    let scene = Scene::set()?;
    lay(&scene.request)?;
    Record::remove(scene.root())?;
    assert_eq!(lay(&scene.request)?, Vec::<String>::new());
    assert!(recorded(scene.root())?.restart_due);
    Ok(())
}

#[test]
fn a_wrong_configuration_touches_nothing() -> Outcome {
    let mut scene = Scene::set()?;
    scene.configure("[log]\nlevle = \"debug\"\n")?;
    let refusal = lay(&scene.request).unwrap_err().to_string();
    assert!(refusal.contains("values.toml:2:") && refusal.contains("level"), "{refusal}");
    assert_eq!(scene.files()?, Vec::<String>::new());

    // What the node's own files say counts: here they name the runtime that is asked for.
    scene.configure("[pods]\ndefault_runtime = \"crun\"\n")?;
    assert!(matches!(lay(&scene.request), Err(InstallError::Configuration(_))));
    fs::create_dir_all(scene.root().join("etc/orlop"))?;
    fs::write(
        scene.root().join("etc/orlop/config.toml"),
        "[runtimes.crun]\npath = \"/usr/bin/crun\"\n",
    )?;
    lay(&scene.request)?;

    scene.configure("[registry]\nhosts_dir = \"/srv/hosts\"\n")?;
    scene.registry("docker.io", "")?;
    assert!(matches!(lay(&scene.request), Err(InstallError::HostsElsewhere { .. })));
    Ok(())
}

#[test]
fn directories_of_a_config_map_are_not_hosts() -> Outcome {
    let mut scene = Scene::set()?;
    scene.registry("..2026_01_01", "")?;
    scene.registry("127.0.0.1_5000_", "")?;
    let hosts = scene.request.hosts_dir.clone().unwrap();
    std::os::unix::fs::symlink("..2026_01_01", hosts.join("linked.test"))?;
    let names: Vec<_> = super::hosts(&hosts)?.into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["127.0.0.1_5000_", "linked.test"]);
    Ok(())
}

#[tokio::test]
async fn removal_waits_for_pods_and_leaves_nothing() -> Outcome {
    let mut scene = Scene::set()?;
    assert_eq!(remove(scene.root()).await?, ["nothing is installed"]);
    scene.registry("docker.io", "")?;
    lay(&scene.request)?;
    let pod = scene.root().join("run/orlop/pods/some");
    fs::create_dir_all(&pod)?;
    assert!(matches!(remove(scene.root()).await, Err(InstallError::Pods { count: 1 })));
    assert_eq!(scene.read(PROGRAM_PATH)?, "version 1");
    fs::remove_dir(pod)?;
    // There is no bus here, so nothing is removed that may still run.
    scene.restarted()?;
    assert!(matches!(remove(scene.root()).await, Err(InstallError::Systemd(_))));
    assert_eq!(scene.read(PROGRAM_PATH)?, "version 1");
    assert!(!recorded(scene.root())?.restart_due);
    remove_files(scene.root(), &recorded(scene.root())?)?;
    assert_eq!(scene.files()?, Vec::<String>::new());
    Ok(())
}

#[tokio::test]
async fn an_installation_is_complete_when_its_daemon_answers() -> Outcome {
    let scene = Scene::set()?;
    assert!(matches!(installed(scene.root()).await, Err(InstallError::Absent { .. })));
    lay(&scene.request)?;
    assert!(matches!(installed(scene.root()).await, Err(InstallError::Unfinished)));
    scene.restarted()?;
    assert!(matches!(
        installed(scene.root()).await,
        Err(InstallError::Daemon(ClientError::Connect { .. }))
    ));
    Ok(())
}

#[test]
fn kernels_that_are_too_old_are_refused() -> Outcome {
    let scene = Scene::set()?;
    let kernel = |release: &str, file_systems: &str| Kernel {
        release: release.to_owned(),
        file_systems: file_systems.to_owned(),
    };
    let all = "nodev\tcgroup2\nnodev\toverlay\n\text4\n";
    for release in ["6.7.0", "6.12.9-amd64", "7.0-rc1", "6.10"] {
        check(&kernel(release, all), scene.root())?;
    }
    for release in ["6.6.87", "5.15.0-1-generic", "", "what"] {
        let refusal = check(&kernel(release, all), scene.root());
        assert!(matches!(refusal, Err(Unsupported::Kernel { .. })), "{release}");
    }
    let refusal = check(&kernel("6.7.0", "nodev\tcgroup2\n\text4\n"), scene.root());
    assert!(matches!(refusal, Err(Unsupported::FileSystem { name: "overlay" })));
    let refusal = check(&kernel("6.7.0", "nodev\toverlay\n"), scene.root());
    assert!(matches!(refusal, Err(Unsupported::FileSystem { name: "cgroup2" })));
    let refusal = check(&kernel("6.7.0", all), &scene.root().join("run"));
    assert!(matches!(refusal, Err(Unsupported::NoSystemd { .. })));
    Ok(())
}
