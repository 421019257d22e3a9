//! The connection to one shim: requests out, replies to whoever asked, events aside.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::identity::Held;
use super::{SandboxError, SandboxEvent, request};
use crate::protocol::{self, Body, Call, Hello, MAX_DESCRIPTORS, Message, Outcome, VERSION};

/// How long a shim may be silent before it is asked whether it lives, and then once more.
/// Its loop waits for nothing, so one that lives answers at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// One frame with its descriptors, on its way to the shim.
struct Parcel {
    frame: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The process, if this one started it: ended and buried with its connection.
type Child = Arc<Mutex<Option<Held>>>;

type Pending = Arc<Mutex<HashMap<u64, Waiting>>>;

/// Whoever asked something.
#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Outcome>,
    handed: Option<Handed>,
}

/// Gets the descriptor that the shim hands over when a request has begun, if it hands one.
pub(super) type Handed = oneshot::Sender<Option<OwnedFd>>;

/// The connection; its two tasks end with it.
#[derive(Debug)]
pub(super) struct Link {
    outbox: mpsc::UnboundedSender<Parcel>,
    pending: Pending,
    ids: AtomicU64,
    child: Child,
    _tasks: JoinSet<()>,
}

impl Link {
    /// Connects; `child` is the shim's process if it is this one's child.
    ///
    /// # Errors
    /// The child is gone: without a way to talk to it it is of no use.
    pub(super) async fn open(
        directory: &Path,
        child: Option<Held>,
    ) -> io::Result<(Self, mpsc::UnboundedReceiver<SandboxEvent>)> {
        let stream = match connect(directory).await {
            Ok(stream) => Arc::new(stream),
            Err(error) => {
                child.into_iter().for_each(Held::end);
                return Err(error);
            }
        };
        let (outbox, parcels) = mpsc::unbounded_channel();
        let (events, receiver) = mpsc::unbounded_channel();
        let pending = Pending::default();
        let child = Arc::new(Mutex::new(child));
        let mut tasks = JoinSet::new();
        tasks.spawn(write(Arc::clone(&stream), parcels));
        tasks.spawn(read(stream, Arc::clone(&pending), events, Arc::clone(&child)));
        let link = Self { outbox, pending, ids: AtomicU64::new(1), child, _tasks: tasks };
        Ok((link, receiver))
    }

    /// Ends the process, if this one started it.
    pub(super) fn give_up(&self) {
        end(&self.child);
    }

    pub(super) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }

    /// Asks and waits for the answer, as long as the shim shows that it lives. Dropping
    /// the future forgets the question; the shim answers all the same.
    pub(super) async fn ask(
        &self,
        id: u64,
        call: Call,
        descriptors: Vec<OwnedFd>,
        handed: Option<Handed>,
    ) -> Result<Outcome, SandboxError> {
        let what = described(&call);
        let mut question = self.pose(id, call, descriptors, handed)?;
        loop {
            if let Ok(answer) = timeout(PATIENCE, &mut question.answer).await {
                return answer.map_err(|_closed| SandboxError::Lost);
            }
            let hello = Call::Hello(Hello { version: VERSION });
            let mut life = self.pose(self.next_id(), hello, vec![], None)?;
            if timeout(PATIENCE, &mut life.answer).await.is_err() {
                return Err(SandboxError::Hung { what, seconds: 2 * PATIENCE.as_secs() });
            }
        }
    }

    fn pose(
        &self,
        id: u64,
        call: Call,
        descriptors: Vec<OwnedFd>,
        handed: Option<Handed>,
    ) -> Result<Question<'_>, SandboxError> {
        let frame = protocol::encode(&request(id, call, descriptors.len()))
            .map_err(SandboxError::Request)?;
        let (sender, answer) = oneshot::channel();
        lock(&self.pending).insert(id, Waiting { answer: sender, handed });
        let question = Question { pending: &self.pending, id, answer };
        let sent = self.outbox.send(Parcel { frame, descriptors });
        sent.map(|()| question).map_err(|_closed| SandboxError::Lost)
    }

    /// Asks without waiting.
    pub(super) fn post(&self, call: Call) {
        if let Ok(frame) = protocol::encode(&request(self.next_id(), call, 0)) {
            // A lost shim needs no more requests.
            let _ = self.outbox.send(Parcel { frame, descriptors: vec![] });
        }
    }
}

/// Something asked and not answered yet; forgotten when dropped.
struct Question<'a> {
    pending: &'a Pending,
    id: u64,
    answer: oneshot::Receiver<Outcome>,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        lock(self.pending).remove(&self.id);
    }
}

/// A call, for an error message.
fn described(call: &Call) -> String {
    match call {
        Call::Hello(_) => "greet it".to_owned(),
        Call::Create(create) => format!("create container {}", create.container),
        Call::Start(which) => format!("start container {}", which.container),
        Call::Signal(signal) => format!("signal container {}", signal.container),
        Call::Exec(exec) => format!("run a command in container {}", exec.container),
        Call::Attach(attach) => format!("attach to container {}", attach.container),
        Call::Socket(_) => "make a socket".to_owned(),
        Call::KillExec(_) => "kill a command".to_owned(),
        Call::ReopenLog(which) => format!("reopen the log of container {}", which.container),
        Call::Delete(which) => format!("delete container {}", which.container),
        Call::Checkpoint(_) => "checkpoint containers".to_owned(),
        Call::Thaw(_) => "end a checkpoint".to_owned(),
        Call::Shutdown(_) => "shut down".to_owned(),
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
    // One that accepts no more connections must not hold up who wants it gone.
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(path).ok()?).ok()?;
    let credentials = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    Some(credentials.pid.as_raw_nonzero().get().unsigned_abs())
}

fn end(child: &Child) {
    let child = lock(child).take();
    child.into_iter().for_each(Held::end);
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
    child: Child,
) {
    let (mut input, mut descriptors) = (Vec::new(), VecDeque::new());
    while read_some(&stream, &mut input, &mut descriptors).await.is_ok_and(|n| n > 0) {
        loop {
            match protocol::take_frame::<Message>(&mut input) {
                Ok(Some(message)) => {
                    // They came with the frame's first byte, so they are here.
                    let n = (message.descriptors as usize).min(descriptors.len());
                    let own = descriptors.drain(..n).collect();
                    deliver(message, own, &pending, &events);
                }
                Ok(None) => break,
                Err(_) => return lost(&pending, &events, &child),
            }
        }
    }
    lost(&pending, &events, &child);
}

async fn read_some(
    stream: &UnixStream,
    input: &mut Vec<u8>,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    stream
        .async_io(Interest::READABLE, || {
            let mut bytes = [0_u8; 16 << 10];
            let mut space =
                [MaybeUninit::<u8>::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut into = [IoSliceMut::new(&mut bytes)];
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = rustix::net::recvmsg(stream, &mut into, &mut control, flags)?.bytes;
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(own) = message {
                    descriptors.extend(own);
                }
            }
            input.extend_from_slice(&bytes[..received]);
            Ok(received)
        })
        .await
}

fn deliver(
    message: Message,
    mut descriptors: Vec<OwnedFd>,
    pending: &Pending,
    events: &mpsc::UnboundedSender<SandboxEvent>,
) {
    match message.body {
        Some(Body::Reply(reply)) => {
            let waiting = lock(pending).remove(&reply.id);
            if let (Some(waiting), Some(outcome)) = (waiting, reply.outcome) {
                // Whoever asked may have stopped waiting.
                let _ = waiting.answer.send(outcome);
            }
        }
        Some(Body::Handed(begun)) => {
            let mut pending = lock(pending);
            let waiting = pending.get_mut(&begun.request);
            if let Some(handed) = waiting.and_then(|waiting| waiting.handed.take()) {
                // Likewise; then it is closed.
                let _ = handed.send(descriptors.pop());
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
fn lost(pending: &Pending, events: &mpsc::UnboundedSender<SandboxEvent>, child: &Child) {
    end(child);
    lock(pending).clear();
    // Nobody listens once the pod is being forgotten.
    let _ = events.send(SandboxEvent::Lost);
}
