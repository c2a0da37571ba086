//! Commands as they are kept in a snapshot, and back.
use pitwall_proto::journal;

use super::{CommandRecord, parts, snapshot::word};

pub(super) fn command(command: &CommandRecord) -> journal::CommandSnapshot {
    let CommandRecord {
        issued,
        issued_at,
        // Inside `issued`, as bytes.
        spec: _,
        state,
        steps,
        cancel_requested,
        lease,
        effect,
        outcome,
        decided,
    } = command;
    let steps = steps.iter().map(|(state, at, detail)| journal::StepSnapshot {
        state: *state as i32,
        at_ms: *at,
        detail: detail.clone(),
    });
    journal::CommandSnapshot {
        issued: Some(issued.clone()),
        issued_at_ms: *issued_at,
        state: *state as i32,
        steps: steps.collect(),
        cancel_requested: *cancel_requested,
        lease: lease.as_ref().map(|(state, since, detail)| journal::LeaseSnapshot {
            state: *state as i32,
            since_ms: *since,
            detail: detail.clone(),
        }),
        effect: effect.as_ref().map(parts::happening),
        outcome: *outcome as i32,
        decided: *decided,
    }
}

pub(super) fn command_back(from: journal::CommandSnapshot) -> CommandRecord {
    let mut command = CommandRecord::new(from.issued.unwrap_or_default(), from.issued_at_ms);
    command.state = word(from.state);
    command.steps = from.steps.into_iter().map(|s| (word(s.state), s.at_ms, s.detail)).collect();
    command.cancel_requested = from.cancel_requested;
    command.lease = from.lease.map(|l| (word(l.state), l.since_ms, l.detail));
    command.effect = from.effect.map(parts::happening_back);
    command.outcome = word(from.outcome);
    command.decided = from.decided;
    command
}
