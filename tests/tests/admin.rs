//! What programs that manage topics rely on: owners, conditions, settings, events, many topics at once.

#![allow(clippy::unwrap_used)]

use pubsub_tests::cluster::Settings;
use pubsub_tests::cluster::shared::{Common, Shared};
use pubsub_tests::cluster::topic::{Topic, unique};
use pubsub_tests::http::{Answer, Content, Http};
use serde_json::{Value, json};

static CLUSTER: Shared = Shared::new(Settings::default);

/// Sends a request about the topic called `name` through broker `via`.
async fn ask(cluster: &Common, via: u32, method: &str, name: &str, query: &str, body: &Value) -> Answer {
    let content = if body.is_null() { Content::default() } else { Content::json(body.to_string()) };
    let url = format!("{}/admin/topics{name}?{query}", cluster.url(via));
    Http::new().send(method, &url, content).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_one_owner_is_kept_from_another_through_every_broker() {
    let cluster = CLUSTER.get().await;
    let name = unique("owned");
    let path = format!("/{name}");
    let of = |uid: &str| json!({"name": name, "rf": 2, "owner": {"uid": uid, "name": "shop/orders"}});
    let created = ask(&cluster, 1, "POST", "", "", &of("one")).await.expect(200);
    assert_eq!((&created["created"], &created["owner"]["uid"]), (&json!(true), &json!("one")));
    for via in cluster.ids() {
        let again = ask(&cluster, via, "POST", "", "", &of("one")).await.expect(200);
        assert_eq!(again["created"], false);
        let other = ask(&cluster, via, "POST", "", "", &of("two")).await.expect_problem(409, "TOPIC_OWNED");
        assert_eq!(other["owner"], json!({"uid": "one", "name": "shop/orders"}));
        let change = json!({"retention_ms": 60_000});
        ask(&cluster, via, "PATCH", &path, "owner_uid=two", &change).await.expect_problem(409, "TOPIC_OWNED");
        ask(&cluster, via, "PATCH", &path, "owner_uid=one", &change).await.expect(200);
        let person = ask(&cluster, via, "PATCH", &path, "", &json!({"retention_ms": null})).await.expect(200);
        assert_eq!(person["config"]["owner"]["uid"], "one", "who names no owner leaves it");
        let claim = json!({"owner": {"uid": "two"}});
        ask(&cluster, via, "PATCH", &path, "", &claim).await.expect_problem(409, "TOPIC_OWNED");
        ask(&cluster, via, "DELETE", &path, "owner_uid=two", &Value::Null)
            .await
            .expect_problem(409, "TOPIC_OWNED");
    }
    let taken = ask(&cluster, 2, "POST", "", "take_ownership=true", &of("two")).await.expect(200);
    assert_eq!((&taken["created"], &taken["owner"]["uid"]), (&json!(false), &json!("two")));
    ask(&cluster, 3, "PATCH", &path, "owner_uid=two", &json!({"owner": null})).await.expect(200);
    ask(&cluster, 1, "DELETE", &path, "owner_uid=anyone", &Value::Null).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_different_settings_at_once_do_not_undo_each_other() {
    let cluster = CLUSTER.get().await;
    let topic = Topic::create(&cluster, 1, "at-once", "rf=2").await;
    let path = format!("/{}", topic.name);
    for round in 1..=10 {
        let (one, two) = (json!({"retention_ms": 1_000 + round}), json!({"retention_bytes": 2_000 + round}));
        let both = tokio::join!(
            ask(&cluster, 1, "PATCH", &path, "", &one),
            ask(&cluster, 2, "PATCH", &path, "", &two)
        );
        both.0.expect(200);
        both.1.expect(200);
        let config = ask(&cluster, 3, "GET", &path, "", &Value::Null).await.expect(200)["config"].clone();
        let found = (&config["retention_ms"], &config["retention_bytes"]);
        assert_eq!(found, (&json!(1_000 + round), &json!(2_000 + round)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_deleted_as_empty_only_without_records_whoever_leads_it() {
    let cluster = CLUSTER.get().await;
    for leader in cluster.ids() {
        let query = format!("rf=2&partitions=3&owner_id={leader}&wait=ready");
        let topic = Topic::create(&cluster, 1, "empty", &query).await;
        let path = format!("/{}", topic.name);
        let body = Content::json(json!({"value": 1}).to_string());
        topic.post(1, "?partition=0", body).await.unwrap().expect(200);
        for via in cluster.ids() {
            let refused = ask(&cluster, via, "DELETE", &path, "if_empty=true", &Value::Null).await;
            let problem = refused.expect_problem(409, "TOPIC_NOT_EMPTY");
            assert_eq!((&problem["partition"], &problem["ambiguous"]), (&json!(0), &json!(false)));
        }
        ask(&cluster, 2, "DELETE", &path, "", &Value::Null).await.expect(200);
        let fresh = Topic::create(&cluster, 2, "fresh", &query).await;
        let path = format!("/{}", fresh.name);
        let deleted = ask(&cluster, leader, "DELETE", &path, "if_empty=true", &Value::Null).await;
        assert_eq!(deleted.expect(200)["topic"], fresh.name);
        ask(&cluster, leader, "GET", &path, "", &Value::Null).await.expect_problem(404, "TOPIC_NOT_FOUND");
    }
}
