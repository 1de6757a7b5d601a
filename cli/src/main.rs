//! The `pubsub` program.

use std::process::ExitCode;

/// The allocator of musl lets one thread in at a time.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pubsub_cli::main()
}
