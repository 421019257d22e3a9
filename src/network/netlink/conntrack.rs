//! Making the kernel forget connections, so that packets of running flows meet the rules
//! again.
//!
//! Address translation is decided by the first packet of a flow and remembered. A UDP client
//! that never pauses would for ever be sent to a pod that is gone, or past a pod that came
//! later.
//!
//! Filtering in the kernel came with 5.8; before that these requests are refused with
//! `EINVAL`, and nothing is forgotten.
//!
//! Specification: `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::{Message, Socket};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NFPROTO_IPV4: u8 = 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_FILTER: u16 = 25;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const BY_SOURCE: u32 = 1 << 0;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_DESTINATION_PORT: u32 = 1 << 5;

fn forget(filter: impl FnOnce(Message) -> Message) -> Message {
    let kind = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE;
    filter(Message::new(kind, 0, &[NFPROTO_IPV4, 0, 0, 0]))
}

fn done(answer: Result<(), Errno>) -> Result<(), Errno> {
    match answer {
        // Nothing to forget; a kernel without filters; a kernel without connection tracking.
        Err(Errno::NOENT | Errno::INVAL | Errno::OPNOTSUPP) => Ok(()),
        answer => answer,
    }
}

/// Forgets the flows that `address` answers.
pub(crate) fn forget_answered_by(socket: &mut Socket, address: Ipv4Addr) -> Result<(), Errno> {
    done(socket.request(forget(|m| {
        m.nest(CTA_TUPLE_REPLY, |m| {
            m.nest(CTA_TUPLE_IP, |m| m.bytes(CTA_IP_V4_SRC, &address.octets()))
        })
        .nest(CTA_FILTER, |m| {
            m.u32(CTA_FILTER_ORIG_FLAGS, 0).u32(CTA_FILTER_REPLY_FLAGS, BY_SOURCE)
        })
    })))
}

/// Forgets the flows to a port.
pub(crate) fn forget_to_port(socket: &mut Socket, protocol: u8, port: u16) -> Result<(), Errno> {
    done(socket.request(forget(|m| {
        m.nest(CTA_TUPLE_ORIG, |m| {
            m.nest(CTA_TUPLE_PROTO, |m| {
                m.bytes(CTA_PROTO_NUM, &[protocol]).bytes(CTA_PROTO_DST_PORT, &port.to_be_bytes())
            })
        })
        .nest(CTA_FILTER, |m| {
            m.u32(CTA_FILTER_ORIG_FLAGS, BY_PROTOCOL | BY_DESTINATION_PORT)
                .u32(CTA_FILTER_REPLY_FLAGS, 0)
        })
    })))
}
