//! A reader of server-sent events that keeps what a browser would keep: the last id, and when to come back.

use crate::http::{Content, Http};
use anyhow::{Context, bail};
use serde_json::Value;
use std::time::Duration;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// What `event:` said.
    pub kind: String,
    /// The last id when it came.
    pub id: String,
    /// Its data.
    pub data: Value,
}

/// An open stream.
#[derive(Debug)]
pub struct EventStream {
    response: reqwest::Response,
    text: String,
    /// The last id: to come back with.
    pub last_id: String,
    /// When to come back, as the broker said last, milliseconds.
    pub retry_ms: Option<u64>,
}

impl EventStream {
    /// Opens a stream; `last_id` is empty the first time.
    ///
    /// # Errors
    /// When the answer is no stream.
    pub async fn open(url: &str, last_id: &str) -> anyhow::Result<Self> {
        let mut content = Content::default().with("accept", "text/event-stream");
        if !last_id.is_empty() {
            content = content.with("Last-Event-ID", last_id);
        }
        let response = Http::new().stream(url, content).await?;
        let status = response.status();
        if status != 200 {
            bail!("{url} -> {status} {}", response.text().await?);
        }
        Ok(Self { response, text: String::new(), last_id: last_id.to_owned(), retry_ms: None })
    }

    /// Returns the next event; `None` when the stream has ended.
    ///
    /// # Errors
    /// When nothing came within `wait`, or the connection broke.
    pub async fn next(&mut self, wait: Duration) -> anyhow::Result<Option<Event>> {
        let next = async {
            loop {
                while let Some((block, rest)) = self.text.split_once("\n\n") {
                    let (block, rest) = (block.to_owned(), rest.to_owned());
                    self.text = rest;
                    if let Some(event) = self.take(&block)? {
                        return Ok(Some(event));
                    }
                }
                match self.response.chunk().await.context("the connection broke")? {
                    Some(chunk) => self.text.push_str(std::str::from_utf8(&chunk).context("no UTF-8")?),
                    None => return Ok(None),
                }
            }
        };
        tokio::time::timeout(wait, next).await.context("no event in time")?
    }

    /// Returns the next event of one kind, passing over others.
    ///
    /// # Errors
    /// As [`Self::next`], and when the stream ends before.
    pub async fn next_of(&mut self, kind: &str, wait: Duration) -> anyhow::Result<Event> {
        let next = async {
            loop {
                let event = self.next(wait).await?;
                let event =
                    event.with_context(|| format!("the stream ended before an event of kind {kind}"))?;
                if event.kind == kind {
                    return Ok(event);
                }
            }
        };
        tokio::time::timeout(wait, next).await.with_context(|| format!("no {kind} in time"))?
    }

    fn take(&mut self, block: &str) -> anyhow::Result<Option<Event>> {
        let (mut kind, mut data) = (String::new(), None);
        for line in block.lines() {
            match line.split_once(": ") {
                Some(("id", id)) => id.clone_into(&mut self.last_id),
                Some(("event", name)) => name.clone_into(&mut kind),
                Some(("retry", ms)) => self.retry_ms = Some(ms.parse().context("retry")?),
                Some(("data", text)) => {
                    data = Some(serde_json::from_str(text).with_context(|| text.to_owned())?)
                }
                _ => bail!("{line:?} is no line of an event"),
            }
        }
        Ok(data.map(|data| Event { kind, id: self.last_id.clone(), data }))
    }
}
