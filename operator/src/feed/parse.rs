//! Server-sent events, from bytes as they come. Pure.

/// Largest event, bytes: brokers send a line of JSON.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Its id, if it has one.
    pub(super) id: Option<String>,
    /// Its type; `message` if none was named.
    pub(super) kind: String,
    /// Its data.
    pub(super) data: String,
}

/// Puts events together.
#[derive(Debug, Default)]
pub(super) struct Parser {
    buffer: Vec<u8>,
    event: Event,
    has_data: bool,
}

impl Parser {
    /// Takes bytes and returns the events that they complete; `None` if one is too large.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Option<Vec<Event>> {
        self.buffer.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            events.extend(self.line(line.trim_end_matches(['\n', '\r'])));
        }
        (self.buffer.len() + self.event.data.len() <= EVENT_BYTES_MAX).then_some(events)
    }

    fn line(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            let mut event = std::mem::take(&mut self.event);
            if event.kind.is_empty() {
                event.kind.push_str("message");
            }
            return std::mem::take(&mut self.has_data).then_some(event);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.event.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut self.event.kind),
            "data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
                self.has_data = true;
            }
            // Comments keep the connection alive; other fields are not for us.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn event(id: Option<&str>, kind: &str, data: &str) -> Event {
        Event { id: id.map(str::to_owned), kind: kind.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_are_the_same_however_their_bytes_are_cut() {
        let text = ": hello\n\nid: 7\nevent: isr\ndata: {\"topic\":\"ä\"}\n\nretry: 5\n\r\ndata:a\r\ndata: b\r\n\r\nid: 8\n\n";
        let expected = [event(Some("7"), "isr", "{\"topic\":\"ä\"}"), event(None, "message", "a\nb")];
        for size in 1..text.len() {
            let mut parser = Parser::default();
            let events: Vec<Event> =
                text.as_bytes().chunks(size).flat_map(|chunk| parser.feed(chunk).unwrap()).collect();
            assert_eq!(events, expected, "pieces of {size} bytes");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        let piece = vec![b'x'; EVENT_BYTES_MAX / 2];
        assert!(parser.feed(&piece).is_some());
        assert!(parser.feed(&piece).is_some());
        assert!(parser.feed(b"x").is_none());
    }
}
