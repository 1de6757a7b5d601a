//! The brokers' event feed: a hint to look again. What it says is never believed, only looked up; when it is not there,
//! topics are looked at as often as the resync says.

mod parse;

use crate::metrics::Metrics;
use parse::{Event, Parser};
use pubsub_client::brokers::base_url;
use pubsub_client::retry::{Backoff, RetryPolicy};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tracing::{debug, info};

/// Silence after which the connection is made anew; brokers send a comment much more often.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Waits between connections; the feed never gives up.
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

fn heard(event: &Event) -> Heard {
    let data: Option<serde_json::Value> = serde_json::from_str(&event.data).ok();
    let topic = data.as_ref().and_then(|data| data.get("topic")).and_then(serde_json::Value::as_str);
    topic.map_or(Heard::Anything, |topic| Heard::Topic(topic.to_owned()))
}

/// The listener.
pub struct Feed {
    http: reqwest::Client,
    brokers: Vec<String>,
    metrics: Arc<Metrics>,
    last_id: Option<String>,
}

impl Feed {
    /// Makes a listener; nothing is connected yet.
    ///
    /// # Errors
    /// When a broker's address or a certificate can't be read.
    pub fn new(brokers: &[String], ca_pem: Option<&[u8]>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let brokers = brokers.iter().map(|url| base_url(url)).collect::<Result<_, _>>()?;
        let authorities = ca_pem.map(reqwest::Certificate::from_pem_bundle).transpose()?.unwrap_or_default();
        // Exactly the given authorities: the image that this runs in has none of its own.
        let builder = reqwest::Client::builder().tls_certs_only(authorities);
        let http = builder.connect_timeout(CONNECT_TIMEOUT).read_timeout(SILENCE_MAX).build()?;
        Ok(Self { http, brokers, metrics, last_id: None })
    }

    /// Listens for ever; what is heard goes to `to`, and whoever reads slowly slows the feed.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn listen(mut self, to: mpsc::Sender<Heard>) {
        let mut backoff = Backoff::start(RETRY);
        let mut turn = 0_usize;
        loop {
            let broker = self.brokers[turn % self.brokers.len()].clone();
            turn = turn.wrapping_add(1);
            let ended = self.follow(&broker, &to, &mut backoff).await;
            self.metrics.feed_connected.set(0);
            if to.is_closed() {
                return;
            }
            debug!(%broker, ended, "event feed ended");
            // With an endless deadline there is always one more try.
            backoff.wait(Duration::ZERO).await;
        }
    }

    async fn follow(&mut self, broker: &str, to: &mpsc::Sender<Heard>, backoff: &mut Backoff) -> String {
        let mut request =
            self.http.get(format!("{broker}/admin/events")).header("accept", "text/event-stream");
        if let Some(id) = &self.last_id {
            request = request.header("last-event-id", id);
        }
        let mut response = match request.send().await.and_then(reqwest::Response::error_for_status) {
            Ok(response) => response,
            Err(error) => return error.to_string(),
        };
        info!(%broker, "event feed connected");
        self.metrics.feed_connected.set(1);
        backoff.reset();
        // Another broker counts its own events, and something may have happened in between.
        if to.send(Heard::Anything).await.is_err() {
            return "nobody listens".to_owned();
        }
        let mut parser = Parser::default();
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return "the broker closed it".to_owned(),
                Err(error) => return error.to_string(),
            };
            let Some(events) = parser.feed(&chunk) else { return "an event is too large".to_owned() };
            for event in events {
                debug!(kind = %event.kind, data = %event.data, "event heard");
                if to.send(heard(&event)).await.is_err() {
                    return "nobody listens".to_owned();
                }
                self.last_id = event.id.or(self.last_id.take());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_names_no_topic_may_concern_all() {
        let event = |data: &str| Event { id: None, kind: "isr".to_owned(), data: data.to_owned() };
        assert_eq!(heard(&event(r#"{"topic":"orders"}"#)), Heard::Topic("orders".to_owned()));
        for data in ["{}", "", "?", r#"{"topic":7}"#, r#"{"topic":null}"#] {
            assert_eq!(heard(&event(data)), Heard::Anything, "{data}");
        }
    }
}
