//! `pubsub topic`: create, list, describe, alter, move, delete.

mod batch;
mod elect;
mod moves;

use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{OutputArgs, list, or_dash, table};
use clap::{Args, Subcommand};
use pubsub_client::admin::Guard;
use pubsub_core::ids::{BrokerId, TopicName};
use pubsub_core::limits::{PARTITIONS_MAX, REPLICATION_FACTOR_MAX};
use pubsub_core::wire::admin::{AlterTopicRequest, CreateTopicRequest, TopicDescription, TopicList};
use serde_json::Value;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// Commands on topics.
#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create a topic; the same command again is no error
    #[command(after_help = "Examples:\n  pubsub topic create demo-topic --rf 3\n  \
                            pubsub topic create events --partitions 6 --rf 3 --min-isr 2 --retention-ms 604800000")]
    Create(CreateArgs),
    /// Create many topics at once; those that are there already are no error
    #[command(
        after_help = "Example:\n  echo '[{\"name\": \"a\"}, {\"name\": \"b\", \"partitions\": 3}]' | pubsub topic create-all -"
    )]
    CreateAll(batch::CreateAllArgs),
    /// List topics with their leaders and in-sync replicas
    #[command(after_help = "Examples:\n  pubsub topic list\n  pubsub topic list --internal -o json")]
    List {
        /// Also list Pubsub's own topics
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        connection: Connection,
    },
    /// Show one topic: settings, and every partition's replicas
    #[command(
        after_help = "Examples:\n  pubsub topic describe demo-topic\n  pubsub topic describe demo-topic -o json"
    )]
    Describe {
        /// Its name
        name: String,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        connection: Connection,
    },
    /// Change a topic's settings; what is not named stays as it is
    #[command(after_help = "Examples:\n  pubsub topic alter events --retention-ms 86400000\n  \
                            pubsub topic alter events --retention-ms none --min-isr 1")]
    Alter(AlterArgs),
    /// Move a partition to other brokers, and wait until its replicas are in their places
    #[command(after_help = "Examples:\n  pubsub topic move events --partition 2 --to 4,1,5\n  \
                            pubsub topic move events --cancel")]
    Move(moves::MoveArgs),
    /// Give partitions another leader: back to the preferred replica, or to the broker that is named
    #[command(after_help = "Examples:\n  pubsub topic elect events\n  \
                            pubsub topic elect events --partition 2 --broker-id 4\n  \
                            pubsub topic elect events --partition 2 --unclean --yes-lose-records")]
    Elect(elect::ElectArgs),
    /// Delete a topic and all of its records
    #[command(
        after_help = "Examples:\n  pubsub topic delete demo-topic\n  pubsub topic delete demo-topic --if-empty --yes"
    )]
    Delete {
        /// Its name
        name: String,
        /// Only if it holds no records
        #[arg(long)]
        if_empty: bool,
        /// Only if its owner has this uid, or it has none
        #[arg(long, value_name = "UID")]
        owner_uid: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        connection: Connection,
    },
}

/// Arguments of `pubsub topic create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Its name: letters, digits, '.', '_' and '-'
    name: String,
    /// Copies of each record [default: 3, or the number of live brokers if fewer]
    #[arg(long, visible_alias = "replication-factor", value_parser = clap::value_parser!(u32).range(1..=i64::from(REPLICATION_FACTOR_MAX)))]
    rf: Option<u32>,
    /// Number of partitions [default: 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(PARTITIONS_MAX)))]
    partitions: Option<u32>,
    /// Fewest in-sync replicas with which a publish is taken [default: 2 from three copies on, else 1]
    #[arg(long)]
    min_isr: Option<u32>,
    /// Broker that should lead partition 0
    #[arg(long, value_name = "ID")]
    owner_id: Option<u32>,
    /// Delete records older than this, in milliseconds
    #[arg(long, value_name = "MS")]
    retention_ms: Option<u64>,
    /// Delete the oldest records of a partition past this size, in bytes
    #[arg(long, value_name = "BYTES")]
    retention_bytes: Option<u64>,
    /// Keep only the newest record of each key
    #[arg(long)]
    compact: bool,
    /// Refuse records larger than this, in bytes [default: 1048576, which is also the most]
    #[arg(long, value_name = "BYTES")]
    max_record_bytes: Option<u64>,
    /// Once no replica in sync is alive, let another one lead; acknowledged records are then lost
    #[arg(long)]
    unclean_election: bool,
    /// Whose it is: JSON for whoever manages it; its member `uid` tells one owner from another
    #[arg(long, value_name = "JSON", value_parser = json)]
    owner: Option<Value>,
    /// Make that the owner of a topic that is there already, whoever that was
    #[arg(long, requires = "owner")]
    take_ownership: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// Arguments of `pubsub topic alter`.
#[derive(Debug, Args)]
pub(crate) struct AlterArgs {
    /// Its name
    name: String,
    /// New number of partitions; it can only grow
    #[arg(long)]
    partitions: Option<u32>,
    /// Copies of each record; replicas are added or dropped, and the command waits until they are
    #[arg(long, visible_alias = "replication-factor", value_parser = clap::value_parser!(u32).range(1..=i64::from(REPLICATION_FACTOR_MAX)))]
    rf: Option<u32>,
    /// Do not wait for replicas
    #[arg(long)]
    no_wait: bool,
    /// Fewest in-sync replicas with which a publish is taken
    #[arg(long)]
    min_isr: Option<u32>,
    /// Delete records older than this, in milliseconds; `none` keeps them for ever
    #[arg(long, value_name = "MS|none", value_parser = number_or_none)]
    retention_ms: Option<Limit>,
    /// Delete the oldest records of a partition past this size, in bytes; `none` keeps them all
    #[arg(long, value_name = "BYTES|none", value_parser = number_or_none)]
    retention_bytes: Option<Limit>,
    /// Keep only the newest record of each key
    #[arg(long)]
    compact: Option<bool>,
    /// Refuse records larger than this, in bytes; `none`: only those that no topic takes
    #[arg(long, value_name = "BYTES|none", value_parser = number_or_none)]
    max_record_bytes: Option<Limit>,
    /// Once no replica in sync is alive, let another one lead; acknowledged records are then lost
    #[arg(long, value_name = "true|false")]
    unclean_election: Option<bool>,
    /// Whose it is: JSON for whoever manages it; `null` for nobody
    #[arg(long, value_name = "JSON", value_parser = json)]
    owner: Option<Value>,
    /// Only if its owner has this uid, or it has none
    #[arg(long, value_name = "UID")]
    owner_uid: Option<String>,
    /// Make that the owner, whoever that was
    #[arg(long, requires = "owner")]
    take_ownership: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// A limit that can be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(Option<u64>);

fn number_or_none(text: &str) -> Result<Limit, String> {
    if text == "none" {
        return Ok(Limit(None));
    }
    text.parse()
        .map(|number| Limit(Some(number)))
        .map_err(|_| format!("{text:?} is neither a number nor `none`"))
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

/// Runs one of the commands.
pub(crate) async fn run(command: TopicCommand) -> Result<(), Failure> {
    match command {
        TopicCommand::Create(args) => create(args).await,
        TopicCommand::CreateAll(args) => batch::run(args).await,
        TopicCommand::List { internal, output, connection } => {
            let topics = connection.client(PATIENCE)?.admin().topics(internal).await?;
            output.print(&topics, list_table);
            Ok(())
        }
        TopicCommand::Describe { name, output, connection } => {
            let topic = connection.client(PATIENCE)?.admin().topic(&checked(&name)?).await?;
            output.print(&topic, describe);
            Ok(())
        }
        TopicCommand::Alter(args) => alter(args).await,
        TopicCommand::Elect(args) => elect::run(args).await,
        TopicCommand::Move(args) => moves::run(args).await,
        TopicCommand::Delete { name, if_empty, owner_uid, yes, output, connection } => {
            let name = checked(&name)?;
            if !yes && std::io::stdin().is_terminal() && !confirmed(&name)? {
                return Err(Failure::local("nothing was deleted"));
            }
            let admin = connection.client(PATIENCE)?.admin();
            let deleted = admin.delete_topic_as(&name, if_empty, owner_uid.as_deref()).await?;
            output.print(&deleted, |deleted| format!("deleted topic {}", deleted.topic));
            Ok(())
        }
    }
}

fn checked(name: &str) -> Result<String, Failure> {
    TopicName::try_from(name).map(String::from).map_err(|error| Failure::usage(error.to_string()))
}

fn confirmed(name: &str) -> Result<bool, Failure> {
    let ask = || {
        eprint!("delete topic {name} and all of its records? Type its name to go on: ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        Ok(answer.trim() == name)
    };
    ask().map_err(|error: std::io::Error| Failure::local(format!("can't ask: {error}; use --yes")))
}

async fn create(args: CreateArgs) -> Result<(), Failure> {
    let request = CreateTopicRequest {
        name: checked(&args.name)?,
        partitions: args.partitions,
        replication_factor: args.rf,
        owner_id: args.owner_id.map(BrokerId),
        min_isr: args.min_isr,
        retention_ms: args.retention_ms,
        retention_bytes: args.retention_bytes,
        compact: args.compact.then_some(true),
        max_record_bytes: args.max_record_bytes,
        unclean_election: args.unclean_election.then_some(true),
        owner: args.owner,
    };
    let guard = Guard { take_ownership: args.take_ownership, ..Guard::default() };
    let created = args.connection.client(PATIENCE)?.admin().create_topic_as(&request, &guard).await?;
    args.output.print(&created, |created| {
        let done = if created.created { "created topic" } else { "there was already a topic" };
        format!(
            "{done} {}: {} partition(s), {} replica(s), led by broker {}",
            created.topic,
            created.partitions,
            created.replication_factor,
            or_dash(created.owner_id)
        )
    });
    Ok(())
}

async fn alter(args: AlterArgs) -> Result<(), Failure> {
    let change = AlterTopicRequest {
        partitions: args.partitions,
        replication_factor: args.rf,
        min_isr: args.min_isr,
        retention_ms: args.retention_ms.map(|limit| limit.0),
        retention_bytes: args.retention_bytes.map(|limit| limit.0),
        compact: args.compact,
        max_record_bytes: args.max_record_bytes.map(|limit| limit.0),
        unclean_election: args.unclean_election,
        owner: args.owner.map(|owner| Some(owner).filter(|owner| !owner.is_null())),
    };
    if change == AlterTopicRequest::default() {
        return Err(Failure::usage("nothing to change was named").hint("see `pubsub topic alter --help`"));
    }
    let client = args.connection.client(PATIENCE)?;
    let guard = Guard { owner_uid: args.owner_uid, take_ownership: args.take_ownership };
    let topic = client.admin().alter_topic_as(&checked(&args.name)?, &change, &guard).await?;
    let waits = args.rf.is_some() && !args.no_wait;
    let topic = if waits { moves::until_over(&client, topic).await? } else { topic };
    args.output.print(&topic, describe);
    Ok(())
}

fn list_table(topics: &TopicList) -> String {
    if topics.topics.is_empty() {
        return "no topics; create one with `pubsub topic create NAME`".to_owned();
    }
    let mut rows = table(&["topic", "partitions", "rf", "leader", "replicas", "isr", "under-replicated"]);
    for topic in &topics.topics {
        let behind = topic.partitions.iter().filter(|part| part.isr.len() < part.replicas.len()).count();
        rows.add_row([
            topic.name.clone(),
            topic.partition_count.to_string(),
            topic.replication_factor.to_string(),
            or_dash(topic.leader),
            list(&topic.replicas),
            list(&topic.isr),
            behind.to_string(),
        ]);
    }
    rows.to_string()
}

fn describe(topic: &TopicDescription) -> String {
    let config = &topic.config;
    let limit = |limit: Option<u64>, unit: &str| {
        limit.map_or("for ever".to_owned(), |limit| format!("{limit} {unit}"))
    };
    let mut rows = table(&[
        "partition",
        "leader",
        "epoch",
        "replicas",
        "isr",
        "moving",
        "log start",
        "high watermark",
        "log end",
    ]);
    for part in &topic.partitions {
        rows.add_row([
            part.id.to_string(),
            or_dash(part.leader),
            part.leader_epoch.to_string(),
            list(&part.replicas),
            list(&part.isr),
            moves::change(part),
            or_dash(part.log_start),
            or_dash(part.high_watermark),
            or_dash(part.log_end),
        ]);
    }
    format!(
        "topic            {}\nid               {}\nreplicas wanted  {}\nfewest in sync   {}\nkept             {}, {}\n\
         compacted        {}\nlargest record   {}\nunclean leaders  {}\nowner            {}\n\n{rows}",
        topic.name,
        topic.id,
        topic.replication_factor,
        config.min_isr,
        limit(config.retention_ms, "ms"),
        limit(config.retention_bytes, "bytes"),
        if config.compact { "yes" } else { "no" },
        config.max_record_bytes.map_or("as all topics".to_owned(), |most| format!("{most} bytes")),
        if config.unclean_election { "yes, records may be lost" } else { "no" },
        or_dash(config.owner.as_ref()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_can_be_set_and_taken_away() {
        assert_eq!(number_or_none("none"), Ok(Limit(None)));
        assert_eq!(number_or_none("5"), Ok(Limit(Some(5))));
        assert!(number_or_none("-1").is_err());
    }
}
