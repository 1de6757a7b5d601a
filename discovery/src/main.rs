//! The `pubsub-discovery` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    match pubsub_discovery::cli_main(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
