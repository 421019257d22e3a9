//! A host of its own for a test: a network namespace in which the test and everything it
//! starts runs, so that the machine's network stays untouched.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use sandbox::sys::ns::{in_netns, remove_pinned_netns, unshare_net};

use super::*;

/// Runs `test` on a thread with a network namespace of its own.
pub(super) fn on_host<F: Future<Output = ()>>(test: impl FnOnce(Machine) -> F + Send + 'static) {
    let ran = thread::spawn(move || {
        unshare_net().expect("this test needs root");
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio.block_on(test(Machine::new()));
    })
    .join();
    if let Err(panic) = ran {
        std::panic::resume_unwind(panic);
    }
}

/// The directories of a daemon on the test's host.
pub(super) struct Machine {
    pub(super) directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The configuration of a daemon with its root at `root`, without CNI.
    pub(super) fn config(&self, root: &str) -> Config {
        let mut config = Config::below(&self.path(root), &self.path(root).join("state"));
        config.conf_dir = None;
        config
    }

    pub(super) fn daemon(&self, root: &str) -> Network {
        Network::new(self.config(root)).unwrap()
    }

    /// Runs a command on the host and returns what it printed.
    #[track_caller]
    pub(super) fn run(&self, command: &str) -> String {
        let mut words = command.split_whitespace();
        let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Pins of a test that failed would hold their directories for ever.
        for pin in ["outside", "empty"] {
            let _ = remove_pinned_netns(&self.path(pin));
        }
        for daemon in std::fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            let pins = daemon.path().join("state/netns");
            for pin in std::fs::read_dir(pins).into_iter().flatten().flatten() {
                let _ = remove_pinned_netns(&pin.path());
            }
        }
    }
}

/// A pod with a namespace, numbered so that its id is easy to tell.
pub(super) async fn pod(network: &Network, number: u32) -> PodNetwork {
    let id = pod_id(number);
    let netns = network.create_netns(&id).await.unwrap();
    PodNetwork {
        id,
        name: format!("pod-{number}"),
        namespace: "default".to_owned(),
        uid: format!("uid-{number}"),
        netns: Some(netns),
        ..PodNetwork::default()
    }
}

pub(super) fn pod_id(number: u32) -> String {
    format!("{number:08x}{}", "f".repeat(56))
}

pub(super) fn port(host: u16, container: u16) -> PortMapping {
    PortMapping {
        protocol: Protocol::Tcp,
        container_port: container,
        host_port: host,
        host_ip: None,
    }
}

/// Runs `work` in the network namespace pinned at `netns`.
pub(super) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> T {
    in_netns(File::open(netns).unwrap().as_fd(), work).unwrap()
}

/// A server in a namespace that answers every connection with its name and the address it
/// sees the client at, until it is dropped.
pub(super) struct Server {
    pub(super) port: u16,
}

impl Server {
    pub(super) fn start(netns: Option<&Path>, at: Ipv4Addr, name: &'static str) -> Self {
        let bind = move || TcpListener::bind((at, 0)).unwrap();
        let listener = match netns {
            Some(netns) => inside(netns, bind),
            None => bind(),
        };
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream: TcpStream = stream;
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{name} {peer}");
            }
        });
        Self { port }
    }
}

/// What a server at `to` answers to a client in `netns` (the host's when `None`).
pub(super) fn ask(netns: Option<&Path>, to: IpAddr, port: u16) -> std::io::Result<String> {
    let connect = move || {
        let to = SocketAddr::new(to, port);
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    match netns {
        Some(netns) => inside(netns, connect),
        None => connect(),
    }
}
