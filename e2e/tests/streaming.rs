//! Exec, attach and port-forward by a real client, over both carriers.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cri_api::v1::{AttachRequest, ExecRequest, PortForwardRequest};
use e2e::client::{Cri, Pod, container, refusal};
use e2e::crictl::Crictl;
use e2e::fixtures::DEMO;
use e2e::host;
use e2e::node::{Node, Settings};
use e2e::process::free_address;
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

const TRANSPORTS: [&str; 2] = ["spdy", "websocket"];

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A node with the demo image, a pod, and a container that only waits.
struct Stage {
    node: Node,
    cri: Cri,
    crictl: Crictl,
    pod: Pod,
    container: String,
}

impl Stage {
    async fn set(settings: Settings) -> Result<Self> {
        host::require_root()?;
        let node = Node::start(settings).await?;
        node.import_demo()?;
        let crictl = Crictl::new(&node)?;
        let mut cri = node.connect().await?;
        let pod = cri.run_pod(node.pod("pod"), "").await?;
        let container = cri.launch(&pod, &container("c", DEMO, &["sleep", "100000"])).await?;
        Ok(Self { node, cri, crictl, pod, container })
    }
}

/// Numbers that compress badly and repeat late.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(next).take(length).collect()
}

async fn until(what: &str, mut is: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        if Instant::now() > deadline {
            bail!("{what} did not happen");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_exec_by_crictl() -> Result<()> {
    let stage = Stage::set(Settings::default()).await?;
    let id = stage.container.as_str();
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport];
        let script = "printf to-stdout; printf to-stderr >&2";
        let said = stage.crictl.feed(&[&exec[..], &[id, "sh", "-c", script]].concat(), b"").await?;
        assert_eq!(said.stdout, b"to-stdout");
        assert_eq!(said.stderr, b"to-stderr");
        assert!(said.status.success());

        let said = stage.crictl.feed(&[&exec[..], &[id, "true"]].concat(), b"").await?;
        assert_eq!((said.stdout, said.stderr), (vec![], vec![]));

        let failing = [&exec[..], &[id, "sh", "-c", "exit 42"]].concat();
        let said = stage.crictl.feed(&failing, b"").await?;
        assert!(!said.status.success());
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.contains("exit code 42"), "{text}");

        let absent = [&exec[..], &[id, "/no/such/program"]].concat();
        let said = stage.crictl.feed(&absent, b"").await?;
        assert!(!said.status.success());
        let text = String::from_utf8_lossy(&said.stderr);
        assert!(text.contains("/no/such/program"), "{text}");

        // The end of the input is the end of `cat`.
        let much = noise(100 << 20);
        let said = stage.crictl.feed(&[&exec[..], &["-i", id, "cat"]].concat(), &much).await?;
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert!(said.stdout == much, "{} of {} bytes", said.stdout.len(), much.len());
        assert_eq!(said.stderr, b"");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_exec_over_tls() -> Result<()> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let directory = tempfile::tempdir()?;
    let (certificate, key) = (directory.path().join("c.pem"), directory.path().join("k.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let certificate = certificate.to_str().context("the path")?;
    let key = key.to_str().context("the path")?;
    let more = format!("[streaming]\ntls_certificate = \"{certificate}\"\ntls_key = \"{key}\"\n");
    let stage = Stage::set(Settings { more, ..Settings::default() }).await?;
    for transport in TRANSPORTS {
        // crictl takes a certificate of its own only together with what it trusts.
        let tls = ["--tls-ca", certificate, "--tls-cert", certificate, "--tls-key", key];
        let words =
            [&["exec", "--transport", transport], &tls[..], &[&stage.container, "echo", "safe"]];
        let words = words.concat();
        let said = stage.crictl.feed(&words, b"").await?;
        assert_eq!(said.stdout, b"safe\n", "{}", String::from_utf8_lossy(&said.stderr));
    }
    Ok(())
}

/// A terminal with somebody at it: our end, and the program's.
fn terminal(columns: u16, rows: u16) -> Result<(File, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let path = PathBuf::from(ptsname(&master, Vec::new())?.into_string()?);
    let no_ctty = i32::try_from(rustix::fs::OFlags::NOCTTY.bits())?;
    let slave = OpenOptions::new().read(true).write(true).custom_flags(no_ctty).open(path)?;
    resize(&File::from(master.try_clone()?), columns, rows)?;
    Ok((File::from(master), slave.into()))
}

fn resize(master: &File, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(master.as_fd(), size)?)
}

/// Reads from a terminal until all that it `said` contains `text`.
fn read_until(master: &mut File, said: &mut String, text: &str) -> Result<()> {
    let mut buffer = [0; 4096];
    while !said.contains(text) {
        let read = master.read(&mut buffer).with_context(|| format!("the end after {said:?}"))?;
        *said += &String::from_utf8_lossy(&buffer[..read]);
    }
    Ok(())
}

/// A crictl that is killed when the test ends.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.0.id())?).context("no id")?;
        Ok(kill_process(id, signal)?)
    }

    async fn ended(&mut self) -> Result<std::process::ExitStatus> {
        let mut status = None;
        until("the end of crictl", || {
            status = self.0.try_wait().ok().flatten();
            status.is_some()
        })
        .await?;
        status.context("no status")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _gone = self.0.kill();
            let _reaped = self.0.wait();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn root_a_terminal_by_crictl() -> Result<()> {
    let stage = Stage::set(Settings::default()).await?;
    let script = "until [ \"$(stty size)\" = '30 100' ]; do sleep 0.1; done; echo at-first; \
                  until [ \"$(stty size)\" = '40 120' ]; do sleep 0.1; done; echo then; \
                  read line; echo \"<$line>\"; tty; exit 7";
    for transport in TRANSPORTS {
        let (mut master, slave) = terminal(100, 30)?;
        let words = ["exec", "--transport", transport, "-it", &stage.container, "sh", "-c", script];
        let mut command = stage.crictl.command(&words);
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let mut running = Running(command.spawn()?);
        drop(command);
        let talk = async {
            let mut said = String::new();
            (master, said) = tokio::task::spawn_blocking(move || {
                read_until(&mut master, &mut said, "at-first")?;
                anyhow::Ok((master, said))
            })
            .await??;
            resize(&master, 120, 40)?;
            running.signal(Signal::WINCH)?;
            tokio::task::spawn_blocking(move || {
                read_until(&mut master, &mut said, "then")?;
                master.write_all(b"typed\r")?;
                for expected in ["<typed>\r\n", "/dev/pts/", "exit code 7"] {
                    read_until(&mut master, &mut said, expected)?;
                }
                anyhow::Ok(())
            })
            .await?
        };
        let talk = tokio::time::timeout(PATIENCE, talk).await;
        let talk = talk.with_context(|| format!("{transport}: the talk does not end"))?;
        talk.with_context(|| transport.to_owned())?;
        assert!(!running.ended().await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_several_clients_attach() -> Result<()> {
    let mut stage = Stage::set(Settings::default()).await?;
    let script = "while read line; do echo \"got $line\"; echo err >&2; done; echo over; exit 3";
    let mut config = container("reader", DEMO, &["sh", "-c", script]);
    config.stdin = true;
    let id = stage.cri.launch(&stage.pod, &config).await?;

    let listen = |transport| -> Result<Running> {
        let mut command = stage.crictl.command(&["attach", "--transport", transport, &id]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Running(command.spawn()?))
    };
    let mut listeners = [listen("spdy")?, listen("websocket")?];
    // What is said before they listen is not heard; so say it until they do.
    let outputs = listeners.iter_mut().map(|one| one.0.stdout.take().context("no output"));
    let outputs: Vec<_> = outputs.collect::<Result<_>>()?;
    let heard: Vec<_> = outputs
        .into_iter()
        .map(|mut output| {
            let (tell, heard) = tokio::sync::watch::channel(String::new());
            tokio::task::spawn_blocking(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = output.read(&mut buffer) {
                    tell.send_modify(|text| *text += &String::from_utf8_lossy(&buffer[..read]));
                }
            });
            heard
        })
        .collect();
    let attach = ["attach", "-i", "--transport"];
    let mut talking = false;
    while !talking {
        // A client that goes away leaves the container's input open.
        let mut command = stage.crictl.command(&[&attach[..], &["spdy", &id]].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut writer = Running(command.spawn()?);
        let mut input = writer.0.stdin.take().context("no input")?;
        let mut echo = writer.0.stdout.take().context("no output")?;
        input.write_all(b"hello\n")?;
        let echoed = tokio::task::spawn_blocking(move || {
            let mut bytes = [0; 10];
            echo.read_exact(&mut bytes).map(|()| bytes)
        });
        assert_eq!(&tokio::time::timeout(PATIENCE, echoed).await???, b"got hello\n");
        writer.signal(Signal::KILL)?;
        assert_eq!(writer.ended().await?.signal(), Some(9));
        talking = heard.iter().all(|text| text.borrow().contains("got hello\n"));
    }
    assert_eq!(
        stage.cri.status(&id).await?.state,
        cri_api::v1::ContainerState::ContainerRunning as i32
    );
    stage.cri.stop(&id, 0).await?;
    for listener in &mut listeners {
        assert!(listener.ended().await?.success());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_the_input_of_a_container_that_takes_it_once_ends() -> Result<()> {
    let mut stage = Stage::set(Settings::default()).await?;
    for transport in TRANSPORTS {
        let mut config =
            container(transport, DEMO, &["sh", "-c", "cat; echo over; sleep 2; exit 5"]);
        (config.stdin, config.stdin_once) = (true, true);
        let id = stage.cri.launch(&stage.pod, &config).await?;
        let attach = ["attach", "-i", "--transport", transport, &id];
        let said = stage.crictl.feed(&attach, b"once\n").await?;
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(String::from_utf8(said.stdout)?, "once\nover\n");
        assert_eq!(stage.cri.wait_exited(&id).await?.exit_code, 5);
    }
    Ok(())
}

/// The ids of the processes whose command line is `line`.
fn processes(line: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let has = |path: &Path| {
        let said = std::fs::read(path.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&said).trim_end_matches('\0').replace('\0', " ") == line
    };
    all.map(|entry| entry.path()).filter(|path| has(path)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn root_vanished_clients_leave_nothing() -> Result<()> {
    let stage = Stage::set(Settings::default()).await?;
    let daemon = stage.node.daemon().context("no daemon")?;
    // Unlike any other on this machine.
    let line = format!("sleep 9{daemon}");
    let seconds = format!("9{daemon}");
    let before = host::descriptors(daemon)?;
    for transport in TRANSPORTS {
        let exec = ["exec", "--transport", transport, "-i", &stage.container];
        // Silent, and writing into a client that does not read.
        let flood = format!("yes | head -c 100000000; exec sleep {seconds}");
        for program in [&["sleep", &seconds][..], &["sh", "-c", &flood]] {
            let mut command = stage.crictl.command(&[&exec[..], program].concat());
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut client = Running(command.spawn()?);
            if program[0] == "sleep" {
                until("the start", || !processes(&line).is_empty()).await?;
            } else {
                let mut first = [0; 2];
                client.0.stdout.as_mut().context("no output")?.read_exact(&mut first)?;
            }
            client.signal(Signal::KILL)?;
            client.ended().await?;
            until("the end of the program", || processes(&line).is_empty()).await?;
        }
    }
    until("the closing of descriptors", || {
        host::descriptors(daemon).is_ok_and(|now| now <= before)
    })
    .await?;
    let said = stage.crictl.feed(&["exec", &stage.container, "ps"], b"").await?;
    let said = String::from_utf8(said.stdout)?;
    assert!(!said.contains("yes") && !said.contains("head"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn root_ports_are_forwarded() -> Result<()> {
    let mut stage = Stage::set(Settings::default()).await?;
    let script = "mkdir -p /www; head -c 20000000 /dev/zero > /www/large; echo hello > /www/small; \
                  exec httpd -f -p 127.0.0.1:8080 -h /www";
    let web = stage.cri.launch(&stage.pod, &container("web", DEMO, &["sh", "-c", script])).await?;
    // A connection that is refused ends the client.
    let get = "until wget -q -O /dev/null http://127.0.0.1:8080/small; do sleep 0.1; done";
    assert_eq!(stage.cri.exec(&web, &["sh", "-c", get]).await?.exit_code, 0);
    for transport in TRANSPORTS {
        let address = free_address()?;
        let ports = format!("{}:8080", address.port());
        let words = ["port-forward", "--transport", transport, &stage.pod.id, &ports];
        let mut command = stage.crictl.command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running(command.spawn()?);
        let get = async |name: &str| -> Result<Vec<u8>> {
            let mut socket = TcpStream::connect(address).await?;
            socket.write_all(format!("GET /{name} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = Vec::new();
            socket.read_to_end(&mut answer).await?;
            Ok(answer)
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = get("small").await;
            if answer.as_ref().is_ok_and(|answer| answer.ends_with(b"\r\n\r\nhello\n")) {
                break;
            }
            assert!(Instant::now() < deadline, "{transport}: {answer:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (first, second) = tokio::join!(get("large"), get("large"));
        for answer in [first?, second?] {
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.len() > 20_000_000);
        }
        drop(running);
    }
    Ok(())
}

/// The status line of the answer to a request that asks for SPDY.
async fn asked(url: &str) -> Result<String> {
    let (_, rest) = url.split_once("://").context("no scheme")?;
    let (host, path) = rest.split_once('/').context("no path")?;
    let mut socket = TcpStream::connect(host).await?;
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         Content-Length: 0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut answer = vec![0; 12];
    socket.read_exact(&mut answer).await?;
    Ok(String::from_utf8(answer)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn root_urls_and_refusals() -> Result<()> {
    let mut stage = Stage::set(Settings::default()).await?;
    let runtime = &mut stage.cri.runtime;
    let exec = ExecRequest {
        container_id: stage.container.clone(),
        cmd: vec!["true".to_owned()],
        stdout: true,
        ..Default::default()
    };
    let attach =
        AttachRequest { container_id: stage.container.clone(), stdout: true, ..Default::default() };
    let forward = PortForwardRequest { pod_sandbox_id: stage.pod.id.clone(), port: vec![80] };

    let url = runtime.exec(exec.clone()).await?.into_inner().url;
    assert_eq!(asked(&url.replace("/exec/", "/attach/")).await?, "HTTP/1.1 404");
    assert_eq!(asked(&url).await?, "HTTP/1.1 101");
    assert_eq!(asked(&url).await?, "HTTP/1.1 404");
    let url = runtime.attach(attach.clone()).await?.into_inner().url;
    assert!(url.starts_with("http://127.0.0.1:") && url.contains("/attach/"), "{url}");
    let url = runtime.port_forward(forward.clone()).await?.into_inner().url;
    assert!(url.contains("/portforward/"), "{url}");

    for wrong in [
        ExecRequest { tty: true, stderr: true, ..exec.clone() },
        ExecRequest { stdout: false, ..exec.clone() },
        ExecRequest { cmd: vec![], ..exec.clone() },
    ] {
        assert_eq!(refusal(runtime.exec(wrong).await)?.code(), Code::InvalidArgument);
    }
    for wrong in [
        AttachRequest { tty: true, stderr: true, ..attach.clone() },
        AttachRequest { stdout: false, ..attach.clone() },
    ] {
        assert_eq!(refusal(runtime.attach(wrong).await)?.code(), Code::InvalidArgument);
    }
    for port in [0, -1, 65536] {
        let wrong = PortForwardRequest { port: vec![port], ..forward.clone() };
        assert_eq!(refusal(runtime.port_forward(wrong).await)?.code(), Code::InvalidArgument);
    }
    let unknown = "unknown".to_owned();
    let wrong = ExecRequest { container_id: unknown.clone(), ..exec.clone() };
    assert_eq!(refusal(runtime.exec(wrong).await)?.code(), Code::NotFound);
    let wrong = AttachRequest { container_id: unknown.clone(), ..attach.clone() };
    assert_eq!(refusal(runtime.attach(wrong).await)?.code(), Code::NotFound);
    let wrong = PortForwardRequest { pod_sandbox_id: unknown, ..forward.clone() };
    assert_eq!(refusal(runtime.port_forward(wrong).await)?.code(), Code::NotFound);

    for _ in 0..1000 {
        if let Err(status) = runtime.exec(exec.clone()).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
        }
    }
    assert_eq!(refusal(runtime.exec(exec.clone()).await)?.code(), Code::ResourceExhausted);

    stage.cri.stop(&stage.container, 0).await?;
    let runtime = &mut stage.cri.runtime;
    assert_eq!(refusal(runtime.exec(exec).await)?.code(), Code::FailedPrecondition);
    assert_eq!(refusal(runtime.attach(attach).await)?.code(), Code::FailedPrecondition);
    stage.cri.stop_pod(&stage.pod.id).await?;
    let refused = refusal(stage.cri.runtime.port_forward(forward).await)?;
    assert_eq!(refused.code(), Code::FailedPrecondition);
    Ok(())
}

/// When the daemon stops, sessions end, with the programs that they run.
#[tokio::test(flavor = "multi_thread")]
async fn root_sessions_end_with_the_daemon() -> Result<()> {
    let mut stage = Stage::set(Settings::default()).await?;
    let daemon = stage.node.daemon().context("no daemon")?;
    let (seconds, line) = (format!("8{daemon}"), format!("sleep 8{daemon}"));
    let mut command = stage.crictl.command(&["exec", &stage.container, "sleep", &seconds]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut client = Running(command.spawn()?);
    until("the start", || !processes(&line).is_empty()).await?;
    assert!(stage.node.stop()?.success());
    client.ended().await?;
    until("the end of the program", || processes(&line).is_empty()).await?;
    Ok(())
}
