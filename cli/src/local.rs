//! `pubsub local`: a whole cluster on one machine, one process per broker, so that each can be killed on its own.

mod plan;
mod supervise;

use crate::exit::Failure;
use clap::Args;
use plan::{BROKERS_MAX, BusyPort, ChildPlan, LocalPlan};
use pubsub_client::Client;
use pubsub_client::transport::{Request, Transport, TransportConfig};
use pubsub_core::wire::admin::CreateTopicRequest;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use supervise::{ChildEvent, Supervision, supervise};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often readiness is asked for while the cluster starts.
const READY_POLL: Duration = Duration::from_millis(100);
/// Lines of a log that are shown when its process dies at the start.
const LOG_TAIL_LINES: usize = 15;
/// Bytes of a log that are read for them.
const LOG_TAIL_BYTES: usize = 64 << 10;
/// Events of children that may wait to be printed.
const EVENTS_MAX: usize = 64;
/// Random bytes of a cluster secret.
const SECRET_BYTES: usize = 32;

/// Arguments of `pubsub local`.
#[derive(Debug, Args)]
pub(crate) struct LocalArgs {
    /// How many brokers to run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=i64::from(BROKERS_MAX)))]
    brokers: u32,
    /// Where data, logs and the cluster secret are kept; delete it to begin anew
    #[arg(long, value_name = "DIR", default_value = "./pubsub-data")]
    data: PathBuf,
    /// Broker N serves clients on this port plus N
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port_base: u16,
    /// Broker N talks to its peers on this port plus N
    #[arg(long, value_name = "PORT", default_value_t = 5000)]
    election_port_base: u16,
    /// Port of the discovery service
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    discovery_port: u16,
    /// Topic that is created once all brokers are ready, unless it exists; "" for none
    #[arg(long, value_name = "NAME", default_value = "demo-topic")]
    topic: String,
    /// Leave a process that died dead, instead of starting it again after 3 s
    #[arg(long)]
    no_restart: bool,
    /// Give up if the brokers are not ready after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    ready_timeout: u64,
}

struct Cluster {
    plan: LocalPlan,
    stop: CancellationToken,
    children: JoinSet<()>,
    events: mpsc::Receiver<ChildEvent>,
    pids: BTreeMap<String, u32>,
}

/// Runs a cluster until Ctrl-C or SIGTERM.
pub(crate) async fn run(args: LocalArgs) -> Result<(), Failure> {
    let plan = prepare(&args)?;
    let secret = secret(&plan.secret_file())?;
    let executable = std::env::current_exe()
        .map_err(|error| Failure::local(format!("can't find this program's own file: {error}")))?;
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let stop = CancellationToken::new();
    let supervision =
        Supervision { executable, secret, restart: !args.no_restart, stop: stop.clone(), events: sender };
    let mut cluster = Cluster { plan, stop, children: JoinSet::new(), events, pids: BTreeMap::new() };
    let mut plans = vec![cluster.plan.discovery()];
    plans.extend((1..=cluster.plan.brokers).map(|id| cluster.plan.broker(id)));
    for child in plans {
        cluster.children.spawn(supervise(child, supervision.clone()));
    }
    // The clones in the children are the only ones left, so that the channel ends with the last child.
    drop(supervision);
    let outcome = tokio::select! {
        outcome = cluster.serve(Duration::from_secs(args.ready_timeout), &args.topic) => outcome,
        signal = stop_signal() => {
            eprintln!("\n{signal}: stopping the cluster");
            Ok(())
        }
    };
    cluster.shut_down().await;
    outcome
}

async fn stop_signal() -> &'static str {
    let mut terminate =
        signal(SignalKind::terminate()).expect("signal handlers can be installed at the start");
    let mut hang_up = signal(SignalKind::hangup()).expect("signal handlers can be installed at the start");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "Ctrl-C",
        _ = terminate.recv() => "SIGTERM",
        _ = hang_up.recv() => "terminal closed",
    }
}

fn prepare(args: &LocalArgs) -> Result<LocalPlan, Failure> {
    // Children run in the same directory, but the paths that are printed should work anywhere.
    let data = std::path::absolute(&args.data)
        .map_err(|error| Failure::local(format!("can't use {}: {error}", args.data.display())))?;
    let mut plan = LocalPlan {
        brokers: args.brokers,
        founders: args.brokers,
        data,
        port_base: args.port_base,
        election_port_base: args.election_port_base,
        discovery_port: args.discovery_port,
    };
    let busy = plan.busy_ports().map_err(Failure::usage)?;
    if !busy.is_empty() {
        return Err(busy_failure(&busy));
    }
    std::fs::create_dir_all(plan.log_dir()).map_err(|error| {
        Failure::local(format!("can't make {}: {error}", plan.log_dir().display()))
            .hint("name another place with --data DIR")
    })?;
    plan.founders = founders(&plan)?;
    Ok(plan)
}

fn busy_failure(busy: &[BusyPort]) -> Failure {
    let lines: Vec<String> = busy
        .iter()
        .map(|busy| {
            format!(
                "port {} ({}) can't be used: {}; move it with {}",
                busy.port, busy.purpose, busy.reason, busy.option
            )
        })
        .collect();
    Failure::local(lines.join("\n       ")).hint(format!(
        "another `pubsub local` may be running: `ss -ltnp 'sport = :{}'` shows what holds a port",
        busy[0].port
    ))
}

/// Returns how many brokers founded the cluster in the data directory, and keeps the number if it is new.
///
/// A cluster's first brokers decide by majority for ever, so running fewer of them than that would hang without a word.
fn founders(plan: &LocalPlan) -> Result<u32, Failure> {
    let file = plan.data.join("founders");
    let written = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_private(&file, &plan.brokers.to_string())?;
            return Ok(plan.brokers);
        }
        Err(error) => return Err(Failure::local(format!("can't read {}: {error}", file.display()))),
    };
    let founders: u32 = written.trim().parse().map_err(|_| {
        Failure::local(format!("{} holds {written:?}, not a number of brokers", file.display()))
    })?;
    if plan.brokers < founders {
        return Err(Failure::usage(format!(
            "{} belongs to a cluster that {founders} brokers founded; {} would not be all of them",
            plan.data.display(),
            plan.brokers
        ))
        .hint(format!("run it with --brokers {founders}, or begin anew with another --data DIR")));
    }
    Ok(founders)
}

fn write_private(file: &Path, text: &str) -> Result<(), Failure> {
    let write = || {
        let mut handle = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        handle.write_all(text.as_bytes())?;
        handle.sync_all()
    };
    write()
        .map_err(|error: std::io::Error| Failure::local(format!("can't write {}: {error}", file.display())))
}

/// Returns the cluster's secret, made at the first start.
fn secret(file: &Path) -> Result<String, Failure> {
    match std::fs::read_to_string(file) {
        Ok(text) if text.trim().len() >= SECRET_BYTES => return Ok(text.trim().to_owned()),
        Ok(_) => {
            return Err(Failure::local(format!("{} is too short to be a cluster secret", file.display()))
                .hint("delete the file to have a new one made"));
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Failure::local(format!("can't read {}: {error}", file.display()))),
    }
    let bytes: [u8; SECRET_BYTES] = rand::random();
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write_private(file, &text)?;
    Ok(text)
}

impl Cluster {
    /// Waits for readiness, prints what to try, and tells what happens to the children; ends only with a failure.
    async fn serve(&mut self, ready_timeout: Duration, topic: &str) -> Result<(), Failure> {
        self.wait_ready(ready_timeout).await?;
        if !topic.is_empty() {
            self.create_topic(topic).await?;
        }
        self.print_ready(if topic.is_empty() { "demo-topic" } else { topic });
        while let Some(event) = self.events.recv().await {
            self.note(&event);
            match event {
                ChildEvent::Started { name, pid } => eprintln!("{name} started again (pid {pid})"),
                ChildEvent::Died { name, how, log, restarts } => {
                    let next =
                        if restarts { "starting it again in 3 s" } else { "leaving it dead (--no-restart)" };
                    eprintln!("{name} {how}; {next}; log: {}", log.display());
                }
                ChildEvent::Broken { name, reason } => eprintln!("{name} can't be started again: {reason}"),
            }
        }
        Err(Failure::local("all processes have ended"))
    }

    fn note(&mut self, event: &ChildEvent) {
        match event {
            ChildEvent::Started { name, pid } => {
                self.pids.insert(name.clone(), *pid);
            }
            ChildEvent::Died { name, .. } | ChildEvent::Broken { name, .. } => {
                self.pids.remove(name);
            }
        }
    }

    async fn wait_ready(&mut self, ready_timeout: Duration) -> Result<(), Failure> {
        let urls = self.plan.broker_urls();
        let config = TransportConfig { answer_timeout: Duration::from_secs(2), ..TransportConfig::default() };
        let transport = Transport::new(&urls, config).map_err(|error| Failure::local(error.to_string()))?;
        eprintln!("starting {} brokers in {}", urls.len(), self.plan.data.display());
        let mut ready = JoinSet::new();
        for url in urls {
            let broker = transport.only(&url).map_err(|error| Failure::local(error.to_string()))?;
            ready.spawn(until_ready(broker));
        }
        let deadline = Instant::now() + ready_timeout;
        while !ready.is_empty() {
            tokio::select! {
                _ = ready.join_next() => {}
                Some(event) = self.events.recv() => {
                    self.note(&event);
                    if let Some(failure) = failed_start(event) {
                        return Err(failure);
                    }
                }
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Failure::local(format!(
                        "{} of {} brokers were not ready after {} s",
                        ready.len(), self.plan.brokers, ready_timeout.as_secs()
                    ))
                    .hint(format!("their logs are in {}", self.plan.log_dir().display())));
                }
            }
        }
        Ok(())
    }

    /// Creates the topic to try things with; nothing is asked of its shape, so that an existing one is left as it is.
    async fn create_topic(&self, topic: &str) -> Result<(), Failure> {
        let failed = |what: String| Failure::local(format!("topic {topic} was not created: {what}"));
        let client = Client::new(&self.plan.broker_urls()).map_err(|error| failed(error.to_string()))?;
        let wanted = CreateTopicRequest { name: topic.to_owned(), ..CreateTopicRequest::default() };
        client.admin().create_topic(&wanted).await.map(drop).map_err(|error| failed(error.to_string()))
    }

    fn print_ready(&self, topic: &str) {
        let mut table = crate::output::table(&["process", "pid", "address"]);
        let mut children = vec![self.plan.discovery()];
        children.extend((1..=self.plan.brokers).map(|id| self.plan.broker(id)));
        for ChildPlan { name, url, .. } in children {
            let pid = self.pids.get(&name).map(u32::to_string).unwrap_or_default();
            table.add_row([name, pid, url]);
        }
        let (options, url, program) = (self.plan.client_options(), self.plan.broker_url(1), program());
        crate::output::line(&format!(
            "{table}\n\nAll brokers are ready. Try, in another terminal:\n\
             \n  seq 1 1000 | {program} publish {topic}{options}\
             \n  {program} subscribe {topic} --from earliest --max 1000{options}\
             \n  curl -X POST {url}/topics/{topic}/publish -H 'content-type: application/json' -d '{{\"value\": \"hello\"}}'\
             \n  curl '{url}/poll?topic={topic}&from_offset=0'\
             \n  {program} cluster status{options}\n\
             \nKill a broker (kill -9 PID) and watch what goes on. Logs: {}\nCtrl-C stops the cluster; its data stays in {}",
            self.plan.log_dir().display(),
            self.plan.data.display(),
        ));
    }

    async fn shut_down(&mut self) {
        self.stop.cancel();
        // The events of children that end as asked are of no interest, but an unread channel would block them.
        self.events.close();
        while self.children.join_next().await.is_some() {}
        eprintln!("stopped");
    }
}

/// Returns how this program is called in the lines to try: by its name where a shell finds it, else by its path.
fn program() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own = std::env::current_exe().ok();
    let found = std::env::split_paths(&path).map(|dir| dir.join("pubsub")).find(|file| file.is_file());
    let same = found.and_then(|file| file.canonicalize().ok())
        == own.as_deref().and_then(|file| file.canonicalize().ok());
    match own {
        Some(own) if !same => own.display().to_string(),
        Some(_) | None => "pubsub".to_owned(),
    }
}

async fn until_ready(broker: Transport) {
    let ask = || Request::get("/readyz").deadline(Duration::ZERO);
    while broker.send(ask()).await.is_err() {
        tokio::time::sleep(READY_POLL).await;
    }
}

fn failed_start(event: ChildEvent) -> Option<Failure> {
    match event {
        ChildEvent::Started { .. } => None,
        ChildEvent::Died { name, how, log, .. } => {
            let hint = format!("its log is {}, ending in:\n{}", log.display(), log_tail(&log));
            Some(Failure::local(format!("{name} {how} while the cluster was starting")).hint(hint))
        }
        ChildEvent::Broken { name, reason } => {
            Some(Failure::local(format!("{name} can't be started: {reason}")))
        }
    }
}

fn log_tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let from = bytes.len().saturating_sub(LOG_TAIL_BYTES);
    let text = String::from_utf8_lossy(&bytes[from..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    lines[from..].iter().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn plan(data: &Path, brokers: u32) -> LocalPlan {
        LocalPlan {
            brokers,
            founders: brokers,
            data: data.to_owned(),
            port_base: 8080,
            election_port_base: 5000,
            discovery_port: 9090,
        }
    }

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster-secret");
        let first = secret(&file).unwrap();
        assert_eq!(first.len(), 2 * SECRET_BYTES);
        assert_eq!(secret(&file).unwrap(), first);
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&file, "short").unwrap();
        assert!(secret(&file).is_err());
    }

    #[test]
    fn a_cluster_is_not_run_with_fewer_brokers_than_founded_it() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(founders(&plan(folder.path(), 3)).unwrap(), 3);
        assert_eq!(founders(&plan(folder.path(), 5)).unwrap(), 3, "brokers that came later are no founders");
        assert!(founders(&plan(folder.path(), 1)).is_err());
    }

    #[test]
    fn the_end_of_a_log_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let text: String = (0..100).map(|line| format!("line {line}\n")).collect();
        std::fs::write(&log, text).unwrap();
        let tail = log_tail(&log);
        assert!(tail.starts_with("  line 85\n") && tail.ends_with("  line 99\n"), "{tail}");
    }
}
