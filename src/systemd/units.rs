//! Units that are installed on a machine: enabled, started, stopped.
//!
//! The machine may be one whose root directory is mounted below another, as in the pod that
//! installs orlop: the bus is named by its socket.

use std::path::Path;
use std::time::Duration;

use zbus::Connection;
use zbus::connection::Builder;

use super::{ask, result};

/// How long a unit may take to start or stop; more than systemd's own 90 s.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is done with a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// It runs; nothing happens if it does.
    Start,
    /// It is stopped, if it runs, and started.
    Restart,
    /// It does not run.
    Stop,
}

impl Verb {
    /// For people.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }

    fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Restart => "RestartUnit",
            Self::Stop => "StopUnit",
        }
    }
}

/// Why systemd has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// It cannot be reached.
    #[error("connect to the message bus at {socket}")]
    Connect {
        /// The socket of the bus.
        socket: String,
        /// Why not.
        #[source]
        source: zbus::Error,
    },
    /// It refused, or the connection ended.
    #[error("ask systemd to {step} {unit}")]
    Ask {
        /// What was asked.
        step: &'static str,
        /// The unit.
        unit: String,
        /// What it said.
        #[source]
        source: zbus::Error,
    },
    /// The job did not succeed.
    #[error(
        "systemd did not {step} {unit}: the job's result is {result:?}; see journalctl -u {unit}"
    )]
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

/// The units of one machine.
#[derive(Debug)]
pub struct Units {
    connection: Connection,
}

impl Units {
    /// Connects to the message bus that serves `socket`.
    ///
    /// # Errors
    /// [`UnitError::Connect`].
    pub async fn connect(socket: &Path) -> Result<Self, UnitError> {
        let path = socket.display().to_string();
        let connection = Builder::address(format!("unix:path={path}").as_str())
            .build()
            .await
            .map_err(|source| UnitError::Connect { socket: path, source })?;
        Ok(Self { connection })
    }

    /// Has `unit` started at each boot, and its files read anew.
    ///
    /// # Errors
    /// [`UnitError::Ask`].
    pub async fn enable(&self, unit: &str) -> Result<(), UnitError> {
        let refused = |source| UnitError::Ask { step: "enable", unit: unit.to_owned(), source };
        // Not for this boot alone; links that lead elsewhere are replaced.
        let body = (vec![unit], false, true);
        ask(&self.connection, "EnableUnitFiles", &body).await.map_err(refused)?;
        ask(&self.connection, "Reload", &()).await.map_err(refused)?;
        Ok(())
    }

    /// Has `unit` no longer started at boot.
    ///
    /// # Errors
    /// [`UnitError::Ask`].
    pub async fn disable(&self, unit: &str) -> Result<(), UnitError> {
        let refused = |source| UnitError::Ask { step: "disable", unit: unit.to_owned(), source };
        ask(&self.connection, "DisableUnitFiles", &(vec![unit], false)).await.map_err(refused)?;
        Ok(())
    }

    /// Has systemd read its units anew, `unit` above all.
    ///
    /// # Errors
    /// [`UnitError::Ask`].
    pub async fn reload(&self, unit: &str) -> Result<(), UnitError> {
        let refused = |source| UnitError::Ask { step: "reload", unit: unit.to_owned(), source };
        ask(&self.connection, "Reload", &()).await.map_err(refused)?;
        Ok(())
    }

    /// Does it, and waits until it is done: a unit that says when it is ready is ready then.
    ///
    /// # Errors
    /// [`UnitError`].
    pub async fn run(&self, verb: Verb, unit: &str) -> Result<(), UnitError> {
        let step = verb.word();
        let body = (unit, "replace");
        let doing = result(&self.connection, unit, verb.method(), &body);
        match tokio::time::timeout(PATIENCE, doing).await {
            Ok(Ok(result)) if result == "done" => Ok(()),
            Ok(Ok(result)) => Err(UnitError::Job { step, unit: unit.to_owned(), result }),
            Ok(Err(source)) => Err(UnitError::Ask { step, unit: unit.to_owned(), source }),
            Err(_elapsed) => {
                let seconds = PATIENCE.as_secs();
                Err(UnitError::TooLong { step, unit: unit.to_owned(), seconds })
            }
        }
    }
}
