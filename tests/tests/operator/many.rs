//! A thousand Topics at once.

use super::space;
use anyhow::bail;
use futures::StreamExt;
use pubsub_operator::crd::TopicSpec;
use pubsub_tests::apiserver::Operator;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::topic::unique;
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::Http;
use std::time::{Duration, Instant};

/// How many there are.
const TOPICS: usize = 1_000;

/// Returns a process's resident memory, MiB.
fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a control plane: make operator"]
async fn a_thousand_topics_become_ready_and_then_cost_little() {
    let space = space("many").await;
    let cluster = Cluster::ready(Settings::default()).await;
    let mut operator = Operator::of(&space, "operator-0", &cluster, &[("PUBSUB_LOG", "info")]);
    let prefix = unique("many");
    let began = Instant::now();
    let create = async |index: usize| {
        let topic_name = Some(format!("{prefix}-{index}"));
        space
            .create(&format!("t{index}"), TopicSpec { topic_name, partitions: 1, ..TopicSpec::default() })
            .await
    };
    let created: Vec<_> = futures::stream::iter(0..TOPICS).map(create).buffer_unordered(16).collect().await;
    assert!(created.iter().all(Result::is_ok), "{:?}", created.into_iter().find(Result::is_err));
    let applied = began.elapsed();
    eventually("all topics are ready", Duration::from_secs(180), async || {
        let ready = space.count_ready().await?;
        if ready == TOPICS { Ok(()) } else { bail!("{ready} are") }
    })
    .await;
    let taken = began.elapsed();
    let pid = operator.process().pid();
    let metrics = async || Http::new().get(&format!("{}/metrics", operator.url)).await.unwrap().text();
    let sum = |text: &str, name: &str| -> f64 {
        let values =
            text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
        values.filter_map(|value| value.parse::<f64>().ok()).sum()
    };
    let before = metrics().await;
    let window = Duration::from_secs(40);
    pubsub_tests::cluster::await_condition::fault_lasts(window).await;
    let after = metrics().await;
    let grown = |name: &str| sum(&after, name) - sum(&before, name);
    eprintln!(
        "{TOPICS} topics: applied in {applied:.1?}, all ready after {taken:.1?}; operator {} MiB; {} passes and {} status \
         writes until then; in the {window:?} after: {} passes, {} status writes",
        resident_mib(pid),
        sum(&before, "pubsub_operator_reconciles_total"),
        sum(&before, "pubsub_operator_status_writes_total"),
        grown("pubsub_operator_reconciles_total"),
        grown("pubsub_operator_status_writes_total"),
    );
    assert!(
        taken < Duration::from_secs(60) * pubsub_tests::cluster::await_condition::timeout_scale(),
        "{taken:?}"
    );
}
