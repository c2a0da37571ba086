//! What an operator may write. The JSON Schema comes from these types, and so does every list of known keys.
use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{
    mistake::Mistakes,
    node::{Node, Place, Value},
    raw_policy::{Health, NamedProcess, Quota, Restart},
    read::{
        Any, At, Count, Duration, Flag, OneOrMany, Positive, Read, Size, Table, Text, entries, section, unknown_key,
    },
};

section! {
    /// A team of agents and what each of them owes.
    Plan {
        /// The project's name: lower or upper case letters, digits, `.`, `_`, `-`.
        project: Text,
        /// What holds for every agent that does not say otherwise.
        defaults: AgentDefaults,
        /// Windows that belong to no single agent.
        windows: ProjectWindows,
        /// The roster, by name.
        agents: Table<Agent>,
    }
}

section! {
    AgentDefaults {
        /// An agent that was not seen by then is MISSING. Default 2m.
        expected_within: Duration,
        /// Without file event, evidence change or CPU use for so long it is STALLED. Default 5m.
        stall_after: Duration,
        /// Working for so long on what nobody waits for is misdirected. Default 10m.
        misdirected_after: Duration,
        /// WAITING ends by itself after so long unrenewed. Default 15m.
        waiting_for: Duration,
        /// File activity is summed up for so long. Default 10s.
        activity_every: Duration,
        /// How often the agent is measured. Default 1s.
        sample_every: Duration,
        /// How often the workspace is walked, whatever the file events say. Default 2s.
        rescan_every: Duration,
        /// Limits of use; what is absent is not limited.
        quota: Quota,
        /// Command names of processes that no quota ever kills.
        protect: OneOrMany<Text>,
        /// When the sidecar starts an agent again by itself, and how often at most.
        restart: Restart,
        /// Where directives are put, as the agent sees it; for people.
        inbox: Text,
        /// Windows of checks that do not say otherwise.
        checks: CheckDefaults,
    }
}

section! {
    CheckDefaults {
        /// How often a check is made when nothing hints at a change. Default 10s.
        every: Duration,
        /// Evidence older than this is unknown. Default 60s.
        fresh_for: Duration,
        /// How long it must fail, after it passed, before it counts as failed. Default 5s.
        hysteresis: Duration,
        /// Limit for one try. Default 5s.
        timeout: Duration,
    }
}

section! {
    ProjectWindows {
        /// Sign of life of every sidecar. Default 10s; LATE after 2, LOST after 4 without any.
        heartbeat_every: Duration,
        /// After an orchestrator start nobody is called late or lost for so long. Default 30s.
        start_grace: Duration,
        /// A command must start within so long unless it says otherwise. Default 10m.
        command_expiry: Duration,
        /// Added to the expiry before a command without result is UNKNOWN. Default 60s.
        result_grace: Duration,
        /// A promised effect must be verified within so long after delivery. Default 10m.
        effect_within: Duration,
        /// How long journaled events are kept one by one; older ones are compacted into a snapshot. Default 7d, at least 1h.
        keep: Duration,
        /// A host is told to be under pressure when it was short for so long (default 10s).
        host_pressure_after: Duration,
    }
}

section! {
    Agent {
        expected_within: Duration,
        stall_after: Duration,
        misdirected_after: Duration,
        waiting_for: Duration,
        activity_every: Duration,
        sample_every: Duration,
        rescan_every: Duration,
        quota: Quota,
        /// Command names of processes that no quota ever kills; besides those of the defaults.
        protect: OneOrMany<Text>,
        /// Services inside the agent with a use, quotas and a fate of their own, by name.
        processes: Table<NamedProcess>,
        restart: Restart,
        /// Is it well? By name.
        health: Table<Health>,
        inbox: Text,
        checks: CheckDefaults,
        /// What it owes, by name; at least one.
        deliverables: Table<Deliverable>,
    }
}

section! {
    Deliverable {
        /// For people.
        title: Text,
        /// Its share in progress. Default 1.
        weight: Positive,
        /// How long it takes from when its needs are met; without it, it is never overdue.
        estimate: Duration,
        /// Deliverables that must be verified first, as agent/deliverable.
        needs: OneOrMany<Text>,
        /// What proves it; at least one.
        checks: OneOrMany<Check>,
    }
}

section! {
    File {
        /// Relative to the workspace; may be a glob, then at least one file must pass.
        path: Text,
        /// Default 1: an empty file proves nothing.
        min_bytes: Size,
        max_bytes: Size,
        /// Every one of these must occur.
        contains: OneOrMany<Text>,
        /// None of these may occur.
        forbids: OneOrMany<Text>,
    }
}

section! {
    Directory {
        path: Text,
        /// Regular files below it, at any depth. Default 1.
        min_files: Count,
    }
}

section! {
    Http {
        /// http://HOST[:PORT]/PATH, as the sidecar reaches it.
        url: Text,
        /// Default 200.
        status: Count,
        /// JSON pointer to `present` or to the value it must equal.
        json: Table<Any>,
    }
}

section! {
    Tcp {
        /// host:port.
        address: Text,
    }
}

section! {
    Process {
        /// Command name of a process of the agent.
        name: Text,
    }
}

section! {
    Grpc {
        /// host:port, plaintext; it serves grpc.health.v1.
        address: Text,
        /// Default: the whole server.
        service: Text,
    }
}

/// One check: a rule, and windows of its own.
#[derive(Clone, Debug)]
pub struct Check {
    pub rule: Rule,
    pub place: Place,
    pub every: Option<At<Duration>>,
    pub fresh_for: Option<At<Duration>>,
    pub hysteresis: Option<At<Duration>>,
    pub timeout: Option<At<Duration>>,
    pub weight: Option<At<Positive>>,
    pub required: Option<At<Flag>>,
}

#[derive(Clone, Debug)]
pub enum Rule {
    File(File),
    Directory(Directory),
    Http(Http),
    Tcp(Tcp),
    Process(Process),
    Grpc(Grpc),
}

const RULES: [&str; 6] = ["file", "directory", "http", "tcp", "process", "grpc"];
const CHECK_KEYS: [&str; 12] = [
    "file",
    "directory",
    "http",
    "tcp",
    "process",
    "grpc",
    "every",
    "fresh_for",
    "hysteresis",
    "timeout",
    "weight",
    "required",
];

impl Read for Check {
    fn read(node: &Node, mistakes: &mut Mistakes) -> Option<Self> {
        if let Value::Text(text) = &node.value {
            return bare(text, node.place, mistakes);
        }
        let mut rules: Vec<(String, Option<Rule>)> = Vec::new();
        let (mut every, mut fresh_for, mut hysteresis, mut timeout) = (None, None, None, None);
        let (mut weight, mut required) = (None, None);
        for (key, place, value) in entries(node, mistakes)? {
            match key.as_str() {
                "every" => every = At::read(value, mistakes),
                "fresh_for" => fresh_for = At::read(value, mistakes),
                "hysteresis" => hysteresis = At::read(value, mistakes),
                "timeout" => timeout = At::read(value, mistakes),
                "weight" => weight = At::read(value, mistakes),
                "required" => required = At::read(value, mistakes),
                kind if RULES.contains(&kind) => rules.push((key.clone(), rule(kind, value, mistakes))),
                _ => unknown_key(&key, place, &CHECK_KEYS, mistakes),
            }
        }
        if rules.len() != 1 {
            let found = match rules.len() {
                0 => "this check has no rule".to_string(),
                _ => format!(
                    "this check has {} rules: {}",
                    rules.len(),
                    rules.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(", ")
                ),
            };
            mistakes.add(node.place, found, format!("give exactly one of {}", RULES.join(", ")));
            return None;
        }
        let rule = rules.pop().and_then(|(_, rule)| rule)?;
        Some(Self { rule, place: node.place, every, fresh_for, hysteresis, timeout, weight, required })
    }
}

/// `file: app/x.ts` in one string.
fn bare(text: &str, place: Place, mistakes: &mut Mistakes) -> Option<Check> {
    let told = text.split_once(':').map(|(kind, value)| (kind.trim(), value.trim()));
    let Some((kind, value)) = told.filter(|(kind, value)| RULES.contains(kind) && !value.is_empty()) else {
        mistakes.add(place, format!("{text:?} is no check"), "write it like `file: app/page.tsx` or `tcp: db:5432`");
        return None;
    };
    let node = Node { value: Value::Text(value.into()), place };
    let rule = rule(kind, &node, mistakes)?;
    Some(Check {
        rule,
        place,
        every: None,
        fresh_for: None,
        hysteresis: None,
        timeout: None,
        weight: None,
        required: None,
    })
}

/// A rule in full, or its main field alone.
pub(super) fn rule(kind: &str, node: &Node, mistakes: &mut Mistakes) -> Option<Rule> {
    let short = match &node.value {
        Value::Text(_) => Some(At { value: Text::read(node, mistakes)?, place: node.place }),
        _ => None,
    };
    Some(match kind {
        "file" if short.is_some() => Rule::File(File { path: short, ..File::default() }),
        "file" => Rule::File(File::read(node, mistakes)?),
        "directory" if short.is_some() => Rule::Directory(Directory { path: short, ..Directory::default() }),
        "directory" => Rule::Directory(Directory::read(node, mistakes)?),
        "http" if short.is_some() => Rule::Http(Http { url: short, ..Http::default() }),
        "http" => Rule::Http(Http::read(node, mistakes)?),
        "tcp" if short.is_some() => Rule::Tcp(Tcp { address: short }),
        "tcp" => Rule::Tcp(Tcp::read(node, mistakes)?),
        "grpc" if short.is_some() => Rule::Grpc(Grpc { address: short, ..Grpc::default() }),
        "grpc" => Rule::Grpc(Grpc::read(node, mistakes)?),
        _ if short.is_some() => Rule::Process(Process { name: short }),
        _ => Rule::Process(Process::read(node, mistakes)?),
    })
}

impl JsonSchema for Check {
    fn schema_name() -> Cow<'static, str> {
        "Check".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut properties = serde_json::Map::new();
        let text = generator.subschema_for::<Text>();
        let rules = [
            ("file", generator.subschema_for::<File>()),
            ("directory", generator.subschema_for::<Directory>()),
            ("http", generator.subschema_for::<Http>()),
            ("tcp", generator.subschema_for::<Tcp>()),
            ("process", generator.subschema_for::<Process>()),
            ("grpc", generator.subschema_for::<Grpc>()),
        ];
        for (name, schema) in rules {
            properties.insert(name.into(), serde_json::json!({ "anyOf": [text, schema] }));
        }
        let duration = generator.subschema_for::<Duration>();
        for window in ["every", "fresh_for", "hysteresis", "timeout"] {
            properties.insert(window.into(), duration.clone().to_value());
        }
        properties.insert("weight".into(), generator.subschema_for::<Positive>().to_value());
        properties.insert("required".into(), generator.subschema_for::<Flag>().to_value());
        let one: Vec<_> = RULES.iter().map(|rule| serde_json::json!({ "required": [rule] })).collect();
        json_schema!({
            "description": "One check: exactly one rule; weight 1 and required unless said otherwise.",
            "anyOf": [
                { "type": "string", "pattern": "^(file|directory|http|tcp|process|grpc):" },
                { "type": "object", "properties": properties, "additionalProperties": false, "oneOf": one }
            ]
        })
    }
}

pub fn plan(tree: &Node, mistakes: &mut Mistakes) -> Option<Plan> {
    Plan::read(tree, mistakes)
}

pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(Plan);
    schema.insert("title".into(), "Pitwall plan".into());
    schema.insert("required".into(), serde_json::json!(["project", "agents"]));
    schema.to_value()
}

/// Any list, with its place, for messages about its length.
pub fn many<T>(list: Option<At<OneOrMany<T>>>) -> Vec<At<T>> {
    list.map_or_else(Vec::new, |at| at.value.0)
}
