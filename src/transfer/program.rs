//! Programs that answer one question: credential helpers, image verifiers.
//!
//! Invariants: a program has a deadline, at which it is killed with all that it started; nothing
//! that it writes or leaves unread makes it wait for us, or us for it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

const POLL: Duration = Duration::from_millis(10);

/// What a program said.
#[derive(Debug)]
pub(super) struct Answer {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// Its standard output, as much as was asked for.
    pub(super) output: Vec<u8>,
    /// Its standard error, as much as was asked for.
    pub(super) complaints: Vec<u8>,
}

/// A program did not answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// It cannot be started.
    Start(io::Error),
    /// What goes to it or comes from it is lost.
    Talk(io::Error),
    /// It did not end in time and was killed.
    Late,
}

/// Runs `command` with `input`, and takes at most `limit` bytes of each of its outputs. Blocks
/// until it ends or its time is over.
///
/// # Errors
/// [`Unanswered`]. That it fails is an answer.
pub(super) fn ask(
    mut command: Command,
    input: &[u8],
    limit: u64,
    deadline: Duration,
) -> Result<Answer, Unanswered> {
    let mut open = || -> io::Result<(Channel, Channel)> {
        let (mut input_file, output, complaints) = (memory()?, memory()?, memory()?);
        input_file.write_all(input)?;
        input_file.rewind()?;
        command.stdin(input_file).stdout(output.try_clone()?).stderr(complaints.try_clone()?);
        Ok((Channel(output), Channel(complaints)))
    };
    let (output, complaints) = open().map_err(Unanswered::Talk)?;
    let mut child = command.process_group(0).spawn().map_err(Unanswered::Start)?;
    let ended = wait(&mut child, deadline).map_err(Unanswered::Talk)?;
    let Some(status) = ended else { return Err(Unanswered::Late) };
    Ok(Answer {
        status,
        output: output.read(limit).map_err(Unanswered::Talk)?,
        complaints: complaints.read(limit).map_err(Unanswered::Talk)?,
    })
}

/// Not a pipe: whatever the program writes, it never waits for us, nor we for it.
struct Channel(File);

impl Channel {
    fn read(mut self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.0.rewind()?;
        self.0.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

fn memory() -> io::Result<File> {
    let file = rustix::fs::memfd_create("question", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(File::from(file))
}

/// How the child ended; `None` when it had to be killed.
fn wait(child: &mut Child, deadline: Duration) -> io::Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            // It leads a group of its own, which is gone only if it ended by itself just now.
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_process_group(group, Signal::KILL).ok();
            }
            child.wait()?;
            return Ok(None);
        }
        sleep(POLL);
    }
}
