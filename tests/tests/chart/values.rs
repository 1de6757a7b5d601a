//! values.yaml and values.schema.json, side by side.

use crate::helm::root;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

fn schema() -> Value {
    let text = fs::read_to_string(root().join("charts/pubsub/values.schema.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn resolved<'a>(all: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str() {
        Some(name) => all.pointer(name.strip_prefix('#').unwrap()).unwrap(),
        None => schema,
    }
}

/// Collects the settings that a schema lists, e.g. `broker.log`.
fn listed(all: &Value, schema: &Value, at: &str, into: &mut BTreeSet<String>) {
    let properties = resolved(all, schema)["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        listed(all, property, &path, into);
        into.insert(path);
    }
}

/// Collects the settings that have a default, as far as the schema lists what is in them.
fn with_default(all: &Value, schema: &Value, values: &Value, at: &str, into: &mut BTreeSet<String>) {
    let schema = resolved(all, schema);
    if schema.get("properties").is_none() {
        return;
    }
    for (name, value) in values.as_object().into_iter().flatten() {
        let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
        with_default(all, &schema["properties"][name], value, &path, into);
        into.insert(path);
    }
}

/// Returns settings that only one of the two files has.
pub(crate) fn differences() -> Vec<String> {
    let schema = schema();
    let text = fs::read_to_string(root().join("charts/pubsub/values.yaml")).unwrap();
    let values: Value = serde_yaml::from_str(&text).unwrap();
    let (mut known, mut given) = (BTreeSet::new(), BTreeSet::new());
    listed(&schema, &schema, "", &mut known);
    with_default(&schema, &schema, &values, "", &mut given);
    // Helm's own.
    known.remove("global");
    // Names inside of lists have no default.
    let in_lists = |path: &&String| !given.contains(*path);
    let missing = known.iter().filter(in_lists).map(|path| format!("{path} is not in values.yaml"));
    let unknown = given.difference(&known).map(|path| format!("{path} is not in values.schema.json"));
    missing.chain(unknown).collect()
}

/// Returns objects of the schema that list what they hold, but take anything else too.
pub(crate) fn open_objects() -> Vec<String> {
    fn look(at: &str, schema: &Value, found: &mut Vec<String>) {
        let Some(object) = schema.as_object() else { return };
        if object.contains_key("properties")
            && object.get("additionalProperties") != Some(&Value::Bool(false))
        {
            found.push(at.to_owned());
        }
        for (key, value) in object {
            look(&format!("{at}/{key}"), value, found);
        }
    }
    let mut found = Vec::new();
    look("#", &schema(), &mut found);
    found
}
