//! What the ledger owes to whom. Level-triggered: after each input every open session is sent what it was not sent yet.
//! Cancels come before commands: a cancel overtakes what waits. To a sidecar that only observes nothing is delivered.
//!
//! Commands have priorities: what acts (kill, restart, activate, throttle, unthrottle) goes before directives that wait, urgent
//! directives before others; within a class the order of the ledger holds. What was sent in an earlier stream, and may have
//! arrived, goes first of all, as it was.
//!
//! Of cancels and of commands [`UNDER_WAY_MAX`] at most are under way in one stream: what was sent in it and not answered
//! yet. Each answer lets the next one go. So the stream's outbound queue holds all that is owed at once (a stream whose queue
//! is full ends, and would end again in the same place), and what waits behind it arrives. Directives may not take all of it:
//! what acts goes out at once, however many of them wait or are not answered.
use pitwall_proto::{
    mutant,
    v1::{self, CommandState, Priority, command_spec::Kind, connect_response},
};

use super::Project;
use crate::{io::SessionId, state::CommandRecord};

/// Commands, and cancellations, that are under way in one stream. The shell's queue for a stream holds 256 messages.
const UNDER_WAY_MAX: usize = 64;
const DIRECTIVES_UNDER_WAY_MAX: usize = 48;

/// First goes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Act,
    UrgentDirective,
    Directive,
}

impl Class {
    fn of(command: &CommandRecord) -> Self {
        match &command.spec.kind {
            Some(Kind::Directive(d)) if d.priority() == Priority::Urgent => Self::UrgentDirective,
            Some(Kind::Directive(_)) => Self::Directive,
            _ => Self::Act,
        }
    }
}

/// `None`, the first of all: it was sent before.
fn turn(command: &CommandRecord) -> Option<Class> {
    (command.state == CommandState::Queued && !mutant!("kill-behind-directives")).then(|| Class::of(command))
}

/// What is under way in one stream.
#[derive(Default)]
struct Window {
    all: usize,
    directives: usize,
}

impl Window {
    fn add(&mut self, command: &CommandRecord) {
        self.all += 1;
        self.directives += usize::from(Class::of(command) != Class::Act);
    }

    /// What was sent in an earlier stream goes in its order, whatever it is.
    fn has_room_for(&self, command: &CommandRecord) -> bool {
        let is_new_directive = Class::of(command) != Class::Act && command.state == CommandState::Queued;
        self.all < UNDER_WAY_MAX && (!is_new_directive || self.directives < DIRECTIVES_UNDER_WAY_MAX)
    }
}

impl Project {
    /// Cancellations, deliveries, renewals.
    pub(super) fn owe_sessions(&mut self) {
        for session in self.sessions.ids() {
            self.owe_cancels(session);
            if !self.sessions.get(session).is_some_and(|open| self.only_observes(&open.agent)) {
                self.owe_commands(session);
                self.owe_renewals(session);
            }
            self.owe_pulse(session);
        }
    }

    fn owe_commands(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get(session) else { return };
        let of_agent = |c: &&CommandRecord| c.issued.agent == open.agent;
        // What is to be cancelled is not delivered again: the sidecar answers the cancellation in any case.
        let mut owed: Vec<&CommandRecord> = self
            .state
            .unfinished_commands()
            .filter(|c| of_agent(c) && !open.sent.contains(&c.issued.id))
            .filter(|c| matches!(c.state, CommandState::Queued | CommandState::Sent) && !c.cancel_requested)
            .filter(|c| c.issued.expires_ms > self.now)
            .collect();
        if owed.is_empty() {
            return;
        }
        let is_under_way = |c: &&CommandRecord| c.state == CommandState::Sent && open.sent.contains(&c.issued.id);
        let under_way = self.state.unfinished_commands().filter(of_agent).filter(is_under_way);
        let mut window = Window::default();
        under_way.for_each(|c| window.add(c));
        owed.sort_by_key(|c| (turn(c), c.issued.cursor));
        let owed: Vec<_> = owed
            .into_iter()
            .filter(|c| {
                let goes = window.has_room_for(c);
                if goes {
                    window.add(c);
                }
                goes
            })
            .map(|c| (c.issued.id.clone(), c.spec.clone(), c.state, c.issued.expires_ms))
            .collect();
        for (id, spec, state, expires) in owed {
            if state == CommandState::Queued {
                self.step_sent(&id);
            }
            if let Some(open) = self.sessions.get_mut(session) {
                open.sent.insert(id.clone());
            }
            let cursor = self.state.commands.get(&id).map_or(0, |c| c.issued.cursor);
            let start_within_ms = u32::try_from(expires - self.now).unwrap_or(u32::MAX);
            let delivery = v1::CommandDelivery { id, cursor, spec: Some(spec), start_within_ms };
            self.send(session, connect_response::Body::Command(delivery));
        }
    }

    fn owe_cancels(&mut self, session: SessionId) {
        let Some(open) = self.sessions.get(session) else { return };
        let cancelled =
            |c: &&CommandRecord| c.issued.agent == open.agent && c.cancel_requested && c.state != CommandState::Queued;
        // Answered is one whose command has ended.
        let (under_way, owed): (Vec<String>, Vec<String>) = self
            .state
            .unfinished_commands()
            .filter(cancelled)
            .map(|c| c.issued.id.clone())
            .partition(|id| open.cancels_sent.contains(id));
        for id in owed.into_iter().take(UNDER_WAY_MAX.saturating_sub(under_way.len())) {
            if let Some(open) = self.sessions.get_mut(session) {
                open.cancels_sent.insert(id.clone());
            }
            self.send(session, connect_response::Body::Cancel(v1::CancelDelivery { id }));
        }
    }
}
