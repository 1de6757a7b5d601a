//! `pubsub cluster events`: what happened, as one broker saw it.

use super::PATIENCE;
use crate::connection::Connection;
use crate::exit::Failure;
use crate::output::{Output, OutputArgs, line, or_dash, table};
use clap::Args;
use jiff::Timestamp;
use pubsub_client::admin::Admin;
use pubsub_client::events::Observed;
use pubsub_core::limits::EVENTS_LIST_MAX;
use pubsub_core::wire::admin::{ClusterEvent, EventList};

/// Arguments of `pubsub cluster events`.
#[derive(Debug, Args)]
pub(crate) struct EventsArgs {
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Begin behind the event of this id; `0` for the oldest one that is kept
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// Most events to show; of the newest, unless --after is given
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(EVENTS_LIST_MAX)))]
    limit: u32,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

/// Runs the command.
pub(super) async fn run(args: EventsArgs) -> Result<(), Failure> {
    let admin = args.connection.client(PATIENCE)?.admin();
    if args.follow {
        return follow(&admin, args.after, args.output).await;
    }
    let list = admin.events(args.after.as_deref(), args.limit).await?;
    if list.reset {
        eprintln!("broker {} does not have the events behind that id", list.broker_id);
    }
    args.output.print(&list, listed);
    Ok(())
}

/// Prints events as they come, one a line.
async fn follow(admin: &Admin, after: Option<String>, output: OutputArgs) -> Result<(), Failure> {
    let mut events = admin.follow_events(after);
    loop {
        match events.next().await? {
            Observed::Event(event) => line(&match output.output {
                Output::Json => serde_json::to_string(&event).expect("it came from JSON and goes back to it"),
                Output::Table => {
                    let [time, kind, about, details] = columns(&event);
                    format!("{time}  {kind:<20} {about:<24} {details}")
                }
            }),
            Observed::Reset => eprintln!("events may be missing here: the broker that was asked has others"),
        }
    }
}

fn listed(list: &EventList) -> String {
    if list.events.is_empty() {
        return format!("broker {} has no events to show", list.broker_id);
    }
    let mut rows = table(&["time", "event", "about", "details"]);
    for event in &list.events {
        rows.add_row(columns(event));
    }
    format!("as broker {} saw it; go on with --after {}\n\n{rows}", list.broker_id, list.last_id)
}

fn columns(event: &ClusterEvent) -> [String; 4] {
    let time = Timestamp::from_millisecond(event.at_ms).ok();
    let about = match (&event.topic, event.partition, event.broker) {
        (Some(topic), Some(partition), _) => format!("{topic}/{partition}"),
        (Some(topic), None, _) => topic.clone(),
        (None, _, broker) => broker.map_or_else(String::new, |broker| format!("broker {broker}")),
    };
    let details: Vec<_> = event.details.iter().map(|(name, value)| format!("{name}={value}")).collect();
    [or_dash(time), event.event.clone(), about, details.join(" ")]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_says_when_what_about_what_and_how() {
        let event = r#"{"id":"1-a-5","at_ms":1700000000000,"event":"isr_changed","topic":"t","partition":2,"isr":[1,2],"cause":"lagged"}"#;
        let columns = columns(&serde_json::from_str(event).unwrap());
        assert_eq!(columns[0], "2023-11-14T22:13:20Z");
        assert_eq!(columns[1..], ["isr_changed", "t/2", "cause=\"lagged\" isr=[1,2]"]);
    }
}
