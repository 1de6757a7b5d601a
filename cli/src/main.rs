//! The `pubsub` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    pubsub_cli::main()
}
