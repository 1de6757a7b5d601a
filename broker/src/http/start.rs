//! Where a reader begins: a word, an offset or a time, and the offset that this means now.

use super::App;
use super::error::{ApiResult, topic_not_found, unreadable};
use super::forward::{ForwardError, Hop, named, problem};
use super::pages::{PATIENCE, candidates, nobody};
use super::topics::{Topic, entry_of};
use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use pubsub_core::ids::{Offset, TopicPartition};
use pubsub_core::partition::Role;
use pubsub_core::wire::client::Polled;
use std::time::Duration;
use tokio::time::Instant;

/// How long another broker may take to say what a start means.
const WITHIN: Duration = Duration::from_millis(2_000);
/// Pause before replicas are asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// What a parameter that holds a start takes, for whoever gave something else.
pub(crate) const STARTS: &str = "use earliest, latest, an offset, timestamp:<ms> or a time as in RFC 3339";

/// Where to start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At this offset.
    Offset(Offset),
    /// At the oldest record that is kept.
    Earliest,
    /// Behind the newest record that can be read.
    Latest,
    /// At the first record that is not older, milliseconds since 1970.
    Timestamp(i64),
}

impl Start {
    /// Reads a start.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "earliest" | "beginning" => Some(Self::Earliest),
            "latest" | "end" => Some(Self::Latest),
            _ => match text.strip_prefix("timestamp:") {
                Some(ms) => ms.parse().ok().map(Self::Timestamp),
                None => text.parse().ok().map(Self::Offset).or_else(|| {
                    let time: jiff::Timestamp = text.parse().ok()?;
                    Some(Self::Timestamp(time.as_millisecond()))
                }),
            },
        }
    }

    /// Returns the text that [`Self::parse`] reads.
    fn text(self) -> String {
        match self {
            Self::Offset(offset) => offset.to_string(),
            Self::Earliest => "earliest".to_owned(),
            Self::Latest => "latest".to_owned(),
            Self::Timestamp(ms) => format!("timestamp:{ms}"),
        }
    }

    /// Returns the offset that a start means on this broker's own replica.
    ///
    /// # Errors
    /// 503 if it has none that serves, 500 if it can't be read.
    pub(crate) async fn here(self, app: &App, tp: TopicPartition) -> ApiResult<Offset> {
        let Some(view) = app.broker.view(tp) else { return Err(nobody(tp.partition)) };
        let (log_start, high_watermark) = {
            let seen = view.borrow();
            if seen.role == Role::Offline {
                return Err(nobody(tp.partition));
            }
            (seen.log_start, seen.high_watermark)
        };
        match self {
            Self::Offset(offset) => Ok(offset),
            Self::Earliest => Ok(log_start),
            Self::Latest => Ok(high_watermark),
            Self::Timestamp(ms) => first_since(app, tp, (log_start, high_watermark), ms).await,
        }
    }

    /// Returns the offset that a start means, as the partition's leader says, or another replica if that is away.
    ///
    /// # Errors
    /// 503 if none says, after a moment of trying; 404 if the topic is gone.
    pub(crate) async fn find(
        self,
        app: &App,
        topic: &Topic,
        partition: u32,
        headers: &HeaderMap,
    ) -> ApiResult<Offset> {
        if let Self::Offset(offset) = self {
            return Ok(offset);
        }
        let tp = TopicPartition { topic: topic.id, partition };
        let give_up = Instant::now() + PATIENCE;
        loop {
            let image = app.image().await?;
            let entry = entry_of(&image, tp).ok_or_else(|| topic_not_found(topic.name.as_str()))?;
            let mut refused = nobody(partition);
            for replica in candidates(&image, entry, app.id, entry.leader, app.turn()) {
                let said = if replica == app.id {
                    self.here(app, tp).await
                } else {
                    let Some(api_base) = app.api_base(replica) else { continue };
                    self.there(app, (topic, partition), &api_base, headers).await
                };
                match said {
                    Ok(offset) => return Ok(offset),
                    Err(error) => refused = error,
                }
            }
            let now = Instant::now();
            if now + RETRY_PAUSE >= give_up {
                return Err(refused);
            }
            app.image_where(now + RETRY_PAUSE, |found| found.at > image.at).await;
        }
    }

    async fn there(
        self,
        app: &App,
        (topic, partition): (&Topic, u32),
        api_base: &str,
        headers: &HeaderMap,
    ) -> ApiResult<Offset> {
        let from = self.text();
        let name = &topic.name;
        let path =
            format!("/topics/{name}/records?partition={partition}&from={from}&max_records=1&max_bytes=1");
        let (headers, body) = (named(headers), Bytes::new());
        let hop = Hop { api_base, method: Method::GET, path: &path, headers, body, within: WITHIN };
        let answer = app.forwarder.call(hop).await.map_err(|error| error.of_read())?;
        let unclear = || ForwardError::NoAnswer(api_base.to_owned()).of_read();
        if answer.status() != StatusCode::OK {
            return Err(problem(&answer).unwrap_or_else(unclear));
        }
        let polled: Polled = serde_json::from_slice(answer.body()).map_err(|_| unclear())?;
        Ok(polled.records.first().map_or(polled.next_offset, |record| record.offset))
    }
}

/// Searches the first record that is not older than `ms`, by halves: leaders' clocks make timestamps rise with offsets.
async fn first_since(
    app: &App,
    tp: TopicPartition,
    (mut low, mut high): (Offset, Offset),
    ms: i64,
) -> ApiResult<Offset> {
    while low < high {
        let middle = low + (high - low) / 2;
        let read = app.broker.read(tp, middle, middle + 1, 1).await;
        let batches = read.map_err(|error| unreadable(&error))?;
        let Some(batch) = batches.first() else { return Ok(low) };
        if batch.max_timestamp_ms() < ms {
            low = batch.end_offset().max(middle + 1);
            continue;
        }
        let first = batch.records().find(|record| record.timestamp_ms >= ms).map(|record| record.offset);
        match first {
            Some(offset) if batch.base_offset() < offset && batch.base_offset() >= low => return Ok(offset),
            Some(offset) if offset < high => high = offset.max(low),
            Some(_) | None => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_is_a_word_an_offset_or_a_time() {
        assert_eq!(Start::parse("earliest"), Some(Start::Earliest));
        assert_eq!(Start::parse("latest"), Some(Start::Latest));
        assert_eq!(Start::parse("17"), Some(Start::Offset(17)));
        assert_eq!(Start::parse("timestamp:1500"), Some(Start::Timestamp(1_500)));
        assert_eq!(Start::parse("1970-01-01T00:00:01.5Z"), Some(Start::Timestamp(1_500)));
        for text in ["-1", "soon", "timestamp:", "99999999999999999999"] {
            assert_eq!(Start::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_start_is_passed_on_as_it_was_meant() {
        for start in [Start::Offset(3), Start::Earliest, Start::Latest, Start::Timestamp(-7)] {
            assert_eq!(Start::parse(&start.text()), Some(start));
        }
    }
}
