//! `orlop.admin.v1.Transfers`: one RPC for every pair of source and destination.
//!
//! The transfer is part of the answer's stream: it goes on while the stream is read, and a
//! client that goes away drops both. Invariant: no credential is logged or repeated in an error.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc::{Sender, channel};
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::images::{
    ArchiveFormat, AuthFields, Credentials, Destination, Images, Platform, Progress, Reference,
    Source, Transfer, Transferred,
};

use super::archive::{ArchiveReader, ArchiveWriter, NoReader, archive};
use super::refusal::{Refused, invalid};
use super::v1;
use super::v1::transfer_event::Event;
use super::v1::transfer_request::Part;
use super::v1::transfers_server::{Transfers as Api, TransfersServer};

/// The largest message that is taken: a chunk of an archive.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Events that wait for the connection.
const WAITING: usize = 4;
/// How much of an archive goes into one event.
const CHUNK_BYTES: usize = 256 << 10;
/// How often the progress is told.
const TICK: Duration = Duration::from_millis(200);

/// The API on top of `images`, to be served.
#[must_use]
pub fn transfers(images: Images) -> TransfersServer<impl Api> {
    TransfersServer::new(TransferApi { images }).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

#[derive(Debug)]
struct TransferApi {
    images: Images,
}

type Events = Pin<Box<dyn Stream<Item = Result<v1::TransferEvent, Status>> + Send>>;

#[tonic::async_trait]
impl Api for TransferApi {
    type TransferStream = Events;

    async fn transfer(
        &self,
        request: Request<Streaming<v1::TransferRequest>>,
    ) -> Result<Response<Events>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.and_then(|request| request.part);
        let Some(Part::Transfer(asked)) = first else {
            return Err(invalid("the first message does not say what to transfer"));
        };
        let (events, received) = channel(WAITING);
        let progress = ArcSwap::from_pointee(Progress::default());
        let (writer, reader) = archive();
        let expected = length_of(&asked);
        progress.load().expect_stream(expected);
        let transfer = read(asked, reader, &events)?;
        let images = self.images.clone();
        let work = async move {
            let outcome = {
                let running = images.transfer(transfer, &progress);
                tokio::pin!(running);
                let told = tell(&progress, &events);
                let fed = receive(requests, writer);
                let beside = async { tokio::join!(told, fed) };
                tokio::select! {
                    outcome = &mut running => outcome,
                    _ = beside => running.await,
                }
            };
            let last = match outcome {
                Ok(transferred) => {
                    // The progress at the end, whole.
                    events.send(Ok(event(Event::Progress(shown(&progress.load()))))).await.ok();
                    Ok(event(Event::Result(result(&transferred))))
                }
                Err(error) => Err(error.refusal()),
            };
            // A client that is gone does not want to know.
            events.send(last).await.ok();
        };
        let received = ReceiverStream::new(received).map(Some);
        let events = stream::select(received, stream::once(work).map(|()| None));
        Ok(Response::new(Box::pin(events.filter_map(std::future::ready))))
    }
}

/// Tells the progress for as long as it is polled.
async fn tell(progress: &ArcSwap<Progress>, events: &Sender<Result<v1::TransferEvent, Status>>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        let now = shown(&progress.load());
        // One that finds no room is followed by another.
        if last.as_ref() != Some(&now) && events.try_send(Ok(event(Event::Progress(now)))).is_ok() {
            last = Some(now);
        }
    }
}

/// Passes the chunks on. A stream that fails has no end, so the transfer fails too.
async fn receive(mut requests: Streaming<v1::TransferRequest>, writer: ArchiveWriter) {
    loop {
        match requests.message().await {
            Ok(Some(v1::TransferRequest { part: Some(Part::Chunk(chunk)) })) => {
                if let Err(NoReader) = writer.write(chunk).await {
                    return;
                }
            }
            Ok(Some(_)) => return,
            Ok(None) => break,
            Err(broken) => {
                tracing::debug!(error = %broken, "the source breaks off");
                return;
            }
        }
    }
    if let Err(NoReader) = writer.end().await {
        // The transfer has ended already, and says so.
    }
}

fn length_of(asked: &v1::Transfer) -> u64 {
    use v1::source::Kind;
    match asked.source.as_ref().and_then(|source| source.kind.as_ref()) {
        Some(Kind::Archive(stream) | Kind::Layer(stream)) => stream.length,
        _ => 0,
    }
}

fn read(
    asked: v1::Transfer,
    reader: ArchiveReader,
    events: &Sender<Result<v1::TransferEvent, Status>>,
) -> Result<Transfer, Status> {
    let source = asked.source.and_then(|source| source.kind);
    let destination = asked.destination.and_then(|destination| destination.kind);
    Ok(Transfer {
        source: read_source(source.ok_or_else(|| invalid("there is no source"))?, reader)?,
        destination: read_destination(
            destination.ok_or_else(|| invalid("there is no destination"))?,
            events,
        )?,
        platform: read_platform(&asked.platform)?,
    })
}

fn read_source(source: v1::source::Kind, reader: ArchiveReader) -> Result<Source, Status> {
    use v1::source::Kind;
    let stream: Box<dyn Read + Send> = Box::new(reader);
    Ok(match source {
        Kind::Registry(registry) => {
            let (reference, credentials) = read_registry(&registry)?;
            Source::Registry { reference, credentials }
        }
        Kind::Archive(_) => Source::Archive(stream),
        Kind::Image(name) => Source::Image(name),
        Kind::Layer(_) => Source::Layer(stream),
        Kind::Snapshot(name) => Source::Snapshot(name),
    })
}

fn read_destination(
    destination: v1::destination::Kind,
    events: &Sender<Result<v1::TransferEvent, Status>>,
) -> Result<Destination, Status> {
    use v1::destination::Kind;
    use v1::destination::archive::Format;
    let to = || Box::new(io::BufWriter::with_capacity(CHUNK_BYTES, ChunkWriter(events.clone())));
    Ok(match destination {
        Kind::Store(_) => Destination::Store,
        Kind::Registry(registry) => {
            let (reference, credentials) = read_registry(&registry)?;
            Destination::Registry { reference, credentials }
        }
        Kind::Archive(archive) => {
            let format = match archive.format() {
                Format::Oci => ArchiveFormat::Oci,
                Format::Docker => ArchiveFormat::Docker,
            };
            Destination::Archive { format, to: to() }
        }
        Kind::Name(name) => Destination::Name(read_reference(&name)?),
        Kind::Snapshot(snapshot) => Destination::Snapshot {
            key: snapshot.key,
            base: (!snapshot.base.is_empty()).then_some(snapshot.base),
        },
        Kind::Layer(_) => Destination::Layer(to()),
    })
}

/// What is to be asked, and with which secret.
pub(super) fn read_registry(
    registry: &v1::Registry,
) -> Result<(Reference, Option<Credentials>), Status> {
    let credentials = read_credentials(registry.credentials.as_ref())?;
    Ok((read_reference(&registry.reference)?, credentials))
}

/// The secret that the fields form.
pub(super) fn read_credentials(
    given: Option<&v1::Credentials>,
) -> Result<Option<Credentials>, Status> {
    let parse = |given: &v1::Credentials| {
        Credentials::parse(AuthFields {
            username: &given.username,
            password: &given.password,
            auth: &given.auth,
            server_address: &given.server_address,
            identity_token: &given.identity_token,
            registry_token: &given.registry_token,
        })
    };
    let credentials = given.map(parse).transpose();
    Ok(credentials.map_err(|error| invalid(&error.to_string()))?.flatten())
}

fn read_reference(text: &str) -> Result<Reference, Status> {
    Reference::parse(text).map_err(|error| invalid(&error.to_string()))
}

fn read_platform(text: &str) -> Result<Option<Platform>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let parts: Vec<&str> = text.split('/').collect();
    match parts.as_slice() {
        [os, architecture] => Ok(Some(Platform::normalised(os, architecture, ""))),
        [os, architecture, variant] => Ok(Some(Platform::normalised(os, architecture, variant))),
        _ => Err(invalid(&format!("{text:?} is not os/architecture or os/architecture/variant"))),
    }
}

fn event(event: Event) -> v1::TransferEvent {
    v1::TransferEvent { event: Some(event) }
}

fn shown(progress: &Arc<Progress>) -> v1::Progress {
    let totals = progress.totals();
    v1::Progress {
        bytes: totals.received_bytes,
        total_bytes: totals.total_bytes,
        layers_done: u32::try_from(totals.layers_done).unwrap_or(u32::MAX),
        layers: u32::try_from(totals.layers).unwrap_or(u32::MAX),
    }
}

fn result(transferred: &Transferred) -> v1::Result {
    let images = transferred.images.iter().map(|image| {
        let references = if image.tags.is_empty() { &image.digests } else { &image.tags };
        v1::Image { id: image.id.to_string(), references: references.clone() }
    });
    let recompressed = transferred
        .recompressed
        .iter()
        .map(|layer| v1::Recompressed { was: layer.was.to_string(), is: layer.is.to_string() });
    v1::Result {
        images: images.collect(),
        digest: transferred.digest.as_ref().map(ToString::to_string).unwrap_or_default(),
        recompressed: recompressed.collect(),
    }
}

/// A destination that is sent to the client. Writing blocks: not for threads that serve.
struct ChunkWriter(Sender<Result<v1::TransferEvent, Status>>);

impl Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = bytes.get(..bytes.len().min(CHUNK_BYTES)).unwrap_or_default();
        let sent = self.0.blocking_send(Ok(event(Event::Chunk(chunk.to_vec()))));
        sent.map_err(|_closed| {
            io::Error::new(io::ErrorKind::ConnectionAborted, "the client went away")
        })?;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
