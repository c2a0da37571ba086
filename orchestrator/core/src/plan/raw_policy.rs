//! How an operator writes what the sidecar may do by itself: quotas that act, named processes, restarts, health checks.
//! Part of `raw.rs`; what it means is made of it in `policy.rs`.
use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    mistake::{Mistakes, nearest},
    node::{Node, Place, Value},
    raw,
    read::{At, Count, Duration, Flag, Positive, Read, Size, Text, entries, section, unknown_key},
    types::{OnExceed, OnUnhealthy, RestartOn},
};

section! {
    Quota {
        /// Cores, for example 2 or 0.5.
        cpu: Limit<Positive>,
        /// For example 2GiB.
        memory: Limit<Size>,
        /// Processes and threads.
        pids: Limit<Count>,
        /// What lies in the workspace, for example 20GiB.
        disk: Limit<Size>,
        /// On all devices together, for example 8GiB.
        gpu_memory: Limit<Size>,
        /// How long the use must be above a limit. Default 30s.
        r#for: Duration,
        /// What the sidecar does by itself at a hard limit. Default warn.
        on_exceed: OnExceed,
        /// So long after it did something it does nothing more for this quota. Default 2m.
        cooldown: Duration,
    }
}

section! {
    NamedProcess {
        /// Its command name, or `name:` and `command:` (what its command line holds). Default: the name that it has here.
        r#match: Match,
        /// Limits of its own use.
        quota: Quota,
        /// What the sidecar does by itself at a hard limit of it. Default warn.
        on_exceed: OnExceed,
        /// No quota of the agent ever kills it. Default false.
        protect: Flag,
    }
}

section! {
    Restart {
        /// When the sidecar starts an agent again that it started: never, failure or always. Default never.
        on: RestartOn,
        /// Before the first restart; doubled with each further one. Default 1s.
        backoff: Duration,
        /// Default 5m.
        backoff_max: Duration,
        /// After so long without a restart the count begins anew. Default 10m.
        stable_after: Duration,
        /// Restarts in a row; then the sidecar gives up. Default 5.
        max: Count,
    }
}

section! {
    Startup {
        /// Failures do not count for so long after the agent began, until it was well once. Default 30s.
        within: Duration,
    }
}

/// A limit alone, or two of them and what to do about it.
#[derive(Clone, Debug)]
pub struct Limit<T> {
    pub soft: Option<At<T>>,
    pub hard: Option<At<T>>,
    pub r#for: Option<At<Duration>>,
    pub on_exceed: Option<At<OnExceed>>,
    pub cooldown: Option<At<Duration>>,
}

const LIMIT_KEYS: [&str; 5] = ["soft", "hard", "for", "on_exceed", "cooldown"];

impl<T: Read> Read for Limit<T> {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut limit = Self { soft: None, hard: None, r#for: None, on_exceed: None, cooldown: None };
        if !matches!(node.value, Value::Table(_)) {
            limit.hard = Some(At::read(node, mistakes)?);
            return Some(limit);
        }
        let mut said = false;
        for (key, place, value) in entries(node, mistakes)? {
            said |= matches!(key.as_str(), "soft" | "hard");
            match key.as_str() {
                "soft" => limit.soft = At::read(value, mistakes),
                "hard" => limit.hard = At::read(value, mistakes),
                "for" => limit.r#for = At::read(value, mistakes),
                "on_exceed" => limit.on_exceed = At::read(value, mistakes),
                "cooldown" => limit.cooldown = At::read(value, mistakes),
                _ => unknown_key(&key, place, &LIMIT_KEYS, mistakes),
            }
        }
        if !said {
            mistakes.add(node.place, "this quota has no limit", "give `hard:`, `soft:` or both");
            return None;
        }
        Some(limit)
    }
}

impl<T: JsonSchema> JsonSchema for Limit<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Limit_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let amount = generator.subschema_for::<T>();
        let duration = generator.subschema_for::<Duration>();
        let on_exceed = generator.subschema_for::<OnExceed>();
        json_schema!({
            "description": "A limit alone, or a soft one (told only) and a hard one with what the sidecar does at it.",
            "anyOf": [
                amount,
                {
                    "type": "object",
                    "properties": {
                        "soft": amount, "hard": amount, "for": duration, "on_exceed": on_exceed, "cooldown": duration
                    },
                    "anyOf": [ { "required": ["soft"] }, { "required": ["hard"] } ],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// A command name, or more.
#[derive(Clone, Debug, Default)]
pub struct Match {
    pub name: Option<At<Text>>,
    pub command: Option<At<Text>>,
}

impl Read for Match {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let mut found = Self::default();
        if !matches!(node.value, Value::Table(_)) {
            found.name = Some(At::read(node, mistakes)?);
            return Some(found);
        }
        let mut told = false;
        for (key, place, value) in entries(node, mistakes)? {
            match key.as_str() {
                "name" => found.name = At::read(value, mistakes),
                "command" => found.command = At::read(value, mistakes),
                _ => {
                    told = true;
                    unknown_key(&key, place, &["name", "command"], mistakes);
                }
            }
        }
        // What is missing beside it was told already.
        (!told).then_some(found)
    }
}

impl JsonSchema for Match {
    fn schema_name() -> Cow<'static, str> {
        "Match".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = generator.subschema_for::<Text>();
        let table = serde_json::json!({
            "type": "object", "properties": { "name": text, "command": text }, "minProperties": 1, "additionalProperties": false
        });
        json_schema!({ "anyOf": [text, table] })
    }
}

/// Exactly one rule, as a check has it, and thresholds.
#[derive(Clone, Debug)]
pub struct Health {
    pub rule: raw::Rule,
    pub place: Place,
    pub startup: Option<At<Startup>>,
    pub every: Option<At<Duration>>,
    pub timeout: Option<At<Duration>>,
    pub failures: Option<At<Count>>,
    pub successes: Option<At<Count>>,
    pub on_failure: Option<At<OnUnhealthy>>,
}

const HEALTH_RULES: [&str; 4] = ["http", "tcp", "grpc", "process"];
const HEALTH_KEYS: [&str; 10] =
    ["http", "tcp", "grpc", "process", "startup", "every", "timeout", "failures", "successes", "on_failure"];

impl Read for Health {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        let (mut startup, mut every, mut timeout) = (None, None, None);
        let (mut failures, mut successes, mut on_failure) = (None, None, None);
        let mut rules = Vec::new();
        for (key, place, value) in entries(node, mistakes)? {
            match key.as_str() {
                "startup" => startup = At::read(value, mistakes),
                "every" => every = At::read(value, mistakes),
                "timeout" => timeout = At::read(value, mistakes),
                "failures" => failures = At::read(value, mistakes),
                "successes" => successes = At::read(value, mistakes),
                "on_failure" => on_failure = At::read(value, mistakes),
                kind if HEALTH_RULES.contains(&kind) => rules.push(raw::rule(kind, value, mistakes)),
                _ => unknown_key(&key, place, &HEALTH_KEYS, mistakes),
            }
        }
        if rules.len() != 1 {
            let found = format!("this health check has {} rules", rules.len());
            mistakes.add(node.place, found, format!("give exactly one of {}", HEALTH_RULES.join(", ")));
            return None;
        }
        let rule = rules.pop().flatten()?;
        Some(Self { rule, place: node.place, startup, every, timeout, failures, successes, on_failure })
    }
}

impl JsonSchema for Health {
    fn schema_name() -> Cow<'static, str> {
        "Health".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let text = generator.subschema_for::<Text>();
        let duration = generator.subschema_for::<Duration>();
        let count = generator.subschema_for::<Count>();
        let mut properties = serde_json::Map::new();
        let rules = [
            ("http", generator.subschema_for::<raw::Http>()),
            ("tcp", generator.subschema_for::<raw::Tcp>()),
            ("grpc", generator.subschema_for::<raw::Grpc>()),
            ("process", generator.subschema_for::<raw::Process>()),
        ];
        for (name, schema) in rules {
            properties.insert(name.into(), serde_json::json!({ "anyOf": [text, schema] }));
        }
        let others = [
            ("startup", generator.subschema_for::<Startup>()),
            ("every", duration.clone()),
            ("timeout", duration),
            ("failures", count.clone()),
            ("successes", count),
            ("on_failure", generator.subschema_for::<OnUnhealthy>()),
        ];
        properties.extend(others.map(|(name, schema)| (name.into(), schema.to_value())));
        let one: Vec<_> = HEALTH_RULES.iter().map(|rule| serde_json::json!({ "required": [rule] })).collect();
        json_schema!({
            "description": "Is the agent well? Exactly one rule. Default: every 10s, 3 failures, 1 success, on_failure warn.",
            "type": "object", "properties": properties, "additionalProperties": false, "oneOf": one
        })
    }
}

/// One word of a few.
macro_rules! word {
    ($type:ident, $what:literal, { $($word:literal => $value:ident,)* }) => {
        impl Read for $type {
            fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
                const WORDS: &[&str] = &[$($word),*];
                let found = match &node.value {
                    $(Value::Text(text) if text == $word => return Some(Self::$value),)*
                    Value::Text(text) => text.as_str(),
                    _ => "",
                };
                let help = match nearest(found, WORDS.iter().copied()).filter(|_| !found.is_empty()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("one of {}", WORDS.join(", ")),
                };
                let message = match found {
                    "" => format!("expected {}, found {}", $what, node.kind()),
                    found => format!("{found:?} is not {}", $what),
                };
                mistakes.add(node.place, message, help);
                None
            }
        }

        impl JsonSchema for $type {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "enum": [$($word),*] })
            }
        }
    };
}

word!(OnExceed, "what a quota can do", {
    "warn" => Warn,
    "throttle" => Throttle,
    "kill_process" => KillProcess,
    "restart" => Restart,
    "freeze" => Freeze,
});
word!(RestartOn, "when to restart", { "never" => Never, "failure" => Failure, "always" => Always, });
word!(OnUnhealthy, "what a health check can do", { "warn" => Warn, "restart" => Restart, });
