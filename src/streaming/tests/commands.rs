//! Exec and attach, over both carriers.

use std::collections::BTreeMap;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::spdy_client::{Heard, PING, RST_STREAM, SYN_REPLY, SpdyClient, data, rest};
use super::*;

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";

fn status(bytes: &[u8]) -> Result<Value, Box<dyn Error + Send + Sync>> {
    Ok(serde_json::from_slice(bytes)?)
}

fn success() -> Value {
    json!({ "metadata": {}, "status": "Success" })
}

#[tokio::test]
async fn output_errors_and_exit_code_over_spdy() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(OUTPUT, &["sh", "-c", "printf out; printf err >&2; exit 3"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    let [error, stdout, stderr] = client.open_roles(["error", "stdout", "stderr"]).await?;
    for _ in 0..3 {
        assert!(matches!(client.hear().await?, Heard::Control { kind: SYN_REPLY, .. }));
    }
    let heard = client.rest().await?;
    assert_eq!(heard[&stdout], (b"out".to_vec(), true));
    assert_eq!(heard[&stderr], (b"err".to_vec(), true));
    assert!(heard[&error].1);
    let status = status(&heard[&error].0)?;
    assert_eq!(status["status"], "Failure");
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"], json!([{ "reason": "ExitCode", "message": "3" }]));
    Ok(())
}

#[tokio::test]
async fn old_protocols_hear_a_text_or_nothing() -> Outcome {
    let server = Running::start().await?;
    for (command, said) in [("true", ""), ("exit 4", "command terminated with exit code 4")] {
        let url = server.exec(OUTPUT, &["sh", "-c", command])?;
        let mut client = SpdyClient::connect(&url, "v2.channel.k8s.io").await?;
        let [error, ..] = client.open_roles(["error", "stdout", "stderr"]).await?;
        assert_eq!(client.rest().await?[&error], (said.into(), true));
    }
    Ok(())
}

#[tokio::test]
async fn a_program_that_does_not_start_is_said() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(OUTPUT, &["/nonexistent"])?;
    let mut client = SpdyClient::connect(&url, V5).await?;
    let [error, stdout, _] = client.open_roles(["error", "stdout", "stderr"]).await?;
    let heard = client.rest().await?;
    assert_eq!(heard[&stdout], (Vec::new(), true));
    let status = status(&heard[&error].0)?;
    assert_eq!(status["status"], "Failure");
    assert!(
        status["message"].as_str().is_some_and(|text| text.contains("No such file")),
        "{status}"
    );
    Ok(())
}

/// Twenty megabytes through `cat`, written and read at the same time; the end of the input
/// is the program's end.
#[tokio::test]
async fn much_goes_both_ways_and_ends_over_spdy() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(ALL, &["cat"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    let [error, stdin, stdout, _] =
        client.open_roles(["error", "stdin", "stdout", "stderr"]).await?;
    let sent: Vec<u8> = (0..20_u32 << 20).map(|n| (n / 7 % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(client.io);
    let writing = async {
        // One frame is longer than all buffers together; the others are small.
        let (long, short) = sent.split_at(8 << 20);
        write.write_all(&data(stdin, long, false)?).await?;
        for piece in short.chunks(30_000) {
            write.write_all(&data(stdin, piece, false)?).await?;
        }
        write.write_all(&data(stdin, b"", true)?).await?;
        Ok::<_, Box<dyn Error + Send + Sync>>(())
    };
    let (written, heard) = tokio::join!(writing, rest(&mut read));
    written?;
    let heard = heard?;
    assert!(heard[&stdout].0 == sent, "{} of {} bytes", heard[&stdout].0.len(), sent.len());
    assert_eq!(status(&heard[&error].0)?, success());
    Ok(())
}

/// While a program reads nothing, its client's other streams and questions are served.
#[tokio::test]
async fn a_program_that_does_not_read_holds_up_nobody() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(ALL, &["sh", "-c", "read line; echo got; exec 0<&-; sleep 1; exit 5"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    let [error, stdin, stdout, _] =
        client.open_roles(["error", "stdin", "stdout", "stderr"]).await?;
    client.send(stdin, b"line\n", false).await?;
    // More than waits anywhere on the way.
    client.send(stdin, &vec![b'x'; 4 << 20], false).await?;
    client.io.write_all(&[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9]).await?;
    let mut echoed = false;
    let (mut said, mut code) = (Vec::new(), Vec::new());
    loop {
        match client.hear().await? {
            Heard::Control { kind: PING, payload } => echoed |= payload == [0, 0, 0, 9],
            Heard::Control { .. } => {}
            Heard::Data { stream, bytes, .. } if stream == stdout => said.extend(bytes),
            Heard::Data { stream, bytes, .. } if stream == error => code.extend(bytes),
            Heard::Data { .. } => {}
            Heard::End => break,
        }
    }
    assert!(echoed);
    assert_eq!(said, b"got\n");
    assert_eq!(status(&code)?["details"]["causes"][0]["message"], "5");
    Ok(())
}

#[tokio::test]
async fn streams_that_were_not_asked_for_are_refused() -> Outcome {
    let server = Running::start().await?;
    let streams = Streams { stderr: false, ..OUTPUT };
    let url = server.exec(streams, &["true"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    let [surplus] = client.open_roles(["stderr"]).await?;
    client.open_roles(["error", "stdout"]).await?;
    loop {
        match client.hear().await? {
            Heard::Control { kind: RST_STREAM, payload } => {
                assert_eq!(payload[..4], surplus.to_be_bytes());
                return Ok(());
            }
            Heard::End => return Err("no reset".into()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_client_that_opens_no_streams_is_not_waited_for() -> Outcome {
    let creation_timeout = Duration::from_millis(100);
    let server = Running::start_with(|config| config.creation_timeout = creation_timeout).await?;
    let url = server.exec(ALL, &["cat"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    client.open_roles(["error", "stdin"]).await?;
    assert_eq!(client.rest().await?, BTreeMap::new());
    Ok(())
}

#[tokio::test]
async fn a_silent_session_is_ended() -> Outcome {
    let server =
        Running::start_with(|config| config.idle_timeout = Duration::from_millis(300)).await?;
    let url = server.exec(OUTPUT, &["sleep", "1000"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    client.open_roles(["error", "stdout", "stderr"]).await?;
    assert_eq!(client.rest().await?, BTreeMap::new());
    Ok(())
}

/// The number of the process that the program says it is.
async fn pid(client: &mut SpdyClient<TcpStream>) -> Result<u32, Box<dyn Error + Send + Sync>> {
    loop {
        match client.hear().await? {
            Heard::Data { bytes, .. } => {
                let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
                return Ok(std::str::from_utf8(line)?.parse()?);
            }
            Heard::End => return Err("the end".into()),
            Heard::Control { .. } => {}
        }
    }
}

fn is_gone(pid: u32) -> bool {
    !std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn a_vanished_clients_program_is_killed() -> Outcome {
    let server = Running::start().await?;
    let scripts = [
        "echo $$; exec sleep 1000",
        // Output that nobody reads.
        "echo $$; exec cat /dev/zero",
    ];
    for script in scripts {
        let url = server.exec(ALL, &["sh", "-c", script])?;
        let mut client = SpdyClient::connect(&url, V4).await?;
        client.open_roles(["error", "stdin", "stdout", "stderr"]).await?;
        let pid = pid(&mut client).await?;
        assert!(!is_gone(pid));
        drop(client);
        until("the end of the program", || is_gone(pid)).await?;
    }
    Ok(())
}

/// Nothing more is read from this client, because its program reads nothing: only that
/// nothing can be sent to it says that it is gone.
#[tokio::test]
async fn a_vanished_client_with_too_much_input_is_noticed() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(ALL, &["sh", "-c", "echo $$; exec sleep 1000"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    let [_, stdin, ..] = client.open_roles(["error", "stdin", "stdout", "stderr"]).await?;
    let pid = pid(&mut client).await?;
    client.send(stdin, &vec![0; 1 << 20], false).await?;
    drop(client);
    until("the end of the program", || is_gone(pid)).await
}

#[tokio::test]
async fn sessions_end_with_the_server() -> Outcome {
    let mut server = Running::start().await?;
    let url = server.exec(OUTPUT, &["sh", "-c", "echo $$; exec sleep 1000"])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    client.open_roles(["error", "stdout", "stderr"]).await?;
    let pid = pid(&mut client).await?;
    server.stop.cancel();
    client.rest().await?;
    drop(client);
    (&mut server.task).await?;
    until("the end of the program", || is_gone(pid)).await
}

/// A WebSocket at `url`; what the server chose must be `protocol`.
async fn websocket(
    url: &str,
    protocol: &str,
) -> Result<WebSocketStream<TcpStream>, Box<dyn Error + Send + Sync>> {
    let (host, path) = split(url)?;
    let mut request = format!("ws://{host}{path}").into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse()?);
    let io = TcpStream::connect(host).await?;
    let (socket, response) = tokio_tungstenite::client_async(request, io).await?;
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], protocol);
    Ok(socket)
}

/// What comes on each channel until the server closes.
async fn channels(
    socket: &mut (
             impl futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>>
             + Unpin
         ),
) -> Result<BTreeMap<u8, Vec<u8>>, Box<dyn Error + Send + Sync>> {
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some(message) = socket.next().await {
        match message? {
            Message::Binary(bytes) => {
                let (channel, bytes) = bytes.split_first().ok_or("an empty message")?;
                channels.entry(*channel).or_default().extend(bytes);
            }
            Message::Close(frame) => {
                assert_eq!(frame.map(|frame| u16::from(frame.code)), Some(1000));
            }
            _ => {}
        }
    }
    Ok(channels)
}

#[tokio::test]
async fn output_errors_and_exit_code_over_websocket() -> Outcome {
    let server = Running::start().await?;
    for protocol in [V4, V5] {
        let url = server.exec(OUTPUT, &["sh", "-c", "printf out; printf err >&2; exit 3"])?;
        let heard = channels(&mut websocket(&url, protocol).await?).await?;
        assert_eq!(heard[&1], b"out");
        assert_eq!(heard[&2], b"err");
        assert_eq!(status(&heard[&3])?["details"]["causes"][0]["message"], "3");
    }
    Ok(())
}

#[tokio::test]
async fn much_goes_both_ways_and_ends_over_websocket() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(ALL, &["cat"])?;
    let (mut sink, mut stream) = websocket(&url, V5).await?.split();
    let sent: Vec<u8> = (0..20_u32 << 20).map(|n| (n / 7 % 251) as u8).collect();
    let writing = async {
        for piece in sent.chunks(1 << 20) {
            sink.send(Message::binary([&[0], piece].concat())).await?;
        }
        sink.send(Message::binary(vec![255, 0])).await
    };
    let (written, heard) = tokio::join!(writing, channels(&mut stream));
    written?;
    let heard = heard?;
    assert!(heard[&1] == sent, "{} of {} bytes", heard[&1].len(), sent.len());
    assert_eq!(status(&heard[&3])?, success());
    Ok(())
}

/// A client whose program reads nothing is not read from, and its own pings wait; kubectl
/// gives up after a minute without a pong.
#[tokio::test]
async fn a_client_that_is_not_read_from_hears_signs_of_life() -> Outcome {
    let server = Running::start().await?;
    let url = server.exec(ALL, &["sleep", "1000"])?;
    let mut socket = websocket(&url, V5).await?;
    socket.send(Message::binary(vec![0; 1 << 20])).await?;
    let mut pongs = 0;
    while pongs < 2 {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await?.ok_or("the end")??;
        pongs += usize::from(matches!(message, Message::Pong(_)));
    }
    Ok(())
}

#[tokio::test]
async fn browsers_speak_base64() -> Outcome {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let server = Running::start().await?;
    let url = server.exec(ALL, &["sh", "-c", "read line; printf \"<$line>\""])?;
    let mut socket = websocket(&url, "v4.base64.channel.k8s.io").await?;
    socket.send(Message::text(format!("0{}", STANDARD.encode("typed\n")))).await?;
    let mut said: BTreeMap<char, Vec<u8>> = BTreeMap::new();
    while let Some(message) = socket.next().await {
        let Message::Text(text) = message? else { continue };
        let text: Utf8Bytes = text;
        let channel = text.chars().next().ok_or("an empty message")?;
        said.entry(channel).or_default().extend(STANDARD.decode(&text.as_bytes()[1..])?);
    }
    assert_eq!(said[&'1'], b"<typed>");
    assert_eq!(status(&said[&'3'])?, success());
    Ok(())
}

#[tokio::test]
async fn terminals_are_resized() -> Outcome {
    let server = Running::start().await?;
    let streams = Streams { tty: true, stdin: true, stdout: true, stderr: false };
    let sizes = [
        r#"{"Width":80,"Height":24}"#,
        r#"{"Width":0,"Height":7}"#,
        "{\"Width\":120,\"Height\":40}\n",
    ];
    let wait = "until [ $(wc -l < \"$0\") = 2 ]; do sleep 0.05; done; cat \"$0\"";

    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().ok_or("the path")?;
    let url = server.exec(streams, &["sh", "-c", wait, path])?;
    let mut client = SpdyClient::connect(&url, V4).await?;
    let roles = ["error", "stdin", "stdout", "resize"];
    let [_, _, stdout, resize] = client.open_roles(roles).await?;
    for size in sizes {
        // In two parts.
        client.send(resize, &size.as_bytes()[..9], false).await?;
        client.send(resize, &size.as_bytes()[9..], false).await?;
    }
    assert_eq!(client.rest().await?[&stdout].0, b"80 24\n120 40\n");

    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().ok_or("the path")?;
    let url = server.exec(streams, &["sh", "-c", wait, path])?;
    let mut socket = websocket(&url, V5).await?;
    for size in sizes {
        socket.send(Message::binary([b"\x04", size.as_bytes()].concat())).await?;
    }
    assert_eq!(channels(&mut socket).await?[&1], b"80 24\n120 40\n");
    Ok(())
}

#[tokio::test]
async fn attach_is_like_exec() -> Outcome {
    let server = Running::start().await?;
    let url = server.urls.attach(AttachOrder { container: "c".to_owned(), streams: ALL })?;
    assert!(url.contains("/attach/"));
    let mut client = SpdyClient::connect(&url, V4).await?;
    let [error, stdin, stdout, _] =
        client.open_roles(["error", "stdin", "stdout", "stderr"]).await?;
    client.send(stdin, b"hello", true).await?;
    let heard = client.rest().await?;
    assert_eq!(heard[&stdout].0, b"hello");
    assert_eq!(status(&heard[&error].0)?, success());
    Ok(())
}
