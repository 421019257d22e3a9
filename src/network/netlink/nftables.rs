//! nftables: messages for tables, chains, maps, rules and elements, sent as one batch that
//! the kernel takes wholly or not at all.
//!
//! Only what the bridge uses, in the family `ip`. Concatenations are built of 4-byte
//! registers, each component padded to 4 bytes.
//!
//! Specification: nft(8),
//! [nftables](https://docs.kernel.org/networking/netlink_spec/nftables.html).

use std::net::Ipv4Addr;

use rustix::io::Errno;

use super::{Acknowledge, Message, NLM_F_APPEND, NLM_F_CREATE, Socket};

pub(crate) use self::expression::{Comparison, Expressions, Payload, Register, Verdict};

mod expression;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFPROTO_UNSPEC: u8 = 0;
const NFPROTO_IPV4: u8 = 2;

const NEWTABLE: u16 = 0;
const GETTABLE: u16 = 1;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const NEWRULE: u16 = 6;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const LIST_ELEM: u16 = 1;
const DATA_VALUE: u16 = 1;
/// `nft list` shows this type of user data as the comment of an element.
const COMMENT: u8 = 0;

/// Where a chain sits in the path of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hook {
    /// `filter` or `nat`.
    pub(crate) chain_type: &'static str,
    /// The hook's number.
    pub(crate) point: HookPoint,
    /// Lower ones run first.
    pub(crate) priority: i32,
}

/// The hooks of the family `ip`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum HookPoint {
    /// Packets that arrived, before routing.
    Prerouting = 0,
    /// Packets made here, before routing is settled.
    Output = 3,
    /// Packets about to leave.
    Postrouting = 4,
}

/// The type of a component of a key or a value, numbered as nft shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ComponentType {
    /// 4 bytes.
    Ipv4Address = 7,
    /// 1 byte.
    InetProtocol = 12,
    /// 2 bytes.
    InetPort = 13,
}

/// A component of a key or a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Component {
    /// An address.
    Ipv4Address(Ipv4Addr),
    /// A transport protocol by number.
    InetProtocol(u8),
    /// A port.
    InetPort(u16),
}

/// One entry of a map.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    /// What is looked up.
    pub(crate) key: Vec<Component>,
    /// What is found.
    pub(crate) value: Vec<Component>,
    /// A word for people.
    pub(crate) comment: String,
}

/// Changes to one table, to be sent at once.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    table: &'a str,
    messages: Vec<Message>,
}

fn fixed(family: u8, resource: u16) -> [u8; 4] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

fn message(kind: u16, flags: u16) -> Message {
    Message::new(NFNL_SUBSYS_NFTABLES << 8 | kind, flags, &fixed(NFPROTO_IPV4, 0))
}

impl<'a> Batch<'a> {
    /// No changes yet.
    pub(crate) fn new(table: &'a str) -> Self {
        Self { table, messages: Vec::new() }
    }

    fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Makes the table empty, whether it is there or not.
    pub(crate) fn replace_table(&mut self) {
        self.push(message(NEWTABLE, NLM_F_CREATE).text(1, self.table));
        self.push(message(DELTABLE, 0).text(1, self.table));
        self.push(message(NEWTABLE, NLM_F_CREATE).text(1, self.table));
    }

    /// Removes the table with everything in it.
    pub(crate) fn delete_table(&mut self) {
        self.push(message(DELTABLE, 0).text(1, self.table));
    }

    /// Adds a chain, on a hook or (`None`) to jump to.
    pub(crate) fn add_chain(&mut self, name: &str, hook: Option<Hook>) {
        let chain = message(NEWCHAIN, NLM_F_CREATE).text(1, self.table).text(3, name);
        self.push(match hook {
            None => chain,
            Some(hook) => chain
                .nest(4, |m| m.be32(1, hook.point as u32).be32(2, hook.priority.cast_unsigned()))
                .text(7, hook.chain_type),
        });
    }

    /// Adds a map from a concatenation to a concatenation. `id` is unique in this batch.
    pub(crate) fn add_map(
        &mut self,
        name: &str,
        id: u32,
        key: &[ComponentType],
        value: &[ComponentType],
    ) {
        const MAP: u32 = 0x8;
        let kind = |components: &[ComponentType]| {
            components.iter().fold(0, |sum, component| sum << 6 | *component as u32)
        };
        let bytes =
            |components: &[ComponentType]| u32::try_from(components.len() * 4).unwrap_or(u32::MAX);
        self.push(
            message(NEWSET, NLM_F_CREATE)
                .text(1, self.table)
                .text(2, name)
                .be32(3, MAP)
                .be32(4, kind(key))
                .be32(5, bytes(key))
                .be32(6, kind(value))
                .be32(7, bytes(value))
                .be32(10, id),
        );
    }

    /// Appends a rule to a chain.
    pub(crate) fn add_rule(&mut self, chain: &str, expressions: Expressions) {
        self.push(
            message(NEWRULE, NLM_F_CREATE | NLM_F_APPEND)
                .text(1, self.table)
                .text(2, chain)
                .nest(4, |m| expressions.into_attributes(m)),
        );
    }

    /// Adds entries to a map; one that is there with another value fails the batch.
    pub(crate) fn add_elements(&mut self, map: &str, elements: &[Element]) {
        self.elements(message(NEWSETELEM, NLM_F_CREATE), map, elements);
    }

    /// Removes entries from a map; one that is missing fails the batch.
    pub(crate) fn delete_elements(&mut self, map: &str, elements: &[Element]) {
        self.elements(message(DELSETELEM, 0), map, elements);
    }

    fn elements(&mut self, message: Message, map: &str, elements: &[Element]) {
        if elements.is_empty() {
            return;
        }
        let message = message.text(1, self.table).text(2, map);
        self.push(message.nest(3, |m| {
            elements.iter().fold(m, |m, element| m.nest(LIST_ELEM, |m| element.attributes(m)))
        }));
    }

    /// Makes the changes, or none of them.
    ///
    /// # Errors
    /// The first error the kernel met.
    pub(crate) fn commit(self, socket: &mut Socket) -> Result<(), Errno> {
        let frame = |kind| Message::new(kind, 0, &fixed(NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES));
        let mut batch = vec![(frame(NFNL_MSG_BATCH_BEGIN), Acknowledge::No)];
        batch.extend(self.messages.into_iter().map(|message| (message, Acknowledge::Yes)));
        batch.push((frame(NFNL_MSG_BATCH_END), Acknowledge::No));
        socket.transact(batch)
    }
}

impl Element {
    fn attributes(&self, m: Message) -> Message {
        let mut comment = self.comment.as_bytes().to_vec();
        comment.truncate(128);
        comment.push(0);
        let mut user = vec![COMMENT, u8::try_from(comment.len()).unwrap_or(0)];
        user.extend_from_slice(&comment);
        m.nest(1, |m| m.bytes(DATA_VALUE, &concatenate(&self.key)))
            .nest(2, |m| m.bytes(DATA_VALUE, &concatenate(&self.value)))
            .bytes(6, &user)
    }
}

fn concatenate(components: &[Component]) -> Vec<u8> {
    components
        .iter()
        .flat_map(|component| match component {
            Component::Ipv4Address(address) => address.octets(),
            Component::InetProtocol(number) => [*number, 0, 0, 0],
            Component::InetPort(port) => {
                let [high, low] = port.to_be_bytes();
                [high, low, 0, 0]
            }
        })
        .collect()
}

/// Whether the table exists.
pub(crate) fn table_exists(socket: &mut Socket, table: &str) -> Result<bool, Errno> {
    match socket.query(message(GETTABLE, 0).text(1, table)) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
