//! A refusal, in the form of each transport.

use super::client::{CALLBACK, Kind};
use super::http::{Response, error_code};
use super::wire::{Batch, Chunks, Item, Reader, nonce_of};

/// What a page learns of a refusal over a transport: the error code, and the retry delay.
pub(crate) async fn refusal(
    kind: Kind,
    presented: Option<&str>,
    mut response: Response,
    status: u16,
) -> (String, Option<u64>) {
    let item = match kind {
        Kind::Jsonp | Kind::JsonpPoll => {
            assert_eq!(response.status, 200, "a page cannot read another");
            assert_eq!(response.header("content-type"), Some("application/javascript; charset=utf-8"));
            let batch = Batch::parse_jsonp(CALLBACK, &response.text().await);
            assert_eq!(batch.cursor.as_deref(), presented, "the refusal repeats the presented cursor");
            batch.events[0].clone()
        }
        Kind::Iframe | Kind::IframeOnce => {
            assert_eq!(response.status, status, "an iframe response keeps the status");
            assert_eq!(response.header("content-type"), Some("text/html; charset=utf-8"));
            let nonce = nonce_of(response.header("content-security-policy").expect("a policy"));
            let text = response.text().await;
            assert!(text.len() > 512, "padded, or old browsers show a page of their own");
            if kind == Kind::IframeOnce {
                let batch = Batch::parse_document(&nonce, &text);
                assert_eq!(batch.cursor.as_deref(), presented, "the refusal repeats the presented cursor");
                batch.events[0].clone()
            } else {
                let mut reader = Reader::Chunks(Box::new(Chunks::new(&nonce)));
                let items: Vec<Item> = reader.push(text.as_bytes()).into();
                reader.finish();
                assert_eq!(items.len(), 1, "{text}");
                items[0].clone()
            }
        }
        _ => {
            assert_eq!(response.status, status);
            let retry = response.header("retry-after").map(|text| text.parse::<u64>().expect("seconds") * 1000);
            return (response.error().await.1, retry);
        }
    };
    assert_eq!(item.event, "$error");
    let data = item.value();
    (error_code(&data), data["retry"].as_u64())
}
