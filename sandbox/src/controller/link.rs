//! The connection to one shim: requests out, replies to whoever asked, events aside.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::{SandboxError, SandboxEvent, request};
use crate::protocol::{self, Body, Call, MAX_DESCRIPTORS, Message, Outcome};

/// One frame with its descriptors, on its way to the shim.
struct Parcel {
    frame: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Outcome>>>>;

/// The connection; its two tasks end with it.
#[derive(Debug)]
pub(super) struct Link {
    outbox: mpsc::UnboundedSender<Parcel>,
    pending: Pending,
    ids: AtomicU64,
    child: Arc<Mutex<Option<Child>>>,
    _tasks: JoinSet<()>,
}

impl Link {
    pub(super) async fn open(
        directory: &Path,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<SandboxEvent>)> {
        let stream = Arc::new(connect(directory).await?);
        let (outbox, parcels) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        let pending = Pending::default();
        let child = Arc::new(Mutex::new(None));
        let mut tasks = JoinSet::new();
        tasks.spawn(write(Arc::clone(&stream), parcels));
        tasks.spawn(read(stream, Arc::clone(&pending), events, Arc::clone(&child)));
        let link = Self { outbox, pending, ids: AtomicU64::new(1), child, _tasks: tasks };
        Ok((link, receiver))
    }

    /// Takes charge of burying the process when it ends.
    pub(super) fn own(&self, child: Child) {
        *lock(&self.child) = Some(child);
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks and waits for the answer. Dropping the future forgets the question; the shim
    /// answers all the same.
    pub(super) async fn ask(
        &self,
        id: u64,
        call: Call,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Outcome, SandboxError> {
        let frame = protocol::encode(&request(id, call, descriptors.len()))
            .map_err(SandboxError::Request)?;
        let (sender, answer) = oneshot::channel();
        lock(&self.pending).insert(id, sender);
        if self.outbox.send(Parcel { frame, descriptors }).is_err() {
            lock(&self.pending).remove(&id);
            return Err(SandboxError::Lost);
        }
        answer.await.map_err(|_closed| SandboxError::Lost)
    }

    /// Asks without waiting.
    pub(super) fn post(&self, call: Call) {
        if let Ok(frame) = protocol::encode(&request(self.next_id(), call, 0)) {
            // A lost shim needs no more requests.
            let _ = self.outbox.send(Parcel { frame, descriptors: vec![] });
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing that holds it can panic half way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Connects through a descriptor of the directory: socket addresses are limited to 107
/// bytes and state directories are not.
async fn connect(directory: &Path) -> io::Result<UnixStream> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, directory, flags, Mode::empty())?;
    UnixStream::connect(format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd())).await
}

/// The process that listens on the socket in `directory`.
pub(super) fn peer(directory: &Path) -> Option<u32> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, directory, flags, Mode::empty()).ok()?;
    let path = format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd());
    let stream = std::os::unix::net::UnixStream::connect(path).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    Some(credentials.pid.as_raw_nonzero().get().unsigned_abs())
}

async fn write(stream: Arc<UnixStream>, mut parcels: mpsc::UnboundedReceiver<Parcel>) {
    while let Some(parcel) = parcels.recv().await {
        if send(&stream, &parcel).await.is_err() {
            // The reader meets the same end and tells everybody.
            return;
        }
    }
}

async fn send(stream: &UnixStream, parcel: &Parcel) -> io::Result<()> {
    let mut sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space =
                [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors: Vec<_> = parcel.descriptors.iter().map(AsFd::as_fd).collect();
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&descriptors));
            }
            let bytes = [IoSlice::new(&parcel.frame)];
            Ok(rustix::net::sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL)?)
        })
        .await?;
    while sent < parcel.frame.len() {
        sent += stream
            .async_io(Interest::WRITABLE, || {
                Ok(rustix::net::send(stream, &parcel.frame[sent..], SendFlags::NOSIGNAL)?)
            })
            .await?;
    }
    Ok(())
}

async fn read(
    stream: Arc<UnixStream>,
    pending: Pending,
    events: mpsc::UnboundedSender<SandboxEvent>,
    child: Arc<Mutex<Option<Child>>>,
) {
    let mut input = Vec::new();
    while read_some(&stream, &mut input).await.is_ok_and(|n| n > 0) {
        loop {
            match protocol::take_frame::<Message>(&mut input) {
                Ok(Some(message)) => deliver(message, &pending, &events),
                Ok(None) => break,
                Err(_) => return lost(&pending, &events, &child),
            }
        }
    }
    lost(&pending, &events, &child);
}

async fn read_some(stream: &UnixStream, input: &mut Vec<u8>) -> io::Result<usize> {
    let mut bytes = [0_u8; 16 << 10];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut bytes) {
            Ok(n) => {
                input.extend_from_slice(&bytes[..n]);
                return Ok(n);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn deliver(message: Message, pending: &Pending, events: &mpsc::UnboundedSender<SandboxEvent>) {
    match message.body {
        Some(Body::Reply(reply)) => {
            let waiting = lock(pending).remove(&reply.id);
            if let (Some(waiting), Some(outcome)) = (waiting, reply.outcome) {
                // Whoever asked may have stopped waiting.
                let _ = waiting.send(outcome);
            }
        }
        Some(Body::Exited(state)) => {
            // Nobody listens once the pod is being forgotten.
            let _ = events.send(SandboxEvent::Exited(state));
        }
        None => {}
    }
}

/// Without its connection a shim is of no use: it is ended, and everybody told.
fn lost(
    pending: &Pending,
    events: &mpsc::UnboundedSender<SandboxEvent>,
    child: &Mutex<Option<Child>>,
) {
    if let Some(mut child) = lock(child).take() {
        // Both fail only when it is gone already; a killed process is buried at once.
        let _ = child.kill().and_then(|()| child.wait().map(drop));
    }
    lock(pending).clear();
    // Nobody listens once the pod is being forgotten.
    let _ = events.send(SandboxEvent::Lost);
}
