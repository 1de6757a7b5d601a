//! The program `pubsub-broker`.

fn main() -> anyhow::Result<()> {
    pubsub_broker::cli_main(std::env::args_os())
}
