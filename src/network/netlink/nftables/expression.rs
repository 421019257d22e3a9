//! The expressions of a rule, in the order in which a packet meets them.
//!
//! Each writes to or reads from registers; one that does not match ends the rule.
//!
//! Specification: [nftables](https://docs.kernel.org/networking/netlink_spec/nftables.html).

use std::net::Ipv4Addr;

use crate::network::netlink::Message;
use crate::network::subnet::Subnet;

use super::{DATA_VALUE, LIST_ELEM, NFPROTO_IPV4};

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
const CT_STATUS: u32 = 2;
/// The connection's destination was translated.
const IPS_DST_NAT: u32 = 1 << 5;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_DESTINATION: u32 = 2;
const RTN_LOCAL: u32 = 2;
const NAT_DESTINATION: u32 = 1;
const REGISTER_VERDICT: u32 = 0;

/// A 4-byte register.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Register {
    /// The first.
    R0 = 8,
    /// The second.
    R1 = 9,
    /// The third.
    R2 = 10,
}

/// How a register is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    /// Goes on when equal.
    Equal = 0,
    /// Goes on when different.
    Different = 1,
}

/// A piece of the packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload {
    /// The IPv4 source address.
    SourceAddress,
    /// The IPv4 destination address.
    DestinationAddress,
    /// The destination port of TCP, UDP or SCTP.
    DestinationPort,
}

/// What happens to the packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict<'a> {
    /// It is dropped.
    Drop,
    /// The chain is done with it.
    Return,
    /// Another chain goes on with it.
    Jump(&'a str),
}

/// The expressions of one rule.
#[derive(Debug, Default)]
pub(crate) struct Expressions(Vec<(&'static str, Message)>);

impl Expressions {
    /// No expression yet.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn push(mut self, name: &'static str, fill: impl FnOnce(Message) -> Message) -> Self {
        self.0.push((name, fill(Message::new(0, 0, &[]))));
        self
    }

    pub(super) fn into_attributes(self, m: Message) -> Message {
        self.0.into_iter().fold(m, |m, (name, attributes)| {
            m.nest(LIST_ELEM, |m| m.text(1, name).nest(2, |m| m.append(attributes)))
        })
    }

    fn compare(self, comparison: Comparison, value: &[u8]) -> Self {
        self.push("cmp", |m| {
            m.be32(1, Register::R0 as u32)
                .be32(2, comparison as u32)
                .nest(3, |m| m.bytes(DATA_VALUE, value))
        })
    }

    fn mask(self, mask: &[u8; 4]) -> Self {
        self.push("bitwise", |m| {
            m.be32(1, Register::R0 as u32)
                .be32(2, Register::R0 as u32)
                .be32(3, 4)
                .nest(4, |m| m.bytes(DATA_VALUE, mask))
                .nest(5, |m| m.bytes(DATA_VALUE, &[0; 4]))
        })
    }

    fn meta(self, key: u32, into: Register) -> Self {
        self.push("meta", |m| m.be32(1, into as u32).be32(2, key))
    }

    fn interface_name(self, key: u32, comparison: Comparison, name: &str) -> Self {
        // Names are compared with all their 16 bytes, in four registers.
        let mut padded = [0; 16];
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        self.meta(key, Register::R0).compare(comparison, &padded)
    }

    /// The interface the packet came in through.
    pub(crate) fn in_interface(self, comparison: Comparison, name: &str) -> Self {
        self.interface_name(META_IIFNAME, comparison, name)
    }

    /// The interface the packet leaves through.
    pub(crate) fn out_interface(self, comparison: Comparison, name: &str) -> Self {
        self.interface_name(META_OIFNAME, comparison, name)
    }

    /// Puts the number of the transport protocol into a register.
    pub(crate) fn load_protocol(self, into: Register) -> Self {
        self.meta(META_L4PROTO, into)
    }

    /// Puts a piece of the packet into a register.
    pub(crate) fn load(self, payload: Payload, into: Register) -> Self {
        const NETWORK: u32 = 1;
        const TRANSPORT: u32 = 2;
        let (header, offset, length) = match payload {
            Payload::SourceAddress => (NETWORK, 12, 4),
            Payload::DestinationAddress => (NETWORK, 16, 4),
            Payload::DestinationPort => (TRANSPORT, 2, 2),
        };
        self.push("payload", |m| {
            m.be32(1, into as u32).be32(2, header).be32(3, offset).be32(4, length)
        })
    }

    /// An address of the packet lies in a subnet, or does not.
    pub(crate) fn address_in(
        self,
        payload: Payload,
        comparison: Comparison,
        subnet: &Subnet,
    ) -> Self {
        self.address_matches(payload, comparison, subnet.network(), subnet.mask())
    }

    /// An address of the packet is one of 127.0.0.0/8.
    pub(crate) fn address_is_loopback(self, payload: Payload) -> Self {
        let (network, mask) = (Ipv4Addr::new(127, 0, 0, 0), Ipv4Addr::new(255, 0, 0, 0));
        self.address_matches(payload, Comparison::Equal, network, mask)
    }

    fn address_matches(
        self,
        payload: Payload,
        comparison: Comparison,
        network: Ipv4Addr,
        mask: Ipv4Addr,
    ) -> Self {
        self.load(payload, Register::R0).mask(&mask.octets()).compare(comparison, &network.octets())
    }

    /// The packet is for an address of this host.
    pub(crate) fn destination_is_local(self) -> Self {
        self.push("fib", |m| {
            m.be32(1, Register::R0 as u32).be32(2, FIB_RESULT_ADDRTYPE).be32(3, FIB_DESTINATION)
        })
        .compare(Comparison::Equal, &RTN_LOCAL.to_ne_bytes())
    }

    /// The connection's destination was translated.
    pub(crate) fn destination_was_translated(self) -> Self {
        self.push("ct", |m| m.be32(1, Register::R0 as u32).be32(2, CT_STATUS))
            .mask(&IPS_DST_NAT.to_ne_bytes())
            .compare(Comparison::Different, &[0; 4])
    }

    /// Looks the key that starts in the first register up, and puts the value there; ends
    /// the rule when there is none.
    pub(crate) fn look_up(self, map: &str, id: u32) -> Self {
        self.push("lookup", |m| {
            m.text(1, map).be32(2, Register::R0 as u32).be32(3, Register::R0 as u32).be32(4, id)
        })
    }

    /// Translates the destination to the address in the first register and the port in the
    /// second.
    pub(crate) fn translate_destination(self) -> Self {
        self.push("nat", |m| {
            m.be32(1, NAT_DESTINATION)
                .be32(2, u32::from(NFPROTO_IPV4))
                .be32(3, Register::R0 as u32)
                .be32(5, Register::R1 as u32)
        })
    }

    /// Translates the source to an address of the interface the packet leaves through.
    pub(crate) fn masquerade(self) -> Self {
        self.push("masq", |m| m)
    }

    /// Ends the rule with a verdict.
    pub(crate) fn verdict(self, verdict: Verdict<'_>) -> Self {
        const NF_DROP: u32 = 0;
        const NFT_JUMP: i32 = -3;
        const NFT_RETURN: i32 = -5;
        const DATA_VERDICT: u16 = 2;
        self.push("immediate", |m| {
            m.be32(1, REGISTER_VERDICT).nest(2, |m| {
                m.nest(DATA_VERDICT, |m| match verdict {
                    Verdict::Drop => m.be32(1, NF_DROP),
                    Verdict::Return => m.be32(1, NFT_RETURN.cast_unsigned()),
                    Verdict::Jump(chain) => m.be32(1, NFT_JUMP.cast_unsigned()).text(2, chain),
                })
            })
        })
    }
}
