//! A release in a real cluster of the kind program, with the means to break it. `make kind-test` sets the cluster up; what
//! is needed here is `kubectl`, `helm` and `docker` on the PATH, and KUBECONFIG.

pub mod job;
pub mod node;
pub mod objects;
pub mod process;
pub mod release;
pub mod topics;
pub mod witness;

use anyhow::{Context, bail};
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Longest time that a command may take that waits for nothing.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// One call of a program.
#[derive(Clone, Debug)]
pub struct Call {
    program: String,
    arguments: Vec<String>,
    stdin: Option<String>,
    deadline: Duration,
}

impl Call {
    /// Names the program and its arguments.
    pub fn of<'a>(program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        let arguments = arguments.into_iter().map(str::to_owned).collect();
        Self { program: program.to_owned(), arguments, stdin: None, deadline: COMMAND_DEADLINE }
    }

    /// The same with a text on its standard input.
    #[must_use]
    pub fn with_input(mut self, text: impl Into<String>) -> Self {
        self.stdin = Some(text.into());
        self
    }

    /// The same with another deadline.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it and returns its standard output.
    ///
    /// # Errors
    /// When it can't be started, fails, or does not end by the deadline; with all that it printed.
    ///
    /// # Cancel safety
    /// The program is killed. What it had begun may be done or not.
    pub async fn run(&self) -> anyhow::Result<String> {
        let shown = format!("{} {}", self.program, self.arguments.join(" "));
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
        let mut stdin = child.stdin.take().context("a pipe was asked for")?;
        let text = self.stdin.clone().unwrap_or_default();
        let write = async move {
            // A program that reads no input closes the pipe, and that is its affair.
            let _ = stdin.write_all(text.as_bytes()).await;
        };
        let work = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = tokio::time::timeout(self.deadline, work)
            .await
            .with_context(|| format!("not within {:?}: {shown}", self.deadline))?
            .with_context(|| format!("run {shown}"))?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("{shown}: {}: {}{printed}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(printed)
    }

    /// Runs it and reads its output as JSON.
    ///
    /// # Errors
    /// Those of [`Call::run`], and when it prints something else.
    pub async fn json(&self) -> anyhow::Result<Value> {
        let printed = self.run().await?;
        serde_json::from_str(&printed).with_context(|| format!("{} printed no JSON: {printed}", self.program))
    }
}

/// Names a call of `kubectl`.
pub fn kubectl<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Call {
    Call::of("kubectl", arguments)
}

/// Returns the file of the checkout with that path.
pub fn checkout(path: &str) -> String {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| ".".as_ref());
    root.join(path).display().to_string()
}

/// Returns the version of the workspace, which is the image's tag and the chart's version.
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
