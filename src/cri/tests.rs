//! Lists in several messages.

use tokio_stream::StreamExt as _;

use super::*;

#[tokio::test]
async fn each_item_is_in_one_message() {
    let items: Vec<usize> = (0..CHUNK_ITEMS * 2 + 1).collect();
    let messages: Vec<Vec<usize>> =
        chunks(items.clone(), |items| items).map(Result::unwrap).collect().await;
    assert_eq!(messages.iter().map(Vec::len).collect::<Vec<_>>(), [CHUNK_ITEMS, CHUNK_ITEMS, 1]);
    assert_eq!(messages.concat(), items);
}

#[tokio::test]
async fn an_empty_list_has_no_messages() {
    let messages: Vec<_> = chunks(Vec::<u8>::new(), |items| items).collect().await;
    assert!(messages.is_empty());
}
