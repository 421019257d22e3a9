//! systemd, where it is this machine's process 1: scopes for processes that orlop has started,
//! where the cgroups of its units are, and orlop's own unit.
//!
//! A connection to the system's message bus lasts for one question: there are few, and none is
//! lost with a bus that was restarted meanwhile.
//!
//! # References
//! - [The D-Bus interface of systemd](https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.systemd1.html)
//! - [Control group APIs and delegation](https://systemd.io/CGROUP_DELEGATION/)

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use zbus::connection::Builder;
use zbus::{Connection, DynamicType, Message, MessageStream, ObjectPath, OwnedObjectPath, Variant};

/// Units by name, as cgroups.
mod slice;
/// Units that are installed.
mod units;

pub use slice::{InvalidSlice, slice_cgroup};
pub use units::{UnitError, Units, Verb};

const DESTINATION: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

/// How long systemd may take for one job.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why systemd has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It cannot be reached.
    #[error("connect to the system's message bus")]
    Connect(#[source] zbus::Error),
    /// It refused, or the connection ended.
    #[error("ask systemd to start {unit}")]
    Ask {
        /// The unit.
        unit: String,
        /// What it said.
        source: zbus::Error,
    },
    /// The job did not succeed.
    #[error("systemd did not start {unit}: the job's result is {result:?}")]
    Job {
        /// The unit.
        unit: String,
        /// systemd's word: `failed`, `canceled`, `timeout`, ...
        result: String,
    },
    /// It did not answer.
    #[error("systemd did not start {unit} within {seconds} s")]
    TooLong {
        /// The unit.
        unit: String,
        /// The patience.
        seconds: u64,
    },
}

/// A scope to be started.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Its name, ending in `.scope`.
    pub name: String,
    /// The slice that it is in, by name.
    pub slice: String,
    /// For people.
    pub description: String,
}

/// Whether systemd runs this machine, as `sd_booted(3)` has it.
#[must_use]
pub fn is_running() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Starts a scope with one process in it. When this returns, the process is in the scope's
/// cgroup, which belongs to the caller: systemd looks into it no more, and removes it when
/// it has no process left.
///
/// # Errors
/// [`SystemdError`]; the process is where it was, unless the time was over.
pub async fn start_scope(scope: &Scope, pid: u32) -> Result<(), SystemdError> {
    let starting = async {
        let connection = Builder::system().build().await.map_err(SystemdError::Connect)?;
        let result = transient(&connection, scope, pid)
            .await
            .map_err(|source| SystemdError::Ask { unit: scope.name.clone(), source })?;
        match result.as_str() {
            "done" => Ok(()),
            _ => Err(SystemdError::Job { unit: scope.name.clone(), result }),
        }
    };
    match tokio::time::timeout(PATIENCE, starting).await {
        Ok(started) => started,
        Err(_elapsed) => {
            let (unit, seconds) = (scope.name.clone(), PATIENCE.as_secs());
            Err(SystemdError::TooLong { unit, seconds })
        }
    }
}

/// Starts the unit; returns the result of the job.
async fn transient(connection: &Connection, scope: &Scope, pid: u32) -> zbus::Result<String> {
    // Before the question, so that no answer is missed.
    let mut ended = jobs_ended(connection, &scope.name).await?;
    let properties: Vec<(&str, Variant<'_>)> = vec![
        ("Description", Variant::new(scope.description.as_str())),
        ("Slice", Variant::new(scope.slice.as_str())),
        ("Delegate", Variant::new(true)),
        ("PIDs", Variant::new(vec![pid])),
        // The kubelet limits the processes of a pod; the distribution's default is for services.
        ("TasksMax", Variant::new(u64::MAX)),
        // Pods end by their runtime, or last of all: not among the services at shutdown.
        ("DefaultDependencies", Variant::new(false)),
        ("CollectMode", Variant::new("inactive-or-failed")),
    ];
    let others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
    let body = (scope.name.as_str(), "fail", properties, others);
    let answer = ask(connection, "StartTransientUnit", &body).await?;
    result_of(answer, &mut ended).await
}

/// Waits for the end of the job that `answer` names; returns its result.
async fn result_of(answer: Message, ended: &mut MessageStream) -> zbus::Result<String> {
    let job: OwnedObjectPath = answer.body().deserialize()?;
    while let Some(message) = ended.next().await {
        let message = message?;
        let body = message.body();
        let (_number, removed, _unit, result): (u32, ObjectPath<'_>, &str, &str) =
            body.deserialize()?;
        if removed.as_str() == job.as_str() {
            return Ok(result.to_owned());
        }
    }
    Err(zbus::Error::Failure("the connection ended".to_owned()))
}

/// What systemd says of jobs of this unit that have ended.
async fn jobs_ended(connection: &Connection, unit: &str) -> zbus::Result<MessageStream> {
    let rule = format!(
        "type='signal',sender='{DESTINATION}',path='{OBJECT}',interface='{INTERFACE}',\
         member='JobRemoved',arg2='{unit}'"
    );
    let ended = MessageStream::for_match_rule(rule.as_str(), connection, None).await?;
    // Without a subscriber, systemd sends no signals.
    ask(connection, "Subscribe", &()).await?;
    Ok(ended)
}

async fn ask<B>(connection: &Connection, method: &str, body: &B) -> zbus::Result<Message>
where
    B: serde::Serialize + DynamicType,
{
    connection.call_method(Some(DESTINATION), OBJECT, Some(INTERFACE), method, body).await
}
