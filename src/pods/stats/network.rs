//! Traffic of a pod, by way of its shim: the shim lives in the pod's network namespace, so
//! `/proc/<shim>/net/dev` is the pod's, and nobody has to enter anything.
//!
//! # References
//! - [proc_pid_net(5)](https://man7.org/linux/man-pages/man5/proc_pid_net.5.html)

use std::fs;

use sandbox::controller::identity;
use sandbox::lifecycle::ProcessIdentity;

/// What went through one interface since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name in the pod.
    pub name: String,
    /// Towards the pod.
    pub received: Traffic,
    /// From the pod.
    pub transmitted: Traffic,
}

/// One direction of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Errors.
    pub errors: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// The pod's interfaces but the loopback; `None` if the shim is gone.
pub(super) fn read(shim: ProcessIdentity) -> Option<Vec<Interface>> {
    let text = fs::read_to_string(format!("/proc/{}/net/dev", shim.pid)).ok()?;
    // Asked after the fact: the process that was read from was this one.
    let same = identity::of(shim.pid).is_ok_and(|now| now == shim);
    same.then(|| parse(&text))
}

/// Two lines of headings, then `name: 8 numbers received 8 transmitted`.
fn parse(text: &str) -> Vec<Interface> {
    let interfaces = text.lines().skip(2).filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let mut numbers = numbers.split_whitespace().map_while(|word| word.parse().ok());
        let mut direction = || {
            let traffic = Traffic {
                bytes: numbers.next()?,
                packets: numbers.next()?,
                errors: numbers.next()?,
                dropped: numbers.next()?,
            };
            // Queue overruns, frame errors, compressed packets, multicast or carrier losses.
            numbers.nth(3)?;
            Some(traffic)
        };
        let (received, transmitted) = (direction()?, direction()?);
        Some(Interface { name: name.trim().to_owned(), received, transmitted })
    });
    interfaces.filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:12345678      20    3    4    5     6          7         8       11      12   13   14   15    16      17         18
";

    #[test]
    fn columns() {
        let eth0 = Interface {
            name: "eth0".to_owned(),
            received: Traffic { bytes: 12_345_678, packets: 20, errors: 3, dropped: 4 },
            transmitted: Traffic { bytes: 11, packets: 12, errors: 13, dropped: 14 },
        };
        assert_eq!(parse(DEV), [eth0]);
    }

    #[test]
    fn only_of_the_process_that_is_meant() {
        let own = identity::of(std::process::id()).unwrap();
        assert!(read(own).is_some());
        assert_eq!(read(ProcessIdentity { start_ticks: own.start_ticks + 1, ..own }), None);
    }
}
