//! Clients that follow a topic from its present end, and count what reaches them.

use super::connection::Connection;
use super::figures::Figures;
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::BodyExt;
use std::time::Instant;
use tokio::time::{Instant as Deadline, timeout_at};

/// What each record of a stream begins with.
const RECORD: &[u8] = b"event: record";

/// Keeps one stream of server-sent events open.
pub(crate) async fn stream(
    connection: Connection,
    topic: String,
    until: Deadline,
) -> anyhow::Result<Figures> {
    let path = format!("/topics/{topic}/stream?from=latest");
    let begun = Instant::now();
    let mut figures = Figures::default();
    let (status, mut body) = connection.begin("GET", &path, "text/plain", Bytes::new()).await?;
    if status != 200 {
        figures.failure(status);
        return Ok(figures);
    }
    figures.success(0, 0, begun.elapsed());
    let mut rest = Vec::new();
    while let Ok(frame) = timeout_at(until, body.frame()).await {
        let frame = frame.context("the stream ended early")?.context("the stream broke")?;
        let Some(data) = frame.data_ref() else { continue };
        rest.extend_from_slice(data);
        figures.arrived(count(&rest), data.len());
        // A beginning of the next record may lie at the end.
        rest.drain(..rest.len().saturating_sub(RECORD.len() - 1));
    }
    Ok(figures)
}

fn count(text: &[u8]) -> u64 {
    text.windows(RECORD.len()).map(|window| u64::from(window == RECORD)).sum()
}

/// Asks again and again for what comes next, waiting at the broker.
pub(crate) async fn wait(connection: Connection, topic: String, until: Deadline) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let mut from = "latest".to_owned();
    while Deadline::now() < until {
        let path = format!("/topics/{topic}/records?partition=0&from={from}&max_records=1000&wait_ms=15000");
        let begun = Instant::now();
        let request = connection.send("GET", &path, "text/plain", Bytes::new());
        let Ok(answer) = timeout_at(until, request).await else { break };
        let (status, body) = answer?;
        if status != 200 {
            figures.failure(status);
            continue;
        }
        let answer: serde_json::Value = serde_json::from_slice(&body)?;
        let Some(next) = answer["next_offset"].as_u64() else { bail!("no next_offset in {answer}") };
        let records = answer["records"].as_array().map_or(0, Vec::len);
        figures.success(records as u64, body.len(), begun.elapsed());
        from = next.to_string();
    }
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_piece_are_counted() {
        assert_eq!(count(b"event: record\nid: 0:1\ndata: {}\n\nevent: control\n\nevent: record\n"), 2);
        assert_eq!(count(b"event: recor"), 0);
    }
}
