//! The `pubsub-discovery` program.

fn main() -> anyhow::Result<()> {
    pubsub_discovery::cli_main(std::env::args_os())
}
