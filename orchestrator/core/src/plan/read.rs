//! How each kind of value is read from the tree: mistakes are told and reading goes on.
use std::{borrow::Cow, collections::BTreeMap};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    mistake::{Mistakes, nearest},
    node::{Node, Place, Value},
};

/// Longer texts are refused.
const STRING_MAX: usize = 4 * 1024;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct At<T> {
    pub value: T,
    pub place: Place,
}

pub trait Read: Sized {
    /// `None` after a mistake was told.
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self>;
}

impl<T: Read> Read for At<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        Some(Self { value: T::read(node, mistakes)?, place: node.place })
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

fn expected(node: &Node, mistakes: &mut Mistakes, what: &str, example: &str) {
    mistakes.add(node.place, format!("expected {what}, found {}", node.kind()), format!("for example {example}"));
}

/// Text. Numbers and truth values must be quoted, so that `on` or `1.10` mean what was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub String);

/// A span of time, `500ms`, `90s`, `10m`, `1h30m`; in milliseconds, above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Duration(pub u64);

/// An amount of memory, `512MiB`, `2GiB`, `1GB` or plain bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size(pub u64);

/// A finite number above 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Positive(pub f64);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Count(pub u64);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flag(pub bool);

/// Any value, as JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Any(pub serde_json::Value);

/// One value or a list of them.
#[derive(Clone, Debug)]
pub struct OneOrMany<T>(pub Vec<At<T>>);

#[derive(Clone, Debug)]
pub struct List<T>(pub Vec<At<T>>);

/// By name, each name once.
#[derive(Clone, Debug)]
pub struct Table<T>(pub BTreeMap<String, At<T>>);

macro_rules! leaf_schema {
    ($type:ty, $name:literal, $schema:tt) => {
        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

leaf_schema!(Text, "Text", { "type": "string", "maxLength": 4096 });
leaf_schema!(Duration, "Duration", { "type": "string", "pattern": "^([0-9]+(\\.[0-9]+)?(ms|s|m|h|d))+$" });
leaf_schema!(Size, "Size", { "type": ["string", "integer"], "pattern": "^[0-9]+(\\.[0-9]+)? ?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)?$" });
leaf_schema!(Positive, "Positive", { "type": "number", "exclusiveMinimum": 0 });
leaf_schema!(Count, "Count", { "type": "integer", "minimum": 0 });
leaf_schema!(Flag, "Flag", { "type": "boolean" });
leaf_schema!(Any, "Any", true);

impl Read for Text {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        match &node.value {
            Value::Text(text) if text.len() > STRING_MAX => {
                mistakes.add(
                    node.place,
                    format!("this text has {} bytes", text.len()),
                    format!("at most {STRING_MAX}"),
                );
                None
            }
            Value::Text(text) => Some(Self(text.clone())),
            Value::Bool(_) | Value::Integer(_) | Value::Number(_) => {
                mistakes.add(node.place, format!("expected a text, found {}", node.kind()), "put it in quotes");
                None
            }
            Value::Null | Value::List(_) | Value::Table(_) => {
                expected(node, mistakes, "a text", "\"app/page.tsx\"");
                None
            }
        }
    }
}

impl Read for Duration {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let parsed = match &node.value {
            Value::Text(text) => duration(text),
            _ => None,
        };
        if parsed.is_none() {
            let found = match &node.value {
                Value::Text(text) => format!("{text:?} is no span of time above 0"),
                Value::Integer(n) => format!("{n} has no unit"),
                _ => format!("expected a span of time, found {}", node.kind()),
            };
            mistakes.add(node.place, found, "write it like 500ms, 90s, 10m, 1h30m or 2d, at most 49d");
        }
        parsed.map(Self)
    }
}

fn duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let tail = &rest[digits..];
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let factor = match &tail[..letters] {
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 60e3,
            "h" => 3_600e3,
            "d" => 86_400e3,
            _ => return None,
        };
        total += number * factor;
        rest = &tail[letters..];
    }
    (1.0..=f64::from(u32::MAX)).contains(&total).then(|| total.round() as u64)
}

impl Read for Size {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let parsed = match &node.value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            Value::Text(text) => size(text),
            _ => None,
        };
        let parsed = parsed.filter(|n| *n > 0);
        if parsed.is_none() {
            let message = format!("expected an amount of memory above 0, found {}", node.kind());
            mistakes.add(node.place, message, "write it like 512MiB, 2GiB, 1GB or plain bytes");
        }
        parsed.map(Self)
    }
}

fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let factor = match text[digits..].trim() {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * factor;
    (0.0..=9e18).contains(&bytes).then_some(bytes as u64)
}

impl Read for Positive {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let number = match node.value {
            Value::Integer(n) => Some(n as f64),
            Value::Number(n) => Some(n),
            _ => None,
        };
        let number = number.filter(|n| n.is_finite() && *n > 0.0);
        if number.is_none() {
            mistakes.add(node.place, "expected a number above 0", "for example 2 or 0.5");
        }
        number.map(Self)
    }
}

impl Read for Count {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let count = match node.value {
            Value::Integer(n) => u64::try_from(n).ok(),
            _ => None,
        };
        if count.is_none() {
            expected(node, mistakes, "a whole number, 0 or above", "3");
        }
        count.map(Self)
    }
}

impl Read for Flag {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Bool(value) = node.value {
            return Some(Self(value));
        }
        expected(node, mistakes, "true or false", "true");
        None
    }
}

impl Read for Any {
    fn read(node: &Node, _: &mut Mistakes) -> Option<Self> {
        Some(Self(node.to_json()))
    }
}

impl<T: Read> Read for List<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let Value::List(items) = &node.value else {
            expected(node, mistakes, "a list", "[first, second]");
            return None;
        };
        Some(Self(items.iter().filter_map(|item| At::read(item, mistakes)).collect()))
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("List_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "type": "array", "items": item })
    }
}

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if matches!(node.value, Value::List(_)) {
            return List::read(node, mistakes).map(|list| Self(list.0));
        }
        Some(Self(vec![At::read(node, mistakes)?]))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("One_or_many_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item }] })
    }
}

impl<T: Read> Read for Table<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut table = BTreeMap::new();
        for (key, place, value) in entries(node, mistakes)? {
            if let Some(value) = T::read(value, mistakes) {
                table.insert(key, At { value, place });
            }
        }
        Some(Self(table))
    }
}

impl<T: JsonSchema> JsonSchema for Table<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Table_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": item })
    }
}

/// The entries of a table, each key once.
pub fn entries<'a>(node: &'a Node, mistakes: &mut Mistakes) -> Option<Vec<(String, Place, &'a Node)>> {
    let Value::Table(all) = &node.value else {
        expected(node, mistakes, "a table", "`key: value` lines, indented");
        return None;
    };
    let mut found: Vec<(String, Place, &Node)> = Vec::new();
    for (key, value) in all {
        let name = match &key.value {
            Value::Text(text) => text.clone(),
            // A name such as 404 or true is meant as a name.
            Value::Integer(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            _ => {
                mistakes.add(key.place, format!("a key must be a text, this is {}", key.kind()), "put it in quotes");
                continue;
            }
        };
        if let Some((_, first, _)) = found.iter().find(|(known, ..)| *known == name) {
            let message = format!("`{name}` stands here a second time, first in line {}", first.line);
            mistakes.add(key.place, message, "keep one of the two");
            continue;
        }
        found.push((name, key.place, value));
    }
    Some(found)
}

/// The key that a field is written as: `for` is a word of Rust, and its field is `r#for`.
pub fn key_of(field: &'static str) -> &'static str {
    field.strip_prefix("r#").unwrap_or(field)
}

pub fn unknown_key(key: &str, place: Place, known: &[&str], mistakes: &mut Mistakes) {
    let help = match nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known here: {}", known.join(", ")),
    };
    mistakes.add(place, format!("unknown key `{key}`"), help);
}

/// A table with fixed keys: the struct, its schema and its reader, from one list of fields.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, schemars::JsonSchema)]
        #[schemars(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: Option<$crate::plan::read::At<$type>>,)*
        }

        impl $crate::plan::read::Read for $name {
            fn read(
                node: &$crate::plan::node::Node,
                mistakes: &mut $crate::plan::mistake::Mistakes,
            ) -> Option<Self> {
                let mut section = Self::default();
                for (key, place, value) in $crate::plan::read::entries(node, mistakes)? {
                    $(if key == $crate::plan::read::key_of(stringify!($field)) {
                        section.$field = $crate::plan::read::Read::read(value, mistakes);
                        continue;
                    })*
                    let known = [$($crate::plan::read::key_of(stringify!($field))),*];
                    $crate::plan::read::unknown_key(&key, place, &known, mistakes);
                }
                Some(section)
            }
        }
    };
}
pub(super) use section;
