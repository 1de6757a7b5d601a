//! Topic objects, as `kubectl` shows them.

use super::objects::Namespace;
use crate::cluster::await_condition::eventually;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::time::Duration;

/// How long the operator may take to make true what an object says.
pub const OPERATOR_DEADLINE: Duration = Duration::from_secs(120);

/// Returns a Topic object.
pub fn object(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "pubsub.dev/v1alpha1", "kind": "Topic", "metadata": {"name": name}, "spec": spec})
}

/// One Topic object of a namespace.
#[derive(Clone, Debug)]
pub struct TopicObject<'a> {
    namespace: &'a Namespace,
    name: String,
}

/// What `kubectl get topics` shows of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The cells by the column's name.
    pub cells: Vec<(String, String)>,
}

impl Row {
    /// Returns a cell, empty if there is no such column.
    pub fn cell(&self, column: &str) -> &str {
        self.cells.iter().find(|(name, _)| name == column).map_or("", |(_, cell)| cell)
    }
}

impl<'a> TopicObject<'a> {
    /// Names one without creating it.
    pub fn named(namespace: &'a Namespace, name: &str) -> Self {
        Self { namespace, name: name.to_owned() }
    }

    /// Applies one and waits until it is ready.
    ///
    /// # Panics
    /// When the API server refuses it, or it isn't ready in time.
    pub async fn ready(namespace: &'a Namespace, name: &str, spec: &Value) -> Self {
        namespace.apply(&object(name, spec)).await.expect("the Topic is accepted");
        let topic = Self::named(namespace, name);
        topic.wait_ready().await;
        topic
    }

    /// Returns what `kubectl` calls it.
    pub fn object(&self) -> String {
        format!("topic.pubsub.dev/{}", self.name)
    }

    /// Waits as a user does.
    ///
    /// # Panics
    /// When it isn't ready in time.
    pub async fn wait_ready(&self) {
        self.namespace.wait(&self.object(), "condition=Ready", OPERATOR_DEADLINE).await;
    }

    /// Returns the object.
    ///
    /// # Errors
    /// When there is none, or the API server does not answer.
    pub async fn get(&self) -> anyhow::Result<Value> {
        self.namespace.get(&self.object()).await
    }

    /// Returns a condition.
    ///
    /// # Errors
    /// When the object or the condition is absent.
    pub async fn condition(&self, kind: &str) -> anyhow::Result<Value> {
        let object = self.get().await?;
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let found = conditions.iter().find(|condition| condition["type"] == kind).cloned();
        found.with_context(|| format!("no condition {kind} in {conditions:?}"))
    }

    /// Waits until a condition has a status and, unless empty, a reason.
    pub async fn wait_condition(&self, kind: &str, status: &str, reason: &str) -> Value {
        eventually(&format!("{kind} of {} is {status} {reason}", self.name), OPERATOR_DEADLINE, async || {
            let condition = self.condition(kind).await?;
            let fits = condition["status"] == status && (reason.is_empty() || condition["reason"] == reason);
            if fits { Ok(condition) } else { bail!("{condition}") }
        })
        .await
    }

    /// Waits until a field of the status has a value.
    pub async fn wait_status(&self, field: &str, value: &Value) {
        eventually(&format!("{field} of {} is {value}", self.name), OPERATOR_DEADLINE, async || {
            let object = self.get().await?;
            if object["status"][field] == *value { Ok(()) } else { bail!("{}", object["status"]) }
        })
        .await;
    }

    /// Waits until a column of `kubectl get topics` shows something.
    pub async fn wait_cell(&self, column: &str, cell: &str) {
        eventually(&format!("{column} of {} shows {cell}", self.name), OPERATOR_DEADLINE, async || {
            let row = self.row().await?;
            if row.cell(column) == cell { Ok(()) } else { bail!("{row:?}") }
        })
        .await;
    }

    /// Returns what `kubectl get topics` prints of it.
    ///
    /// # Errors
    /// When it prints something else than a table of one row.
    pub async fn row(&self) -> anyhow::Result<Row> {
        let printed = self.namespace.call(["get", "topics", &self.name]).run().await?;
        let mut lines = printed.lines();
        let (head, row) = (lines.next().context("no head")?, lines.next().context("no row")?);
        // Columns stand apart by three blanks, and cells begin where their columns' names begin.
        let mut starts: Vec<(&str, usize)> = Vec::new();
        for name in head.split("   ").map(str::trim).filter(|name| !name.is_empty()) {
            let from = starts.last().map_or(0, |(before, start)| start + before.len());
            starts.push((name, from + head[from..].find(name).context("a column without a place")?));
        }
        let ends = starts.iter().skip(1).map(|(_, start)| *start).chain([usize::MAX]);
        let cell = |start: usize, end: usize| row.get(start..end.min(row.len())).unwrap_or_default().trim();
        let cells = starts
            .iter()
            .zip(ends)
            .map(|((name, start), end)| ((*name).to_owned(), cell(*start, end).to_owned()));
        let cells = cells.collect();
        Ok(Row { cells })
    }
}
