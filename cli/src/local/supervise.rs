//! Child processes: started, watched, restarted, and stopped within bounds.

use super::plan::ChildPlan;
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A child that died is started again after this pause, so that a broken one does not burn a processor.
const RESTART_PAUSE: Duration = Duration::from_secs(3);
/// A child that was asked to stop is killed after this time.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// What happened to a child.
#[derive(Debug)]
pub(crate) enum ChildEvent {
    /// It runs.
    Started {
        /// Its name.
        name: String,
        /// Its process id.
        pid: u32,
    },
    /// It ended though nobody asked for it.
    Died {
        /// Its name.
        name: String,
        /// How, for people.
        how: String,
        /// Where its output is.
        log: PathBuf,
        /// Whether it will be started again.
        restarts: bool,
    },
    /// It could not be started.
    Broken {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// How children are run.
#[derive(Clone, Debug)]
pub(crate) struct Supervision {
    /// The program that plays all parts.
    pub(crate) executable: PathBuf,
    /// Given to every child, by environment and not by argument: arguments can be seen by every user of the machine.
    pub(crate) secret: String,
    /// Whether a child that died is started again.
    pub(crate) restart: bool,
    /// Ends all children when cancelled.
    pub(crate) stop: CancellationToken,
    /// Tells what happens.
    pub(crate) events: mpsc::Sender<ChildEvent>,
}

/// Runs one child until `stop` is cancelled, restarting it as told.
///
/// # Cancel safety
/// Dropping the future kills the child at once.
pub(crate) async fn supervise(plan: ChildPlan, supervision: Supervision) {
    let name = plan.name.clone();
    loop {
        let mut child = match start(&plan, &supervision) {
            Ok(child) => child,
            Err(error) => {
                tell(&supervision, ChildEvent::Broken { name, reason: format!("{error:#}") }).await;
                return;
            }
        };
        // Waiting for a child closes its input, so the open end must live here.
        let lifeline = child.stdin.take();
        let pid = child.id().unwrap_or_default();
        tell(&supervision, ChildEvent::Started { name: name.clone(), pid }).await;
        let how = tokio::select! {
            status = child.wait() => match status {
                Ok(status) => describe(status),
                Err(error) => format!("could not be waited for: {error}"),
            },
            () = supervision.stop.cancelled() => {
                stop(&mut child).await;
                return;
            }
        };
        drop(lifeline);
        let restarts = supervision.restart;
        tell(&supervision, ChildEvent::Died { name: name.clone(), how, log: plan.log.clone(), restarts })
            .await;
        if !restarts {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART_PAUSE) => {}
            () = supervision.stop.cancelled() => return,
        }
    }
}

async fn tell(supervision: &Supervision, event: ChildEvent) {
    // Nobody listens any more only while everything is being stopped.
    let _ = supervision.events.send(event).await;
}

fn start(plan: &ChildPlan, supervision: &Supervision) -> anyhow::Result<Child> {
    let open = || OpenOptions::new().create(true).append(true).open(&plan.log);
    let log = open().with_context(|| format!("open the log {}", plan.log.display()))?;
    let errors = log.try_clone().context("share the log")?;
    Command::new(&supervision.executable)
        .args(&plan.args)
        .envs(plan.env.iter().map(|(name, value)| (name, value)))
        .env("PUBSUB_CLUSTER_SECRET", &supervision.secret)
        // The pipe is never written to: its end tells the child that its supervisor is gone, even by `kill -9`.
        .stdin(Stdio::piped())
        .stdout(log)
        .stderr(errors)
        // A Ctrl-C at the terminal reaches the supervisor alone, which then stops the children in good order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", supervision.executable.display()))
}

async fn stop(child: &mut Child) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself a moment ago, which is what was wanted.
        let _ = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_err() {
        // As above.
        let _ = child.kill().await;
    }
}

/// Says how a process ended, in a shell's words.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal} ({})", signal_name(signal)),
        (None, None) => "ended".to_owned(),
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        6 => "SIGABRT",
        7 => "SIGBUS",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        15 => "SIGTERM",
        _ => "see `kill -l`",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::ffi::OsString;

    struct Scene {
        supervision: Supervision,
        events: mpsc::Receiver<ChildEvent>,
        folder: tempfile::TempDir,
    }

    fn scene(restart: bool) -> Scene {
        let (sender, events) = mpsc::channel(16);
        let supervision = Supervision {
            executable: PathBuf::from("/bin/sh"),
            secret: "a secret".to_owned(),
            restart,
            stop: CancellationToken::new(),
            events: sender,
        };
        Scene { supervision, events, folder: tempfile::tempdir().unwrap() }
    }

    fn child(scene: &Scene, script: &str) -> ChildPlan {
        ChildPlan {
            name: "child".to_owned(),
            args: ["-c", script].map(OsString::from).to_vec(),
            env: vec![("GREETING", "hello".to_owned())],
            log: scene.folder.path().join("child.log"),
            url: String::new(),
        }
    }

    #[tokio::test]
    async fn a_child_that_is_killed_is_reported_with_its_signal() {
        let mut scene = scene(false);
        let plan = child(&scene, "echo $GREETING; kill -9 $$");
        let running = tokio::spawn(supervise(plan, scene.supervision.clone()));
        assert!(matches!(scene.events.recv().await, Some(ChildEvent::Started { .. })));
        let Some(ChildEvent::Died { how, log, restarts, .. }) = scene.events.recv().await else {
            panic!("not told")
        };
        assert!(how.contains("SIGKILL"), "{how}");
        assert!(!restarts);
        assert_eq!(std::fs::read_to_string(log).unwrap(), "hello\n");
        running.await.unwrap();
    }

    #[tokio::test]
    async fn a_child_is_asked_to_stop_and_can_take_its_time() {
        let mut scene = scene(true);
        let script = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let plan = child(&scene, script);
        let log = plan.log.clone();
        let running = tokio::spawn(supervise(plan, scene.supervision.clone()));
        assert!(matches!(scene.events.recv().await, Some(ChildEvent::Started { .. })));
        while std::fs::read_to_string(&log).unwrap_or_default() != "up\n" {
            tokio::task::yield_now().await;
        }
        scene.supervision.stop.cancel();
        running.await.unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "up\nbye\n");
    }

    #[tokio::test]
    async fn a_child_sees_the_end_of_its_supervisor_on_its_standard_input() {
        let mut scene = scene(false);
        let plan = child(&scene, "cat; echo over");
        let log = plan.log.clone();
        let mut process = start(&plan, &scene.supervision).unwrap();
        drop(process.stdin.take());
        process.wait().await.unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "over\n");
        scene.events.close();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_told_and_not_tried_again() {
        let mut scene = scene(true);
        scene.supervision.executable = PathBuf::from("/does/not/exist");
        let plan = child(&scene, "");
        supervise(plan, scene.supervision.clone()).await;
        assert!(matches!(scene.events.recv().await, Some(ChildEvent::Broken { .. })));
    }
}
