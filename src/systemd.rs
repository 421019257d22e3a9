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
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// How long systemd may take for one job.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why systemd has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// It cannot be reached.
    #[error("connect to the system's message bus")]
    Connect(#[source] zbus::Error),
    /// It refused, or the connection ended.
    #[error("ask systemd to {step} {unit}")]
    Ask {
        /// What was asked.
        step: &'static str,
        /// The unit.
        unit: String,
        /// What it said.
        source: zbus::Error,
    },
    /// The job did not succeed.
    #[error("systemd did not {step} {unit}: the job's result is {result:?}")]
    Job {
        /// What was asked.
        step: &'static str,
        /// The unit.
        unit: String,
        /// systemd's word: `failed`, `canceled`, `timeout`, ...
        result: String,
    },
    /// It did not answer.
    #[error("systemd did not {step} {unit} within {seconds} s")]
    TooLong {
        /// What was asked.
        step: &'static str,
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
/// cgroup, which belongs to the caller: systemd looks into it no more.
///
/// # Errors
/// [`SystemdError`]; the process is where it was, unless the time was over.
pub async fn start_scope(scope: &Scope, pid: u32) -> Result<(), SystemdError> {
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
    job("start", &scope.name, "StartTransientUnit", &body).await
}

/// Ends a scope in which nothing runs any more, if there still is one. systemd would notice by
/// itself that its cgroup is empty, but the kernel says so late, and says nothing of a cgroup
/// that was removed before: such a scope stays for ever.
///
/// # Errors
/// [`SystemdError`]; it can be asked again.
pub async fn stop_scope(name: &str) -> Result<(), SystemdError> {
    match job("stop", name, "StopUnit", &(name, "replace")).await {
        Err(SystemdError::Ask { source: zbus::Error::MethodError(kind, _, _), .. })
            if kind == NO_SUCH_UNIT =>
        {
            Ok(())
        }
        ended => ended,
    }
}

/// Asks for one job, and waits until it has succeeded.
async fn job<B>(
    step: &'static str,
    unit: &str,
    method: &'static str,
    body: &B,
) -> Result<(), SystemdError>
where
    B: serde::Serialize + DynamicType,
{
    let unit = unit.to_owned();
    let asking = async {
        let connection = Builder::system().build().await.map_err(SystemdError::Connect)?;
        result(&connection, &unit, method, body).await.map_err(|source| SystemdError::Ask {
            step,
            unit: unit.clone(),
            source,
        })
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(Ok(result)) if result == "done" => Ok(()),
        Ok(Ok(result)) => Err(SystemdError::Job { step, unit, result }),
        Ok(Err(error)) => Err(error),
        Err(_elapsed) => Err(SystemdError::TooLong { step, unit, seconds: PATIENCE.as_secs() }),
    }
}

/// The result of the job that a method begins.
async fn result<B>(
    connection: &Connection,
    unit: &str,
    method: &'static str,
    body: &B,
) -> zbus::Result<String>
where
    B: serde::Serialize + DynamicType,
{
    // Before the question, so that no answer is missed.
    let mut ended = jobs_ended(connection, unit).await?;
    let answer = ask(connection, method, body).await?;
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
