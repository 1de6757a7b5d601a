//! One topic of a cluster under test, through any of its brokers.

use super::await_condition::eventually;
use super::ids_of;
use crate::brokers::Brokers;
use crate::http::{Answer, Content, Http};
use crate::workload::reader::own_replica;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

/// How long replicas may take to become equal after faults have ended.
pub const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);

/// One record as a broker shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// Its offset.
    pub offset: u64,
    /// Its timestamp.
    pub ts_ms: i64,
    /// Its key, `null` if it has none.
    pub key: Value,
    /// Its value.
    pub value: Value,
    /// Its headers.
    pub headers: Value,
}

impl Stored {
    /// Reads a record of a poll answer.
    ///
    /// # Errors
    /// When `offset` or `ts_ms` is missing.
    pub fn of(record: &Value) -> anyhow::Result<Self> {
        Ok(Self {
            offset: record["offset"].as_u64().with_context(|| format!("no offset in {record}"))?,
            ts_ms: record["ts_ms"].as_i64().with_context(|| format!("no ts_ms in {record}"))?,
            key: record["key"].clone(),
            value: record["value"].clone(),
            headers: record["headers"].clone(),
        })
    }
}

/// Returns a topic name that no other test has.
pub fn unique(name: &str) -> String {
    format!("{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..8])
}

/// Returns the records of a poll answer, which must be contiguous.
///
/// # Errors
/// When they are not.
pub fn records_of(answer: &Value) -> anyhow::Result<Vec<Stored>> {
    let list = answer["records"].as_array().with_context(|| format!("no records in {answer}"))?;
    let records: Vec<Stored> = list.iter().map(Stored::of).collect::<anyhow::Result<_>>()?;
    match records.windows(2).find(|pair| pair[1].offset != pair[0].offset + 1) {
        Some(pair) => bail!("offset {} follows {}", pair[1].offset, pair[0].offset),
        None => Ok(records),
    }
}

/// A topic with one partition, unless it was made with more.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    cluster: Arc<dyn Brokers>,
    http: Http,
}

impl Topic {
    /// Creates a topic under a unique name through broker `via`; `query` is added to the request, e.g. `rf=2`.
    ///
    /// # Panics
    /// When it isn't created.
    pub async fn create(cluster: &Arc<impl Brokers + 'static>, via: u32, name: &str, query: &str) -> Self {
        let topic = Self::named(cluster, &unique(name));
        let url = format!("{}/admin/topics?name={}&{query}", cluster.url(via), topic.name);
        topic.http.post(&url).await.expect("an answer").expect(200);
        topic
    }

    /// Names a topic without creating it.
    pub fn named(cluster: &Arc<impl Brokers + 'static>, name: &str) -> Self {
        let cluster: Arc<dyn Brokers> = cluster.clone();
        Self { name: name.to_owned(), cluster, http: Http::new() }
    }

    /// Returns the address of a route below `/topics/{topic}`.
    pub fn url(&self, via: u32, rest: &str) -> String {
        format!("{}/topics/{}/{rest}", self.cluster.url(via), self.name)
    }

    /// Publishes a body as it is.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn post(&self, via: u32, query: &str, content: Content) -> anyhow::Result<Answer> {
        self.http.send("POST", &self.url(via, &format!("publish{query}")), content).await
    }

    /// Publishes one value and returns its offset.
    ///
    /// # Panics
    /// When it isn't acknowledged.
    #[track_caller]
    pub fn publish(&self, via: u32, value: impl Into<Value>) -> impl Future<Output = u64> {
        let caller = std::panic::Location::caller();
        let body = json!({"value": value.into()});
        async move {
            let answer = self.post(via, "", Content::json(body.to_string())).await.expect("an answer");
            assert_eq!(answer.status, 200, "{caller}: not published: {answer}");
            answer.json()["offset"].as_u64().unwrap_or_else(|| panic!("{caller}: no offset: {answer}"))
        }
    }

    /// Publishes many values in one request and returns the offset of the first.
    ///
    /// # Panics
    /// When they aren't acknowledged, or not in one piece.
    pub async fn publish_many(&self, via: u32, values: impl IntoIterator<Item = Value>) -> u64 {
        let records: Vec<Value> = values.into_iter().map(|value| json!({"value": value})).collect();
        let body = json!({"records": records}).to_string();
        let answer = self.post(via, "", Content::json(body)).await.expect("an answer").expect(200);
        let results = answer["results"].as_array().expect("results");
        let offsets: Vec<u64> = results.iter().filter_map(|result| result["offset"].as_u64()).collect();
        let contiguous = offsets.windows(2).all(|pair| pair[1] == pair[0] + 1);
        assert!(offsets.len() == records.len() && contiguous, "not contiguous: {offsets:?}");
        offsets[0]
    }

    /// Polls; `query` is added to the request.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn poll(&self, via: u32, query: &str) -> anyhow::Result<Answer> {
        let url = format!("{}/poll?topic={}&{query}", self.cluster.url(via), self.name);
        self.http.get(&url).await
    }

    /// Commits for a group's member.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn commit(&self, via: u32, group: &str, consumer: &str, offset: i64) -> anyhow::Result<Answer> {
        let url = format!("{}/commit", self.cluster.url(via));
        let body = json!({"topic": self.name, "group_id": group, "consumer_id": consumer, "offset": offset});
        self.http.post_json(&url, &body).await
    }

    /// Joins a group.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn subscribe(&self, via: u32, group: &str, consumer: &str) -> anyhow::Result<Answer> {
        let url = format!("{}/subscribe", self.cluster.url(via));
        let body = json!({"topic": self.name, "group_id": group, "consumer_id": consumer});
        self.http.post_json(&url, &body).await
    }

    /// Returns what `/replicas/{topic}` says.
    ///
    /// # Errors
    /// When it doesn't answer with 200 soon.
    pub async fn replicas(&self, via: u32) -> anyhow::Result<Value> {
        let url = format!("{}/replicas/{}", self.cluster.url(via), self.name);
        let answer = self.http.try_send("GET", &url, Content::default(), Duration::from_secs(3)).await?;
        if answer.status == 200 { Ok(answer.json()) } else { bail!("{answer}") }
    }

    /// Returns the leader of partition 0, once all of `among` name one of them.
    pub async fn leader_among(&self, among: &[u32]) -> u32 {
        let what = format!("brokers {among:?} name one of them as leader of {}", self.name);
        eventually(&what, Duration::from_secs(20), async || {
            let mut owners = Vec::new();
            for id in among {
                owners
                    .push(self.replicas(*id).await?["owner"].as_u64().and_then(|id| u32::try_from(id).ok()));
            }
            match owners[0] {
                Some(owner) if among.contains(&owner) && owners.iter().all(|said| *said == owners[0]) => {
                    Ok(owner)
                }
                _ => bail!("they name {owners:?}"),
            }
        })
        .await
    }

    /// Returns the leader of partition 0, once all brokers agree on it.
    pub async fn leader(&self) -> u32 {
        self.leader_among(&self.cluster.ids()).await
    }

    /// Waits until exactly these brokers are in sync, as broker `via` sees it.
    pub async fn wait_isr(&self, via: u32, isr: &[u32]) {
        let what = format!("the in-sync replicas of {} are {isr:?} for broker {via}", self.name);
        eventually(&what, CATCH_UP_DEADLINE, async || {
            let replicas = self.replicas(via).await?;
            if ids_of(&replicas["isr"]) == isr { Ok(()) } else { bail!("{replicas}") }
        })
        .await;
    }

    /// Reads the committed records of partition 0 that a broker's own replica holds, from `from` on, and its high watermark.
    ///
    /// # Errors
    /// When it can't be read now.
    pub async fn local(&self, id: u32, from: u64) -> anyhow::Result<(Vec<Stored>, u64)> {
        self.local_partition(id, 0, from).await
    }

    /// The same of any partition.
    ///
    /// # Errors
    /// When it can't be read now.
    pub async fn local_partition(
        &self,
        id: u32,
        partition: u32,
        from: u64,
    ) -> anyhow::Result<(Vec<Stored>, u64)> {
        let mut records: Vec<Stored> = Vec::new();
        let mut next = from;
        loop {
            let url = self.url(id, &format!("records?partition={partition}&from={next}&max_records=1000"));
            let answer = self.http.send("GET", &url, own_replica()).await?;
            if answer.status != 200 {
                bail!("{answer}");
            }
            let body = answer.json();
            if body["replica_id"] != id {
                bail!("broker {id} answered from the replica of broker {}", body["replica_id"]);
            }
            let high_watermark = body["high_watermark"].as_u64().context("no high_watermark")?;
            let page = records_of(&body).with_context(|| format!("from {next} of broker {id}"))?;
            match page.first() {
                Some(first) if first.offset != next => bail!("asked {id} from {next}, got {}", first.offset),
                Some(_) => next += u64::try_from(page.len())?,
                None if next >= high_watermark => return Ok((records, high_watermark)),
                None => {
                    bail!("broker {id} gives nothing from {next}, below its high watermark {high_watermark}")
                }
            }
            records.extend(page);
        }
    }

    /// Waits until all of `replicas` are in sync and have committed everything, and returns the log, which must be equal
    /// on all of them.
    ///
    /// # Panics
    /// When two replicas differ.
    pub async fn equal_log(&self, replicas: &[u32]) -> Vec<Stored> {
        let what = format!("replicas {replicas:?} of {} are in sync and complete", self.name);
        let logs = eventually(&what, CATCH_UP_DEADLINE, async || self.complete_logs(replicas).await).await;
        for (id, log) in &logs[1..] {
            let mut report = String::new();
            for (a, b) in logs[0].1.iter().zip(log).filter(|(a, b)| a != b).take(5) {
                writeln!(report, "  broker {}: {a:?}\n  broker {id}: {b:?}", logs[0].0).expect("text grows");
            }
            assert!(report.is_empty(), "replicas of {} differ:\n{report}", self.name);
            assert_eq!(logs[0].1.len(), log.len(), "replicas of {} have different lengths", self.name);
        }
        logs.into_iter().next().expect("at least one replica").1
    }

    /// Waits until every replica shows everything that was acknowledged: followers learn of a commit a moment later.
    pub async fn settle(&self) {
        let url = format!("{}/replicas/{}", self.cluster.url(self.cluster.ids()[0]), self.name);
        let seen = self.http.get(&url).await.expect("an answer").expect(200);
        let replicas = seen["replicas"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ids = Value::from_iter(replicas.iter().map(|replica| replica["broker_id"].clone()));
        self.equal_log(&ids_of(&ids)).await;
    }

    async fn complete_logs(&self, replicas: &[u32]) -> anyhow::Result<Vec<(u32, Vec<Stored>)>> {
        let leader = self.replicas(replicas[0]).await?["owner"].as_u64().context("there is no leader")?;
        let seen = self.replicas(u32::try_from(leader)?).await?;
        let partition = &seen["partitions"][0];
        let log_end = partition["log_end"].as_u64().with_context(|| format!("no log_end in {seen}"))?;
        if ids_of(&seen["isr"]) != replicas {
            bail!("not all in sync: {seen}");
        }
        let mut logs = Vec::new();
        for id in replicas {
            let (log, high_watermark) = self.local(*id, 0).await?;
            if high_watermark != log_end {
                bail!("broker {id} has committed {high_watermark} of {log_end}");
            }
            logs.push((*id, log));
        }
        Ok(logs)
    }
}
