//! The brokers' event feed: a hint to look again. What it says is never believed, only looked up; while it is not there,
//! topics are looked at as often as the resync says.

use crate::metrics::Metrics;
use pubsub_client::Client;
use pubsub_client::events::Observed;
use pubsub_client::retry::{Backoff, RetryPolicy};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, info};

/// Waits between tries; the feed never gives up.
const RETRY: RetryPolicy =
    RetryPolicy { first: Duration::from_millis(250), cap: Duration::from_secs(15), deadline: Duration::MAX };

/// What the feed is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something happened to a topic.
    Topic(String),
    /// Something happened that may concern every topic, or something may have been missed.
    Anything,
}

fn heard(observed: Observed) -> Heard {
    match observed {
        Observed::Event(event) => event.topic.map_or(Heard::Anything, Heard::Topic),
        Observed::Reset => Heard::Anything,
    }
}

/// Listens for as long as somebody reads from the other end; who reads slowly slows the feed.
///
/// # Cancel safety
/// Dropping the future closes the connection.
pub async fn listen(client: Client, metrics: Arc<Metrics>, to: mpsc::Sender<Heard>) {
    let mut stream = client.admin().follow_events(None);
    let mut backoff = Backoff::start(RETRY);
    let mut missed = true;
    loop {
        match stream.next().await {
            Ok(observed) => {
                debug!(?observed, "event heard");
                if metrics.feed_connected.set(1) == 0 {
                    info!("event feed is heard");
                }
                backoff.reset();
                // Nobody told what happened before this one.
                let said = if std::mem::take(&mut missed) { Heard::Anything } else { heard(observed) };
                if to.send(said).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "event feed is not there");
                metrics.feed_connected.set(0);
                missed = true;
                // With an endless deadline there is always one more try.
                backoff.wait(Duration::ZERO).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pubsub_core::wire::admin::ClusterEvent;

    #[test]
    fn an_event_that_names_no_topic_may_concern_all() {
        let event = |topic: Option<&str>| ClusterEvent {
            id: "1".to_owned(),
            at_ms: 0,
            event: "isr_changed".to_owned(),
            topic: topic.map(str::to_owned),
            partition: None,
            broker: None,
            details: serde_json::Map::new(),
        };
        assert_eq!(heard(Observed::Event(event(Some("orders")))), Heard::Topic("orders".to_owned()));
        assert_eq!(heard(Observed::Event(event(None))), Heard::Anything);
        assert_eq!(heard(Observed::Reset), Heard::Anything);
    }
}
