//! The brokers' event feed: a hint to look again. What it says is never believed, only looked up; while it is not there,
//! topics are looked at as often as the resync says.
//!
//! Each broker tells what it sees. Two are listened to: a machine that vanishes does not close its connections, so that the
//! one that it served stays silent for a while, and what happened just then is what matters most.

use crate::metrics::Metrics;
use pubsub_client::Client;
use pubsub_client::events::{EventStream, Observed};
use pubsub_client::retry::{Backoff, RetryPolicy};
use pubsub_core::wire::admin::{BrokerDescription, BrokerStanding};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, info};

/// Brokers that are listened to at the same time.
const LANES: usize = 2;
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

/// Returns the broker that a lane listens to in its so-and-so-manieth turn: no two lanes share one. `None` if there are
/// fewer brokers than lanes.
fn pick(brokers: &[BrokerDescription], lane: usize, turn: usize) -> Option<&str> {
    let alive = brokers.iter().filter(|broker| broker.state != BrokerStanding::Fenced);
    let mine: Vec<&str> = alive.skip(lane).step_by(LANES).map(|broker| broker.api_base.as_str()).collect();
    mine.get(turn.checked_rem(mine.len())?).copied()
}

/// Listens for as long as somebody reads from the other end; who reads slowly slows the feed.
///
/// # Cancel safety
/// Dropping the future closes the connections.
pub async fn listen(client: Client, metrics: Arc<Metrics>, to: mpsc::Sender<Heard>) {
    let lane = |lane| follow(lane, client.clone(), Arc::clone(&metrics), to.clone());
    futures::future::join_all((0..LANES).map(lane)).await;
}

async fn follow(lane: usize, client: Client, metrics: Arc<Metrics>, to: mpsc::Sender<Heard>) {
    let mut backoff = Backoff::start(RETRY);
    let mut turn = 0;
    while !to.is_closed() {
        let brokers = client.admin().brokers().await.map(|list| list.brokers).unwrap_or_default();
        let stream = pick(&brokers, lane, turn).and_then(|broker| client.only(broker).ok());
        if let Some(stream) = stream.map(|only| only.admin().follow_events(None)) {
            hear(stream, &metrics, &to, &mut backoff).await;
        }
        turn += 1;
        // With an endless deadline there is always one more try.
        backoff.wait(Duration::ZERO).await;
    }
}

/// Passes on what one broker tells, until that ends or nobody reads.
async fn hear(mut stream: EventStream, metrics: &Metrics, to: &mpsc::Sender<Heard>, backoff: &mut Backoff) {
    let mut missed = true;
    loop {
        match stream.next().await {
            Ok(observed) => {
                debug!(?observed, "event heard");
                // Nobody told what happened before the first one.
                let said = if missed { Heard::Anything } else { heard(observed) };
                if std::mem::take(&mut missed) {
                    metrics.feeds_heard.inc();
                    info!("event feed is heard");
                }
                backoff.reset();
                if to.send(said).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                debug!(%error, "event feed is not there");
                if !missed {
                    metrics.feeds_heard.dec();
                }
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pubsub_core::ids::BrokerId;
    use pubsub_core::wire::admin::ClusterEvent;

    #[test]
    fn no_two_lanes_listen_to_one_broker_and_each_goes_on_to_its_next() {
        let broker = |id: u32, state| BrokerDescription {
            broker_id: BrokerId(id),
            api_base: format!("http://b:{id}"),
            state,
            draining: false,
            voter: true,
            controller: false,
            zone: None,
            sealed: None,
            leads: 0,
            holds: 0,
        };
        let alive = |id| broker(id, BrokerStanding::Active);
        let three = [alive(1), alive(2), alive(3)];
        assert_eq!(pick(&three, 0, 0), Some("http://b:1"));
        assert_eq!(pick(&three, 0, 1), Some("http://b:3"));
        assert_eq!(pick(&three, 0, 2), Some("http://b:1"));
        assert_eq!(pick(&three, 1, 7), Some("http://b:2"));
        assert_eq!(pick(&[broker(1, BrokerStanding::Fenced), alive(2)], 0, 0), Some("http://b:2"));
        assert_eq!(pick(&[alive(1)], 1, 0), None);
        assert_eq!(pick(&[], 0, 0), None);
    }

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
