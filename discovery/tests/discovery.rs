//! The discovery service over real sockets, with brokers that are small servers of the test.
#![allow(clippy::unwrap_used)]

use axum::body::Bytes;
use axum::http::HeaderMap;
use axum::routing::post;
use pubsub_client::peer_auth::{PEER_AUTH_HEADER, PeerSecret};
use pubsub_core::ids::{BrokerId, StorageId};
use pubsub_core::wire::discovery::{DiscoveryEndpoint, DiscoveryMap};
use pubsub_discovery::Discovery;
use pubsub_discovery::config::Config;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const SECRET: &str = "a secret that only tests use";
const PATIENCE: Duration = Duration::from_secs(20);

fn config(secret: Option<&str>) -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        port: 0,
        secret: secret.map(|text| PeerSecret::new(text).unwrap()),
        genesis_voters: Some(vec![BrokerId(1), BrokerId(2), BrokerId(3)]),
    }
}

async fn start(secret: Option<&str>) -> Discovery {
    Discovery::start(config(secret), CancellationToken::new()).await.unwrap()
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap()
}

/// A broker's peer listener: hands out every push that it gets.
struct Listener {
    endpoint: DiscoveryEndpoint,
    pushes: mpsc::Receiver<(DiscoveryMap, Vec<u8>, Option<String>)>,
}

impl Listener {
    async fn start(id: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, pushes) = mpsc::channel(64);
        let take = move |headers: HeaderMap, body: Bytes| {
            let sender = sender.clone();
            async move {
                let signature = headers.get(PEER_AUTH_HEADER).map(|value| value.to_str().unwrap().to_owned());
                let map = serde_json::from_slice(&body).unwrap();
                sender.send((map, body.to_vec(), signature)).await.unwrap();
            }
        };
        let router = axum::Router::new().route("/internal/discovery/update", post(take));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint: endpoint(id, port), pushes }
    }

    async fn next_push(&mut self) -> DiscoveryMap {
        tokio::time::timeout(PATIENCE, self.pushes.recv()).await.expect("a push in time").unwrap().0
    }

    /// Waits for a push that lists exactly these brokers; maps in between may be skipped or seen.
    async fn told_of(&mut self, ids: &[u32]) -> DiscoveryMap {
        loop {
            let map = self.next_push().await;
            if map.brokers.iter().map(|broker| broker.broker_id.0).eq(ids.iter().copied()) {
                return map;
            }
        }
    }
}

fn endpoint(id: u32, port: u16) -> DiscoveryEndpoint {
    DiscoveryEndpoint {
        broker_id: BrokerId(id),
        api_base: format!("http://127.0.0.1:{}", 8080 + id),
        election_host: "127.0.0.1".to_owned(),
        election_port: port,
        peer_base: None,
        storage_id: Some(StorageId(Uuid::from_u128(u128::from(id)))),
        run_id: None,
        boot: Some(1),
    }
}

async fn post_body(discovery: &Discovery, body: Vec<u8>, signature: Option<String>) -> reqwest::Response {
    let url = format!("http://{}/register", discovery.address());
    let mut request = client().post(url).header("content-type", "application/json").body(body);
    if let Some(signature) = signature {
        request = request.header(PEER_AUTH_HEADER, signature);
    }
    request.send().await.unwrap()
}

async fn register(discovery: &Discovery, endpoint: &DiscoveryEndpoint) -> DiscoveryMap {
    let response = post_body(discovery, serde_json::to_vec(endpoint).unwrap(), None).await;
    assert_eq!(response.status(), 200);
    response.json().await.unwrap()
}

async fn get(discovery: &Discovery, path: &str) -> reqwest::Response {
    client().get(format!("http://{}{path}", discovery.address())).send().await.unwrap()
}

#[tokio::test]
async fn a_new_broker_is_announced_to_all() {
    let discovery = start(None).await;
    let (mut first, mut second) = (Listener::start(1).await, Listener::start(2).await);
    let reply = register(&discovery, &first.endpoint).await;
    assert_eq!(reply.genesis_voters, Some(vec![BrokerId(1), BrokerId(2), BrokerId(3)]));
    let reply = register(&discovery, &second.endpoint).await;
    assert_eq!(reply.brokers, [first.endpoint.clone(), second.endpoint.clone()]);
    assert_eq!(first.told_of(&[1, 2]).await, reply);
    assert_eq!(second.told_of(&[1, 2]).await, reply);
}

#[tokio::test]
async fn a_broker_that_is_down_does_not_keep_others_from_being_told() {
    let discovery = start(None).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    register(&discovery, &endpoint(1, silent.local_addr().unwrap().port())).await;
    let mut second = Listener::start(2).await;
    register(&discovery, &second.endpoint).await;
    second.told_of(&[1, 2]).await;
}

#[tokio::test]
async fn a_restarted_service_is_refilled_by_brokers_that_see_a_new_instance() {
    let before = start(None).await;
    let mut broker = Listener::start(1).await;
    let known = register(&before, &broker.endpoint).await.instance;
    before.stop().await.unwrap();

    let after = start(None).await;
    let mut other = Listener::start(2).await;
    register(&after, &other.endpoint).await;
    assert_ne!(other.told_of(&[2]).await.instance, known);
    register(&after, &broker.endpoint).await;
    assert_ne!(broker.told_of(&[1, 2]).await.instance, known);
    other.told_of(&[1, 2]).await;
}

#[tokio::test]
async fn four_fields_register_a_broker_and_the_list_shows_its_silence() {
    let discovery = start(None).await;
    let body = br#"{"broker_id":4,"api_base":"http://127.0.0.1:8084","election_host":"127.0.0.1","election_port":1}"#;
    assert_eq!(post_body(&discovery, body.to_vec(), None).await.status(), 200);
    let list: serde_json::Value = get(&discovery, "/brokers").await.json().await.unwrap();
    assert_eq!(list["brokers"][0]["broker_id"], 4);
    assert_eq!(list["brokers"][0]["stale"], false);
    assert!(list["brokers"][0].get("boot").is_none(), "fields that were not sent are not made up");
}

#[tokio::test]
async fn bad_bodies_are_answered_with_a_problem_and_change_nothing() {
    let discovery = start(None).await;
    let bad_url = br#"{"broker_id":1,"api_base":"x","election_host":"h","election_port":1}"#;
    let huge = vec![b' '; 1 << 20];
    for (body, status, code) in [
        (b"no json".to_vec(), 422, "INVALID_BODY"),
        (br#"{"broker_id":"one"}"#.to_vec(), 422, "INVALID_BODY"),
        (bad_url.to_vec(), 422, "INVALID_FIELD"),
        (huge, 413, "BODY_TOO_LARGE"),
    ] {
        let response = post_body(&discovery, body, None).await;
        assert_eq!(response.status(), status);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = response.json().await.unwrap();
        assert_eq!(problem["code"], code);
    }
    let list: serde_json::Value = get(&discovery, "/brokers").await.json().await.unwrap();
    assert_eq!(list["brokers"], serde_json::json!([]));
}

#[tokio::test]
async fn with_a_secret_unsigned_words_are_refused_and_pushes_are_signed() {
    let discovery = start(Some(SECRET)).await;
    let secret = PeerSecret::new(SECRET).unwrap();
    let mut broker = Listener::start(1).await;
    let body = serde_json::to_vec(&broker.endpoint).unwrap();
    let forged = PeerSecret::new("some other secret text").unwrap().sign("POST", "/register", &body);
    assert_eq!(post_body(&discovery, body.clone(), None).await.status(), 401);
    assert_eq!(post_body(&discovery, body.clone(), Some(forged)).await.status(), 401);
    assert_eq!(get(&discovery, "/brokers").await.status(), 200);

    let signature = secret.sign("POST", "/register", &body);
    assert_eq!(post_body(&discovery, body, Some(signature)).await.status(), 200);
    let (_, pushed, signature) = broker.pushes.recv().await.unwrap();
    assert!(secret.verify("POST", "/internal/discovery/update", &pushed, &signature.expect("a signature")));
}

#[tokio::test]
async fn probes_and_metrics_tell_what_happened() {
    let discovery = start(None).await;
    register(&discovery, &endpoint(1, 1)).await;
    register(&discovery, &endpoint(1, 1)).await;
    for path in ["/livez", "/readyz"] {
        assert_eq!(get(&discovery, path).await.status(), 200, "{path}");
    }
    let text = get(&discovery, "/metrics").await.text().await.unwrap();
    for line in [
        "pubsub_discovery_brokers{state=\"live\"} 1",
        "pubsub_discovery_registrations_total{outcome=\"changed\"} 1",
        "pubsub_discovery_registrations_total{outcome=\"same\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in:\n{text}");
    }
}

#[tokio::test]
async fn without_a_secret_only_loopback_is_served() {
    let open = Config { host: "0.0.0.0".to_owned(), ..config(None) };
    let error = Discovery::start(open, CancellationToken::new()).await.err().expect("refused");
    assert!(error.to_string().contains("PUBSUB_CLUSTER_SECRET"), "{error:#}");
}

#[tokio::test]
async fn a_port_in_use_is_explained() {
    let taken = start(None).await;
    let same = Config { port: taken.address().port(), ..config(None) };
    let error = Discovery::start(same, CancellationToken::new()).await.err().expect("refused");
    assert!(error.to_string().contains("DISCOVERY_PORT"), "{error:#}");
}

/// Starts the real program on a free port and returns it with the end of its input and the first line of its log.
async fn program() -> (tokio::process::Child, tokio::process::ChildStdin, String) {
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_pubsub-discovery"))
        .args(["--port", "0", "--stop-on-stdin-eof"])
        .env_remove("PUBSUB_LOG")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let line =
        tokio::time::timeout(PATIENCE, log.next_line()).await.expect("a log line in time").unwrap().unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
    (child, stdin, line)
}

#[tokio::test]
async fn the_program_ends_when_its_parent_goes_away() {
    let (mut child, stdin, line) = program().await;
    assert!(line.contains("discovery started"), "{line}");
    drop(stdin);
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("an end in time").unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn the_program_ends_in_order_on_sigterm() {
    let (mut child, _stdin, _) = program().await;
    let id = child.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("an end in time").unwrap();
    assert!(status.success(), "{status}");
}
