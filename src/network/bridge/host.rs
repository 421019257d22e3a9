//! The thread that does everything on the host for the built-in bridge, one thing after the
//! other.
//!
//! The kernel takes one lock for all of it anyway. A thread of its own keeps the async
//! workers free, and stays in the network namespace of the thread that started it.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{JoinError, spawn_blocking};

use super::error::DetachError;
use super::{Bridge, names};
use crate::network::config::BridgeConfig;
use crate::network::netlink::route::delete_link;
use crate::network::netlink::{Family, Socket};

/// How long one request may take. The slowest, removing an interface on a busy machine,
/// takes tens of milliseconds; beyond this the kernel is stuck.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// How many interfaces are removed at once. The kernel waits for the same grace periods for
/// all of them, so more do not take longer.
const REMOVALS_MAX: usize = 16;

type Job = Box<dyn FnOnce(&mut Bridge) + Send>;

/// The bridge, on its thread.
#[derive(Debug)]
pub(crate) struct Host {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    removals: Semaphore,
}

/// Why the thread did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartHostError {
    /// No thread.
    #[error("starting the thread of the bridge")]
    Thread(#[source] std::io::Error),
    /// No netlink.
    #[error("opening netlink sockets")]
    OpenSockets(#[source] Errno),
    /// The thread ended without an answer.
    #[error("the thread of the bridge died")]
    Died,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The work was not run.
    #[error("running the removal of an interface")]
    Run(#[source] JoinError),
    /// The thread ended.
    #[error("the thread of the bridge died")]
    Died,
    /// The thread did not answer; the request may still be done.
    #[error("the kernel did not answer within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl Host {
    /// Starts the thread, in the network namespace of the caller.
    pub(crate) fn start(config: BridgeConfig) -> Result<Self, StartHostError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, answer) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("bridge".to_owned())
            .spawn(move || {
                let mut bridge = match Bridge::open(config) {
                    Ok(bridge) => bridge,
                    Err(errno) => {
                        let _ = opened.send(Err(errno));
                        return;
                    }
                };
                // The starter waits for this, unless it is gone.
                let _ = opened.send(Ok(()));
                for job in queue {
                    job(&mut bridge);
                }
            })
            .map_err(StartHostError::Thread)?;
        answer
            .recv()
            .map_err(|mpsc::RecvError| StartHostError::Died)?
            .map_err(StartHostError::OpenSockets)?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread), removals: Semaphore::new(REMOVALS_MAX) })
    }

    /// Asks for something to be done, in the order of the calls.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the request.
    pub(crate) async fn call<T, F>(&self, job: F) -> Result<T, HostError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Bridge) -> T + Send + 'static,
    {
        let (done, answer) = oneshot::channel();
        // Nobody may be waiting any more; the request was done all the same.
        self.post(move |bridge| drop(done.send(job(bridge))))?;
        match tokio::time::timeout(REQUEST_TIMEOUT, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_closed)) => Err(HostError::Died),
            Err(_elapsed) => Err(HostError::Timeout),
        }
    }

    /// Detaches a pod, without holding up the others.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop what has begun; call again.
    pub(crate) async fn detach(&self, pod: &str) -> Result<Result<(), DetachError>, HostError> {
        let _place = self.removals.acquire().await.map_err(|_closed| HostError::Died)?;
        let interface = names::host_interface(pod);
        let removal = spawn_blocking(move || {
            Socket::open(Family::Route).and_then(|mut route| delete_link(&mut route, &interface))
        });
        match tokio::time::timeout(REQUEST_TIMEOUT, removal).await {
            Ok(Ok(Ok(_was_there))) => {}
            Ok(Ok(Err(errno))) => return Ok(Err(DetachError::DeleteInterface(errno))),
            Ok(Err(error)) => return Err(HostError::Run(error)),
            Err(_elapsed) => return Err(HostError::Timeout),
        }
        let pod = pod.to_owned();
        self.call(move |bridge| bridge.del(&pod)).await
    }

    /// Asks for something to be done, without waiting.
    pub(crate) fn post<F>(&self, job: F) -> Result<(), HostError>
    where
        F: FnOnce(&mut Bridge) + Send + 'static,
    {
        let jobs = self.jobs.as_ref().ok_or(HostError::Died)?;
        jobs.send(Box::new(job)).map_err(|mpsc::SendError(_)| HostError::Died)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Without a sender the queue ends, and the thread with it.
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}
