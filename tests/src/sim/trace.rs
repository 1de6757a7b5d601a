//! What happened in a run: a hash of everything, and (on a second, verbose run of the same seed) the last lines as text.

use pubsub_core::ids::BrokerId;
use std::collections::VecDeque;

/// Kept of each line: whole images would bury the rest. The hash has all of it.
const LINE_CHARS: usize = 400;

/// Record of a run.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: Option<VecDeque<String>>,
    lines_max: usize,
}

impl Trace {
    /// Makes an empty record. Text is kept only if `verbose`, because rendering it costs more than the run itself.
    pub(crate) fn new(verbose: bool, lines_max: usize) -> Self {
        Self { hash: 0xCBF2_9CE4_8422_2325, lines: verbose.then(VecDeque::new), lines_max }
    }

    /// Notes one event; `kind` and `number` stand for it in the hash of runs that keep no text.
    pub(crate) fn note(
        &mut self,
        now: u64,
        node: BrokerId,
        kind: &str,
        number: u64,
        text: impl FnOnce() -> String,
    ) {
        self.mix(&now.to_le_bytes());
        self.mix(&node.0.to_le_bytes());
        self.mix(kind.as_bytes());
        self.mix(&number.to_le_bytes());
        if self.lines.is_none() {
            return;
        }
        let line = format!("{now:>7} [{node}] {kind} {}", text());
        self.mix(line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push_back(line.chars().take(LINE_CHARS).collect());
            if lines.len() > self.lines_max {
                lines.pop_front();
            }
        }
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
        }
    }

    /// Returns the hash of everything noted so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// Takes the last lines out.
    pub(crate) fn take_lines(&mut self) -> Vec<String> {
        self.lines.take().map(Vec::from).unwrap_or_default()
    }
}
