//! Bytes that no client would send: the connection may end, nothing else may happen.

use proptest::prelude::*;
use tokio::io::AsyncWriteExt as _;

use super::testing::{HeaderWriter, syn_stream};
use super::*;

/// Sends `bytes` and the end; returns how the connection ended.
fn send(bytes: &[u8]) -> Result<(), CarrierError> {
    let threads = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    threads.block_on(async {
        let (client, server) = tokio::io::duplex(64 << 10);
        let (connection, mut opened) = Connection::new(server);
        let (mut read, mut write) = tokio::io::split(client);
        let running = connection.run(CancellationToken::new(), Duration::from_secs(60));
        let listening = async {
            while let Some(mut stream) = opened.recv().await {
                while stream.inbound.next().await.is_some() {}
            }
        };
        let sending = async {
            // It may have hung up.
            let _gone = write.write_all(bytes).await;
            let _gone = write.shutdown().await;
            std::future::pending::<()>().await;
        };
        let reading = async {
            let _broken = tokio::io::copy(&mut read, &mut tokio::io::sink()).await;
        };
        tokio::select! {
            ended = running => ended,
            ((), (), ()) = async { tokio::join!(listening, sending, reading) } => Ok(()),
        }
    })
}

/// Some frames that are right.
fn conversation() -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
    let mut headers = HeaderWriter::new()?;
    let mut bytes = Vec::new();
    for (number, role) in ["error", "stdin", "stdout"].into_iter().enumerate() {
        let id = u32::try_from(number)? * 2 + 1;
        bytes.extend(syn_stream(id, &headers.write(&[("streamtype", role)])?));
    }
    bytes.extend(frame::data(3, false, 5));
    bytes.extend(b"hello");
    bytes.extend(frame::ping(1));
    bytes.extend(frame::rst_stream(5, frame::Refusal::InvalidStream));
    bytes.extend(frame::data(3, true, 0));
    Ok(bytes)
}

#[test]
fn the_conversation_is_right() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    Ok(send(&conversation()?)?)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        let _ended = send(&bytes);
    }

    #[test]
    fn any_control_frames(frames in prop::collection::vec(
        (0_u16..12, any::<u8>(), prop::collection::vec(any::<u8>(), 0..64)), 0..16,
    )) {
        let mut bytes = Vec::new();
        for (kind, flags, payload) in frames {
            bytes.extend([0x80, 3]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend([flags, 0, 0, payload.len() as u8]);
            bytes.extend(payload);
        }
        let _ended = send(&bytes);
    }

    #[test]
    fn right_frames_with_some_bytes_changed(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut bytes = conversation().unwrap_or_default();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ended = send(&bytes);
    }
}
