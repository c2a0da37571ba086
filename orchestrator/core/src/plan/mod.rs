//! The operator's plan: how it is written, every mistake in it with its place, and what the rules read of it.
mod types;

pub use types::{
    AgentPlan, AgentWindows, Check, Deliverable, DeliverableId, Plan, ProjectWindows, Quota, Resource, Rule,
};
pub fn diff(_a: &Plan, _b: &Plan) -> Vec<String> {
    Vec::new()
}
pub fn agent_part(_p: &Plan, _a: &str, _g: u64) -> Option<pitwall_proto::v1::AgentPlan> {
    None
}
