//! `DELETE /v1/topics/{topic}`: erases what a topic has now.

use serde_json::json;

use super::access::check_erase;
use super::publish::topic_in_path;
use super::resources::json_body;
use super::{Answer, Call};
use crate::cursor::Cursor;
use crate::excerpt::excerpt;
use crate::topic::Topic;

/// Erases the events of a topic, of those who may. Answered once they are gone for good.
pub(super) async fn erase(call: Call) -> Answer {
    let rights = call.rights().await?;
    let topic: Topic = topic_in_path(&call.request)?.parse()?;
    check_erase(&rights, &call.options().access, &topic)?;
    let hub = &call.state.hub;
    let erased = hub.erase(topic.clone()).await?;
    call.note("erase", &rights, &format!("{} events of {} were erased", erased.events, excerpt(topic.as_str())));
    let cursor = Cursor::new(hub.bounds().epoch, erased.upto);
    Ok(json_body(&json!({ "topic": topic.as_str(), "erased": erased.events, "cursor": cursor })))
}
