//! The commands and their help.

use crate::check::CheckArgs;
use crate::cluster::ClusterCommand;
use crate::exit::EXIT_CODES;
use crate::group::GroupCommand;
use crate::local::LocalArgs;
use crate::publish::PublishArgs;
use crate::subscribe::SubscribeArgs;
use crate::topic::TopicCommand;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Start here:
  pubsub local                                   run three brokers on this machine
  pubsub topic create demo-topic --rf 3
  seq 1 1000 | pubsub publish demo-topic
  pubsub subscribe demo-topic --group-id g --consumer-id c

Brokers are taken from --brokers, else from PUBSUB_BROKERS or BROKER_API, else they are
http://127.0.0.1:8081, :8082 and :8083. Any broker will do; the others are learned from it.";

const LOCAL_EXAMPLES: &str = "\
Examples:
  pubsub local                                   three brokers, data in ./pubsub-data
  pubsub local --brokers 5 --data /tmp/five
  pubsub local --port-base 18080 --election-port-base 15000 --discovery-port 19090
  pubsub local --no-restart                      kill -9 a broker and see what stays

Every broker is a process of its own: kill one and watch the others take over. Ctrl-C stops all of them and
keeps the data. Logs are in DIR/log.";

const PUBLISH_EXAMPLES: &str = "\
Examples:
  seq 1 100000 | pubsub publish demo-topic       each line becomes a JSON string
  echo '{\"n\": 1}' | pubsub publish demo-topic --json
  pubsub publish demo-topic --file events.ndjson --json --key sensor-7 --header source=lab
  pubsub publish demo-topic                      at a terminal: type, press enter, /quit

A summary goes to standard error: how many records were acknowledged, how many had to be sent again, how
many may be there twice because an answer was lost, and the longest pause between two acknowledgements.";

const SUBSCRIBE_EXAMPLES: &str = "\
Examples:
  pubsub subscribe demo-topic --group-id g --consumer-id c
  pubsub subscribe demo-topic --from earliest --max 1000 > records.txt
  pubsub subscribe demo-topic --from 250 --format json --no-commit
  pubsub subscribe demo-topic --group-id g --prefer-replica 2 --brokers http://127.0.0.1:8082

Into a pipe or a file only the values go, one a line. Records are committed after they were printed. When a
broker fails, reading goes on at another one without a gap and without a repeated record.";

const BENCH_EXAMPLES: &str = "\
Examples:
  pubsub topic create bench --rf 3
  pubsub bench publish --topic bench --clients 64
  pubsub bench bulk --topic bench --clients 4 --records 1000
  pubsub bench poll --topic bench --clients 8 --seconds 10

One line of JSON says how many records a second went through, and how long requests took. It fills the topic
with records that mean nothing: make one for it. Compare runs made in turns in the same minutes.";

const CHECK_EXAMPLES: &str = "\
Examples:
  pubsub check demo-topic                        compare all replicas of all partitions
  pubsub check demo-topic --partition 0 -o json

Every replica is read by itself, offset by offset. Exit code 1 means that replicas differ, or that one can't
be read.";

/// Publish and subscribe, and look after the brokers that do it
#[derive(Debug, Parser)]
#[command(name = "pubsub", version, after_help = EXAMPLES, after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"))]
#[command(propagate_version = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole cluster on this machine: discovery and brokers
    #[command(after_help = LOCAL_EXAMPLES)]
    Local(LocalArgs),
    /// Create, list, describe, alter and delete topics
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Publish lines of standard input or of a file
    #[command(after_help = PUBLISH_EXAMPLES)]
    Publish(PublishArgs),
    /// Print records as they come
    #[command(after_help = SUBSCRIBE_EXAMPLES)]
    Subscribe(SubscribeArgs),
    /// List, describe, reset and delete consumer groups
    #[command(subcommand)]
    Group(GroupCommand),
    /// Look at the brokers
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Compare the replicas of a topic and name the first difference
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Measure how fast a topic takes and gives records
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(pubsub_bench::Args),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  pubsub completions bash > ~/.local/share/bash-completion/completions/pubsub"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run one broker (what `pubsub local` starts)
    #[command(hide = true, disable_help_flag = true)]
    RunBroker {
        /// The broker's own arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Run the discovery service (what `pubsub local` starts)
    #[command(hide = true, disable_help_flag = true)]
    RunDiscovery {
        /// The service's own arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// Reads the process's arguments; prints help and complaints by itself, and then ends the process.
pub(crate) fn parse() -> Cli {
    let mut matches = command().get_matches();
    Cli::from_arg_matches_mut(&mut matches).unwrap_or_else(|error| error.format(&mut command()).exit())
}

/// Returns the definition of all commands. The long help of each that does something ends with its exit codes.
pub(crate) fn command() -> clap::Command {
    with_exit_codes(Cli::command())
}

fn with_exit_codes(command: clap::Command) -> clap::Command {
    if command.is_disable_help_flag_set() {
        // Another program, with a help of its own.
        return command;
    }
    if command.has_subcommands() {
        return command.mut_subcommands(with_exit_codes);
    }
    let help = command
        .get_after_help()
        .map_or_else(String::new, |help| format!("{}\n\n", help.to_string().trim_end()));
    command.after_long_help(format!("{help}{EXIT_CODES}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_definition_of_the_commands_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn a_brokers_own_arguments_reach_it_untouched() {
        let cli = Cli::try_parse_from(["pubsub", "run-broker", "--stop-on-stdin-eof", "--help"]).unwrap();
        let Command::RunBroker { args } = cli.command else { panic!("another command") };
        assert_eq!(args, ["--stop-on-stdin-eof", "--help"]);
    }

    #[test]
    fn what_users_of_the_older_tools_type_is_understood() {
        for line in [
            "pubsub publish t --broker http://a:1 --key k --json --headers a=b",
            "pubsub subscribe t --brokers http://a:1,http://b:1 --group-id g --consumer-id c --no-commit --show-idle",
            "pubsub subscribe t --from-offset 5 --max-records 10 --timeout 15000 --prefer-replica 2",
            "pubsub topic create demo-topic --rf 3 --owner-id 1",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn every_command_that_has_examples_shows_valid_ones() {
        for text in
            [EXAMPLES, LOCAL_EXAMPLES, PUBLISH_EXAMPLES, SUBSCRIBE_EXAMPLES, BENCH_EXAMPLES, CHECK_EXAMPLES]
        {
            for line in text.lines().filter_map(|line| line.trim_start().strip_prefix("pubsub ")) {
                let command = line.split("  ").next().unwrap().split(" > ").next().unwrap();
                let words = std::iter::once("pubsub").chain(command.split_whitespace());
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}: {error}"));
            }
        }
    }
}
