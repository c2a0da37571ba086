//! The ledger moves forward only: steps of a command, its expiry, and what is unknown in the end.
use pitwall_proto::{
    journal::{self, event::Body},
    mutant,
    v1::{self, CommandState, connect_response},
};

use super::{Project, facts::cut};
use crate::{
    io::{Millis, SessionId},
    state::{CommandRecord, is_terminal},
};

impl Project {
    pub(super) fn step(&mut self, id: &str, state: CommandState, detail: &str) {
        self.step_at(id, state, detail, None);
    }

    fn step_at(&mut self, id: &str, state: CommandState, detail: &str, reached_ms: Option<Millis>) {
        self.emit(Body::CommandStep(journal::CommandStep {
            id: id.into(),
            state: state as i32,
            detail: detail.into(),
            reached_ms,
            cursor: 0,
        }));
    }

    /// To its sidecar a position below one that was sent already is that of a command which it has forgotten: what was
    /// overtaken gets a new one.
    pub(super) fn step_sent(&mut self, id: &str) {
        let Some(command) = self.state.commands.get(id) else { return };
        let sent = self.state.agents.get(&command.issued.agent).map_or(0, |a| a.sent_cursor);
        let own = command.issued.cursor;
        let overtaken = own < sent && !mutant!("overtaken-keeps-its-number");
        self.emit(Body::CommandStep(journal::CommandStep {
            id: id.into(),
            state: CommandState::Sent as i32,
            cursor: if overtaken { self.state.next_cursor } else { own },
            ..Default::default()
        }));
    }

    /// What a sidecar says of a command. Acknowledged in any case, so that it stops repeating it.
    pub(super) fn on_update(&mut self, session: SessionId, agent: &str, update: v1::CommandUpdate) {
        let said = update.state();
        let ack = v1::CommandUpdateAck { id: update.id.clone(), state: update.state };
        if let Some(command) = self.state.commands.get(&update.id).filter(|c| c.issued.agent == agent)
            && moves_forward(command.state, said)
        {
            let age = Millis::try_from(update.age_ms).unwrap_or(Millis::MAX);
            // Never before it was issued: an absurd age must not credit anything.
            let reached = self.now.saturating_sub(age).max(command.issued_at);
            let detail = cut(update.detail);
            self.step_at(&update.id, said, &detail, Some(reached));
        }
        self.send(session, connect_response::Body::CommandUpdateAck(ack));
    }

    /// Commands that were never sent expire; what was sent and has no result in time is unknown.
    pub(super) fn pass_ledger(&mut self) {
        let due: Vec<(String, CommandState)> = self
            .state
            .unfinished_commands()
            .filter_map(|c| {
                let (at, end) = self.end_without_result(c);
                (at <= self.now).then(|| (c.issued.id.clone(), end))
            })
            .collect();
        for (id, end) in due {
            let detail = match end {
                CommandState::Expired => "it was not sent in time",
                _ => "no result came in time: it may or may not have taken effect",
            };
            self.step(&id, end, detail);
        }
        if let Some((at, why)) = self.intervention_deadline()
            && at <= self.now
            && self.batch.is_empty()
        {
            self.emit(Body::DeadlinePassed(journal::DeadlinePassed { why }));
        }
    }

    /// Even what was queued may have been sent by the history that is lost. A result that a sidecar still has refines it.
    pub(super) fn doubt_unfinished(&mut self, only_of: Option<&str>) {
        if mutant!("restored-ledger-trusted") {
            return;
        }
        let doubted = |c: &&CommandRecord| only_of.is_none_or(|agent| c.issued.agent == agent);
        for id in self.state.unfinished_commands().filter(doubted).map(|c| c.issued.id.clone()).collect::<Vec<_>>() {
            self.step(
                &id,
                CommandState::Unknown,
                "the journal was restored from a backup: it may have taken effect since",
            );
        }
    }

    fn end_without_result(&self, command: &CommandRecord) -> (Millis, CommandState) {
        let expires = command.issued.expires_ms;
        if command.state == CommandState::Queued {
            return (expires, CommandState::Expired);
        }
        let grace = self.state.plan.windows.result_grace_ms as Millis;
        (expires + grace + own_limit(&command.spec), CommandState::Unknown)
    }

    pub(super) fn ledger_deadline(&self) -> Option<(Millis, String)> {
        let ends = self.state.unfinished_commands().map(|c| {
            let (at, _) = self.end_without_result(c);
            (at, format!("command {} has no result", c.issued.id))
        });
        ends.chain(self.intervention_deadline()).min()
    }
}

/// Terminal states stay; only UNKNOWN is refined, once, by a late result.
fn moves_forward(from: CommandState, to: CommandState) -> bool {
    match from {
        CommandState::Unknown => is_terminal(to) && to != CommandState::Unknown,
        _ if is_terminal(from) => mutant!("result-overwritten") && to != from,
        _ => to as i32 > from as i32 && to as i32 >= CommandState::Received as i32,
    }
}

/// How long the command itself may take once started.
fn own_limit(spec: &v1::CommandSpec) -> Millis {
    use v1::command_spec::Kind;
    match &spec.kind {
        Some(Kind::Kill(kill)) => Millis::from(kill.grace_ms) + 10_000,
        Some(Kind::Restart(restart)) => Millis::from(restart.grace_ms) + 20_000,
        // Measured, or waited for samples.
        Some(Kind::Throttle(_)) => 20_000,
        _ => 10_000,
    }
}

#[cfg(test)]
mod tests {
    use CommandState as S;

    use super::*;

    #[test]
    fn a_command_moves_forward_only() {
        let table = [
            (S::Queued, S::Received, true),
            (S::Sent, S::Received, true),
            (S::Received, S::Accepted, true),
            (S::Running, S::Received, false),
            (S::Running, S::Running, false),
            (S::Sent, S::Sent, false),
            (S::Sent, S::Unspecified, false),
            (S::Accepted, S::Succeeded, true),
            (S::Succeeded, S::Failed, false),
            (S::Expired, S::Succeeded, false),
            (S::Unknown, S::Succeeded, true),
            (S::Unknown, S::Running, false),
            (S::Unknown, S::Unknown, false),
        ];
        for (from, to, forward) in table {
            assert_eq!(moves_forward(from, to), forward, "{from:?} -> {to:?}");
        }
    }
}
