//! How a command ends: exit codes, and errors that say what to do next.

use pubsub_client::transport::CallError;
use std::process::ExitCode;

/// What every `--help` ends with.
pub(crate) const EXIT_CODES: &str = "Exit codes: 0 done · 1 failed, or differences found · 2 wrong usage · \
3 no broker could be reached · 4 refused by a broker · 5 outcome not known · 130 interrupted";

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    text: String,
    hint: Option<String>,
}

impl Failure {
    /// Something failed here, not at a broker.
    pub(crate) fn local(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into(), hint: None }
    }

    /// An argument that clap could not check.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into(), hint: None }
    }

    /// The user stopped it.
    pub(crate) fn interrupted(text: impl Into<String>) -> Self {
        Self { code: 130, text: text.into(), hint: None }
    }

    /// Says what to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Prints the failure and returns the process's exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.text.is_empty() {
            eprintln!("error: {}", self.text);
        }
        if let Some(hint) = &self.hint {
            eprintln!("hint: {hint}");
        }
        ExitCode::from(self.code)
    }
}

/// Returns what a user can do about an error code of the API.
fn hint_for(code: &str) -> Option<&'static str> {
    Some(match code {
        "TOPIC_NOT_FOUND" => {
            "create it with `pubsub topic create NAME`, or see what exists with `pubsub topic list`"
        }
        "TOPIC_EXISTS" => "change it with `pubsub topic alter`, or look at it with `pubsub topic describe`",
        "GROUP_BUSY" => {
            "every partition already has a consumer in this group: stop one, use another --group-id, or wait with --standby"
        }
        "RECORD_TOO_LARGE" => {
            "a record holds at most 1 MiB: keep the payload elsewhere and publish a reference to it"
        }
        "STORAGE_FULL" => "make room on the broker's disk, or lower the topic's retention",
        "GROUP_NOT_EMPTY" => {
            "stop the group's consumers first; a member that died is forgotten after its session time-out"
        }
        _ => return None,
    })
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let text = error.to_string();
        match &error {
            CallError::Refused { problem, .. } => {
                let hint = hint_for(&problem.code.to_string()).map(str::to_owned);
                Self { code: 4, text, hint }
            }
            CallError::Unavailable { .. } => Self { code: 3, text, hint: None }.hint(
                "is a cluster running? `pubsub local` starts one; name other brokers with --brokers or PUBSUB_BROKERS",
            ),
            CallError::Unknown { .. } => {
                Self { code: 5, text, hint: None }.hint("look before repeating it: it may have been done")
            }
            CallError::Malformed { .. } => Self { code: 1, text, hint: None }
                .hint("is this a Pubsub broker, and not much older or newer than this program?"),
        }
    }
}
