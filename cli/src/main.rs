//! The `pubsub` program.

use std::process::ExitCode;

/// Several threads make and free what a request needs; the system's allocator would have them wait for each other.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pubsub_cli::main()
}
