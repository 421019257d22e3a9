//! Port-forward.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::spdy_client::{Heard, SpdyClient};
use super::*;
use crate::streaming::websocket::Tunnel;

const PROTOCOL: &str = "portforward.k8s.io";

/// A port where each connection gets back what it sent, with a greeting, once it sent all.
async fn echo() -> Result<(u16, JoinHandle<()>), std::io::Error> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = b"hello ".to_vec();
            if stream.read_to_end(&mut bytes).await.is_ok() {
                let _gone = stream.write_all(&bytes).await;
            }
        }
    });
    Ok((port, serving))
}

/// Opens the streams of a connection to `port`: error and data.
async fn pair<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    client: &mut SpdyClient<T>,
    port: &str,
    number: &str,
) -> Result<(u32, u32), Box<dyn Error + Send + Sync>> {
    let headers = |kind| [("streamtype", kind), ("port", port), ("requestid", number)];
    let error = client.open(&headers("error")).await?;
    client.send(error, b"", true).await?;
    Ok((error, client.open(&headers("data")).await?))
}

/// Bytes of `streams` until they have ended.
async fn until_ended<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(
    client: &mut SpdyClient<T>,
    streams: &[u32],
) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
    let mut bytes = vec![Vec::new(); streams.len()];
    let mut open = streams.to_vec();
    while !open.is_empty() {
        match client.hear().await? {
            Heard::Data { stream, fin, bytes: more } => {
                let at = streams.iter().position(|id| *id == stream).ok_or("an unknown stream")?;
                bytes[at].extend(more);
                open.retain(|id| !fin || *id != stream);
            }
            Heard::Control { .. } => {}
            Heard::End => return Err("the end".into()),
        }
    }
    Ok(bytes)
}

#[tokio::test]
async fn several_connections_and_a_closed_port() -> Outcome {
    let server = Running::start().await?;
    let (port, _serving) = echo().await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port();
    let mut client = SpdyClient::connect(&server.port_forward(&[])?, PROTOCOL).await?;
    let (first_error, first) = pair(&mut client, &port.to_string(), "0").await?;
    let (second_error, second) = pair(&mut client, &port.to_string(), "1").await?;
    let (third_error, third) = pair(&mut client, &closed.to_string(), "2").await?;
    client.send(second, b"two", true).await?;
    client.send(first, b"one", true).await?;
    let streams = [first, first_error, second, second_error, third, third_error];
    let heard = until_ended(&mut client, &streams).await?;
    assert_eq!(heard[..5], [&b"hello one"[..], b"", b"hello two", b"", b""]);
    let said = String::from_utf8(heard[5].clone())?;
    assert!(said.contains(&closed.to_string()) && said.contains("refused"), "{said}");

    // The connection goes on.
    let (error, data) = pair(&mut client, &port.to_string(), "3").await?;
    client.send(data, &vec![b'x'; 3 << 20], true).await?;
    let heard = until_ended(&mut client, &[data, error]).await?;
    assert_eq!(heard[0].len(), 6 + (3 << 20));
    Ok(())
}

#[tokio::test]
async fn a_port_that_is_none_is_said() -> Outcome {
    let server = Running::start().await?;
    let mut client = SpdyClient::connect(&server.port_forward(&[])?, PROTOCOL).await?;
    for (number, port) in ["0", "65536", "http"].iter().enumerate() {
        let (error, data) = pair(&mut client, port, &number.to_string()).await?;
        let heard = until_ended(&mut client, &[error, data]).await?;
        assert_eq!(heard[0], b"the port is not a number from 1 to 65535");
    }
    Ok(())
}

/// The pod's end is the client's at once, though the client could go on.
#[tokio::test]
async fn the_pod_may_end_first() -> Outcome {
    let server = Running::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port().to_string();
    let mut client = SpdyClient::connect(&server.port_forward(&[])?, PROTOCOL).await?;
    let (_, data) = pair(&mut client, &port, "0").await?;
    let (mut socket, _) = listener.accept().await?;
    socket.write_all(b"all").await?;
    socket.shutdown().await?;
    let heard = until_ended(&mut client, &[data]).await?;
    assert_eq!(heard, [b"all"]);
    // The connection is there still.
    client.send(data, b"more", true).await?;
    let mut more = Vec::new();
    socket.read_to_end(&mut more).await?;
    assert_eq!(more, b"more");
    Ok(())
}

/// When the client resets a connection, or is gone, the pod sees its end.
#[tokio::test]
async fn a_connection_that_is_given_up_is_closed() -> Outcome {
    let server = Running::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port().to_string();
    let mut client = SpdyClient::connect(&server.port_forward(&[])?, PROTOCOL).await?;
    let (_, reset) = pair(&mut client, &port, "0").await?;
    let (mut first, _) = listener.accept().await?;
    pair(&mut client, &port, "1").await?;
    let (mut second, _) = listener.accept().await?;
    client.io.write_all(&[0x80, 3, 0, 3, 0, 0, 0, 8]).await?;
    client.io.write_all(&[reset.to_be_bytes(), 5_u32.to_be_bytes()].concat()).await?;
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).await?;
    drop(client);
    second.read_to_end(&mut rest).await?;
    assert_eq!(rest, b"");
    Ok(())
}

#[tokio::test]
async fn half_a_pair_is_not_waited_for() -> Outcome {
    let server =
        Running::start_with(|config| config.creation_timeout = Duration::from_millis(100)).await?;
    let mut client = SpdyClient::connect(&server.port_forward(&[])?, PROTOCOL).await?;
    let headers = [("streamtype", "data"), ("port", "1"), ("requestid", "0")];
    let lonely = client.open(&headers).await?;
    loop {
        match client.hear().await? {
            Heard::Control { kind: 3, payload } => {
                assert_eq!(payload[..4], lonely.to_be_bytes());
                return Ok(());
            }
            Heard::End => return Err("the end".into()),
            _ => {}
        }
    }
}

#[tokio::test]
async fn spdy_inside_of_websocket() -> Outcome {
    let server = Running::start().await?;
    let (port, _serving) = echo().await?;
    let url = server.port_forward(&[])?;
    let (host, path) = split(&url)?;
    let mut request = format!("ws://{host}{path}").into_client_request()?;
    let tunnelled = format!("SPDY/3.1+{PROTOCOL}");
    request.headers_mut().insert("Sec-WebSocket-Protocol", tunnelled.parse()?);
    let io = TcpStream::connect(host).await?;
    let (socket, response) = tokio_tungstenite::client_async(request, io).await?;
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], tunnelled);
    let mut client = SpdyClient::over(Tunnel::new(socket))?;
    let (error, data) = pair(&mut client, &port.to_string(), "0").await?;
    let sent = vec![b'y'; 1 << 20];
    client.send(data, &sent, true).await?;
    client.io.flush().await?;
    let heard = until_ended(&mut client, &[error, data]).await?;
    assert_eq!(heard[0], b"");
    assert!(heard[1] == [b"hello ", &sent[..]].concat());
    Ok(())
}

#[tokio::test]
async fn two_channels_for_each_port() -> Outcome {
    let server = Running::start().await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let url = server.port_forward(&[1, port])?;
    let (host, path) = split(&url)?;
    let mut request = format!("ws://{host}{path}").into_client_request()?;
    request.headers_mut().insert("Sec-WebSocket-Protocol", "v4.channel.k8s.io".parse()?);
    let io = TcpStream::connect(host).await?;
    let (mut socket, _) = tokio_tungstenite::client_async(request, io).await?;
    socket.send(Message::binary(b"\x02ping".to_vec())).await?;
    let (mut stream, _) = listener.accept().await?;
    let mut asked = [0; 4];
    stream.read_exact(&mut asked).await?;
    assert_eq!(&asked, b"ping");
    stream.write_all(b"pong").await?;
    drop(stream);
    let mut heard = vec![Vec::new(); 4];
    while !heard[2].ends_with(b"pong") || heard[1].len() < 3 {
        match socket.next().await.transpose()? {
            Some(Message::Binary(bytes)) => heard[usize::from(bytes[0])].extend(&bytes[1..]),
            // A sign of life, which may come between any two.
            Some(Message::Pong(_)) => {}
            other => return Err(format!("{other:?}; so far {heard:?}").into()),
        }
    }
    assert_eq!(heard[0], 1_u16.to_le_bytes());
    assert_eq!(heard[2], [&port.to_le_bytes()[..], b"pong"].concat());
    assert_eq!(heard[3], port.to_le_bytes());
    assert!(String::from_utf8_lossy(&heard[1][2..]).contains("refused"), "{heard:?}");
    Ok(())
}
