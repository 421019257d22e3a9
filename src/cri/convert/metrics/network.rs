//! Traffic, once per pod.

use super::{Family, Rows, Subject, counters};
use crate::pods::Interface;

const INTERFACE: &[&str] = &["interface"];

pub(super) const FAMILIES: &[Family] = &[
    counters(
        "container_network_receive_bytes_total",
        "Cumulative count of bytes received",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.received.bytes),
    ),
    counters(
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.received.errors),
    ),
    counters(
        "container_network_receive_packets_total",
        "Cumulative count of packets received",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.received.packets),
    ),
    counters(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.received.dropped),
    ),
    counters(
        "container_network_transmit_bytes_total",
        "Cumulative count of bytes transmitted",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.transmitted.bytes),
    ),
    counters(
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.transmitted.errors),
    ),
    counters(
        "container_network_transmit_packets_total",
        "Cumulative count of packets transmitted",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.transmitted.packets),
    ),
    counters(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        INTERFACE,
        |subject, rows| of_interfaces(subject, rows, |interface| interface.transmitted.dropped),
    ),
];

fn of_interfaces(subject: &Subject<'_>, rows: &mut Rows<'_>, value: impl Fn(&Interface) -> u64) {
    for interface in subject.network {
        rows.push(&[&interface.name], value(interface));
    }
}
