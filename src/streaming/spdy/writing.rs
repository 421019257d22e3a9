//! What goes to the client: frames, in the order in which they were put into the queue.

use bytes::Buf as _;
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Outgoing;
use super::frame::{self, Refusal};
use super::table::Table;
use crate::streaming::client::{Activity, CarrierError, SIGN_OF_LIFE};

/// Writes until `finish`, then what is left, a farewell, and the end.
pub(super) async fn write(
    mut transport: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    finish: CancellationToken,
    table: &Table,
    activity: &Activity,
) -> Result<(), CarrierError> {
    // Ours are even.
    let mut ping = 2_u32;
    let mut finishing = false;
    loop {
        let outgoing = tokio::select! {
            biased;
            outgoing = queue.recv() => outgoing,
            () = finish.cancelled(), if !finishing => {
                finishing = true;
                queue.close();
                continue;
            }
            () = tokio::time::sleep(SIGN_OF_LIFE) => {
                ping = ping.wrapping_add(2);
                Some(Outgoing::Frame(frame::ping(ping)))
            }
        };
        let Some(outgoing) = outgoing else { break };
        put(&mut transport, outgoing, table, activity).await?;
        if queue.is_empty() {
            transport.flush().await?;
        }
    }
    transport.write_all(&frame::goaway(0)).await?;
    transport.flush().await?;
    Ok(transport.shutdown().await?)
}

async fn put(
    transport: &mut (impl AsyncWrite + Unpin),
    outgoing: Outgoing,
    table: &Table,
    activity: &Activity,
) -> Result<(), CarrierError> {
    match outgoing {
        Outgoing::Frame(bytes) => transport.write_all(&bytes).await?,
        Outgoing::Data { stream, bytes } if table.sends(stream) => {
            let head = frame::data(stream, false, bytes.len());
            transport.write_all_buf(&mut head.as_slice().chain(bytes)).await?;
            activity.note();
        }
        Outgoing::End { stream } if table.sends(stream) => {
            transport.write_all(&frame::data(stream, true, 0)).await?;
            table.sent_end(stream);
            activity.note();
        }
        // The client does not want it.
        Outgoing::Data { .. } | Outgoing::End { .. } => {}
        Outgoing::Reset { stream } => {
            table.reset(stream);
            transport.write_all(&frame::rst_stream(stream, Refusal::RefusedStream)).await?;
        }
    }
    Ok(())
}
