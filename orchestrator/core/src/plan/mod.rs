//! The operator's plan: how it is written, every mistake in it with its place, and what the rules read of it.
mod types;

pub use types::{
    AgentPlan, AgentWindows, Check, Deliverable, DeliverableId, Plan, ProjectWindows, Quota, Resource, Rule,
};
