//! The discovery service as a process: what it answers, and whom it believes.

#![allow(clippy::unwrap_used)]

use anyhow::bail;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::{Cluster, Settings};
use pubsub_tests::http::Http;
use serde_json::json;
use std::time::Duration;

#[tokio::test]
async fn an_unsigned_registration_is_refused_and_the_list_stays_as_it_was() {
    let cluster = Cluster::start(Settings { brokers: 0, ..Settings::default() });
    let (http, base) = (Http::new(), cluster.discovery_url());
    eventually("discovery answers", Duration::from_secs(10), async || {
        let answer = http.get(&format!("{base}/readyz")).await?;
        if answer.status == 200 { Ok(()) } else { bail!("{answer}") }
    })
    .await;
    let stranger = json!({"broker_id": 1, "api_base": "http://127.0.0.1:1", "election_host": "127.0.0.1", "election_port": 1});
    let answer = http.post_json(&format!("{base}/register"), &stranger).await.unwrap();
    assert_eq!(answer.status, 401, "{answer}");
    let list = http.get(&format!("{base}/brokers")).await.unwrap().expect(200);
    assert_eq!(list["brokers"], json!([]), "{list}");
}
