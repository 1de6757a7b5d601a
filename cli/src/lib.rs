//! The command line of Pubsub. Commands talk to brokers through `pubsub-client`; `pubsub local` runs a cluster of
//! child processes of this very program.

mod args;
mod check;
mod cluster;
mod connection;
mod exit;
mod group;
mod local;
mod output;
mod programs;
mod publish;
mod subscribe;
mod topic;

use args::{Cli, Command};
use exit::Failure;
use programs::Program;
use std::process::ExitCode;

/// Runs the program with the process's arguments and returns its exit code.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let program = args.next().as_deref().and_then(Program::called);
    let outcome = match program {
        Some(program) => program.run(args.collect()),
        None => run(args::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::RunBroker { args } => Program::Broker("pubsub run-broker").run(args),
        Command::RunDiscovery { args } => Program::Discovery("pubsub run-discovery").run(args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut args::command(), "pubsub", &mut std::io::stdout().lock());
            Ok(())
        }
        command => {
            let runtime = tokio::runtime::Runtime::new()
                .map_err(|error| Failure::local(format!("can't start the runtime: {error}")))?;
            let outcome = runtime.block_on(command_of(command));
            // A thread may still wait for a line of the terminal, and nothing else is worth waiting for.
            runtime.shutdown_background();
            outcome
        }
    }
}

async fn command_of(command: Command) -> Result<(), Failure> {
    match command {
        Command::Local(args) => local::run(args).await,
        Command::Topic(command) => topic::run(command).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Subscribe(args) => subscribe::run(args).await,
        Command::Group(command) => group::run(command).await,
        Command::Cluster(command) => cluster::run(command).await,
        Command::Check(args) => check::run(args).await,
        Command::Bench(args) => {
            pubsub_bench::run(args).await.map_err(|error| Failure::local(format!("{error:#}")))
        }
        Command::Completions { .. } | Command::RunBroker { .. } | Command::RunDiscovery { .. } => {
            unreachable!("answered before a runtime is made")
        }
    }
}
