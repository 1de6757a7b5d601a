//! What many routes have in common, said once: what any change may come to, what any broker may be unable to do, and bodies
//! that are bytes.

use pubsub_core::wire::client::BATCH_MEDIA_TYPE;
use pubsub_core::wire::error::{ErrorCode, PROBLEM_JSON};
use utoipa::Modify;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{AnyOfBuilder, KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{Content, ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

/// Routes that answer from what the process itself knows.
const NODE_LOCAL: &[&str] =
    &["/livez", "/readyz", "/docs", "/openapi.json", "/metrics", "/stats", "/admin/leader", "/admin/events"];
/// Changes that pass no body on, because they take none.
const WITHOUT_BODY: &[&str] = &["/groups/{group}"];

/// Adds to each operation what follows from its kind.
pub(super) struct Answers;

impl Modify for Answers {
    fn modify(&self, openapi: &mut OpenApi) {
        for (path, item) in &mut openapi.paths.paths {
            let admin = path.starts_with("/admin/");
            if let Some(operation) = &mut item.get {
                also(operation, ErrorCode::Internal);
                if !NODE_LOCAL.contains(&path.as_str()) {
                    also(operation, ErrorCode::Unavailable);
                }
                check_parameters(operation);
                name_media_type(operation);
                show_bytes(operation);
            }
            for operation in changes(item) {
                also(operation, ErrorCode::Internal);
                also(operation, ErrorCode::Unavailable);
                also(operation, ErrorCode::OutcomeUnknown);
                if admin {
                    also(operation, ErrorCode::BrokerUnreachable);
                    also(operation, ErrorCode::Overloaded);
                }
                if !WITHOUT_BODY.contains(&path.as_str()) {
                    also(operation, ErrorCode::BodyTooLarge);
                    also(operation, ErrorCode::ValidationFailed);
                }
                check_parameters(operation);
                name_media_type(operation);
                show_bytes(operation);
            }
            if path == "/topics/{topic}/publish"
                && let Some(operation) = &mut item.post
            {
                one_or_many(operation);
            }
        }
    }
}

/// Gives problems the media type that they have.
fn name_media_type(operation: &mut Operation) {
    for (status, answer) in &mut operation.responses.responses {
        if let RefOr::T(answer) = answer
            && status.starts_with(['4', '5'])
            && let Some(content) = answer.content.shift_remove("application/json")
        {
            answer.content.insert(PROBLEM_JSON.to_owned(), content);
        }
    }
}

/// Shows bodies that are bytes as such: derived, they would be arrays of numbers.
fn show_bytes(operation: &mut Operation) {
    let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
    let bytes = ObjectBuilder::new().schema_type(Type::String).format(Some(format)).build();
    for media_type in ["application/octet-stream", BATCH_MEDIA_TYPE] {
        let mut shown = Vec::new();
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            shown.extend(body.content.get_mut(media_type));
        }
        for answer in operation.responses.responses.values_mut() {
            if let RefOr::T(answer) = answer {
                shown.extend(answer.content.get_mut(media_type));
            }
        }
        for content in shown {
            *content = RefOr::T(Content::new(Some(bytes.clone())));
        }
    }
}

/// Says that a publish is of one record or several, and answered accordingly: derived, a media type has one schema.
fn one_or_many(operation: &mut Operation) {
    let any = |names: &[&str]| {
        let any = names.iter().fold(AnyOfBuilder::new(), |any, name| any.item(Ref::from_schema_name(*name)));
        RefOr::T(Content::new(Some(Schema::AnyOf(any.build()))))
    };
    if let Some(RefOr::T(body)) = &mut operation.request_body
        && let Some(content) = body.content.get_mut("application/json")
    {
        *content = any(&["PublishRecord", "PublishMany"]);
    }
    if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200")
        && let Some(content) = answer.content.get_mut("application/json")
    {
        *content = any(&["Published", "PublishedMany", "PublishedBatch"]);
    }
}

fn changes(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.post, &mut item.patch, &mut item.delete].into_iter().flatten()
}

/// Says that a parameter may be refused, where there is one besides names in the path: those that don't fit name nothing.
fn check_parameters(operation: &mut Operation) {
    let checked = operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Path => parameter.name == "broker",
        RefOr::T(_) | RefOr::Ref(_) => true,
    });
    if checked {
        also(operation, ErrorCode::ValidationFailed);
    }
}

/// Names a code among the answers of its status.
fn also(operation: &mut Operation, code: ErrorCode) {
    let answers = &mut operation.responses.responses;
    match answers.get_mut(&code.status().to_string()) {
        Some(RefOr::T(answer)) => {
            let named = answer.description.split(|c: char| !c.is_ascii_uppercase() && c != '_');
            if !named.into_iter().any(|word| word == code.as_str()) {
                answer.description = format!("{code}; {}", answer.description);
            }
        }
        Some(RefOr::Ref(_)) => {}
        None => {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let answer =
                ResponseBuilder::new().description(code.as_str()).content(PROBLEM_JSON, content).build();
            answers.insert(code.status().to_string(), RefOr::T(answer));
        }
    }
}
