//! As much of JSON Schema as the plan's schema uses; a keyword that is not known here fails the test.
use serde_json::Value;

/// Everything in `value` that the schema does not permit.
pub fn violations(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(schema, schema, value, "", &mut found);
    found
}

fn check(root: &Value, schema: &Value, value: &Value, path: &str, found: &mut Vec<String>) {
    let keywords = match schema {
        Value::Bool(true) => return,
        Value::Object(keywords) => keywords,
        other => panic!("{path}: {other} is no schema"),
    };
    let mut wrong = |why: String| found.push(format!("{path}: {why}"));
    for (keyword, rule) in keywords {
        match keyword.as_str() {
            // For people, or, like patterns, for tools with a regex engine.
            "$schema" | "$defs" | "title" | "description" | "default" | "format" | "pattern" | "examples" => {}
            "type" => {
                let types: Vec<&str> = match rule {
                    Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
                    one => one.as_str().into_iter().collect(),
                };
                if !types.iter().any(|t| is(value, t)) {
                    wrong(format!("{value} is none of {types:?}"));
                }
            }
            "enum" => {
                if !rule.as_array().expect("a list").contains(value) {
                    wrong(format!("{value} is none of {rule}"));
                }
            }
            "const" => {
                if rule != value {
                    wrong(format!("{value} is not {rule}"));
                }
            }
            "required" => {
                for name in rule.as_array().expect("a list").iter().filter_map(Value::as_str) {
                    if value.is_object() && value.get(name).is_none() {
                        wrong(format!("{name} is missing"));
                    }
                }
            }
            "minimum" | "exclusiveMinimum" | "maximum" => {
                if let (Some(value), Some(limit)) = (value.as_f64(), rule.as_f64()) {
                    let fine = match keyword.as_str() {
                        "minimum" => value >= limit,
                        "maximum" => value <= limit,
                        _ => value > limit,
                    };
                    if !fine {
                        wrong(format!("{value} against {keyword} {limit}"));
                    }
                }
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                let size = match (keyword.ends_with("Length"), keyword.ends_with("Items")) {
                    (true, _) => value.as_str().map(|s| s.chars().count()),
                    (_, true) => value.as_array().map(Vec::len),
                    _ => value.as_object().map(serde_json::Map::len),
                };
                let limit = usize::try_from(rule.as_u64().expect("a number")).expect("it fits");
                if size.is_some_and(|s| if keyword.starts_with("min") { s < limit } else { s > limit }) {
                    wrong(format!("against {keyword} {limit}"));
                }
            }
            "$ref" | "properties" | "additionalProperties" | "items" | "anyOf" | "oneOf" | "allOf" => {}
            other => panic!("{path}: keyword {other} is not known here"),
        }
    }
    nested(root, keywords, value, path, found);
}

fn nested(root: &Value, keywords: &serde_json::Map<String, Value>, value: &Value, path: &str, found: &mut Vec<String>) {
    if let Some(reference) = keywords.get("$ref").and_then(Value::as_str) {
        let target =
            root.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference} is nowhere"));
        check(root, target, value, path, found);
    }
    if let Value::Object(fields) = value {
        let named = keywords.get("properties").and_then(Value::as_object);
        for (name, field) in fields {
            let path = format!("{path}/{name}");
            match (named.and_then(|n| n.get(name)), keywords.get("additionalProperties")) {
                (Some(schema), _) => check(root, schema, field, &path, found),
                (None, Some(Value::Bool(false))) => found.push(format!("{path}: unknown key")),
                (None, Some(schema)) => check(root, schema, field, &path, found),
                (None, None) => {}
            }
        }
    }
    if let (Value::Array(items), Some(schema)) = (value, keywords.get("items")) {
        for (i, item) in items.iter().enumerate() {
            check(root, schema, item, &format!("{path}/{i}"), found);
        }
    }
    for keyword in ["anyOf", "oneOf", "allOf"] {
        let Some(schemas) = keywords.get(keyword).and_then(Value::as_array) else { continue };
        let tried: Vec<Vec<String>> = schemas
            .iter()
            .map(|schema| {
                let mut inner = Vec::new();
                check(root, schema, value, path, &mut inner);
                inner
            })
            .collect();
        let fitting = tried.iter().filter(|inner| inner.is_empty()).count();
        let fine = match keyword {
            "anyOf" => fitting > 0,
            "oneOf" => fitting == 1,
            _ => fitting == schemas.len(),
        };
        if !fine {
            found.push(format!("{path}: {fitting} of {keyword} fit: {}", tried.concat().join("; ")));
        }
    }
}

fn is(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other} is not known here"),
    }
}
