//! The forms in which a record is printed.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::ValueEnum;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use pubsub_core::ids::BrokerId;
use pubsub_core::wire::client::ReadRecord;
use std::io::{Error, Write};

/// How a record is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Only the value: text as it is, anything else as JSON, bytes as bytes
    Value,
    /// The whole record as one line of JSON
    Json,
    /// Columns: partition, offset, time, key, value
    Table,
    /// One line that names every part
    Seed,
}

/// Prints records in one form.
#[derive(Debug)]
pub(super) struct Printer {
    format: Format,
    zone: TimeZone,
    headed: bool,
}

impl Printer {
    /// Makes a printer for times of the system's zone.
    pub(super) fn new(format: Format) -> Self {
        Self { format, zone: TimeZone::system(), headed: false }
    }

    /// Prints one record and the end of its line.
    pub(super) fn print(
        &mut self,
        out: &mut impl Write,
        record: &ReadRecord,
        replica: Option<BrokerId>,
    ) -> Result<(), Error> {
        match self.format {
            Format::Value => {
                out.write_all(&value_bytes(record))?;
                out.write_all(b"\n")
            }
            Format::Json => {
                serde_json::to_writer(&mut *out, record)?;
                out.write_all(b"\n")
            }
            Format::Table => {
                if !self.headed {
                    self.headed = true;
                    writeln!(out, "{:>4} {:>10}  {:<19}  {:<16}  VALUE", "PART", "OFFSET", "TIME", "KEY")?;
                }
                let key = record.key.as_deref().unwrap_or("-");
                let time = self.time(record.ts_ms);
                writeln!(
                    out,
                    "{:>4} {:>10}  {time}  {key:<16}  {}",
                    record.partition, record.offset, record.value
                )
            }
            Format::Seed => {
                let key = record.key.as_ref().map_or("None".to_owned(), |key| format!("'{key}'"));
                let time = self.time(record.ts_ms);
                write!(
                    out,
                    "[{time}] offset={} key={key} headers={} value={}",
                    record.offset, record.headers, record.value
                )?;
                match replica {
                    Some(id) => writeln!(out, " [replica={id}]"),
                    None => writeln!(out),
                }
            }
        }
    }

    fn time(&self, ms: i64) -> String {
        match Timestamp::from_millisecond(ms) {
            Ok(time) => time.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
            Err(_) => format!("{ms} ms"),
        }
    }
}

/// Returns what was published: the text of a string, the bytes of bytes, else the JSON text.
fn value_bytes(record: &ReadRecord) -> Vec<u8> {
    let json = record.value.get();
    if !json.starts_with('"') {
        return json.as_bytes().to_vec();
    }
    let Ok(text) = serde_json::from_str::<String>(json) else { return json.as_bytes().to_vec() };
    if record.value_encoding.is_some() {
        return BASE64_STANDARD.decode(&text).unwrap_or_else(|_| text.into_bytes());
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn printed(format: Format, json: &str) -> String {
        let record: ReadRecord = serde_json::from_str(json).unwrap();
        let mut printer = Printer { format, zone: TimeZone::UTC, headed: false };
        let mut out = Vec::new();
        printer.print(&mut out, &record, Some(BrokerId(2))).unwrap();
        String::from_utf8(out).unwrap()
    }

    const RECORD: &str = r#"{"partition":0,"offset":7,"ts_ms":1700000000000,"key":"k","value":"say \"hi\"","headers":{"a":"b"}}"#;
    const NUMBER: &str =
        r#"{"partition":0,"offset":7,"ts_ms":0,"key":null,"value":9007199254740993,"headers":{}}"#;

    #[test]
    fn a_value_is_printed_as_it_was_published() {
        assert_eq!(printed(Format::Value, RECORD), "say \"hi\"\n");
        assert_eq!(printed(Format::Value, NUMBER), "9007199254740993\n");
        let bytes = r#"{"partition":0,"offset":0,"ts_ms":0,"key":null,"value":"aGk=","value_encoding":"base64","headers":{}}"#;
        assert_eq!(printed(Format::Value, bytes), "hi\n");
    }

    #[test]
    fn the_seed_form_is_the_line_that_users_know() {
        assert_eq!(
            printed(Format::Seed, RECORD),
            "[2023-11-14 22:13:20] offset=7 key='k' headers={\"a\":\"b\"} value=\"say \\\"hi\\\"\" [replica=2]\n"
        );
        assert!(printed(Format::Seed, NUMBER).contains("key=None headers={} value=9007199254740993"));
    }

    #[test]
    fn json_is_the_whole_record_on_one_line() {
        assert_eq!(printed(Format::Json, RECORD), format!("{RECORD}\n"));
    }
}
