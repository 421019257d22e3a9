//! Programs and clients that stay: terminals, attachments, sockets of the pod.

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::pin::Pin;

use rustix::termios::{Winsize, tcsetwinsize};
use sandbox::protocol::Attach;
use sandbox::sys::ns;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

type Ended<'a> = Pin<Box<dyn Future<Output = Result<i32, SandboxError>> + 'a>>;

/// Polls what goes on until it has handed over what it has to.
async fn begun(
    ended: &mut Ended<'_>,
    handed: oneshot::Receiver<Option<OwnedFd>>,
) -> Option<OwnedFd> {
    tokio::select! {
        biased;
        handed = handed => handed.expect("it began"),
        end = ended => panic!("it ended: {end:?}"),
    }
}

async fn end(ended: &mut Ended<'_>) -> Result<i32, SandboxError> {
    tokio::time::timeout(PATIENCE, ended).await.expect("an end")
}

fn exec(id: &str, script: &str) -> Exec {
    let argv = ["sh", "-c", script].map(str::to_owned).into();
    Exec { container: id.into(), process: vec![], argv, terminal: false }
}

fn on_terminal<'a>(
    pod: &'a Pod,
    id: &str,
    script: &str,
) -> (Ended<'a>, oneshot::Receiver<Option<OwnedFd>>) {
    let (sender, terminal) = oneshot::channel();
    let exec = exec(id, script);
    (Box::pin(pod.connected.sandbox.exec_on_terminal(exec, sender)), terminal)
}

fn reader(fd: &OwnedFd) -> pipe::Receiver {
    rustix::io::ioctl_fionbio(fd, true).unwrap();
    pipe::Receiver::from_owned_fd_unchecked(fd.try_clone().unwrap()).unwrap()
}

/// Reads until `word` has come, and returns everything until then.
async fn read_until(reader: &mut pipe::Receiver, word: &str) -> String {
    let mut text = String::new();
    let read = async {
        while !text.contains(word) {
            let mut bytes = [0_u8; 4096];
            match reader.read(&mut bytes).await {
                Ok(n @ 1..) => text.push_str(&String::from_utf8_lossy(&bytes[..n])),
                _ => break,
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, read).await;
    assert!(text.contains(word), "{word:?} in {text:?}");
    text
}

async fn running(pod: &Pod, id: &str, script: &str, stdin: bool, terminal: bool) {
    let mut spec = pod.spec(id, &["sh", "-c", script]);
    spec["process"]["terminal"] = json!(terminal);
    let with_stdin = |create: &mut Create| create.stdin = stdin;
    pod.create_with(id, &spec, PidMode::Container(true), with_stdin).await.unwrap();
    pod.connected.sandbox.start_container(id).await.unwrap();
}

/// A client with pipes of `size` bytes.
struct Client<'a> {
    ended: Ended<'a>,
    stdout: pipe::Receiver,
    input: Option<OwnedFd>,
}

async fn attach<'a>(pod: &'a Pod, id: &str, size: usize, stdin: bool, once: bool) -> Client<'a> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::pipe::fcntl_setpipe_size(&write, size).unwrap();
    let attach =
        Attach { container: id.into(), stdin, stdin_once: once, stdout: true, stderr: false };
    let (sender, handed) = oneshot::channel();
    let mut ended: Ended<'a> = Box::pin(pod.connected.sandbox.attach(attach, vec![write], sender));
    let input = begun(&mut ended, handed).await;
    Client { ended, stdout: reader(&read), input }
}

impl Client<'_> {
    fn write(&self, text: &str) {
        let input = self.input.as_ref().expect("an input").try_clone().unwrap();
        File::from(input).write_all(text.as_bytes()).unwrap();
    }

    /// What comes until the shim closes the pipe.
    async fn rest(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let read = self.stdout.read_to_end(&mut all);
        tokio::time::timeout(PATIENCE, read).await.expect("the end of the output").unwrap();
        all
    }
}

/// As if its process were killed: what it held closes, and nobody says a word.
fn vanish(client: Client<'_>) {
    std::mem::forget(client.ended);
}

fn processes(pod: &Pod, id: &str) -> usize {
    let path = CgroupPath::parse(&format!("{}/{id}", pod.cgroup)).unwrap();
    Cgroup::open(&Hierarchies::detect().unwrap(), path).processes().unwrap().len()
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let poll = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, poll).await.unwrap_or_else(|_| panic!("{what}"));
}

/// What the shim has open, once it has dealt with what came before.
async fn descriptors(pod: &Pod) -> Vec<String> {
    drop(pod.connected.sandbox.socket(false).await.unwrap());
    let directory = format!("/proc/{}/fd", pod.connected.identity.pid);
    let all = std::fs::read_dir(directory).unwrap().flatten();
    let mut all: Vec<_> = all
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

/// Waits until the shim has as many open as `before`.
async fn nothing_more_than(before: &[String], pod: &Pod) {
    for _ in 0..500 {
        if descriptors(pod).await.len() == before.len() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("before: {before:#?}, after: {:#?}", descriptors(pod).await);
}

fn log_content(log: &str) -> String {
    log.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned() + "\n").collect()
}

#[tokio::test]
async fn root_an_exec_gets_a_terminal_of_the_containers_own() {
    let pod = Pod::start(|_| {}).await;
    let mut spec = pod.spec("a", &["sleep", "1000"]);
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    pod.create_spec("a", &spec, PidMode::Container(true)).await.unwrap();
    pod.connected.sandbox.start_container("a").await.unwrap();
    let script = "busybox tty; echo $TERM; stat -c '%u %g %a' /dev/pts/0; : > $(busybox tty) && \
                  echo mine; : > /dev/tty && echo controlling; echo ready; read x; \
                  busybox stty size; exit 3";
    let (mut ended, terminal) = on_terminal(&pod, "a", script);
    let master = begun(&mut ended, terminal).await.expect("a terminal");
    let mut reader = reader(&master);
    let seen = read_until(&mut reader, "ready").await;
    assert!(seen.starts_with("/dev/pts/0\r\nxterm\r\n1000 5 620\r\n"), "{seen:?}");
    assert!(seen.contains("mine\r\n") && seen.contains("controlling\r\n"), "{seen:?}");
    let size = Winsize { ws_row: 33, ws_col: 121, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master.as_fd(), size).unwrap();
    File::from(master.try_clone().unwrap()).write_all(b"\n").unwrap();
    read_until(&mut reader, "33 121").await;
    assert_eq!(end(&mut ended).await.unwrap(), 3);
    drop(ended);
    // One that cannot start says so, and hands over nothing that lasts.
    let argv = vec!["nowhere".into()];
    let (sender, _terminal) = oneshot::channel();
    let exec = Exec { container: "a".into(), process: vec![], argv, terminal: false };
    match pod.connected.sandbox.exec_on_terminal(exec, sender).await {
        Err(SandboxError::Refused(failed)) => {
            assert!(failed.message.contains("executable file not found"), "{failed:?}");
        }
        other => panic!("{other:?}"),
    }
    pod.end().await;
}

#[tokio::test]
async fn root_a_dropped_exec_is_killed_with_its_session_and_leaves_nothing() {
    let pod = Pod::start(|_| {}).await;
    pod.create("a", &["sleep", "1000"]).await;
    pod.connected.sandbox.start_container("a").await.unwrap();
    // Jobs of an interactive shell have process groups of their own.
    let script = "set -m; sleep 1001 & sleep 1002 & echo ready; sleep 1003; true";
    let before = descriptors(&pod).await;
    for _ in 0..3 {
        let (mut ended, terminal) = on_terminal(&pod, "a", script);
        let master = begun(&mut ended, terminal).await.expect("a terminal");
        read_until(&mut reader(&master), "ready").await;
        until("all of them run", async || processes(&pod, "a") == 5).await;
        drop(ended);
        until("only the container's own is left", async || processes(&pod, "a") == 1).await;
    }
    let (read, write) = std::io::pipe().unwrap();
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    let timeout = Some(Duration::from_millis(300));
    let stdio = [null(), write.into(), null()];
    let ended = pod.connected.sandbox.exec(exec("a", script), stdio, timeout).await.unwrap();
    assert_eq!(ended, ExecEnd::TimedOut);
    until("a timeout kills all of it too", async || processes(&pod, "a") == 1).await;
    let mut output = String::new();
    std::io::BufReader::new(read).read_to_string(&mut output).unwrap();
    assert_eq!(output, "ready\n");
    nothing_more_than(&before, &pod).await;
    pod.end().await;
}

#[tokio::test]
async fn root_an_exec_runs_on_the_processors_it_is_to() {
    let pod = Pod::start(|_| {}).await;
    let mut spec = pod.spec("a", &["sleep", "1000"]);
    let allowed = ["grep", "Cpus_allowed_list", "/proc/1/status"];
    let own = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let all = {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        status.lines().find(|line| line.starts_with("Cpus_allowed_list")).unwrap().to_owned()
    };
    let cpu = all.rsplit_once('\t').unwrap().1.split(['-', ',']).next_back().unwrap();
    spec["process"]["execCPUAffinity"] = json!({"initial": cpu, "final": cpu});
    pod.create_spec("a", &spec, PidMode::Container(true)).await.unwrap();
    pod.connected.sandbox.start_container("a").await.unwrap();
    assert_eq!(pod.exec("a", &own).await.1, format!("Cpus_allowed_list:\t{cpu}\n"));
    assert_eq!(pod.exec("a", &allowed).await.1, format!("{all}\n"), "the container itself is free");
    // Where it begins is not where it stays.
    spec["process"]["execCPUAffinity"] = json!({"initial": cpu});
    pod.create_spec("b", &spec, PidMode::Container(true)).await.unwrap();
    pod.connected.sandbox.start_container("b").await.unwrap();
    assert_eq!(pod.exec("b", &own).await.1, format!("{all}\n"));
    pod.end().await;
}

#[tokio::test]
async fn root_each_client_gets_all_and_one_that_never_reads_is_let_go_of() {
    let mut pod = Pod::start(|_| {}).await;
    let script = "read go; seq 1 60000; echo done; exec sleep 1000";
    running(&pod, "a", script, true, false).await;
    let before = descriptors(&pod).await;
    let mut first = attach(&pod, "a", 1 << 20, true, false).await;
    let mut second = attach(&pod, "a", 1 << 20, false, false).await;
    let mut stuck = attach(&pod, "a", 4096, false, false).await;
    assert!(second.input.is_none(), "it did not ask for one");
    first.write("go\n");
    match end(&mut stuck.ended).await {
        Err(SandboxError::Refused(failed)) => {
            assert!(failed.message.contains("fell too far behind"), "{failed:?}");
        }
        other => panic!("{other:?}"),
    }
    let log = || std::fs::read_to_string(pod.path("a.log")).unwrap();
    until("the whole log", async || log().ends_with(" stdout F done\n")).await;
    assert_eq!(pod.exec("a", &["echo", "alive"]).await, (0, "alive\n".into()));
    let kill = Signal { container: "a".into(), signal: 9, all: true };
    pod.connected.sandbox.signal(kill).await.unwrap();
    let expected = log_content(&pod.log("a"));
    for client in [&mut first, &mut second] {
        assert_eq!(end(&mut client.ended).await.unwrap(), 137);
        assert_eq!(String::from_utf8(client.rest().await).unwrap(), expected);
    }
    let part = stuck.rest().await;
    assert!(!part.is_empty() && expected.as_bytes().starts_with(&part), "{}", part.len());
    drop((first, second, stuck));
    assert_eq!(pod.exit_of("a").await.exit.unwrap().code, 137);
    assert!(descriptors(&pod).await.len() <= before.len());
    pod.end().await;
}

#[tokio::test]
async fn root_the_input_ends_with_the_first_client_if_it_is_to() {
    let mut pod = Pod::start(|_| {}).await;
    running(&pod, "open", "cat; echo end", true, false).await;
    for word in ["one", "two"] {
        let mut client = attach(&pod, "open", 4096, true, false).await;
        client.write(&format!("{word}\n"));
        read_until(&mut client.stdout, word).await;
    }
    running(&pod, "once", "cat; echo end; exit 4", true, false).await;
    // One that is set up and waits holds nothing open that was the shim's.
    pod.create("waits", &["true"]).await;
    let mut client = attach(&pod, "once", 4096, true, true).await;
    client.write("hello\n");
    read_until(&mut client.stdout, "hello").await;
    client.input = None;
    assert_eq!(end(&mut client.ended).await.unwrap(), 4);
    assert_eq!(client.rest().await, b"end\n");
    drop(client);
    assert_eq!(pod.exit_of("once").await.exit.unwrap().code, 4);
    assert_eq!(log_content(&pod.log("once")), "hello\nend\n");
    assert_eq!(log_content(&pod.log("open")), "one\ntwo\n", "it still reads");
    pod.end().await;
}

#[tokio::test]
async fn root_a_client_of_a_terminal_types_and_resizes() {
    let mut pod = Pod::start(|_| {}).await;
    running(&pod, "a", "read x; busybox stty size; echo got $x", true, true).await;
    let mut client = attach(&pod, "a", 4096, true, false).await;
    let size = Winsize { ws_row: 44, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(client.input.as_ref().unwrap(), size).unwrap();
    client.write("typed\n");
    assert_eq!(end(&mut client.ended).await.unwrap(), 0);
    let seen = String::from_utf8(client.rest().await).unwrap();
    assert!(seen.contains("44 99\r\ngot typed\r\n"), "{seen:?}");
    drop(client);
    pod.exit_of("a").await;
    pod.end().await;
}

#[tokio::test]
async fn root_a_daemon_that_goes_takes_its_sessions_and_nothing_else() {
    let mut pod = Pod::start(|_| {}).await;
    running(&pod, "a", "while read x; do echo got $x; done", true, false).await;
    let before = descriptors(&pod).await;
    let (mut ended, terminal) = on_terminal(&pod, "a", "echo ready; exec sleep 1000");
    let master = begun(&mut ended, terminal).await.expect("a terminal");
    read_until(&mut reader(&master), "ready").await;
    let mut client = attach(&pod, "a", 4096, true, false).await;
    client.write("one\n");
    read_until(&mut client.stdout, "got one").await;
    std::mem::forget(ended);
    vanish(client);
    drop(master);
    let identity = pod.connected.identity;
    let directory = pod.path("pod");
    let connected = Sandbox::adopt(&directory, identity).await.unwrap();
    drop(std::mem::replace(&mut pod.connected, connected));
    until("the exec is killed", async || processes(&pod, "a") == 1).await;
    nothing_more_than(&before, &pod).await;
    let mut client = attach(&pod, "a", 4096, true, false).await;
    client.write("two\n");
    read_until(&mut client.stdout, "got two").await;
    drop(client);
    assert_eq!(log_content(&pod.log("a")), "got one\ngot two\n");
    // Its first daemon, which would bury it, is gone.
    pod.connected.sandbox.shutdown().await.unwrap();
}

#[tokio::test]
async fn root_sockets_are_of_the_pods_network() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("netns");
    ns::create_pinned_netns(&path).unwrap();
    let netns = File::open(&path).unwrap();
    let pod = Pod::start(|boot| boot.netns = path.to_str().unwrap().into()).await;
    let before = descriptors(&pod).await;
    for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), (Ipv6Addr::LOCALHOST, 0).into()] {
        let listener = ns::in_netns(netns.as_fd(), move || TcpListener::bind(address).unwrap());
        let listener = listener.unwrap();
        let address = listener.local_addr().unwrap();
        let connect = async || {
            let socket = pod.connected.sandbox.socket(address.is_ipv6()).await.unwrap();
            TcpSocket::from_std_stream(socket.into()).connect(address).await
        };
        let mut stream = connect().await.unwrap();
        let mut peer = listener.accept().unwrap().0;
        peer.write_all(b"from inside").unwrap();
        stream.write_all(b"from outside").await.unwrap();
        let (mut got, mut sent) = ([0_u8; 11], [0_u8; 12]);
        stream.read_exact(&mut got).await.unwrap();
        peer.read_exact(&mut sent).unwrap();
        assert_eq!((&got, &sent), (b"from inside", b"from outside"));
        drop((listener, peer));
        assert_eq!(connect().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
    nothing_more_than(&before, &pod).await;
    pod.end().await;
    drop(netns);
    ns::remove_pinned_netns(&path).unwrap();
}
