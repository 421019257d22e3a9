//! Deleting directory trees: a rename now, the work later on a thread of its own.
//!
//! What a dead process left in the trash is deleted by the next one. A tree that cannot be
//! deleted stays there and is tried again at the next start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// The trash directory and the thread that empties it. Dropping it waits for the thread.
#[derive(Debug)]
pub(super) struct Trash {
    directory: PathBuf,
    next: AtomicU64,
    orders: Mutex<Option<Sender<Order>>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Delete(PathBuf),
    /// Answers when everything ordered before is done.
    Report(Sender<()>),
}

impl Trash {
    /// Starts the thread, and has it delete what is there already.
    pub(super) fn start(directory: PathBuf) -> io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let mut next = 0;
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            next = next.max(number.map_or(0, |number| number + 1));
            orders.send(Order::Delete(entry.path())).ok();
        }
        let thread =
            thread::Builder::new().name("snapshot-trash".to_owned()).spawn(|| empty(received))?;
        Ok(Self {
            directory,
            next: AtomicU64::new(next),
            orders: Mutex::new(Some(orders)),
            thread: Some(thread),
        })
    }

    /// Takes `path` away; what is not there is fine.
    pub(super) fn discard(&self, path: &Path) -> io::Result<()> {
        let target = self.directory.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        match fs::rename(path, &target) {
            Ok(()) => self.order(Order::Delete(target)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits until everything discarded so far is deleted.
    pub(super) fn wait_until_empty(&self) {
        let (report, done) = mpsc::channel();
        self.order(Order::Report(report));
        // An error means that the thread is gone, so there is nothing to wait for.
        done.recv().ok();
    }

    fn order(&self, order: Order) {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = &*orders {
            // The thread lives as long as the sender; if it died, the next start deletes.
            orders.send(order).ok();
        }
    }
}

impl Drop for Trash {
    fn drop(&mut self) {
        self.orders.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn empty(orders: Receiver<Order>) {
    for order in orders {
        match order {
            Order::Delete(path) => {
                if let Err(error) = delete(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot delete a snapshot");
                }
            }
            Order::Report(done) => {
                done.send(()).ok();
            }
        }
    }
}

fn delete(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
