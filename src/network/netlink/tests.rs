//! The codec with bytes that no kernel would send.

use proptest::prelude::*;

use super::message::Reply;
use super::*;

#[test]
fn attributes_nest_and_are_padded() {
    let message =
        Message::new(16, 0, &[1, 2, 3, 4]).bytes(1, &[9]).nest(2, |m| m.text(3, "ab").u32(4, 5));
    let replies = Reply::parse_all(&message.finish(0, 7)).unwrap();
    assert_eq!(replies.len(), 1);
    assert_eq!((replies[0].kind, replies[0].sequence), (16, 7));
    let attributes = replies[0].attributes(4);
    assert_eq!(attributes.find(1), Some(&[9][..]));
    assert_eq!(attributes.nested(2).text(3), Some("ab"));
    assert_eq!(attributes.nested(2).u32(4), Some(5));
    assert_eq!(attributes.find(5), None);
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for reply in Reply::parse_all(&bytes).into_iter().flatten() {
            for (kind, value) in reply.attributes(4) {
                prop_assert!(value.len() < bytes.len() && kind <= 0x3fff);
            }
        }
    }
}
