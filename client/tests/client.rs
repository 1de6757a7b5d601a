//! The client against brokers that are small HTTP servers on loopback.
#![allow(clippy::unwrap_used, missing_docs)]

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use pubsub_client::Client;
use pubsub_client::consumer::{ConsumerConfig, Start};
use pubsub_client::producer::{ProducerConfig, PublishError};
use pubsub_client::record::NewRecord;
use pubsub_client::retry::RetryPolicy;
use pubsub_client::transport::{CallError, Effect, Request, TransportConfig};
use pubsub_core::wire::error::{ErrorCode, Problem};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

async fn serve(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// An address where nothing listens.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A broker that takes a request and then drops the connection.
async fn hangs_up(requests: Arc<AtomicUsize>) -> String {
    use tokio::io::AsyncReadExt;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if stream.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {
                requests.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    url
}

fn problem(problem: Problem) -> Response {
    (StatusCode::from_u16(problem.status).unwrap(), Json(problem)).into_response()
}

/// A route that counts its requests and answers each the same.
fn counted(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> (Router, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let router = Router::new().fallback(move || {
        counter.fetch_add(1, Ordering::SeqCst);
        let answer = answer();
        async move { answer }
    });
    (router, count)
}

fn quick() -> TransportConfig {
    TransportConfig {
        retry: RetryPolicy {
            first: Duration::from_millis(2),
            cap: Duration::from_millis(10),
            deadline: Duration::from_millis(300),
        },
        ..TransportConfig::default()
    }
}

fn client(brokers: &[&String]) -> Client {
    Client::with_config(brokers, quick()).unwrap()
}

fn change() -> Request {
    Request::new(reqwest::Method::POST, "/x").effect(Effect::Once)
}

#[tokio::test]
async fn a_broker_that_is_not_there_is_passed_over_and_not_asked_first_again() {
    let (router, count) = counted(|| Json(json!({})).into_response());
    let (dead, alive) = (nobody().await, serve(router).await);
    let client = client(&[&dead, &alive]);
    let answer = client.transport().send(change()).await.unwrap();
    assert_eq!((answer.broker, answer.retries, answer.unknown_tries), (alive.clone(), 1, 0));
    assert_eq!(client.transport().send(change()).await.unwrap().retries, 0);
    assert_eq!(count.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_broker_that_cannot_serve_now_is_passed_over() {
    let (refusing, refusals) = counted(|| problem(Problem::new(ErrorCode::NotEnoughReplicas, "later")));
    let (router, _) = counted(|| Json(json!({})).into_response());
    let (first, second) = (serve(refusing).await, serve(router).await);
    let answer = client(&[&first, &second]).transport().send(change()).await.unwrap();
    assert_eq!((answer.broker, refusals.load(Ordering::SeqCst)), (second, 1));
}

#[tokio::test]
async fn without_any_broker_the_failure_is_definite_and_comes_at_the_deadline() {
    let dead = nobody().await;
    let error = client(&[&dead]).transport().send(change()).await.unwrap_err();
    let CallError::Unavailable { tries, .. } = error else { panic!("{error}") };
    assert!(tries > 5, "only {tries} tries in 300 ms");
}

#[tokio::test]
async fn a_refusal_is_not_repeated() {
    let (router, count) = counted(|| problem(Problem::new(ErrorCode::TopicNotFound, "no topic x")));
    let url = serve(router).await;
    let error = client(&[&url]).transport().send(Request::get("/x")).await.unwrap_err();
    assert_eq!(error.problem().unwrap().code, ErrorCode::TopicNotFound);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_outcome_unknown_and_is_repeated_only_if_asked_for() {
    let requests = Arc::new(AtomicUsize::new(0));
    let first = hangs_up(Arc::clone(&requests)).await;
    let (router, _) = counted(|| Json(json!({})).into_response());
    let second = serve(router).await;
    let error = client(&[&first, &second]).transport().send(change()).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown { .. }), "{error}");
    assert_eq!(requests.load(Ordering::SeqCst), 1, "it was sent, and once");
    let again = change().effect(Effect::Repeatable);
    let answer = client(&[&first, &second]).transport().send(again).await.unwrap();
    assert_eq!((answer.retries, answer.unknown_tries), (1, 1));
}

#[tokio::test]
async fn a_broker_that_says_perhaps_is_believed() {
    let (router, count) = counted(|| {
        problem(Problem { ambiguous: Some(true), ..Problem::new(ErrorCode::CommitTimeout, "not in time") })
    });
    let url = serve(router).await;
    let config = ProducerConfig { idempotent: false, ..ProducerConfig::default() };
    let publisher = client(&[&url]).producer_with("t", config);
    let error = publisher.publish(&NewRecord::text("a")).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown(_)), "{error}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refusal_after_an_unknown_try_is_no_definite_no() {
    let seen = Arc::new(AtomicUsize::new(0));
    let answers = Arc::clone(&seen);
    let (router, _) = counted(move || match answers.fetch_add(1, Ordering::SeqCst) {
        0 => problem(Problem { ambiguous: Some(true), ..Problem::new(ErrorCode::CommitTimeout, "") }),
        _ => problem(Problem::new(ErrorCode::RecordTooLarge, "")),
    });
    let url = serve(router).await;
    let request = change().effect(Effect::Repeatable);
    let error = client(&[&url]).transport().send(request).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown { .. }), "{error}");
    assert_eq!(seen.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn one_request_has_one_id_in_all_of_its_tries() {
    let ids = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ids);
    let router = Router::new().fallback(move |headers: HeaderMap| {
        let mut ids = seen.lock().unwrap();
        ids.push(headers["x-request-id"].clone());
        let first = ids.len() == 1;
        async move {
            if first {
                problem(Problem::new(ErrorCode::Unavailable, ""))
            } else {
                Json(json!({})).into_response()
            }
        }
    });
    let url = serve(router).await;
    let client = client(&[&url]);
    client.transport().send(change()).await.unwrap();
    client.transport().send(change()).await.unwrap();
    let ids = ids.lock().unwrap();
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[1], ids[2]);
}

type Log = Arc<Mutex<Vec<Value>>>;

/// A broker with a topic of one partition in memory; brokers made of one log are replicas.
fn broker(log: &Log, id: u32, peers: Vec<String>) -> Router {
    let subscribed = json!({
        "topic": "t", "start_offset": 0, "committed": -1, "replica_id": id,
        "partitions": [{"partition": 0, "start_offset": 0, "committed": -1, "leader": 1}],
        "brokers": peers.iter().map(|url| json!({"broker_id": 9, "api_base": url})).collect::<Vec<_>>(),
    });
    Router::new()
        .route("/subscribe", post(move || async move { Json(subscribed) }))
        .route("/topics/t/publish", post(append))
        .route("/topics/t/records", get(move |log, query| read(log, query, id)))
        .route("/poll", get(move |log, query| read(log, query, id)))
        .with_state(Arc::clone(log))
}

async fn append(State(log): State<Log>, Json(body): Json<Value>) -> Json<Value> {
    let mut log = log.lock().unwrap();
    let mut results = Vec::new();
    for record in body["records"].as_array().unwrap() {
        results.push(json!({"partition": 0, "offset": log.len()}));
        log.push(record["value"].clone());
    }
    Json(json!({"topic": "t", "results": results}))
}

async fn read(State(log): State<Log>, Query(query): Query<HashMap<String, String>>, id: u32) -> Json<Value> {
    let log = log.lock().unwrap();
    let end = log.len();
    let from: usize = query.get("from_offset").map_or(end, |from| from.parse().unwrap());
    let count: usize = query["max_records"].parse().unwrap();
    // One record more than asked for: a client that trusted it blindly would print it twice.
    let records: Vec<Value> = (from.saturating_sub(1)..end.min(from + count))
        .map(|at| json!({"partition": 0, "offset": at, "ts_ms": 0, "key": null, "value": log[at], "headers": {}}))
        .collect();
    let next = end.min(from + count);
    Json(json!({
        "topic": "t", "records": records, "next_offset": next, "committed": -1, "high_watermark": end,
        "lag": end - next, "replica_id": id,
    }))
}

#[tokio::test]
async fn batches_keep_the_order_and_answer_for_every_record() {
    let log = Log::default();
    let url = serve(broker(&log, 1, Vec::new())).await;
    let config = ProducerConfig {
        batch_records_max: 7,
        linger: Duration::ZERO,
        idempotent: false,
        ..ProducerConfig::default()
    };
    let producer = client(&[&url]).batch_producer("t", config);
    let mut tickets = Vec::new();
    for number in 0..500 {
        tickets.push(producer.send(NewRecord::json(&number).unwrap()).await.unwrap());
    }
    for (number, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(usize::try_from(ticket.await.unwrap().placed.offset).unwrap(), number);
    }
    producer.close().await;
    let log = log.lock().unwrap();
    assert!(log.iter().enumerate().all(|(number, value)| *value == json!(number)), "out of order");
}

#[tokio::test]
async fn after_a_failed_batch_no_later_record_overtakes_it() {
    let (router, count) = counted(|| problem(Problem::new(ErrorCode::TopicNotFound, "")));
    let url = serve(router).await;
    let config = ProducerConfig {
        batch_records_max: 1,
        linger: Duration::ZERO,
        halt_on_failure: true,
        partition: Some(0),
        ..ProducerConfig::default()
    };
    let producer = client(&[&url]).batch_producer("t", config);
    let first = producer.send(NewRecord::text("a")).await.unwrap();
    let second = producer.send(NewRecord::text("b")).await.unwrap();
    assert!(matches!(first.await, Err(PublishError::No(_))));
    assert!(matches!(second.await, Err(PublishError::Closed)));
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

/// What a broker saw of publishes: partition, producer id, epoch, sequence, records.
type Seen = Arc<Mutex<Vec<(String, String, String, String, usize)>>>;

/// A broker with a topic of four partitions that answers each publish as it is told.
fn sequenced(
    seen: &Seen,
    answer: impl Fn(usize) -> Option<Problem> + Clone + Send + Sync + 'static,
) -> Router {
    let seen = Arc::clone(seen);
    let publish = move |Query(query): Query<HashMap<String, String>>,
                        headers: HeaderMap,
                        Json(body): Json<Value>| {
        let header = |name: &str| headers[name].to_str().unwrap().to_owned();
        let count = body["records"].as_array().map_or(1, Vec::len);
        let mut seen = seen.lock().unwrap();
        let place = query["partition"].clone();
        seen.push((place, header("producer-id"), header("producer-epoch"), header("producer-seq"), count));
        let refused = answer(seen.len());
        async move {
            let placed = json!({"partition": 0, "offset": 0});
            match refused {
                Some(refused) => problem(refused),
                None if count == 1 && body["records"].is_null() => Json(json!({
                    "topic": "t", "partition": 0, "offset": 0, "timestamp_ms": 0, "leader_epoch": 1, "isr": [1],
                }))
                .into_response(),
                None => Json(json!({"topic": "t", "results": vec![placed; count]})).into_response(),
            }
        }
    };
    let described = json!({"topic": "t", "partition_count": 4});
    Router::new()
        .route("/topics/t/publish", post(publish))
        .route("/admin/topics/t", get(move || async move { Json(described) }))
}

#[tokio::test]
async fn an_idempotent_producer_sends_what_is_unknown_again_under_the_same_sequence() {
    let seen = Seen::default();
    let perhaps = || Problem { ambiguous: Some(true), ..Problem::new(ErrorCode::CommitTimeout, "") };
    let url = serve(sequenced(&seen, move |number| match number {
        2 => Some(perhaps()),
        3 => Some(Problem::new(ErrorCode::OutOfOrder, "a replaced leader")),
        _ => None,
    }))
    .await;
    let producer = client(&[&url]).producer("t");
    let record = || NewRecord::text("a").key("k");
    producer.publish(&record()).await.unwrap();
    let delivery = producer.publish(&record()).await.unwrap();
    assert_eq!((delivery.retries, delivery.perhaps_twice), (2, false));
    producer.publish_many(&[record(), record()]).await.unwrap();
    producer.publish(&record()).await.unwrap();
    let seen = seen.lock().unwrap();
    let told: Vec<_> = seen.iter().map(|(_, _, epoch, sequence, _)| format!("{epoch}/{sequence}")).collect();
    assert_eq!(told, ["0/0", "0/1", "0/1", "0/1", "0/2", "0/4"]);
    assert!(seen.iter().all(|one| (&one.0, &one.1) == (&seen[0].0, &seen[0].1)), "one partition, one id");
}

#[tokio::test]
async fn an_idempotent_producer_that_gives_up_begins_anew_with_a_higher_epoch() {
    let seen = Seen::default();
    let perhaps = || Problem { ambiguous: Some(true), ..Problem::new(ErrorCode::CommitTimeout, "") };
    let answered = Arc::new(AtomicUsize::new(0));
    let healthy = Arc::clone(&answered);
    let url = serve(sequenced(&seen, move |_| (healthy.load(Ordering::SeqCst) == 0).then(perhaps))).await;
    let config = ProducerConfig { partition: Some(2), ..ProducerConfig::default() };
    let producer = client(&[&url]).producer_with("t", config);
    let error = producer.publish(&NewRecord::text("a")).await.unwrap_err();
    assert!(matches!(error, PublishError::Unknown(_)), "{error}");
    answered.store(1, Ordering::SeqCst);
    producer.publish(&NewRecord::text("b")).await.unwrap();
    let seen = seen.lock().unwrap();
    let last = seen.last().unwrap();
    assert_eq!((last.0.as_str(), last.2.as_str(), last.3.as_str()), ("2", "1", "0"));
    assert!(seen[..seen.len() - 1].iter().all(|one| one.2 == "0" && one.3 == "0"));
}

#[tokio::test]
async fn records_of_many_partitions_each_follow_their_own_sequence() {
    let seen = Seen::default();
    let url = serve(sequenced(&seen, |_| None)).await;
    let config = ProducerConfig { batch_records_max: 5, linger: Duration::ZERO, ..ProducerConfig::default() };
    let producer = client(&[&url]).batch_producer("t", config);
    let mut tickets = Vec::new();
    for number in 0..400 {
        let record = NewRecord::json(&number).unwrap();
        let record = if number % 2 == 0 { record.key(format!("k{number}")) } else { record };
        tickets.push(producer.send(record).await.unwrap());
    }
    for ticket in tickets {
        ticket.await.unwrap();
    }
    producer.close().await;
    let mut next: HashMap<String, usize> = HashMap::new();
    for (partition, _, epoch, sequence, count) in seen.lock().unwrap().iter() {
        let next = next.entry(partition.clone()).or_default();
        assert_eq!((epoch.as_str(), sequence.parse()), ("0", Ok(*next)), "partition {partition}");
        *next += count;
    }
    assert_eq!((next.len(), next.values().sum::<usize>()), (4, 400));
}

#[tokio::test]
async fn a_consumer_goes_on_at_a_learned_broker_without_gap_or_repeat() {
    let log = Log::default();
    log.lock().unwrap().extend((0..25).map(|number| json!(number)));
    let second = serve(broker(&log, 2, Vec::new())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = format!("http://{}", listener.local_addr().unwrap());
    let router = broker(&log, 1, vec![second.clone()]);
    let (kill, killed) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let stop = async move {
            // The test may end first.
            let _ = killed.await;
        };
        axum::serve(listener, router).with_graceful_shutdown(stop).await
    });
    let config = ConsumerConfig { max_records: 10, ..ConsumerConfig::anonymous("t") };
    let mut consumer = client(&[&first]).consumer(config).await.unwrap();
    let mut offsets: Vec<u64> =
        consumer.poll().await.unwrap().records.iter().map(|record| record.offset).collect();
    kill.send(()).unwrap();
    server.await.unwrap().unwrap();
    while offsets.len() < 25 {
        let batch = consumer.poll().await.unwrap();
        assert_eq!(batch.broker, second);
        offsets.extend(batch.records.iter().map(|record| record.offset));
    }
    assert_eq!(offsets, (0..25).collect::<Vec<u64>>());
}

#[tokio::test]
async fn reading_from_latest_skips_what_is_there_already() {
    let log = Log::default();
    log.lock().unwrap().extend((0..5).map(|number| json!(number)));
    let url = serve(broker(&log, 1, Vec::new())).await;
    let config = ConsumerConfig { start: Start::Latest, ..ConsumerConfig::anonymous("t") };
    let mut consumer = client(&[&url]).consumer(config).await.unwrap();
    log.lock().unwrap().push(json!("new"));
    let batch = consumer.poll().await.unwrap();
    assert_eq!(batch.records.iter().map(|record| record.offset).collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn a_poll_that_is_given_up_loses_nothing() {
    let log = Log::default();
    log.lock().unwrap().extend((0..3).map(|number| json!(number)));
    let url = serve(broker(&log, 1, Vec::new())).await;
    let mut consumer = client(&[&url]).consumer(ConsumerConfig::anonymous("t")).await.unwrap();
    for _ in 0..3 {
        let poll = std::pin::pin!(consumer.poll());
        assert!(futures::poll!(poll).is_pending(), "a request takes more than one look");
    }
    assert_eq!(consumer.poll().await.unwrap().records.len(), 3);
}

#[tokio::test]
async fn a_member_that_was_fenced_joins_again_and_returns_nothing_twice() {
    let log = Log::default();
    log.lock().unwrap().extend((0..20).map(|number| json!(number)));
    let polls = Arc::new(AtomicUsize::new(0));
    let joins = Arc::new(AtomicUsize::new(0));
    let (counted_polls, counted_joins) = (Arc::clone(&polls), Arc::clone(&joins));
    let subscribe = move || {
        counted_joins.fetch_add(1, Ordering::SeqCst);
        // Nothing was committed, so a coordinator that lost the member would have it begin anew.
        async {
            Json(json!({
                "topic": "t", "start_offset": 0, "committed": -1, "replica_id": 1, "session_timeout_ms": 10_000,
                "partitions": [{"partition": 0, "start_offset": 0, "committed": -1, "leader": 1}],
            }))
        }
    };
    let poll = move |log: State<Log>, query: Query<HashMap<String, String>>| async move {
        if counted_polls.fetch_add(1, Ordering::SeqCst) == 1 {
            return problem(Problem { partition: Some(0), ..Problem::new(ErrorCode::MemberFenced, "") });
        }
        read(log, query, 1).await.into_response()
    };
    let router = Router::new().route("/subscribe", post(subscribe)).route("/poll", get(poll)).with_state(log);
    let url = serve(router).await;
    let config = ConsumerConfig { max_records: 10, ..ConsumerConfig::group("t", "g", "c") };
    let mut consumer = client(&[&url]).consumer(config).await.unwrap();
    let mut offsets = Vec::new();
    for _ in 0..2 {
        offsets.extend(consumer.poll().await.unwrap().records.iter().map(|record| record.offset));
    }
    assert_eq!(offsets, (0..20).collect::<Vec<u64>>());
    assert_eq!(joins.load(Ordering::SeqCst), 2);
}
