//! Lines of a file or of standard input, read ahead by a thread of their own.

use crate::exit::Failure;
use pubsub_core::limits::RECORD_BYTES_MAX;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use tokio::sync::mpsc;

/// Lines that are handed over together, so that a thread is not woken for each.
const CHUNK_LINES: usize = 1_000;
/// Bytes after which a chunk is handed over even if it has fewer lines.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait.
const CHUNKS_MAX: usize = 4;

type Chunk = Result<Vec<String>, String>;

/// A source of lines.
pub(super) struct Lines {
    chunks: mpsc::Receiver<Chunk>,
    current: std::vec::IntoIter<String>,
}

impl Lines {
    /// Opens a file, or standard input.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let source: Box<dyn Read + Send> = match file {
            None => Box::new(std::io::stdin()),
            Some(path) => Box::new(
                File::open(path)
                    .map_err(|error| Failure::usage(format!("can't read {}: {error}", path.display())))?,
            ),
        };
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        std::thread::Builder::new()
            .name("lines".to_owned())
            .spawn(move || read(BufReader::new(source), &sender))
            .map_err(|error| Failure::local(format!("can't start a thread: {error}")))?;
        Ok(Self { chunks, current: Vec::new().into_iter() })
    }

    /// Returns the next line without its end, or `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(line) = self.current.next() {
                return Ok(Some(line));
            }
            match self.chunks.recv().await {
                Some(Ok(lines)) => self.current = lines.into_iter(),
                Some(Err(reason)) => return Err(Failure::local(reason)),
                None => return Ok(None),
            }
        }
    }
}

fn read(mut source: BufReader<impl Read>, chunks: &mpsc::Sender<Chunk>) {
    let mut number: u64 = 0;
    let mut lines = Vec::new();
    let mut bytes = 0;
    loop {
        let line = match read_line(&mut source) {
            Ok(line) => line,
            Err(reason) => {
                // The lines before the bad one are good, and come first. Who stopped listening needs neither.
                let _ = chunks.blocking_send(Ok(lines));
                let _ = chunks.blocking_send(Err(format!("line {}: {reason}", number + 1)));
                return;
            }
        };
        let end = line.is_none();
        if let Some(line) = line {
            number += 1;
            bytes += line.len();
            lines.push(line);
        }
        // What can be read without waiting is collected; nobody who types has to fill a chunk.
        let waits = source.buffer().is_empty();
        if end || waits || lines.len() >= CHUNK_LINES || bytes >= CHUNK_BYTES {
            bytes = 0;
            if chunks.blocking_send(Ok(std::mem::take(&mut lines))).is_err() || end {
                return;
            }
        }
    }
}

fn read_line(source: &mut BufReader<impl Read>) -> Result<Option<String>, String> {
    let limit = u64::try_from(RECORD_BYTES_MAX + 2).expect("the limit fits 64 bits");
    let mut line = Vec::new();
    let count =
        source.by_ref().take(limit).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
    if count == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    } else if line.len() > RECORD_BYTES_MAX {
        return Err(format!("longer than a record can be ({RECORD_BYTES_MAX} bytes)"));
    }
    String::from_utf8(line).map(Some).map_err(|_| "not UTF-8 text; nothing was published of it".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn all(text: &[u8]) -> Result<Vec<String>, Failure> {
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let text = text.to_vec();
        let thread = std::thread::spawn(move || read(BufReader::new(text.as_slice()), &sender));
        let mut lines = Lines { chunks, current: Vec::new().into_iter() };
        let mut found = Vec::new();
        while let Some(line) = lines.next().await? {
            found.push(line);
        }
        thread.join().unwrap();
        Ok(found)
    }

    #[tokio::test]
    async fn every_line_comes_once_and_in_order() {
        let text: String = (0..10_000).map(|number| format!("{number}\n")).collect();
        let found = all(text.as_bytes()).await.unwrap();
        assert_eq!(found.len(), 10_000);
        assert!(found.iter().enumerate().all(|(number, line)| *line == number.to_string()));
    }

    #[tokio::test]
    async fn empty_lines_windows_ends_and_a_last_line_without_an_end_are_lines() {
        assert_eq!(all(b"a\r\n\nb").await.unwrap(), ["a", "", "b"]);
        assert_eq!(all(b"").await.unwrap(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn what_is_no_text_or_too_long_is_an_error_that_names_the_line() {
        let failure = all(b"good\n\xff\xfe\n").await.unwrap_err();
        assert!(format!("{failure:?}").contains("line 2"), "{failure:?}");
        let long = vec![b'x'; RECORD_BYTES_MAX + 10];
        assert!(all(&long).await.is_err());
    }
}
