//! Answers that many routes have, said once: what any change may come to, and what any broker may be unable to do.

use pubsub_core::wire::error::{ErrorCode, PROBLEM_JSON};
use utoipa::Modify;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::{ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

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
