//! The messages between daemon and shim, and how they are framed.
//!
//! A connection is a unix stream socket in the pod's state directory. Each side sends
//! frames: a little-endian `u32` length, then one protobuf message of at most
//! [`MAX_FRAME`] bytes. The daemon sends [`Request`]s, the shim [`Message`]s: one reply
//! for each request, in any order, and events. Descriptors travel by `SCM_RIGHTS` with
//! the first byte of the frame that names their number.
//!
//! The first request is [`Hello`]; a shim answers one whose version it does not know
//! with a failure and the daemon treats it as lost. Fields are only ever added.

use prost::{Message as _, Oneof};

/// The version of this protocol; see [`Hello`].
pub const VERSION: u32 = 1;

/// The largest frame, in bytes. A longer length is an error before anything is read, so
/// that a confused peer cannot make either side allocate without bound.
pub const MAX_FRAME: usize = 8 << 20;

/// The most descriptors that come with one frame.
pub const MAX_DESCRIPTORS: usize = 3;

/// From the daemon.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Chosen by the daemon; the reply carries it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// How many descriptors come with this frame.
    #[prost(uint32, tag = "11")]
    pub descriptors: u32,
    /// What is asked.
    #[prost(oneof = "Call", tags = "2,3,4,5,6,7,8,9,10,12,13,14,15")]
    pub call: Option<Call>,
}

/// What the daemon can ask of a shim.
#[derive(Clone, PartialEq, Oneof)]
pub enum Call {
    /// Begin, and tell what there is.
    #[prost(message, tag = "2")]
    Hello(Hello),
    /// Set up a container up to the point where its program would run.
    #[prost(message, boxed, tag = "3")]
    Create(Box<Create>),
    /// Run the program of a created container.
    #[prost(message, tag = "4")]
    Start(Start),
    /// Send a signal.
    #[prost(message, tag = "5")]
    Signal(Signal),
    /// Run a further program in a container; the reply comes when it ended.
    #[prost(message, tag = "6")]
    Exec(Exec),
    /// Kill a running exec, or end an attachment.
    #[prost(message, tag = "7")]
    KillExec(ExecRef),
    /// Close the log file and open it again by its name.
    #[prost(message, tag = "8")]
    ReopenLog(ContainerRef),
    /// Kill what is left of a container, release what it holds, forget it.
    #[prost(message, tag = "9")]
    Delete(ContainerRef),
    /// Delete every container and end.
    #[prost(message, tag = "10")]
    Shutdown(Shutdown),
    /// Copy a container's output from now on; the reply comes when it ended.
    #[prost(message, tag = "12")]
    Attach(Attach),
    /// Make a TCP socket in the pod's network namespace and hand it over.
    #[prost(message, tag = "13")]
    Socket(Socket),
    /// Freeze running containers and dump their processes. The reply comes when that is
    /// done; they stay frozen until [`Call::Thaw`], the deadline or the connection's end.
    #[prost(message, tag = "14")]
    Checkpoint(Checkpoint),
    /// Let the containers of a checkpoint go on, whatever has become of it; fails if they
    /// went on before.
    #[prost(message, tag = "15")]
    Thaw(CheckpointRef),
}

/// First request on a connection.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Hello {
    /// [`VERSION`] of the daemon.
    #[prost(uint32, tag = "1")]
    pub version: u32,
}

/// Names a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerRef {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
}

/// A container to start, and what changed since it was created. Begins like a
/// [`ContainerRef`], which it once was.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Start {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Limits to set first, JSON: `linux.resources` of the OCI runtime spec; empty: those
    /// of its creation hold.
    #[prost(bytes = "vec", tag = "2")]
    pub resources: Vec<u8>,
    /// Its new out-of-memory score, if that changed.
    #[prost(int32, optional, tag = "3")]
    pub oom_score_adj: Option<i32>,
}

/// Names a running exec, or an attachment, by the id of the request that began it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ExecRef {
    /// [`Request::id`] of the [`Exec`] or [`Attach`].
    #[prost(uint64, tag = "1")]
    pub exec: u64,
}

/// Containers to freeze together and to dump one after the other.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Checkpoint {
    /// Which, and where to.
    #[prost(message, repeated, tag = "1")]
    pub dumps: Vec<Dump>,
    /// The criu program.
    #[prost(string, tag = "2")]
    pub criu: String,
    /// How long the containers may be frozen, in milliseconds.
    #[prost(uint64, tag = "3")]
    pub deadline_ms: u64,
}

/// One container of a [`Checkpoint`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dump {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// An existing directory. criu writes its log there, and images below `checkpoint`.
    #[prost(string, tag = "2")]
    pub directory: String,
}

/// Names a checkpoint by the id of the request that began it.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct CheckpointRef {
    /// [`Request::id`] of the [`Checkpoint`].
    #[prost(uint64, tag = "1")]
    pub checkpoint: u64,
}

/// End the shim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Shutdown {}

/// A container to create.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Create {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// OCI runtime spec, JSON.
    #[prost(bytes = "vec", tag = "2")]
    pub spec: Vec<u8>,
    /// What the root file system is made of.
    #[prost(message, optional, tag = "3")]
    pub rootfs: Option<Rootfs>,
    /// Absolute path of the log file; empty: output is read and dropped.
    #[prost(string, tag = "4")]
    pub log_path: String,
    /// Longest line of the log before it is split, in bytes.
    #[prost(uint32, tag = "5")]
    pub max_log_line: u32,
    /// Keep the program's standard input open.
    #[prost(bool, tag = "6")]
    pub stdin: bool,
    /// An OCI runtime other than the built-in one.
    #[prost(message, optional, tag = "7")]
    pub external: Option<External>,
    /// How long setting up may take, in milliseconds.
    #[prost(uint64, tag = "8")]
    pub deadline_ms: u64,
    /// Which PID namespace the program runs in.
    #[prost(message, optional, tag = "9")]
    pub pid_namespace: Option<PidNamespace>,
    /// Images that mounts of the spec have as their source.
    #[prost(message, repeated, tag = "20")]
    pub images: Vec<ImageMount>,
    /// Its processes are restored when it is started; then the program of the spec is not run.
    #[prost(message, optional, tag = "21")]
    pub restore: Option<Restore>,
}

/// Where the processes of a new container come from.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Restore {
    /// What a [`Dump`] wrote, or a copy, which stays until the container is started. criu
    /// writes its log there.
    #[prost(string, tag = "1")]
    pub directory: String,
    /// The criu program.
    #[prost(string, tag = "2")]
    pub criu: String,
}

/// An image that is mounted read-only in a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ImageMount {
    /// The source of those bind mounts of the spec that mean it: a path in the container's
    /// own directory, where external runtimes find it mounted.
    #[prost(string, tag = "1")]
    pub source: String,
    /// Its layers, top first; at least two.
    #[prost(string, repeated, tag = "2")]
    pub lower: Vec<String>,
    /// The part of it that is mounted, resolved as if the image were the root; empty: all.
    #[prost(string, tag = "3")]
    pub sub_path: String,
    /// The SELinux context that all of its files show; empty: each its own.
    #[prost(string, tag = "4")]
    pub context: String,
}

/// The layers of a container's root file system, for overlayfs.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rootfs {
    /// Read-only layers, top first.
    #[prost(string, repeated, tag = "1")]
    pub lower: Vec<String>,
    /// The writable directory; empty: nothing can be written.
    #[prost(string, tag = "2")]
    pub upper: String,
    /// overlayfs' work directory.
    #[prost(string, tag = "3")]
    pub work: String,
    /// The SELinux context that all files show; empty: each its own.
    #[prost(string, tag = "4")]
    pub context: String,
}

/// An OCI runtime that is called by its command line.
#[derive(Clone, PartialEq, prost::Message)]
pub struct External {
    /// The executable.
    #[prost(string, tag = "1")]
    pub path: String,
    /// The directory for its own state.
    #[prost(string, tag = "2")]
    pub root: String,
}

/// Where a container's processes get their ids.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PidNamespace {
    /// The choice.
    #[prost(oneof = "PidMode", tags = "1,2,3,4")]
    pub mode: Option<PidMode>,
}

/// The choices of [`PidNamespace`].
#[derive(Clone, PartialEq, Oneof)]
pub enum PidMode {
    /// One of its own.
    #[prost(bool, tag = "1")]
    Container(bool),
    /// The one that the pod's containers share.
    #[prost(bool, tag = "2")]
    Pod(bool),
    /// The host's.
    #[prost(bool, tag = "3")]
    Node(bool),
    /// That of another container of the pod.
    #[prost(string, tag = "4")]
    Target(String),
}

/// A signal for a container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Signal {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Signal number.
    #[prost(int32, tag = "2")]
    pub signal: i32,
    /// To every process of the container, not only to its first.
    #[prost(bool, tag = "3")]
    pub all: bool,
}

/// A program to run in a running container. Its stdin, stdout and stderr come with the
/// frame, unless it gets a terminal: that one's master side is [`Handed`] back.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exec {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// `process` of the OCI runtime spec, JSON; empty: as the container's own, with
    /// `argv` instead of its arguments.
    #[prost(bytes = "vec", tag = "2")]
    pub process: Vec<u8>,
    /// Arguments when `process` is empty.
    #[prost(string, repeated, tag = "3")]
    pub argv: Vec<String>,
    /// Give it a terminal of the container's own.
    #[prost(bool, tag = "4")]
    pub terminal: bool,
}

/// A client of a running container. The pipes that its output is copied to come with the
/// frame: stdout's if that is asked for, then stderr's. What the client writes to is
/// [`Handed`] back: the container's terminal if it has one, else its standard input if
/// that is asked for and open.
///
/// A client that lets a pipe run full has fallen behind and is let go of; neither the
/// container nor its log waits for it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Attach {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// The client writes to the container.
    #[prost(bool, tag = "2")]
    pub stdin: bool,
    /// The shim is to keep no end of the container's standard input: it ends when this
    /// client closes what it was handed.
    #[prost(bool, tag = "3")]
    pub stdin_once: bool,
    /// The client reads the container's standard output, or its terminal.
    #[prost(bool, tag = "4")]
    pub stdout: bool,
    /// The client reads the container's standard error.
    #[prost(bool, tag = "5")]
    pub stderr: bool,
}

/// A TCP socket to make: not blocking, not connected, and of the pod's network wherever
/// it goes.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Socket {
    /// For IPv6 instead of IPv4.
    #[prost(bool, tag = "1")]
    pub ipv6: bool,
}

/// What a shim reads from its standard input before anything else, as one frame. It
/// answers with one [`Reply`] on its standard output: [`Welcome`], or why not.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Boot {
    /// Pod id.
    #[prost(string, tag = "1")]
    pub pod: String,
    /// The pod's state directory, which exists.
    #[prost(string, tag = "2")]
    pub directory: String,
    /// Path of the pod's network namespace; empty: the host's.
    #[prost(string, tag = "3")]
    pub netns: String,
    /// Give the pod an IPC namespace of its own.
    #[prost(bool, tag = "4")]
    pub own_ipc: bool,
    /// Give the pod a UTS namespace of its own, with this host name.
    #[prost(string, optional, tag = "5")]
    pub hostname: Option<String>,
    /// Kernel settings of those namespaces.
    #[prost(message, repeated, tag = "6")]
    pub sysctls: Vec<Sysctl>,
    /// The pod's containers share a PID namespace.
    #[prost(bool, tag = "7")]
    pub shared_pid: bool,
    /// Give the pod a user namespace. Its other namespaces then belong to it: the network
    /// namespace is not there yet, and is pinned at `netns` by the shim.
    #[prost(message, optional, tag = "8")]
    pub user_namespace: Option<UserNamespace>,
    /// The SELinux context of what the first process of a shared PID namespace has as its root;
    /// empty: none.
    #[prost(string, tag = "9")]
    pub context: String,
    /// The cgroup hierarchies of this node, a line each.
    #[prost(string, repeated, tag = "10")]
    pub hierarchies: Vec<String>,
}

/// The ids of a user namespace: from 0 on inside, from these of the host on outside.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct UserNamespace {
    /// What user 0 is on the host.
    #[prost(uint32, tag = "1")]
    pub host_uid: u32,
    /// How many users there are.
    #[prost(uint32, tag = "2")]
    pub uids: u32,
    /// What group 0 is on the host.
    #[prost(uint32, tag = "3")]
    pub host_gid: u32,
    /// How many groups there are.
    #[prost(uint32, tag = "4")]
    pub gids: u32,
}

/// One kernel setting.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sysctl {
    /// Path below `/proc/sys`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// From the shim.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Message {
    /// A reply or an event.
    #[prost(oneof = "Body", tags = "1,2,3")]
    pub body: Option<Body>,
    /// How many descriptors come with this frame.
    #[prost(uint32, tag = "4")]
    pub descriptors: u32,
}

/// The kinds of [`Message`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// The answer to one request.
    #[prost(message, tag = "1")]
    Reply(Reply),
    /// A container's program ended.
    #[prost(message, tag = "2")]
    Exited(ContainerState),
    /// A request that takes longer has begun.
    #[prost(message, tag = "3")]
    Handed(Handed),
}

/// A request that takes longer has begun, and this is what it asked for: the descriptor
/// that comes with the frame, or none. The request's reply follows.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Handed {
    /// [`Request::id`].
    #[prost(uint64, tag = "1")]
    pub request: u64,
}

/// The answer to one [`Request`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    /// [`Request::id`].
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What came of it.
    #[prost(oneof = "Outcome", tags = "2,3,4,5,6")]
    pub outcome: Option<Outcome>,
}

/// What came of a request.
#[derive(Clone, PartialEq, Oneof)]
pub enum Outcome {
    /// It was refused, or failed.
    #[prost(message, tag = "2")]
    Failed(Failed),
    /// Done; nothing more to say.
    #[prost(message, tag = "3")]
    Done(Done),
    /// Answer to [`Hello`].
    #[prost(message, tag = "4")]
    Welcome(Welcome),
    /// Answer to [`Create`] and [`Call::Start`].
    #[prost(message, tag = "5")]
    Container(ContainerState),
    /// Answer to [`Exec`], and to [`Attach`] when the container's program ended.
    #[prost(message, tag = "6")]
    ExecExited(ExecExited),
}

/// Nothing more to say.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Done {}

/// Why a request failed.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failed {
    /// What kind of failure.
    #[prost(enumeration = "FailedKind", tag = "1")]
    pub kind: i32,
    /// The step, the thing and the cause.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// Kinds of failure that the daemon tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum FailedKind {
    /// A step failed.
    Step = 0,
    /// No such container.
    NotFound = 1,
    /// The container is not in a state for this.
    WrongState = 2,
    /// The request is malformed or asks for what cannot be.
    Invalid = 3,
    /// It took longer than its deadline.
    Deadline = 4,
}

/// Answer to [`Hello`].
#[derive(Clone, PartialEq, prost::Message)]
pub struct Welcome {
    /// [`VERSION`] of the shim.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// The shim's own process id.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// Every container that was created and not deleted.
    #[prost(message, repeated, tag = "3")]
    pub containers: Vec<ContainerState>,
}

/// What the shim knows of a container. Also the content of an exit file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerState {
    /// Container id.
    #[prost(string, tag = "1")]
    pub container: String,
    /// Process id of its first process in the shim's PID namespace.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
    /// When its program began, nanoseconds since the epoch; 0: not yet.
    #[prost(int64, tag = "3")]
    pub started_at_ns: i64,
    /// Set once it ended.
    #[prost(message, optional, tag = "4")]
    pub exit: Option<Exit>,
}

/// How a container's program ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Exit {
    /// Exit code; 128 + signal number when a signal ended it.
    #[prost(int32, tag = "1")]
    pub code: i32,
    /// Nanoseconds since the epoch.
    #[prost(int64, tag = "2")]
    pub finished_at_ns: i64,
    /// The kernel killed a process of it for lack of memory.
    #[prost(bool, tag = "3")]
    pub oom_killed: bool,
    /// What else there is to say of it, for whoever asks why.
    #[prost(string, tag = "4")]
    pub message: String,
}

/// Answer to [`Exec`] and [`Attach`].
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ExecExited {
    /// Exit code; 128 + signal number when a signal ended it.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The length is beyond [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than the limit of {MAX_FRAME}")]
    TooLong(usize),
    /// Not the expected message.
    #[error("a frame that is not a message of this protocol")]
    Malformed(#[source] prost::DecodeError),
}

/// A message as a frame.
///
/// # Errors
/// [`FrameError::TooLong`]: the message would not be accepted by the other side.
pub fn encode<M: prost::Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    let Some(prefix) = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME) else {
        return Err(FrameError::TooLong(length));
    };
    let mut frame = Vec::with_capacity(4 + length);
    frame.extend_from_slice(&prefix.to_le_bytes());
    frame.extend_from_slice(&message.encode_to_vec());
    Ok(frame)
}

/// Takes the first whole frame off `buffer`; `None` while it is incomplete.
///
/// # Errors
/// A length beyond the limit or bytes that are not an `M`: the connection is of no
/// further use.
pub fn take_frame<M: prost::Message + Default>(
    buffer: &mut Vec<u8>,
) -> Result<Option<M>, FrameError> {
    let Some((prefix, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = M::decode(body).map_err(FrameError::Malformed)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}

/// As it was created.
impl<Id: AsRef<str> + ?Sized> From<&Id> for Start {
    fn from(id: &Id) -> Self {
        Self { container: id.as_ref().to_owned(), resources: Vec::new(), oom_score_adj: None }
    }
}

impl Failed {
    /// A failure of `kind` that says `message`.
    #[must_use]
    pub fn new(kind: FailedKind, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into() }
    }
}

/// The content of an exit file.
#[must_use]
pub fn encode_exit(state: &ContainerState) -> Vec<u8> {
    state.encode_to_vec()
}

/// Reads the content of an exit file.
///
/// # Errors
/// The bytes are not such a file.
pub fn decode_exit(bytes: &[u8]) -> Result<ContainerState, FrameError> {
    ContainerState::decode(bytes).map_err(FrameError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole_whatever_the_split() {
        let request = Request {
            id: 7,
            descriptors: 0,
            call: Some(Call::Signal(Signal { container: "c".into(), signal: 15, all: false })),
        };
        let frame = encode(&request).unwrap();
        for split in 0..=frame.len() {
            let mut buffer = frame[..split].to_vec();
            let early = take_frame::<Request>(&mut buffer).unwrap();
            assert_eq!(early.is_some(), split == frame.len());
            if early.is_none() {
                buffer.extend_from_slice(&frame[split..]);
                assert_eq!(take_frame::<Request>(&mut buffer).unwrap().unwrap(), request);
            }
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn an_absurd_length_is_refused_before_its_bytes_come() {
        let mut buffer = u32::MAX.to_le_bytes().to_vec();
        assert!(matches!(take_frame::<Request>(&mut buffer), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        let mut buffer = vec![3, 0, 0, 0, 0xff, 0xff, 0xff];
        assert!(matches!(take_frame::<Request>(&mut buffer), Err(FrameError::Malformed(_))));
    }
}
