//! The program `pubsub-bench`: closed-loop load on a running cluster, with the figures that matter.

use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    pubsub_bench::run(pubsub_bench::Args::parse()).await
}
