//! The JSON schema of scenario files, made from the types that read them.

use serde_json::Value;

use super::raw;

/// The schema as JSON: what editors check a scenario file with while it is written.
#[must_use]
pub fn schema() -> Value {
    let mut schema = Value::from(schemars::schema_for!(raw::Scenario));
    without_null(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".into(), "Trialnet scenario".into());
    }
    schema
}

/// TOML has no null, so an optional value is either there or not.
fn without_null(value: &mut Value) {
    if let Some(Value::Array(types)) = value.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            value["type"] = only.clone();
        }
    }
    if let Some(Value::Array(choices)) = value.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type") != Some(&Value::from("null")));
        if let [only] = choices.as_slice() {
            let only = only.clone();
            let object = value.as_object_mut().expect("it has a member");
            object.remove("anyOf");
            for (key, inner) in only.as_object().into_iter().flatten() {
                object.entry(key.clone()).or_insert_with(|| inner.clone());
            }
        }
    }
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(without_null),
        Value::Object(members) => members.values_mut().for_each(without_null),
        _ => {}
    }
}
