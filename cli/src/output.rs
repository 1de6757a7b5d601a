//! What goes to standard output: tables for people, JSON for programs.

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;

/// How a command prints its result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    #[default]
    Table,
    /// One JSON document
    Json,
}

/// The option of every command that has a result.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct OutputArgs {
    /// How to print the result
    #[arg(short = 'o', long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

impl OutputArgs {
    /// Prints a result in the form that was asked for.
    pub(crate) fn print<T: Serialize>(self, result: &T, table: impl FnOnce(&T) -> String) {
        match self.output {
            Output::Table => line(&table(result)),
            Output::Json => {
                line(
                    &serde_json::to_string_pretty(result).expect("answers came from JSON and go back to it"),
                );
            }
        }
    }
}

/// Makes a table with the given headings.
pub(crate) fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    table
}

/// Prints lines to standard output. A reader that went away ends the process quietly, as it does in other tools.
pub(crate) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush());
    if let Err(error) = written {
        quit_if_unread(&error);
    }
}

/// Ends the process if nobody reads its output any more.
pub(crate) fn quit_if_unread(error: &std::io::Error) {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
}

/// Joins values with commas; a dash stands for none.
pub(crate) fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(",") }
}

/// Returns the value's text, or a dash.
pub(crate) fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}
