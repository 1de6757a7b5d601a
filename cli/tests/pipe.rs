//! The program in a pipe, against a small broker in memory.
#![allow(clippy::unwrap_used)]

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Broker {
    log: Arc<Mutex<Vec<Value>>>,
    committed: Arc<Mutex<Vec<i64>>>,
}

async fn append(State(broker): State<Broker>, Json(body): Json<Value>) -> Json<Value> {
    let mut log = broker.log.lock().unwrap();
    let mut results = Vec::new();
    for record in body["records"].as_array().unwrap() {
        results.push(json!({"partition": 0, "offset": log.len()}));
        log.push(record["value"].clone());
    }
    Json(json!({"topic": "t", "results": results}))
}

async fn subscribe(State(broker): State<Broker>) -> Json<Value> {
    let committed = broker.committed.lock().unwrap().last().copied().unwrap_or(-1);
    Json(json!({
        "topic": "t", "start_offset": committed + 1, "committed": committed, "replica_id": 1,
        "partitions": [{"partition": 0, "start_offset": committed + 1, "committed": committed, "leader": 1}],
        "session_timeout_ms": 10_000,
    }))
}

async fn poll(State(broker): State<Broker>, Query(query): Query<HashMap<String, String>>) -> Json<Value> {
    let log = broker.log.lock().unwrap();
    let from: usize = query["from_offset"].parse().unwrap();
    let next = log.len().min(from + query["max_records"].parse::<usize>().unwrap());
    let records: Vec<Value> = (from..next)
        .map(|at| json!({"partition": 0, "offset": at, "ts_ms": 0, "key": null, "value": log[at], "headers": {}}))
        .collect();
    Json(json!({
        "topic": "t", "records": records, "next_offset": next, "committed": -1, "high_watermark": log.len(),
        "lag": log.len() - next, "replica_id": 1,
    }))
}

async fn commit(State(broker): State<Broker>, Json(body): Json<Value>) -> Json<Value> {
    broker.committed.lock().unwrap().push(body["offset"].as_i64().unwrap());
    Json(json!({"topic": "t", "partition": 0, "committed": body["offset"], "replica_id": 1}))
}

/// Starts a broker; it lives as long as the runtime.
async fn start(broker: &Broker) -> String {
    let unknown = (
        StatusCode::NOT_FOUND,
        Json(json!({"status": 404, "detail": "there is no topic nothing", "code": "TOPIC_NOT_FOUND"})),
    );
    let described = Json(json!({"topic": "t", "partition_count": 1}));
    let router = Router::new()
        .route("/topics/t/publish", post(append))
        .route("/admin/topics/t", get(move || async move { described }))
        .route("/admin/topics/nothing", get(move || async move { unknown }))
        .route("/subscribe", post(subscribe))
        .route("/poll", get(poll))
        .route("/commit", post(commit))
        .with_state(broker.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// Runs the program with `input` on its standard input.
async fn pubsub(brokers: &str, arguments: &[&str], input: String) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pubsub"));
    command.args(arguments).env("PUBSUB_BROKERS", brokers).env_remove("BROKER_API");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let run = move || {
        let mut child = command.spawn().unwrap();
        // A program that refuses at once does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lines_that_went_in_come_out_and_are_committed() {
    let broker = Broker::default();
    let url = start(&broker).await;
    let lines: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    let published = pubsub(&url, &["publish", "t"], lines.clone()).await;
    assert!(published.status.success(), "{}", text(&published.stderr));
    assert!(text(&published.stderr).contains("acked 20000 records"), "{}", text(&published.stderr));
    let arguments = ["subscribe", "t", "--group-id", "g", "--consumer-id", "c", "--max"];
    let first = pubsub(&url, &[&arguments[..], &["5500"]].concat(), String::new()).await;
    assert!(first.status.success(), "{}", text(&first.stderr));
    assert_eq!(broker.committed.lock().unwrap().last(), Some(&5499), "only what was printed is committed");
    let rest = pubsub(&url, &[&arguments[..], &["14500"]].concat(), String::new()).await;
    assert!(text(&first.stdout) + &text(&rest.stdout) == lines, "the lines differ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_early_is_no_error() {
    let broker = Broker::default();
    let url = start(&broker).await;
    let lines: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    pubsub(&url, &["publish", "t", "--quiet"], lines).await;
    let script = format!("'{}' subscribe t --quiet | head -n 3", env!("CARGO_BIN_EXE_pubsub"));
    let mut shell = Command::new("bash");
    shell.args(["-o", "pipefail", "-c", &script]).env("PUBSUB_BROKERS", &url);
    let output = tokio::task::spawn_blocking(move || shell.output().unwrap()).await.unwrap();
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("1\n2\n3\n", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_their_exit_code_and_say_what_to_do() {
    let broker = Broker::default();
    let url = start(&broker).await;
    let refused = pubsub(&url, &["publish", "nothing"], "a\n".to_owned()).await;
    assert_eq!(refused.status.code(), Some(4));
    let said = text(&refused.stderr);
    assert!(said.contains("there is no topic nothing") && said.contains("pubsub topic create"), "{said}");
    let wrong = pubsub(&url, &["publish", "t", "--json"], "{\n".to_owned()).await;
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("line 1: invalid JSON payload"), "{}", text(&wrong.stderr));
    // Port 9 is the discard service, which nobody runs.
    let nobody = pubsub("http://127.0.0.1:9", &["publish", "t", "--retry-for", "1"], "a\n".to_owned()).await;
    assert_eq!(nobody.status.code(), Some(3), "{}", text(&nobody.stderr));
    assert!(text(&nobody.stderr).contains("pubsub local"), "{}", text(&nobody.stderr));
}
