//! Commands through their states, each step in the state file before it is told or acted on. A command is known by its
//! id, what was forgotten by its cursor: a redelivery never acts twice.
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use pitwall_proto::{
    mutant,
    state::{self, record::Body},
    v1::{self, CommandState, command_spec::Kind},
};
use prost::Message as _;

use super::Core;
use crate::{
    clock,
    io::Now,
    kept::{Kept, Stated as _},
    store::{Store, Ticket},
};

/// Commands that are remembered after their result was acknowledged.
const REMEMBERED: usize = 1_000;
/// Commands in all. More are not taken, nor is what comes behind them, as the cursor would pass them: they come again in
/// the next session, which begins when there is room.
pub(super) const COMMANDS_MAX: usize = 4_000;
const DETAIL_BYTES: usize = 2_000;

pub(super) fn is_terminal(state: CommandState) -> bool {
    use CommandState as S;
    match state {
        S::Unspecified | S::Queued | S::Sent | S::Received | S::Accepted | S::Running => false,
        S::Succeeded | S::Failed | S::Rejected | S::Expired | S::Cancelled | S::Superseded | S::Unknown => true,
    }
}

#[derive(Debug)]
struct Untold {
    ticket: Ticket,
    reached: state::Moment,
    /// Without its age.
    update: v1::CommandUpdate,
}

/// What this process of the sidecar knows of its commands besides what is kept.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// When the latest step of a command is durable.
    tickets: BTreeMap<String, Ticket>,
    /// An effect of it is under way, or it waits for the limit.
    pub acting: BTreeSet<String>,
    /// Started by an earlier life, and not taken up yet.
    pub recovered: BTreeSet<String>,
    /// An effect of it was begun in this process.
    pub begun: BTreeSet<String>,
    /// A note on the restart was put into the inbox, or tried.
    pub noted: BTreeSet<String>,
    /// Processes of the agent in the latest sample: pid and start ticks.
    pub alive: Option<BTreeSet<(i32, u64)>>,
    /// When this process began, on the boot clock.
    pub born: u64,
    untold: VecDeque<Untold>,
}

impl Work {
    pub fn recovered(kept: &Kept, now: Now) -> Self {
        let started =
            kept.commands.values().filter(|c| matches!(c.state(), CommandState::Accepted | CommandState::Running));
        let recovered = started.map(|c| c.id.clone()).collect();
        Self { recovered, born: now.boot_ms, ..Self::default() }
    }

    /// Here, or in an earlier process.
    pub fn has_begun(&self, id: &str) -> bool {
        self.acting.contains(id) || self.begun.contains(id) || self.recovered.contains(id)
    }

    pub fn session_ended(&mut self) {
        self.untold.clear();
    }

    pub fn nothing_untold(&self) -> bool {
        self.untold.is_empty()
    }

    /// The next update whose step is durable.
    pub fn next_untold(&mut self, store: &Store) -> Option<(v1::CommandUpdate, state::Moment)> {
        (store.is_durable(self.untold.front()?.ticket) || mutant!("told-before-fsync"))
            .then(|| self.untold.pop_front())?
            .map(|u| (u.update, u.reached))
    }

    /// The states of these commands as they are now.
    pub fn tell_again(&mut self, mut owed: Vec<state::Command>) {
        owed.sort_by_key(|c| c.cursor);
        self.untold.clear();
        owed.iter().for_each(|command| self.announce(command));
    }

    fn announce(&mut self, command: &state::Command) {
        let ticket = self.tickets.get(&command.id).copied().unwrap_or(0);
        let (id, detail) = (command.id.clone(), command.detail.clone());
        let update = v1::CommandUpdate { id, state: command.state, detail, age_ms: 0 };
        self.untold.push_back(Untold { ticket, reached: command.reached.clone().unwrap_or_default(), update });
    }
}

impl Core {
    pub(super) fn command(&self, id: &str) -> Option<(&state::Command, Option<Kind>)> {
        let command = self.kept.commands.get(id)?;
        Some((command, v1::CommandSpec::decode(command.spec.as_slice()).ok().and_then(|s| s.kind)))
    }

    pub(super) fn is_durable(&self, id: &str) -> bool {
        mutant!("act-before-persist") || self.work.tickets.get(id).is_none_or(|ticket| self.store.is_durable(*ticket))
    }

    /// Keeps the command as it is now.
    pub(super) fn keep(&mut self, command: state::Command) {
        let id = command.id.clone();
        let ticket = self.record(Body::Command(command));
        self.work.tickets.insert(id, ticket);
    }

    /// A step forward, to be told once it is durable. Terminal states stay.
    pub(super) fn step(&mut self, id: &str, to: CommandState, mut detail: String) {
        let Some(command) = self.kept.commands.get(id) else { return };
        if is_terminal(command.state()) {
            return;
        }
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES));
        let mut command = command.clone();
        command.set_state(to);
        command.detail = detail;
        command.reached = Some(clock::moment(self.now, &self.boot_id));
        self.keep(command);
        if is_terminal(to) {
            self.work.acting.remove(id);
            self.work.recovered.remove(id);
            self.work.begun.remove(id);
            self.work.noted.remove(id);
        }
        self.announce(id);
    }

    /// Its state as it is now; without a session it is told in the next.
    fn announce(&mut self, id: &str) {
        if let Some(command) = self.kept.commands.get(id).filter(|_| self.link.is_welcomed()) {
            self.work.announce(command);
        }
    }

    pub(super) fn delivered(&mut self, delivery: v1::CommandDelivery) {
        // A sidecar that stops takes nothing on: it comes again in the next session.
        if self.stop.is_some() || delivery.id.is_empty() {
            return;
        }
        if self.kept.commands.contains_key(&delivery.id) && !mutant!("no-dedupe") {
            // Overtaken meanwhile, it has another number: the next hello tells how far this went.
            if self.kept.cursor.command_cursor.is_some_and(|cursor| cursor < delivery.cursor) {
                self.received_to(delivery.cursor);
            }
            return self.announce(&delivery.id);
        }
        if self.leaves_for_later(&delivery.id) {
            return;
        }
        let forgotten = self.kept.cursor.command_cursor.is_some_and(|cursor| delivery.cursor <= cursor);
        let id = delivery.id.clone();
        let (state, detail) = if forgotten {
            (CommandState::Unknown, "it was received before and forgotten: it may have taken effect".to_owned())
        } else {
            (CommandState::Received, String::new())
        };
        self.keep(state::Command {
            id: id.clone(),
            cursor: delivery.cursor,
            spec: delivery.spec.unwrap_or_default().encode_to_vec(),
            received: Some(clock::moment(self.now, &self.boot_id)),
            start_within_ms: delivery.start_within_ms,
            state: state as i32,
            detail,
            reached: Some(clock::moment(self.now, &self.boot_id)),
            ..Default::default()
        });
        if !forgotten {
            self.received_to(delivery.cursor);
        }
        self.announce(&id);
    }

    fn received_to(&mut self, cursor: u64) {
        let cursor = state::Cursor { command_cursor: Some(cursor), ..self.kept.cursor.clone() };
        self.record(Body::Cursor(cursor));
    }

    /// There is no room for it, or there was none for one before it in this session.
    fn leaves_for_later(&mut self, id: &str) -> bool {
        let full = self.kept.commands.len() >= COMMANDS_MAX;
        let Some(welcomed) = self.link.welcomed() else { return full };
        if full && !std::mem::replace(&mut welcomed.left_for_later, true) {
            let text = format!(
                "too many commands without an acknowledged result ({COMMANDS_MAX}): {id} and what comes behind it is left \
                 for a later session"
            );
            self.log(true, text);
            return true;
        }
        welcomed.left_for_later
    }

    /// What was left comes again only in another session.
    pub(super) fn has_room_for_what_was_left(&mut self) -> bool {
        let room = self.kept.commands.len() < COMMANDS_MAX;
        self.link.welcomed().is_some_and(|w| w.left_for_later && room)
    }

    /// Overtakes what has not started; of what has, only a limit can still be taken back.
    pub(super) fn cancelled(&mut self, id: &str) {
        if mutant!("cancel-lost") {
            return;
        }
        match self.command(id) {
            None => {
                // Before the command itself: it will not be carried out when it comes.
                if self.kept.commands.len() < COMMANDS_MAX && !id.is_empty() {
                    self.keep(state::Command {
                        id: id.into(),
                        received: Some(clock::moment(self.now, &self.boot_id)),
                        state: CommandState::Received as i32,
                        ..Default::default()
                    });
                    self.step(id, CommandState::Cancelled, "before it arrived".into());
                }
            }
            Some((command, kind)) => match (command.state(), kind) {
                (CommandState::Received, _) => self.step(id, CommandState::Cancelled, "before it started".into()),
                // It waits for its turn: behind others, or for the disk.
                (CommandState::Accepted, Some(kind))
                    if !matches!(kind, Kind::Throttle(_)) && !self.work.has_begun(id) =>
                {
                    self.step(id, CommandState::Cancelled, "before it started".into());
                }
                (CommandState::Accepted | CommandState::Running, Some(Kind::Throttle(_))) => {
                    self.step(id, CommandState::Cancelled, "while it was being measured; the limit is undone".into());
                    self.end_lease(id, v1::LeaseState::Ended, "cancelled");
                }
                (state, _) if is_terminal(state) => self.announce(id),
                // Its effect is under way; its result comes.
                _ => {}
            },
        }
    }

    /// The last moment at which it may start, on the boot clock.
    fn start_by(&self, command: &state::Command) -> u64 {
        let received = command.received.clone().unwrap_or_default();
        let (age, _) = clock::age(self.now, &self.boot_id, &received);
        (self.now.boot_ms + u64::from(command.start_within_ms)).saturating_sub(age)
    }

    pub(super) fn may_still_start(&self, command: &state::Command) -> bool {
        let received = command.received.clone().unwrap_or_default();
        clock::age(self.now, &self.boot_id, &received).0 < u64::from(command.start_within_ms)
            || mutant!("expiry-ignored")
    }

    pub(super) fn settle_commands(&mut self) {
        let mut open: Vec<(u64, String, CommandState)> = self
            .kept
            .commands
            .values()
            .filter(|c| !is_terminal(c.state()))
            .map(|c| (c.cursor, c.id.clone(), c.state()))
            .collect();
        open.sort();
        // What an earlier process left rests until its state is known to be the newest.
        open.retain(|(_, id, _)| !self.resting.rests(id));
        for (_, id, _) in &open {
            // An earlier one may have ended it.
            match self.kept.commands.get(id).map(|c| c.state()) {
                Some(CommandState::Received) => self.consider(id),
                Some(CommandState::Accepted | CommandState::Running) => self.proceed(id),
                _ => {}
            }
        }
    }

    /// Received, not started: expires, is rejected, waits, or is accepted.
    fn consider(&mut self, id: &str) {
        let Some((command, kind)) = self.command(id) else { return };
        if !self.may_still_start(command) {
            let detail = format!("it could not start within {} ms of its receipt", command.start_within_ms);
            return self.step(id, CommandState::Expired, detail);
        }
        if self.stop.is_some() || self.only_observes() {
            return;
        }
        let Some(kind) = kind else {
            let detail = "this sidecar does not know this kind of command; a newer pitwall-sidecar may";
            return self.step(id, CommandState::Rejected, detail.into());
        };
        let command = command.clone();
        match self.fitness(&kind) {
            super::acting::Fitness::Fit => self.accept(command, &kind),
            super::acting::Fitness::NotYet => {}
            super::acting::Fitness::Never(why) => self.step(id, CommandState::Rejected, why),
        }
    }

    pub(super) fn commands_deadline(&self) -> Option<u64> {
        let waiting = self.kept.commands.values().filter(|c| c.state() == CommandState::Received);
        let waiting = waiting.filter(|c| !self.resting.rests(&c.id));
        let starts = waiting.map(|c| self.start_by(c));
        starts.chain(self.presence_deadline()).min()
    }

    /// Those whose result the orchestrator has; the oldest go first.
    pub(super) fn forget_old_commands(&mut self) {
        let done = self.kept.commands.values().filter(|c| c.acked && !self.kept.leases.contains_key(&c.id));
        let mut done: Vec<(u64, String)> = done.map(|c| (c.cursor, c.id.clone())).collect();
        if done.len() <= REMEMBERED {
            return;
        }
        done.sort();
        done.truncate(done.len() - REMEMBERED);
        for (_, id) in done {
            self.work.tickets.remove(&id);
            self.record_lazily(Body::CommandForgotten(state::CommandForgotten { id }));
        }
    }
}
