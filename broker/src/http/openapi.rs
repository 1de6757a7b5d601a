//! The API's description, generated from the handlers, and a page that shows it without any other host's help.

mod answers;

use answers::Answers;
use axum::response::{Html, IntoResponse, Response};
use http::{HeaderValue, header};
use pubsub_core::wire::client::{PublishedBatch, PublishedMany};
use std::sync::LazyLock;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Pubsub broker",
        description = "Publish, read and manage topics. Any broker serves any request.",
        contact(name = "The Pubsub maintainers"),
    ),
    servers((url = "/v1", description = "This broker"), (url = "/", description = "This broker, the same routes")),
    paths(
        super::publish::publish,
        super::records::records,
        super::stream::stream,
        super::poll::poll,
        super::groups::subscribe,
        super::groups::unsubscribe,
        super::groups::commit,
        super::groups::list,
        super::groups::describe,
        super::groups::remove,
        super::groups::reset::reset,
        super::look::replicas,
        super::look::metadata,
        super::look::controller,
        super::look::isr,
        super::look::brokers,
        super::look::topics,
        super::events::events,
        super::look::topic,
        super::admin::create::create,
        super::admin::batch::create_many,
        super::admin::alter,
        super::admin::remove::remove,
        super::admin::replicas::add_replica,
        super::admin::replicas::add_replica_on,
        super::admin::replicas::remove_replica,
        super::admin::replicas::reassign,
        super::admin::replicas::cancel,
        super::admin::brokers::drain,
        super::admin::brokers::cancel_drain,
        super::admin::brokers::elect,
        super::ops::stats,
        super::ops::metrics,
        super::ops::livez,
        super::ops::readyz,
        super::ops::cluster_health,
        document,
        page,
    ),
    components(schemas(PublishedMany, PublishedBatch)),
    modifiers(&Answers)
)]
struct Api;

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| Api::openapi().to_pretty_json().expect("a document of strings and numbers"));

/// Describes the API (OpenAPI 3.1).
#[utoipa::path(get, path = "/openapi.json", tag = "operations", responses((status = 200, description = "This document")))]
pub(crate) async fn document() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.as_str())
        .into_response()
}

/// Shows the API to people.
#[utoipa::path(get, path = "/docs", tag = "operations", responses((status = 200, description = "A page", body = String, content_type = "text/html")))]
pub(crate) async fn page() -> Html<&'static str> {
    Html(include_str!("docs.html"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pubsub_core::wire::error::ErrorCode;

    #[test]
    fn the_document_describes_every_route_of_the_router() {
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).unwrap();
        assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
        assert_eq!(document["info"]["title"], "Pubsub broker");
        assert_eq!(document["info"]["contact"]["name"], "The Pubsub maintainers");
        let source = include_str!("../http.rs");
        let routes: Vec<_> =
            source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")).collect();
        assert!(routes.len() > 20);
        for route in routes {
            let (path, methods) = route.split_once('"').unwrap();
            if methods.contains("panics") || methods.contains("takes") {
                continue;
            }
            for method in ["get", "post", "patch", "delete"] {
                let served = methods.contains(&format!("{method}("));
                let described = document["paths"][path].get(method).is_some();
                assert_eq!(served, described, "{method} {path}");
            }
        }
    }

    /// Regenerated with `UPDATE_GOLDEN=1`; the difference is what changes for clients.
    #[test]
    fn the_document_is_the_one_that_was_agreed_on() {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/openapi.json");
        let document = format!("{}\n", *DOCUMENT);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(golden, &document).unwrap();
        }
        let agreed = std::fs::read_to_string(golden).unwrap();
        let differs = agreed.lines().zip(document.lines()).position(|(agreed, now)| agreed != now);
        assert_eq!(differs, None, "tests/golden/openapi.json differs from this line on");
        assert_eq!(agreed.len(), document.len(), "tests/golden/openapi.json");
    }

    #[test]
    fn every_reference_in_the_document_is_defined() {
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).unwrap();
        let defined = document["components"]["schemas"].as_object().unwrap();
        let references =
            DOCUMENT.split("#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap());
        for name in references {
            assert!(defined.contains_key(name), "{name}");
        }
    }

    #[test]
    fn problems_are_described_with_the_codes_that_are_sent() {
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).unwrap();
        let described = &document["components"]["schemas"]["ErrorCode"]["enum"];
        let sent: Vec<&str> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(*described, serde_json::json!(sent));
    }

    #[test]
    fn a_publish_is_described_with_every_body_and_answer_that_it_has() {
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).unwrap();
        let publish = &document["paths"]["/topics/{topic}/publish"]["post"];
        let json = |holder: &serde_json::Value| {
            let schemas = holder["content"]["application/json"]["schema"]["anyOf"].as_array().unwrap();
            let name = |schema: &serde_json::Value| {
                schema["$ref"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
            };
            schemas.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(json(&publish["requestBody"]), ["PublishRecord", "PublishMany"]);
        assert_eq!(json(&publish["responses"]["200"]), ["Published", "PublishedMany", "PublishedBatch"]);
        for media_type in ["application/octet-stream", "application/vnd.pubsub.batch"] {
            let bytes = &publish["requestBody"]["content"][media_type]["schema"];
            assert_eq!(*bytes, serde_json::json!({"type": "string", "format": "binary"}), "{media_type}");
        }
    }

    #[test]
    fn the_page_needs_no_other_host() {
        let page = include_str!("docs.html");
        assert!(!page.contains("http://") && !page.contains("https://"));
    }
}
