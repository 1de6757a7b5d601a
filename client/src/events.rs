//! What happens in the cluster, followed live (`GET /admin/events`).
//!
//! Each broker tells what it saw itself, and numbers that on its own. A stream that breaks is opened again where it was,
//! at the same broker if that can be reached; at another one it begins anew, which is told ([`Observed::Reset`]).

use crate::transport::{CallError, Request, Transport};
use pubsub_core::wire::admin::ClusterEvent;
use reqwest::header::HeaderValue;
use std::time::Duration;

/// Brokers show that they live each five seconds; one that is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Longest line of a stream, bytes; what is longer is no event.
const LINE_BYTES_MAX: usize = 1 << 20;

/// What a stream tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// Something happened.
    Event(ClusterEvent),
    /// Events may be missing before the next one: look at everything anew.
    Reset,
}

/// A stream of events that survives its broker.
#[derive(Debug)]
pub struct EventStream {
    transport: Transport,
    last_id: Option<String>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    broker: String,
    response: reqwest::Response,
    lines: Lines,
}

impl EventStream {
    pub(crate) fn new(transport: Transport, after: Option<String>) -> Self {
        Self { transport, last_id: after, open: None }
    }

    /// Returns where the stream is: what `after` takes it from there, at the same broker.
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Waits for the next event; opens the stream (again) if need be.
    ///
    /// # Errors
    /// See [`CallError`]: no broker serves the stream. It may be tried again.
    ///
    /// # Cancel safety
    /// Dropping the future loses no event.
    pub async fn next(&mut self) -> Result<Observed, CallError> {
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                None => {
                    let opened = connect(&self.transport, self.last_id.as_deref()).await?;
                    self.open.insert(opened)
                }
            };
            while let Some(message) = open.lines.message() {
                if let Some(id) = message.id {
                    self.last_id = Some(id);
                }
                if message.event == "reset" {
                    return Ok(Observed::Reset);
                }
                // What a newer broker sends beside events is passed over.
                if let Ok(event) = serde_json::from_str(&message.data) {
                    return Ok(Observed::Event(event));
                }
            }
            match tokio::time::timeout(SILENCE_MAX, open.response.chunk()).await {
                Ok(Ok(Some(chunk))) if open.lines.take(&chunk) => {}
                Ok(Ok(_) | Err(_)) | Err(_) => {
                    // Its ids mean something to that broker only, so it is asked first.
                    let broker = open.broker.clone();
                    self.open = None;
                    self.transport.prefer(&broker);
                }
            }
        }
    }
}

async fn connect(transport: &Transport, last_id: Option<&str>) -> Result<Open, CallError> {
    let mut request =
        Request::get("/admin/events").header("accept", HeaderValue::from_static("text/event-stream"));
    if let Some(id) = last_id.and_then(|id| HeaderValue::from_str(id).ok()) {
        request = request.header("last-event-id", id);
    }
    let (broker, response) = transport.open(&request).await?;
    Ok(Open { broker, response, lines: Lines::default() })
}

/// One message of an event stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    id: Option<String>,
    event: String,
    data: String,
}

/// Cuts a stream into messages (the event stream format of the HTML standard, as far as brokers use it).
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    message: Message,
}

impl Lines {
    /// Adds what came; returns false if it can't be an event stream.
    fn take(&mut self, chunk: &[u8]) -> bool {
        self.bytes.extend_from_slice(chunk);
        self.bytes.len() <= LINE_BYTES_MAX || self.bytes.contains(&b'\n')
    }

    /// Returns the next whole message, one that only says where the stream is included.
    fn message(&mut self) -> Option<Message> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if message != Message::default() {
                    return Some(message);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.message.id = Some(value.to_owned()),
                "event" => value.clone_into(&mut self.message.event),
                "data" if self.message.data.is_empty() => value.clone_into(&mut self.message.data),
                "data" => {
                    self.message.data.push('\n');
                    self.message.data.push_str(value);
                }
                // Comments and times to wait.
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: Option<&str>, event: &str, data: &str) -> Message {
        Message { id: id.map(str::to_owned), event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn messages_are_cut_from_any_pieces_and_comments_are_none() {
        let text =
            "id: 1-a-5\n\n: keep-alive\n\nid: 1-a-6\nevent: topic_created\ndata: {\"a\":1}\n\nretry: 500\n\n";
        let expected = [message(Some("1-a-5"), "", ""), message(Some("1-a-6"), "topic_created", "{\"a\":1}")];
        for size in [1, 7, text.len()] {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                assert!(lines.take(piece));
                while let Some(message) = lines.message() {
                    found.push(message);
                }
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn data_of_several_lines_is_joined_and_a_line_without_end_is_refused() {
        let mut lines = Lines::default();
        assert!(lines.take(b"data: a\r\ndata:b\r\n\r\n"));
        assert_eq!(lines.message(), Some(message(None, "", "a\nb")));
        assert!(!lines.take(&vec![b'x'; LINE_BYTES_MAX + 1]));
    }
}
