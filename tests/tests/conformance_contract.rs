//! The API's description against the brokers: every operation, every bound of its parameters, every error that it names.
//! What is not provoked here is shown by a test that is named; an error that neither is fails `everything_described_is_shown`.

#![allow(clippy::unwrap_used)]

use anyhow::bail;
use futures::future::join_all;
use pubsub_core::limits::{self, BODY_BYTES_MAX, RECORD_BYTES_MAX};
use pubsub_core::wire::error::ErrorCode;
use pubsub_tests::cluster::await_condition::eventually;
use pubsub_tests::cluster::shared::{Common, Shared};
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::cluster::{Cluster, Settings, ids_of};
use pubsub_tests::http::{Answer, Content, Http};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

static CLUSTER: Shared = Shared::new(Settings::default);

/// Errors that need a fault of some kind: which test shows each.
const SHOWN_ELSEWHERE: &[(ErrorCode, &str, &str)] = &[
    (ErrorCode::Internal, "broker/src/http.rs", "a_panic_is_answered_as_a_problem"),
    (ErrorCode::CorruptRecord, "broker/src/http/error.rs", "a_damaged_batch_is_named"),
    (ErrorCode::Overloaded, "broker/src/http/error.rs", "who_is_too_many_is_told_when_to_come_back"),
    (ErrorCode::BrokerUnreachable, "broker/src/http/forward.rs", "a_refused_connection_is_definite"),
    (ErrorCode::OutcomeUnknown, "broker/src/http/forward.rs", "a_connection_cut_after_sending_is_ambiguous"),
    (
        ErrorCode::CommitTimeout,
        "tests/tests/faults.rs",
        "seed_bug_09_a_publish_of_unknown_outcome_says_so_and_is_stored_at_most_once",
    ),
    (
        ErrorCode::Unavailable,
        "tests/tests/conformance_contract.rs",
        "a_broker_without_a_cluster_refuses_everything_for_certain",
    ),
    (
        ErrorCode::NotEnoughReplicas,
        "tests/tests/conformance_contract.rs",
        "publishes_are_refused_for_certain_without_replicas_or_room",
    ),
    (
        ErrorCode::StorageFull,
        "tests/tests/conformance_contract.rs",
        "publishes_are_refused_for_certain_without_replicas_or_room",
    ),
];

/// The same of errors of one operation.
const SHOWN_ELSEWHERE_OF: &[(&str, ErrorCode, &str, &str)] = &[
    (
        "GET /topics/{topic}/stream",
        ErrorCode::GroupBusy,
        "core/src/group/membership/tests.rs",
        "a_group_that_does_not_fit_one_record_takes_no_more_members",
    ),
    (
        "POST /admin/topics",
        ErrorCode::Conflict,
        "core/src/control/policy.rs",
        "the_wanted_leader_gets_the_first_partition_and_must_be_alive",
    ),
    (
        "POST /admin/topics/{name}/replicas",
        ErrorCode::Conflict,
        "core/src/control/moves/tests.rs",
        "what_can_not_be_done_is_refused",
    ),
    (
        "POST /admin/topics/{name}/replicas/{broker}",
        ErrorCode::Conflict,
        "core/src/control/moves/tests.rs",
        "what_can_not_be_done_is_refused",
    ),
    (
        "POST /admin/topics/{name}/reassign",
        ErrorCode::Conflict,
        "core/src/control/moves/tests.rs",
        "what_can_not_be_done_is_refused",
    ),
    (
        "PATCH /admin/topics/{name}",
        ErrorCode::Conflict,
        "core/src/control/moves/tests.rs",
        "what_can_not_be_done_is_refused",
    ),
];

/// Operations that only a larger cluster can do: which test shows that each succeeds.
const DONE_ELSEWHERE: &[(&str, &str, &str)] = &[(
    "POST /admin/brokers/{broker}/drain",
    "tests/tests/cli.rs",
    "replicas_move_and_a_drained_broker_is_taken_away_without_losing_a_record",
)];

/// One request, and what its answer is to be: a status below 400, or an error code.
struct Case {
    operation: &'static str,
    expected: &'static str,
    url: String,
    content: Content,
}

/// An operation as it is described.
struct Operation {
    name: String,
    method: String,
    path: String,
    described: Value,
}

impl Operation {
    fn parameters(&self) -> impl Iterator<Item = &Value> {
        self.described["parameters"].as_array().into_iter().flatten()
    }

    /// Returns the error codes that are named, with the status that each is under.
    fn errors(&self) -> BTreeSet<(u16, ErrorCode)> {
        let mut named = BTreeSet::new();
        for (status, answer) in self.described["responses"].as_object().unwrap() {
            let text = answer["description"].as_str().unwrap();
            let words: BTreeSet<&str> = text.split(|c: char| !c.is_ascii_uppercase() && c != '_').collect();
            let codes = ErrorCode::ALL.iter().filter(|code| words.contains(code.as_str()));
            named.extend(codes.map(|code| (status.parse::<u16>().unwrap(), *code)));
        }
        named
    }
}

async fn described(cluster: &Cluster) -> Vec<Operation> {
    let url = format!("{}/openapi.json", cluster.url(1));
    let document = Http::new().get(&url).await.unwrap().expect(200);
    let mut operations = vec![];
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, described) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            if ["GET", "POST", "PATCH", "DELETE"].contains(&method.as_str()) {
                let (name, path, described) = (format!("{method} {path}"), path.clone(), described.clone());
                operations.push(Operation { name, method, path, described });
            }
        }
    }
    operations
}

async fn ask(case: &Case) -> Answer {
    let method = case.operation.split(' ').next().unwrap();
    let mut answer = Http::new().send(method, &case.url, case.content.clone()).await.unwrap();
    answer.asked = format!("{} ({} wanted) {}", case.operation, case.expected, answer.asked);
    answer
}

/// What the cases are about.
struct World {
    cluster: Common,
    /// Two partitions on two brokers, with three records in each.
    topic: Topic,
    /// One partition on two brokers that must both have a record: the one that does not lead, and one that holds nothing.
    pair: Topic,
    follower: u32,
    stranger: u32,
    /// Somebody's, and empty.
    owned: Topic,
    /// A group with a member, `c`, that reads `single`, and one without.
    group: String,
    idle: String,
    single: Topic,
    /// A broker that holds `single` and does not lead it.
    spare: u32,
}

impl World {
    async fn make() -> Self {
        let cluster = CLUSTER.get().await;
        let topic = Topic::create(&cluster, 1, "contract", "rf=2&partitions=2&wait=ready").await;
        for partition in 0..2 {
            let body = json!({"records": [{"value": 1}, {"value": 2}, {"value": 3}]}).to_string();
            topic.post(2, &format!("?partition={partition}"), Content::json(body)).await.unwrap().expect(200);
        }
        let pair = Topic::create(&cluster, 1, "pair", "rf=2&min_isr=2&wait=ready").await;
        let leader = pair.leader().await;
        let holders = ids_of(&pair.replicas(1).await.unwrap()["partitions"][0]["replicas"]);
        let owned = Topic::named(&cluster, &unique("owned"));
        let body = json!({"name": owned.name, "owner": {"uid": "u"}});
        Http::new().post_json(&format!("{}/admin/topics", cluster.url(1)), &body).await.unwrap().expect(200);
        let single = Topic::create(&cluster, 1, "single", "rf=3").await;
        single.publish(1, "only").await;
        let spare = cluster.others(single.leader().await)[0];
        let (group, idle) = (unique("read"), unique("idle"));
        single.commit(1, &idle, "gone", 0).await.unwrap().expect(200);
        Self {
            follower: holders.iter().copied().find(|id| *id != leader).unwrap(),
            stranger: cluster.ids().into_iter().find(|id| !holders.contains(id)).unwrap(),
            cluster,
            topic,
            pair,
            owned,
            group,
            idle,
            single,
            spare,
        }
    }

    /// Takes or renews the membership that cases run into.
    async fn hold(&self) {
        self.single.subscribe(1, &self.group, "c").await.unwrap().expect(200);
    }

    /// Returns an address at a broker that is another one each time.
    fn url(&self, rest: &str) -> String {
        let spread = u32::try_from(rest.len() % 3).unwrap() + 1;
        format!("{}/v1{rest}", self.cluster.url(spread))
    }

    fn case(&self, operation: &'static str, expected: &'static str, rest: &str, body: Option<Value>) -> Case {
        let content = body.map_or_else(Content::default, |body| Content::json(body.to_string()));
        Case { operation, expected, url: self.url(rest), content }
    }

    fn publishing(&self) -> Vec<Case> {
        const PUBLISH: &str = "POST /topics/{topic}/publish";
        let at = format!("/topics/{}/publish", self.topic.name);
        let case = |expected, rest: &str, content: Content| Case {
            operation: PUBLISH,
            expected,
            url: self.url(rest),
            content,
        };
        let value = || Content::json(r#"{"value":1}"#);
        let id = uuid::Uuid::new_v4().to_string();
        let once = |epoch: u32, sequence: u32| {
            let content = value().with("Producer-Id", &id).with("Producer-Epoch", &epoch.to_string());
            content.with("Producer-Seq", &sequence.to_string())
        };
        let to_first = format!("{at}?partition=0");
        let mut cases: Vec<Case> = (0..8).map(|sequence| case("200", &to_first, once(1, sequence))).collect();
        let large = |bytes: usize| Content::json(json!({"value": "x".repeat(bytes)}).to_string());
        let mut misled = case("NOT_LEADER", &to_first, value().with("X-Pubsub-Forwarded", "1"));
        misled.url = self.pair.url(self.follower, "publish");
        cases.extend([
            case("200", &at, value()),
            case("DUPLICATE_SEQUENCE", &to_first, once(1, 0)),
            case("OUT_OF_ORDER", &to_first, once(1, 90)),
            case("PRODUCER_FENCED", &to_first, once(0, 8)),
            case("TOPIC_NOT_FOUND", "/topics/no-such-topic/publish", value()),
            case("PARTITION_NOT_FOUND", &format!("{at}?partition=2"), value()),
            case("UNEXPECTED_END", &to_first, value().with("Pubsub-Expected-Offset", "99999")),
            case("RECORD_TOO_LARGE", &at, large(RECORD_BYTES_MAX)),
            case("BODY_TOO_LARGE", &at, large(BODY_BYTES_MAX)),
            case("UNSUPPORTED_MEDIA_TYPE", &at, Content::of("image/png", "x")),
            case("UNSUPPORTED", "/topics/__groups/publish", value()),
            case("VALIDATION_FAILED", &at, Content::json("{}")),
            misled,
        ]);
        cases
    }

    fn reading(&self) -> Vec<Case> {
        let (topic, single, group) = (&self.topic.name, &self.single.name, &self.group);
        let case = |operation, expected, rest: &str| self.case(operation, expected, rest, None);
        let mut cases = vec![];
        for (operation, path) in
            [("GET /topics/{topic}/records", "records"), ("GET /topics/{topic}/stream", "stream")]
        {
            cases.extend([
                case(operation, "TOPIC_NOT_FOUND", &format!("/topics/no-such-topic/{path}")),
                case(operation, "PARTITION_NOT_FOUND", &format!("/topics/{topic}/{path}?partition=2")),
                case(
                    operation,
                    "VALIDATION_FAILED",
                    &format!("/topics/{topic}/{path}?partition=0&from=never"),
                ),
            ]);
        }
        let poll = "GET /poll";
        cases.extend([
            case("GET /topics/{topic}/records", "200", &format!("/topics/{topic}/records?partition=1")),
            case(
                "GET /topics/{topic}/stream",
                "CONSUMER_REQUIRED",
                &format!("/topics/{topic}/stream?group_id=g"),
            ),
            case(poll, "200", &format!("/poll?topic={topic}&timeout_ms=0")),
            case(poll, "CONSUMER_REQUIRED", &format!("/poll?topic={topic}&group_id=g")),
            case(poll, "TOPIC_NOT_FOUND", "/poll?topic=no-such-topic"),
            case(poll, "PARTITION_NOT_FOUND", &format!("/poll?topic={topic}&partition=2")),
            case(
                poll,
                "GROUP_BUSY",
                &format!("/poll?topic={single}&group_id={group}&consumer_id=d&timeout_ms=0"),
            ),
            case(
                poll,
                "MEMBER_FENCED",
                &format!("/poll?topic={single}&group_id={group}&consumer_id=d&member_epoch=1"),
            ),
            case(poll, "VALIDATION_FAILED", "/poll"),
            case("GET /replicas/{topic}", "200", &format!("/replicas/{topic}")),
            case("GET /replicas/{topic}", "TOPIC_NOT_FOUND", "/replicas/no-such-topic"),
        ]);
        cases
    }

    fn grouping(&self) -> Vec<Case> {
        let (topic, single, group, idle) = (&self.topic.name, &self.single.name, &self.group, &self.idle);
        let large = json!({"topic": "x".repeat(BODY_BYTES_MAX)});
        let post = |operation, expected, path: &str, body| self.case(operation, expected, path, Some(body));
        let as_member = |consumer: &str, more: Value| {
            let mut body = json!({"topic": single, "group_id": group, "consumer_id": consumer});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            body
        };
        let (subscribe, commit, leave) = ("POST /subscribe", "POST /commit", "POST /unsubscribe");
        let reset = "POST /groups/{group}/reset";
        let reset_at = |group: &str| format!("/groups/{group}/reset");
        let mut cases = vec![
            post(subscribe, "200", "/subscribe", json!({"topic": topic})),
            post(subscribe, "CONSUMER_REQUIRED", "/subscribe", json!({"topic": topic, "group_id": "g"})),
            post(subscribe, "TOPIC_NOT_FOUND", "/subscribe", json!({"topic": "no-such-topic"})),
            post(subscribe, "GROUP_BUSY", "/subscribe", as_member("d", json!({}))),
            post(subscribe, "MEMBER_FENCED", "/subscribe", as_member("c", json!({"member_epoch": 99_999}))),
            post(subscribe, "VALIDATION_FAILED", "/subscribe", json!({})),
            post(commit, "200", "/commit", as_member("c", json!({"offset": 0}))),
            post(commit, "INVALID_OFFSET", "/commit", as_member("c", json!({"offset": -2}))),
            post(commit, "OFFSET_OUT_OF_RANGE", "/commit", as_member("c", json!({"offset": 1}))),
            post(commit, "MEMBER_FENCED", "/commit", as_member("d", json!({"offset": 0}))),
            post(commit, "TOPIC_NOT_FOUND", "/commit", json!({"topic": "no-such-topic", "offset": 0})),
            post(
                commit,
                "PARTITION_NOT_FOUND",
                "/commit",
                json!({"topic": topic, "partition": 2, "offset": 0}),
            ),
            post(commit, "VALIDATION_FAILED", "/commit", json!({"topic": topic})),
            post(leave, "200", "/unsubscribe", as_member("d", json!({}))),
            post(
                leave,
                "TOPIC_NOT_FOUND",
                "/unsubscribe",
                json!({"topic": "none", "group_id": "g", "consumer_id": "c"}),
            ),
            post(leave, "VALIDATION_FAILED", "/unsubscribe", json!({"topic": topic})),
            self.case("GET /groups", "200", "/groups", None),
            self.case("GET /groups/{group}", "200", &format!("/groups/{group}"), None),
            self.case("GET /groups/{group}", "GROUP_NOT_FOUND", "/groups/no-such-group", None),
            post(reset, "200", &reset_at(idle), json!({"to": "earliest"})),
            post(reset, "GROUP_NOT_FOUND", &reset_at("no-such-group"), json!({"to": "earliest"})),
            post(reset, "TOPIC_NOT_FOUND", &reset_at(idle), json!({"to": 0, "topic": "no-such-topic"})),
            post(
                reset,
                "PARTITION_NOT_FOUND",
                &reset_at(idle),
                json!({"to": 0, "topic": topic, "partitions": [2]}),
            ),
            post(reset, "GROUP_NOT_EMPTY", &reset_at(group), json!({"to": "latest"})),
            post(reset, "OFFSET_OUT_OF_RANGE", &reset_at(idle), json!({"to": 99_999})),
            post(reset, "VALIDATION_FAILED", &reset_at(idle), json!({})),
            self.case("DELETE /groups/{group}", "GROUP_NOT_EMPTY", &format!("/groups/{group}"), None),
            self.case("DELETE /groups/{group}", "GROUP_NOT_FOUND", "/groups/no-such-group", None),
            self.case("DELETE /groups/{group}", "200", &format!("/groups/{idle}"), None),
        ];
        for (operation, path) in [(subscribe, "/subscribe"), (commit, "/commit"), (leave, "/unsubscribe")] {
            cases.push(post(operation, "BODY_TOO_LARGE", path, large.clone()));
        }
        cases.push(post(reset, "BODY_TOO_LARGE", &reset_at(idle), large));
        cases
    }

    fn topics(&self) -> Vec<Case> {
        let (topic, owned, made) = (&self.topic.name, &self.owned.name, unique("made"));
        let case = |operation, expected, rest: &str| self.case(operation, expected, rest, None);
        let send = |operation, expected, rest: &str, body| self.case(operation, expected, rest, Some(body));
        let (create, alter, remove) =
            ("POST /admin/topics", "PATCH /admin/topics/{name}", "DELETE /admin/topics/{name}");
        let at = |name: &str| format!("/admin/topics/{name}");
        let large = json!({"name": "x".repeat(BODY_BYTES_MAX)});
        let batch = "POST /admin/topics:batch";
        vec![
            case("GET /admin/topics", "200", "/admin/topics"),
            case("GET /admin/topics/{name}", "200", &at(topic)),
            case("GET /admin/topics/{name}", "TOPIC_NOT_FOUND", &at("no-such-topic")),
            case(create, "200", &format!("/admin/topics?name={made}")),
            case(create, "UNKNOWN_BROKER", "/admin/topics?name=a&owner_id=99"),
            case(create, "TOPIC_EXISTS", &format!("/admin/topics?name={topic}&partitions=7")),
            send(create, "TOPIC_OWNED", "/admin/topics", json!({"name": owned, "owner": {"uid": "v"}})),
            case(create, "TOO_FEW_BROKERS", "/admin/topics?name=a&rf=9"),
            case(create, "VALIDATION_FAILED", "/admin/topics"),
            send(create, "BODY_TOO_LARGE", "/admin/topics", large.clone()),
            send(batch, "200", "/admin/topics:batch", json!({"topics": [{"name": made}]})),
            send(batch, "VALIDATION_FAILED", "/admin/topics:batch", json!({})),
            send(batch, "BODY_TOO_LARGE", "/admin/topics:batch", large.clone()),
            send(alter, "200", &at(&made), json!({"retention_ms": 100_000})),
            send(alter, "TOPIC_NOT_FOUND", &at("no-such-topic"), json!({"min_isr": 1})),
            send(alter, "TOPIC_OWNED", &format!("{}?owner_uid=v", at(owned)), json!({"min_isr": 1})),
            send(alter, "TOO_FEW_BROKERS", &at(&made), json!({"replication_factor": 9})),
            send(alter, "VALIDATION_FAILED", &at(&made), json!({"min_isr": 0})),
            send(alter, "BODY_TOO_LARGE", &at(&made), large.clone()),
            case(remove, "TOPIC_NOT_FOUND", &at("no-such-topic")),
            case(remove, "TOPIC_OWNED", &format!("{}?owner_uid=v", at(owned))),
            case(remove, "TOPIC_NOT_EMPTY", &format!("{}?if_empty=true", at(topic))),
            case(remove, "VALIDATION_FAILED", &format!("{}?if_empty=perhaps", at(topic))),
            send(remove, "BODY_TOO_LARGE", &at(topic), large),
            case(remove, "200", &at(&made)),
        ]
    }

    fn placing(&self) -> Vec<Case> {
        let (topic, single) = (&self.pair.name, &self.single.name);
        let (follower, stranger) = (self.follower, self.stranger);
        let case = |operation, expected, rest: &str| self.case(operation, expected, rest, None);
        let send = |operation, expected, rest: &str, body| self.case(operation, expected, rest, Some(body));
        let large = json!({"x": "x".repeat(BODY_BYTES_MAX)});
        let (add, add_on, drop) = (
            "POST /admin/topics/{name}/replicas",
            "POST /admin/topics/{name}/replicas/{broker}",
            "DELETE /admin/topics/{name}/replicas/{broker}",
        );
        let (reassign, cancel) =
            ("POST /admin/topics/{name}/reassign", "DELETE /admin/topics/{name}/reassign");
        let elect = "POST /admin/topics/{name}/elect";
        let (drain, keep) = ("POST /admin/brokers/{broker}/drain", "DELETE /admin/brokers/{broker}/drain");
        let of = |name: &str, rest: &str| format!("/admin/topics/{name}/{rest}");
        let moves = |replicas: &[u32]| json!({"moves": [{"partition": 0, "replicas": replicas}]});
        vec![
            case(drop, "CONFLICT", &of(topic, &format!("replicas/{follower}"))),
            case(drop, "INVALID_REPLICAS", &of(topic, &format!("replicas/{stranger}"))),
            case(drop, "TOPIC_NOT_FOUND", &of("no-such-topic", "replicas/1")),
            case(drop, "VALIDATION_FAILED", &of(topic, "replicas/x")),
            send(drop, "BODY_TOO_LARGE", &of(topic, "replicas/1"), large.clone()),
            case(add, "200", &of(topic, &format!("replicas?broker_id_to_add={stranger}"))),
            case(add, "UNKNOWN_BROKER", &of(topic, "replicas?broker_id_to_add=99")),
            case(add, "INVALID_REPLICAS", &of(single, "replicas?broker_id_to_add=1")),
            case(add, "TOPIC_NOT_FOUND", &of("no-such-topic", "replicas?broker_id_to_add=1")),
            case(add, "VALIDATION_FAILED", &of(topic, "replicas")),
            send(add, "BODY_TOO_LARGE", &of(topic, "replicas?broker_id_to_add=1"), large.clone()),
            case(drop, "200", &of(single, &format!("replicas/{}", self.spare))),
            case(add_on, "200", &of(single, &format!("replicas/{}", self.spare))),
            case(add_on, "UNKNOWN_BROKER", &of(topic, "replicas/99")),
            case(add_on, "INVALID_REPLICAS", &of(topic, &format!("replicas/{follower}"))),
            case(add_on, "TOPIC_NOT_FOUND", &of("no-such-topic", "replicas/1")),
            case(add_on, "VALIDATION_FAILED", &of(topic, "replicas/x")),
            send(add_on, "BODY_TOO_LARGE", &of(topic, "replicas/1"), large.clone()),
            send(reassign, "UNKNOWN_BROKER", &of(single, "reassign"), moves(&[1, 2, 99])),
            send(reassign, "TOPIC_NOT_FOUND", &of("no-such-topic", "reassign"), moves(&[1])),
            send(reassign, "VALIDATION_FAILED", &of(single, "reassign"), json!({})),
            send(reassign, "BODY_TOO_LARGE", &of(single, "reassign"), large.clone()),
            send(reassign, "200", &of(single, "reassign"), moves(&[3, 2, 1])),
            case(cancel, "200", &of(single, "reassign")),
            case(cancel, "TOPIC_NOT_FOUND", &of("no-such-topic", "reassign")),
            case(cancel, "VALIDATION_FAILED", &of(single, "reassign?timeout_ms=x")),
            send(cancel, "BODY_TOO_LARGE", &of(single, "reassign"), large.clone()),
            case(elect, "200", &of(single, "elect")),
            case(elect, "TOPIC_NOT_FOUND", &of("no-such-topic", "elect")),
            case(elect, "CONFLICT", &of(single, "elect?partition=0&broker_id=99")),
            case(elect, "VALIDATION_FAILED", &of(single, "elect?partition=5")),
            send(elect, "BODY_TOO_LARGE", &of(single, "elect"), large.clone()),
            case(drain, "UNKNOWN_BROKER", "/admin/brokers/99/drain"),
            case(drain, "CONFLICT", "/admin/brokers/1/drain"),
            case(drain, "VALIDATION_FAILED", "/admin/brokers/x/drain"),
            send(drain, "BODY_TOO_LARGE", "/admin/brokers/1/drain", large.clone()),
            case(keep, "200", "/admin/brokers/1/drain"),
            case(keep, "UNKNOWN_BROKER", "/admin/brokers/99/drain"),
            case(keep, "VALIDATION_FAILED", "/admin/brokers/x/drain"),
            send(keep, "BODY_TOO_LARGE", "/admin/brokers/1/drain", large),
        ]
    }

    fn looking(&self) -> Vec<Case> {
        let case = |operation, expected, rest: &str| self.case(operation, expected, rest, None);
        let mut listed = case("GET /admin/events", "200", "/admin/events?limit=3");
        listed.content = listed.content.with("accept", "application/json");
        vec![
            case("GET /admin/leader", "200", "/admin/leader"),
            case("GET /admin/isr", "200", "/admin/isr"),
            case("GET /admin/brokers", "200", "/admin/brokers"),
            case("GET /metadata", "200", "/metadata"),
            case("GET /stats", "200", "/stats"),
            case("GET /metrics", "200", "/metrics?format=json"),
            case("GET /metrics", "VALIDATION_FAILED", "/metrics?format=xml"),
            case("GET /livez", "200", "/livez"),
            case("GET /readyz", "200", "/readyz"),
            case("GET /healthz/cluster", "200", "/healthz/cluster"),
            case("GET /openapi.json", "200", "/openapi.json"),
            case("GET /docs", "200", "/docs"),
            listed,
            case("GET /admin/events", "VALIDATION_FAILED", "/admin/events?limit=0"),
            case("GET /admin/topics", "VALIDATION_FAILED", "/admin/topics?internal=perhaps"),
        ]
    }
}

/// Checks an answer against its case and against the description, and returns what it showed.
fn check(case: &Case, answer: &Answer, operations: &[Operation]) -> (String, String) {
    let operation = operations.iter().find(|operation| operation.name == case.operation);
    let operation = operation.unwrap_or_else(|| panic!("{} is not described", case.operation));
    if let Ok(status) = case.expected.parse::<u16>() {
        assert_eq!(answer.status, status, "{answer}");
        let described = operation.described["responses"].get(case.expected);
        assert!(described.is_some(), "{} does not describe {status}", case.operation);
        return (operation.name.clone(), case.expected.to_owned());
    }
    assert!(answer.status >= 400, "{answer}");
    let problem = answer.problem();
    assert_eq!(problem["code"], case.expected, "{answer}");
    let code = *ErrorCode::ALL.iter().find(|code| code.as_str() == case.expected).unwrap();
    assert_eq!(answer.status, code.status(), "{answer}");
    assert!(
        operation.errors().contains(&(answer.status, code)),
        "{} answers {code}, and does not describe it under {}: {:?}",
        operation.name,
        answer.status,
        operation.errors()
    );
    (operation.name.clone(), case.expected.to_owned())
}

/// Checks that a test is there.
fn assert_test(file: &str, test: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    assert!(text.contains(&format!("fn {test}(")), "{file} has no test {test}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_described_is_shown() {
    let world = World::make().await;
    let operations = described(&world.cluster).await;
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let cases = [
        world.publishing(),
        world.reading(),
        world.grouping(),
        world.topics(),
        world.placing(),
        world.looking(),
    ];
    for case in cases.iter().flatten() {
        world.hold().await;
        let (operation, what) = check(case, &ask(case).await, &operations);
        shown.entry(operation).or_default().insert(what);
    }
    let stream =
        Http::new().open(&world.url(&format!("/topics/{}/stream", world.topic.name)), "*/*").await.unwrap();
    assert_eq!(stream.status(), 200);
    shown.entry("GET /topics/{topic}/stream".to_owned()).or_default().insert("200".to_owned());
    let mut missing = vec![];
    for operation in &operations {
        let seen = shown.remove(&operation.name).unwrap_or_default();
        if !seen.contains("200") && !DONE_ELSEWHERE.iter().any(|(name, ..)| *name == operation.name) {
            missing.push(format!("{}: 200", operation.name));
        }
        for (_, code) in operation.errors() {
            let elsewhere = SHOWN_ELSEWHERE.iter().any(|(of, ..)| *of == code);
            let own = SHOWN_ELSEWHERE_OF
                .iter()
                .any(|(name, of, ..)| (*name, *of) == (operation.name.as_str(), code));
            if !seen.contains(code.as_str()) && !elsewhere && !own {
                missing.push(format!("{}: {code}", operation.name));
            }
        }
    }
    assert!(missing.is_empty(), "described, and shown by no test:\n  {}", missing.join("\n  "));
    DONE_ELSEWHERE.iter().for_each(|(_, file, test)| assert_test(file, test));
    SHOWN_ELSEWHERE.iter().for_each(|(_, file, test)| assert_test(file, test));
    SHOWN_ELSEWHERE_OF.iter().for_each(|(_, _, file, test)| assert_test(file, test));
}

#[test]
fn the_limits_that_are_documented_are_those_of_the_brokers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("docs/api.md");
    let text = std::fs::read_to_string(path).unwrap();
    let table = text.split("## Limits").nth(1).unwrap().split("## ").next().unwrap();
    let numbers = [
        BODY_BYTES_MAX,
        RECORD_BYTES_MAX,
        limits::BATCH_RECORDS_MAX,
        limits::BATCH_BYTES_MAX,
        limits::POLL_BYTES_MAX,
        limits::JSON_DEPTH_MAX,
        limits::INFLIGHT_BYTES_MAX,
        limits::STREAMS_MAX,
        limits::EVENT_STREAMS_MAX,
        limits::TOPIC_NAME_BYTES_MAX,
        limits::GROUP_NAME_BYTES_MAX,
    ];
    let numbers = numbers.into_iter().map(|number| u64::try_from(number).unwrap());
    let more = [
        limits::POLL_RECORDS_MAX.into(),
        limits::POLL_TIMEOUT_MS_MAX,
        limits::REQUEST_TIMEOUT_MS_MAX,
        limits::PARTITIONS_MAX.into(),
        limits::REPLICATION_FACTOR_MAX.into(),
        limits::GROUP_SESSION_MS,
        limits::BODY_TIMEOUT_MS / 1_000,
    ];
    let known: Vec<&str> = table.split(|c: char| !c.is_ascii_digit() && c != ',').collect();
    for number in numbers.chain(more) {
        let digits = number.to_string();
        let grouped: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().map(|part| std::str::from_utf8(part).unwrap()).collect();
        let written = grouped.join(",");
        assert!(
            known.iter().any(|known| known.trim_matches(',') == written),
            "{written} is not in the table of limits"
        );
    }
}

/// Returns values of a parameter that are to be refused.
fn refused_values(schema: &Value) -> Vec<String> {
    let kind = schema["type"].as_str().unwrap_or_default();
    match kind {
        "integer" => {
            let bound = |name: &str| {
                schema[name].to_string().split('.').next().and_then(|whole| whole.parse::<i64>().ok())
            };
            let mut values = vec!["x".to_owned(), "1.5".to_owned(), "18446744073709551616".to_owned()];
            values.extend(bound("minimum").map(|least| (least - 1).to_string()));
            values.extend(bound("maximum").map(|most| (most + 1).to_string()));
            values
        }
        "boolean" => vec!["perhaps".to_owned()],
        _ => vec![],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bound_of_a_parameter_is_kept_and_named() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "bounds", "rf=3").await;
    let mut tried = 0;
    for operation in described(&cluster).await {
        let path = operation.path.replace("{topic}", &topic.name).replace("{name}", &topic.name);
        let path = path.replace("{group}", "g").replace("{broker}", "1");
        for parameter in operation.parameters().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let schema = &parameter["schema"];
            for value in refused_values(schema) {
                let mut query = format!("{name}={value}");
                for (needed, given) in [("topic", topic.name.as_str()), ("name", topic.name.as_str())] {
                    let needs = operation
                        .parameters()
                        .any(|parameter| parameter["name"] == needed && parameter["in"] == "query");
                    if needs && name != needed {
                        query.push_str(&format!("&{needed}={given}"));
                    }
                }
                let url = format!("{}{path}?{query}", cluster.url(tried % 3 + 1));
                let content = if operation.method == "GET" {
                    Content::default()
                } else {
                    Content::json(r#"{"value":1}"#)
                };
                let answer = Http::new().send(&operation.method, &url, content).await.unwrap();
                let problem = answer.expect_problem(422, "VALIDATION_FAILED");
                assert!(
                    problem["detail"].to_string().contains(&format!("\"{name}\"")),
                    "{} names no {name}: {problem}",
                    operation.name
                );
                tried += 1;
            }
        }
    }
    assert!(tried > 100, "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_say_who_gave_them_to_which_request_on_every_route() {
    let cluster = CLUSTER.get().await;
    for operation in described(&cluster).await {
        for prefix in ["", "/v1"] {
            let path = operation.path.replace(['{', '}'], "");
            let url = format!("{}{prefix}{path}", cluster.url(2));
            let content =
                Content::default().with("X-Request-Id", "contract-1").with("accept", "application/json");
            let answer = Http::new().send(&operation.method, &url, content).await.unwrap();
            assert_eq!(answer.header("x-request-id"), "contract-1", "{answer}");
            assert!(!answer.header("x-pubsub-broker").is_empty(), "{answer}");
            if answer.status >= 400 {
                answer.problem();
            }
        }
        let url = format!("{}{}", cluster.url(1), operation.path.replace(['{', '}'], ""));
        for method in ["PUT", "OPTIONS"] {
            let answer = Http::new().send(method, &url, Content::default()).await.unwrap();
            assert!(answer.header("allow").contains(&operation.method), "{answer} {:?}", answer.headers);
            answer.expect_problem(405, "METHOD_NOT_ALLOWED");
        }
        if operation.method != "GET" {
            continue;
        }
        let (head, get) = (
            Http::new().send("HEAD", &url, Content::default()).await.unwrap(),
            Http::new().open(&url, "*/*").await.unwrap(),
        );
        assert_eq!((head.status, head.body.len()), (get.status().as_u16(), 0), "{head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_without_a_cluster_refuses_everything_for_certain() {
    const BODY: &str =
        r#"{"topic":"t","name":"t","group_id":"g","consumer_id":"c","offset":0,"to":0,"value":1}"#;
    let operations = described(&*CLUSTER.get().await).await;
    let lonely = Cluster::start(Settings { brokers: 1, ..Settings::default() });
    let http = Http::new();
    eventually("it listens", Duration::from_secs(20), async || {
        http.get(&format!("{}/livez", lonely.url(1))).await.map(drop)
    })
    .await;
    let asked =
        operations.iter().filter(|operation| operation.errors().contains(&(503, ErrorCode::Unavailable)));
    let answers = join_all(asked.map(async |operation| {
        let path = operation.path.replace("{topic}", "t").replace("{name}", "t");
        let path = path.replace("{group}", "g").replace("{broker}", "1");
        let mut url = format!("{}{path}?topic=t&name=t&broker_id_to_add=1", lonely.url(1));
        if operation.parameters().any(|parameter| parameter["name"] == "timeout_ms") {
            url.push_str("&timeout_ms=800");
        }
        let content = match (operation.method.as_str(), operation.path.rsplit('/').next()) {
            ("GET", _) => Content::default(),
            ("PATCH", _) => Content::json(r#"{"min_isr":1}"#),
            (_, Some("reassign")) => Content::json(r#"{"moves":[{"partition":0,"replicas":[1]}]}"#),
            (_, Some("topics:batch")) => Content::json(r#"{"topics":[{"name":"t"}]}"#),
            _ => Content::json(BODY),
        };
        (
            operation,
            http.send(&operation.method, &url, content.with("accept", "application/json")).await.unwrap(),
        )
    }))
    .await;
    assert!(answers.len() > 20, "{}", answers.len());
    for (operation, answer) in answers {
        assert!(!answer.header("retry-after").is_empty(), "{answer}");
        let problem = answer.expect_problem(503, "UNAVAILABLE");
        assert_eq!(problem["ambiguous"], false, "{}: {problem}", operation.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_are_refused_for_certain_without_replicas_or_room() {
    let cluster = std::sync::Arc::new(Cluster::ready(Settings::default()).await);
    let topic = Topic::create(&cluster, 1, "starved", "rf=3&min_isr=3&wait=ready").await;
    topic.publish(1, "all are there").await;
    let leader = topic.leader().await;
    cluster.kill9(cluster.others(leader)[0]);
    // Until the leader learns of it, what became of a record is not known.
    let refused = eventually("the leader knows", Duration::from_secs(30), async || {
        let answer = topic.post(leader, "?timeout_ms=1000", Content::json(r#"{"value":1}"#)).await?;
        if answer.status == 503 { Ok(answer) } else { bail!("{answer}") }
    })
    .await;
    assert_eq!(refused.header("retry-after"), "1", "{refused}");
    let problem = refused.expect_problem(503, "NOT_ENOUGH_REPLICAS");
    assert_eq!(problem["ambiguous"], false);
    let all_of_it = ("PUBSUB_MIN_FREE_BYTES".to_owned(), (1_u64 << 60).to_string());
    let settings =
        Settings { brokers: 1, voters: vec![1], environment: vec![all_of_it], ..Settings::default() };
    let full = std::sync::Arc::new(Cluster::ready(settings).await);
    let topic = Topic::create(&full, 1, "full", "rf=1").await;
    let problem =
        topic.post(1, "", Content::json(r#"{"value":1}"#)).await.unwrap().expect_problem(507, "STORAGE_FULL");
    assert_eq!(problem["ambiguous"], false);
}
