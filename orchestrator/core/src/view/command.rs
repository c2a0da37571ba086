//! Commands of the ledger, and the interventions that they are.
use pitwall_proto::v1;

use crate::{
    io::Millis,
    state::{CommandRecord, Promise, kind_name},
};

pub fn command(command: &CommandRecord) -> v1::Command {
    let steps = command.steps.iter().map(|(state, at, detail)| v1::CommandStep {
        state: *state as i32,
        at_unix_ms: *at,
        detail: detail.clone(),
    });
    v1::Command {
        id: command.issued.id.clone(),
        agent: command.issued.agent.clone(),
        spec: Some(command.spec.clone()),
        state: command.state as i32,
        detail: command.steps.last().map(|(_, _, detail)| detail.clone()).unwrap_or_default(),
        issued_unix_ms: command.issued_at,
        expires_unix_ms: command.issued.expires_ms,
        history: steps.collect(),
        origin: command.issued.origin.clone(),
    }
}

pub fn intervention(command: &CommandRecord) -> v1::Intervention {
    let target = match command.promise() {
        Promise::Verified(id) => id.to_string(),
        _ => command.issued.agent.clone(),
    };
    let delivered = command.delivered();
    v1::Intervention {
        id: command.issued.id.clone(),
        kind: kind_name(&command.spec).into(),
        target,
        promise: command.issued.promise.clone(),
        outcome: command.outcome as i32,
        issued_unix_ms: command.issued_at,
        received_unix_ms: command.reached(v1::CommandState::Received),
        delivered_unix_ms: delivered,
        effect_unix_ms: command.effect.as_ref().map(|(at, _)| *at),
        window_ends_unix_ms: delivered.unwrap_or(command.issued.expires_ms) + Millis::from(command.issued.window_ms),
        evidence: command.effect.as_ref().map(|(_, text)| text.clone()).unwrap_or_default(),
    }
}
