//! Programs under test as child processes: where they are, how they start, how they end.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

/// Returns the path of a program of this workspace, which is built first if it is not there.
///
/// # Panics
/// When it can't be built.
pub fn binary(name: &str) -> PathBuf {
    static BUILD: Once = Once::new();
    let program = std::env::current_exe().expect("a running program has a path");
    let directory = program.parent().expect("a program lies in a directory");
    // Tests lie in target/profile/deps, programs in target/profile.
    let above = directory.parent().filter(|_| directory.ends_with("deps"));
    let profile = above.unwrap_or(directory).to_path_buf();
    let path = profile.join(name);
    if !path.exists() {
        BUILD.call_once(|| build(profile.parent().expect("the profile lies in the target directory")));
    }
    assert!(
        path.exists(),
        "{} is not there, and `cargo build --workspace --bins` did not make it",
        path.display()
    );
    path
}

fn build(target: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace");
    let status = Command::new(cargo)
        .args(["build", "--workspace", "--bins"])
        .env("CARGO_TARGET_DIR", target)
        .current_dir(workspace)
        .status();
    assert!(status.is_ok_and(|status| status.success()), "`cargo build --workspace --bins` failed");
}

/// Ends what is left of a cluster when the test process is gone, however it went: shared clusters live in statics,
/// which are never dropped.
#[derive(Debug)]
pub struct Watchdog {
    pids: Mutex<BTreeSet<u32>>,
    list: PathBuf,
    shell: Mutex<Option<(Child, ChildStdin)>>,
}

const WATCH: &str = r#"cat >/dev/null
while read -r pid; do kill -9 "$pid" 2>/dev/null; done <"$1"
for volume in "$2"/data*; do
    if mountpoint -q "$volume" 2>/dev/null; then fsfreeze -u "$volume"; umount -l "$volume"; fi
done 2>/dev/null
rm -rf "$2""#;

impl Watchdog {
    /// Starts watching over the processes of a cluster whose files are in `dir`; `dir` is removed in the end.
    ///
    /// # Errors
    /// When the shell can't be started.
    pub fn start(dir: &Path) -> anyhow::Result<Arc<Self>> {
        let list = dir.join("pids");
        std::fs::write(&list, "").context("write the list of processes")?;
        let mut shell = Command::new("sh")
            .args(["-c", WATCH, "watchdog"])
            .args([&list, dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // An interrupt at the terminal is for the harness alone, which then ends in order.
            .process_group(0)
            .spawn()
            .context("start the watchdog")?;
        let stdin = shell.stdin.take().expect("stdin was piped");
        Ok(Arc::new(Self { pids: Mutex::default(), list, shell: Mutex::new(Some((shell, stdin))) }))
    }

    fn update(&self, change: impl FnOnce(&mut BTreeSet<u32>)) {
        let mut pids = self.pids.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut pids);
        let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
        std::fs::write(&self.list, lines).expect("the cluster's directory takes a small file");
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let shell = self.shell.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((mut shell, stdin)) = shell {
            drop(stdin);
            // The shell removes files at most; nothing depends on how that went.
            let _ = shell.wait();
        }
    }
}

/// One running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    watchdog: Arc<Watchdog>,
}

impl Process {
    /// Starts a program with only the given environment; its output is appended to `log`.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(
        name: &str,
        program: &Path,
        environment: &[(String, String)],
        log: &Path,
        watchdog: &Arc<Watchdog>,
    ) -> anyhow::Result<Self> {
        Self::start_with(name, program, &[], environment, log, watchdog)
    }

    /// As [`Process::start`], with arguments.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_with(
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(String, String)],
        log: &Path,
        watchdog: &Arc<Watchdog>,
    ) -> anyhow::Result<Self> {
        let output = File::options().create(true).append(true).open(log).context("open the log")?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", path)
            .env("RUST_BACKTRACE", "1")
            // Errors that a program reports in words need no stack.
            .env("RUST_LIB_BACKTRACE", "0")
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .current_dir(log.parent().expect("the log lies in a directory"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("share the log")?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        watchdog.update(|pids| {
            pids.insert(child.id());
        });
        Ok(Self { name: name.to_owned(), child, watchdog: Arc::clone(watchdog) })
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("signal {}", self.name))
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    pub fn kill(mut self) {
        self.end();
    }

    /// Returns how the process ended, or `None` while it runs.
    ///
    /// # Errors
    /// When the system doesn't tell.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("ask after {}", self.name))
    }

    /// Waits until the process has ended by itself.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub async fn wait_ended(&mut self, deadline: Duration) -> anyhow::Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > deadline {
                bail!("{} still runs after {deadline:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn end(&mut self) {
        // Both fail only for a process that has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let pid = self.child.id();
        self.watchdog.update(|pids| {
            pids.remove(&pid);
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns what was written to a log from byte `from` on, its last `lines_max` lines at most.
pub fn log_tail(log: &Path, from: u64, lines_max: usize) -> String {
    let mut text = Vec::new();
    let read = File::open(log)
        .and_then(|mut file| file.seek(SeekFrom::Start(from)).map(|_| file))
        .and_then(|mut file| file.read_to_end(&mut text));
    if let Err(error) = read {
        return format!("(no log: {error})");
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}
