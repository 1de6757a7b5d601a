//! For those who run brokers: probes, counters, metrics.

use super::error::ApiResult;
use super::query::Query;
use super::topics::alive;
use super::{App, Call};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use pubsub_core::control::image::Image;
use pubsub_core::group::{GroupReply, GroupRequest};
use pubsub_core::ids::GroupId;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Groups whose leases one answer shows.
const GROUPS_SHOWN_MAX: usize = 64;
/// How long looking at groups may take while a scraper waits.
const GROUPS_WAIT: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Timed {
    route: String,
}

/// Counts and times requests.
#[derive(Clone)]
pub(crate) struct Requests {
    registry: Arc<Registry>,
    total: Family<Route, Counter>,
    seconds: Family<Timed, Histogram>,
}

impl Requests {
    /// Makes counters at zero.
    pub(crate) fn new() -> Self {
        let total = Family::default();
        let buckets =
            || Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0]);
        let seconds = Family::new_with_constructor(buckets as fn() -> Histogram);
        let mut registry = Registry::default();
        registry.register("pubsub_http_requests", "Requests answered", Family::clone(&total));
        let help = "Time from a request's head to its answer's head; long polls wait on purpose";
        registry.register_with_unit(
            "pubsub_http_request_duration",
            help,
            Unit::Seconds,
            Family::clone(&seconds),
        );
        Self { registry: Arc::new(registry), total, seconds }
    }

    /// Notes one answer. Routes are patterns, so that names in paths make no new series.
    pub(crate) fn note(&self, method: &Method, route: Option<&str>, status: StatusCode, took: Duration) {
        let route = route.map_or("none", |route| route.strip_prefix("/v1").unwrap_or(route));
        let method = match method.as_str() {
            "GET" => "GET",
            "POST" => "POST",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "other",
        };
        self.seconds.get_or_create(&Timed { route: route.to_owned() }).observe(took.as_secs_f64());
        self.total.get_or_create(&Route { method, route: route.to_owned(), status: status.as_u16() }).inc();
    }

    fn write(&self, out: &mut String) {
        prometheus_client::encoding::text::encode(out, &self.registry).expect("writing to memory can't fail");
    }
}

/// Says that the process runs.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = 200, description = "It runs")))]
pub(crate) async fn livez() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// Says whether this broker should be sent requests.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, description = "Ready"), (status = 503, description = "Not ready; the body says why")))]
pub(crate) async fn readyz(State(app): State<App>) -> Response {
    match app.broker.ready() {
        Ok(()) => Json(json!({ "status": "ok", "broker_id": app.id })).into_response(),
        Err(why) => super::error::unavailable(why).into_response(),
    }
}

/// Shows the cluster's health, for people; probes use `/livez` and `/readyz`.
#[utoipa::path(get, path = "/healthz/cluster", tag = "operations", responses((status = 200, description = "`ok`, `degraded` or `down`, and why")))]
pub(crate) async fn cluster_health(State(app): State<App>) -> ApiResult<Json<Value>> {
    let image = app.image().await?;
    let controller = app.broker.status().controller;
    let (mut offline, mut below_min_isr, mut lagging) = (vec![], vec![], vec![]);
    for entry in image.topics.values() {
        for (id, partition) in entry.partitions.iter().enumerate() {
            let name = format!("{}/{id}", entry.name);
            // An ISR at its minimum keeps a member that is gone, and writes wait for it.
            let in_sync = partition.isr.iter().filter(|id| alive(&image, **id)).count();
            if partition.leader.is_none() {
                offline.push(name);
            } else if in_sync < usize::try_from(entry.config.min_isr).unwrap_or(usize::MAX) {
                below_min_isr.push(name);
            } else if in_sync < partition.replicas.len() {
                lagging.push(name);
            }
        }
    }
    let down: Vec<_> = image.brokers.keys().filter(|id| !alive(&image, **id)).collect();
    let fine = controller.is_some() && offline.is_empty() && below_min_isr.is_empty();
    let status = match (fine, down.is_empty() && lagging.is_empty()) {
        (true, true) => "ok",
        (true, false) => "degraded",
        (false, _) => "down",
    };
    Ok(Json(json!({
        "status": status,
        "controller": controller,
        "brokers": image.brokers.len(),
        "brokers_down": down,
        "partitions_without_leader": offline,
        "partitions_below_min_isr": below_min_isr,
        "partitions_with_replicas_behind": lagging,
    })))
}

/// Shows counters of election, gossip, replication and storage.
#[utoipa::path(get, path = "/stats", tag = "operations", responses((status = 200, description = "Counters since the process started")))]
pub(crate) async fn stats(State(app): State<App>) -> Json<Value> {
    let status = app.broker.status();
    let image = app.broker.image();
    let ids: Vec<_> = image.iter().flat_map(|image| image.brokers.keys().copied()).collect();
    let mut metrics = serde_json::to_value(status.counters).expect("plain numbers");
    if let Some(metrics) = metrics.as_object_mut() {
        metrics.insert("coordinator_changes".to_owned(), status.counters.controller_changes.into());
        metrics.insert("last_election_duration_ms".to_owned(), status.counters.last_election_ms.into());
    }
    let election = json!({
        "current_leader": status.controller,
        "is_leader": status.leading,
        "in_election": status.electing,
        "controller_epoch": status.epoch,
        "peers_count": ids.iter().filter(|id| **id != app.id).count(),
        "higher_ids": ids.iter().filter(|id| **id > app.id).collect::<Vec<_>>(),
        "metrics": metrics,
    });
    let streams = json!({ "records": app.record_streams.taken(), "events": app.event_streams.taken() });
    let mut body =
        json!({ "broker_id": app.id, "timestamp": unix_seconds(), "election": election, "streams": streams });
    if let (Value::Object(body), Value::Object(more)) = (&mut body, app.broker.stats()) {
        for (name, value) in more {
            body.entry(name).or_insert(value);
        }
        let gossip = body.entry("gossip").or_insert_with(|| json!({}));
        if let Some(gossip) = gossip.as_object_mut() {
            for (name, value) in gossip_view(&app.broker.gossip()) {
                gossip.entry(name).or_insert(value);
            }
        }
        let replication = body.entry("replication").or_insert_with(|| json!({}));
        if let (Some(replication), Some(image)) = (replication.as_object_mut(), image) {
            replication.insert("topics_count".to_owned(), visible(&image).count().into());
            let topics: BTreeMap<_, _> =
                visible(&image).map(|entry| (entry.name.to_string(), placement(&app, entry))).collect();
            replication.insert("topics".to_owned(), json!(topics));
        }
    }
    Json(body)
}

/// Counts gossip's members by what it thinks of them.
fn states(gossip: &[Value]) -> BTreeMap<&'static str, usize> {
    let mut states = BTreeMap::from([("alive", 0), ("suspect", 0), ("dead", 0)]);
    for member in gossip {
        let state = member.get("state").or_else(|| member.get("status")).and_then(Value::as_str);
        if let Some(count) = state.and_then(|state| states.get_mut(state)) {
            *count += 1;
        }
    }
    states
}

/// Returns gossip's members by id, and how many there are of each state.
fn gossip_view(gossip: &[Value]) -> BTreeMap<String, Value> {
    let id = |member: &Value| member.get("broker_id").or_else(|| member.get("id")).map(Value::to_string);
    let members: BTreeMap<_, _> = gossip.iter().filter_map(|member| Some((id(member)?, member))).collect();
    let counts = states(gossip).into_iter().map(|(state, count)| (state.to_owned(), count.into()));
    let all = [("total_members".to_owned(), gossip.len().into()), ("members".to_owned(), json!(members))];
    all.into_iter().chain(counts).collect()
}

fn visible(image: &Image) -> impl Iterator<Item = &Arc<pubsub_core::control::image::TopicEntry>> {
    image.topics.values().filter(|entry| !entry.name.is_internal())
}

fn placement(app: &App, entry: &pubsub_core::control::image::TopicEntry) -> Value {
    let Some(first) = entry.partitions.first() else { return Value::Null };
    let followers: Vec<_> = first.replicas.iter().filter(|id| Some(**id) != first.leader).collect();
    json!({
        "owner": first.leader,
        "is_owner": first.leader == Some(app.id),
        "followers": followers,
        "isr": first.isr,
        "isr_count": first.isr.len(),
        "replica_count": first.replicas.len(),
    })
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Shows metrics: Prometheus text, or JSON when asked for.
#[utoipa::path(
    get, path = "/metrics", tag = "operations",
    params(("format" = Option<String>, Query, description = "`json`, as `Accept: application/json`")),
    responses((status = 200, description = "Leases, partitions led, the gossip view, and counters",
        content((String = "text/plain"), (serde_json::Value = "application/json"))))
)]
pub(crate) async fn metrics(State(app): State<App>, call: Call) -> ApiResult<Response> {
    let mut query = Query::parse(call.query());
    let json = match query.text("format") {
        Some("json") => true,
        Some("prometheus" | "text") => false,
        Some(_) => {
            query.fault("enum", "format", "use json or prometheus");
            false
        }
        None => accepts(&call.headers, "application/json"),
    };
    query.finish()?;
    let leases = leases(&app).await;
    let led = led(&app);
    if json {
        let owned: Vec<_> = led.keys().collect();
        let gossip = app.broker.gossip();
        return Ok(Json(
            json!({ "broker_id": app.id, "leases": leases, "owned_topics": owned, "gossip": gossip }),
        )
        .into_response());
    }
    let open = accepts(&call.headers, "application/openmetrics-text");
    let media = if open {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    let mut out = app.broker.metrics_text();
    if let Some(end) = out.rfind("# EOF") {
        out.truncate(end);
    }
    write_view(&mut out, &leases, &led, &app.broker.gossip());
    app.requests.write(&mut out);
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(media))], out).into_response())
}

pub(crate) fn accepts(headers: &HeaderMap, media: &str) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains(media))
}

/// Returns how many partitions of each topic this broker leads.
fn led(app: &App) -> BTreeMap<String, usize> {
    let mut led = BTreeMap::new();
    for entry in app.broker.image().iter().flat_map(|image| visible(image).cloned().collect::<Vec<_>>()) {
        let count = entry.partitions.iter().filter(|partition| partition.leader == Some(app.id)).count();
        if count > 0 {
            led.insert(entry.name.to_string(), count);
        }
    }
    led
}

/// Returns when each group's hold of a topic ends, seconds since 1970, by `topic|group`; what is known in time.
async fn leases(app: &App) -> BTreeMap<String, f64> {
    let until = Instant::now() + GROUPS_WAIT;
    let mut leases = BTreeMap::new();
    let Ok(Ok(GroupReply::Listed { groups })) =
        tokio::time::timeout_at(until, app.broker.group(GroupRequest::List, until)).await
    else {
        return leases;
    };
    let Some(image) = app.broker.image() else { return leases };
    let looks = groups.into_iter().take(GROUPS_SHOWN_MAX).map(async |group: GroupId| {
        let request = GroupRequest::Describe { group: group.clone() };
        (group, tokio::time::timeout_at(until, app.broker.group(request, until)).await)
    });
    for (group, outcome) in futures::future::join_all(looks).await {
        let Ok(Ok(GroupReply::Described(description))) = outcome else { continue };
        for member in &description.members {
            let ends = unix_seconds() + Duration::from_millis(member.expires_in_ms).as_secs_f64();
            for entry in member.assigned.iter().filter_map(|(topic, _)| image.topics.get(topic)) {
                let lease: &mut f64 = leases.entry(format!("{}|{group}", entry.name)).or_insert(ends);
                *lease = lease.max(ends);
            }
        }
    }
    leases
}

fn write_view(
    out: &mut String,
    leases: &BTreeMap<String, f64>,
    led: &BTreeMap<String, usize>,
    gossip: &[Value],
) {
    out.push_str("# HELP pubsub_partitions_led Partitions of a topic that this broker leads.\n# TYPE pubsub_partitions_led gauge\n");
    for (topic, count) in led {
        writeln!(out, "pubsub_partitions_led{{topic=\"{topic}\"}} {count}")
            .expect("writing to memory can't fail");
    }
    out.push_str(
        "# HELP pubsub_group_leases Topics held by consumers of groups.\n# TYPE pubsub_group_leases gauge\n",
    );
    writeln!(out, "pubsub_group_leases {}", leases.len()).expect("writing to memory can't fail");
    let states = states(gossip);
    out.push_str(
        "# HELP pubsub_gossip_members Brokers as gossip sees them.\n# TYPE pubsub_gossip_members gauge\n",
    );
    for (state, count) in states {
        writeln!(out, "pubsub_gossip_members{{state=\"{state}\"}} {count}")
            .expect("writing to memory can't fail");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_are_counted_by_pattern_and_not_by_name() {
        let requests = Requests::new();
        for route in [Some("/v1/topics/{topic}/publish"), Some("/topics/{topic}/publish"), None] {
            requests.note(&Method::POST, route, StatusCode::OK, Duration::from_millis(2));
        }
        let mut out = String::new();
        requests.write(&mut out);
        let line =
            "pubsub_http_requests_total{method=\"POST\",route=\"/topics/{topic}/publish\",status=\"200\"} 2";
        assert!(out.contains(line), "{out}");
        assert!(out.contains("pubsub_http_request_duration_seconds_count{route=\"none\"} 1"), "{out}");
        assert!(out.ends_with("# EOF\n"));
    }

    #[test]
    fn the_view_names_topics_led_and_counts_members() {
        let mut out = String::new();
        let gossip = [json!({"status": "alive"}), json!({"state": "dead"}), json!({})];
        write_view(
            &mut out,
            &BTreeMap::from([("a|g".into(), 1.0)]),
            &BTreeMap::from([("a".into(), 2)]),
            &gossip,
        );
        assert!(out.contains("pubsub_partitions_led{topic=\"a\"} 2\n"));
        assert!(out.contains("pubsub_group_leases 1\n"));
        assert!(out.contains("pubsub_gossip_members{state=\"dead\"} 1\n"));
    }
}
