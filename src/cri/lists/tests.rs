//! Items in messages.

use super::*;

/// Items of these lengths.
fn items(lengths: &[usize]) -> Vec<String> {
    lengths.iter().map(|length| "x".repeat(*length)).collect()
}

async fn messages(lengths: &[usize]) -> Vec<Vec<usize>> {
    let message = |items: Vec<String>| items.iter().map(String::len).collect::<Vec<_>>();
    let all: Vec<_> = chunks(items(lengths), message).collect().await;
    all.into_iter().map(Result::unwrap).collect()
}

const K: usize = 1 << 10;

#[tokio::test]
async fn each_item_is_in_one_message_in_order() {
    let lengths: Vec<usize> = (0..5000).collect();
    let messages = messages(&lengths).await;
    assert!(messages.len() > 11, "12 MiB went into {} messages", messages.len());
    assert!(messages.iter().all(|message| message.iter().sum::<usize>() <= CHUNK_BYTES));
    assert_eq!(messages.concat(), lengths);
}

#[tokio::test]
async fn an_item_that_is_too_long_travels_alone() {
    let long = CHUNK_BYTES * 3;
    assert_eq!(messages(&[1, long, 2, 3]).await, [vec![1], vec![long], vec![2, 3]]);
}

#[tokio::test]
async fn an_empty_list_has_no_messages() {
    assert!(messages(&[]).await.is_empty());
}

#[test]
fn a_list_is_refused_when_it_does_not_fit() {
    let whole = |lengths: &[usize]| whole(items(lengths).into_iter(), "StreamThings");
    assert_eq!(whole(&[8 << 20, (8 << 20) - K]).unwrap().len(), 2);
    let refusal = whole(&[8 << 20, 8 << 20]).unwrap_err().to_string();
    assert!(refusal.contains("StreamThings") && refusal.contains("16777216"), "{refusal}");
}
