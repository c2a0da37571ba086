//! The operator's plan: how it is written, every mistake in it with its place, and what the rules read of it.
//!
//! Text becomes a tree with places (`node`), the tree becomes what an operator may write (`raw`, which is also the
//! JSON Schema), and that becomes the [`Plan`] with every default filled in (`resolve`). All three collect mistakes
//! and go on, so that one run tells them all.
mod graph;
pub(crate) mod mistake;
pub(crate) mod node;
mod part;
mod policy;
mod raw;
mod raw_policy;
mod read;
mod resolve;
mod rules;
mod types;

pub use mistake::{Mistake, Mistakes};
pub use part::{agent_part, diff};
pub use types::{
    AgentPlan, AgentWindows, Check, Deliverable, DeliverableId, HOST_PRESSURE_AFTER_DEFAULT_MS, Health,
    KEEP_DEFAULT_MS, KEEP_MIN_MS, NamedProcess, OnExceed, OnUnhealthy, Plan, ProjectWindows, Quota, Resource,
    RestartOn, RestartPolicy, Rule,
};

/// A longer plan is refused before it is read.
pub const TEXT_MAX: usize = 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Parsed {
    pub plan: Plan,
    /// Not wrong, but perhaps not meant.
    pub warnings: Vec<String>,
}

/// Reads a plan, or tells every mistake in it.
pub fn parse(text: &str, file_name: &str) -> Result<Parsed, Mistakes> {
    let mut mistakes = Mistakes::new(text, file_name);
    if text.len() > TEXT_MAX {
        let mut too_long = Mistakes::new("", file_name);
        too_long.add(
            node::Place::START,
            format!("the plan has {} bytes, at most {TEXT_MAX} are read", text.len()),
            "split the team into several projects",
        );
        return Err(too_long);
    }
    let read = node::read(text, &mut mistakes).and_then(|tree| raw::plan(&tree, &mut mistakes));
    let parsed = read.map(|raw| resolve::resolve(raw, &mut mistakes));
    match parsed {
        Some(parsed) if mistakes.list.is_empty() => Ok(parsed),
        _ => Err(mistakes.sorted()),
    }
}

/// The JSON Schema of a plan, from the same types that read it.
pub fn schema() -> serde_json::Value {
    raw::schema()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod policy_tests;
