//! The program `pubsub-broker`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match pubsub_broker::cli_main(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
