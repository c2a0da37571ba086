//! From an accepted command to its effects, and from their outcomes to its result. The intent is durable before the
//! effect. What an earlier life had begun and not recorded is repeated only where that cannot act twice (a directive; a
//! signal to the very same process); else what is seen decides, or it ends UNKNOWN.
use std::collections::BTreeSet;

use pitwall_proto::{
    mutant, state, throttle,
    v1::{self, CommandState, command_spec::Kind, fact},
};

use super::Core;
use crate::{
    directive,
    io::{Effect, EffectId, EffectOutcome, Sample},
    kept::Stated as _,
    slot::{SLOTS_MAX, SlotKey},
};

const KILL_GRACE_MS: u32 = 2_000;
const RESTART_GRACE_MS: u32 = 5_000;
/// Commands whose effects are under way at once; kills do not count. With those below the bound of the shell.
const EFFECTS_MAX: usize = 16;
/// Kills that are under way at once; the others wait for those.
pub(super) const KILLS_MAX: usize = 32;
/// How long a new life waits for a first sample before it gives up on what an earlier one had begun.
const PRESENCE_WITHIN_MS: u64 = 10_000;
/// So long a process that a kill did not end is looked for.
const WATCH_KILLED_MS: u64 = 600_000;

/// Whom the outcome of an effect concerns.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Purpose {
    Directive(String),
    /// The note before a restart that was commanded.
    Note(String),
    Kill(String),
    End(String),
    Launch(String),
    Examine(SlotKey),
    Hold(SlotKey),
    Verify(SlotKey),
    Release(SlotKey),
    StopAgent,
    CleanUp,
    /// Of an act of the sidecar's own policy.
    Own(String),
}

pub(super) enum Fitness {
    Fit,
    /// Something else has to be over, or seen, first.
    NotYet,
    /// Why, and what would enable it.
    Never(String),
}

pub(super) fn process(p: &v1::ProcessIdentity) -> state::Process {
    state::Process { pid: p.pid, start_ticks: p.start_ticks, name: p.name.clone() }
}

pub(super) fn identity(p: &state::Process) -> v1::ProcessIdentity {
    v1::ProcessIdentity { pid: p.pid, start_ticks: p.start_ticks, name: p.name.clone() }
}

pub(super) fn same(a: &v1::ProcessIdentity, b: &state::Process) -> bool {
    a.pid == b.pid && a.start_ticks == b.start_ticks
}

pub(super) fn shown(p: &v1::ProcessIdentity) -> String {
    if p.name.is_empty() { format!("pid {}", p.pid) } else { format!("{} (pid {})", p.name, p.pid) }
}

/// What went wrong, for an outcome that is not the one hoped for.
pub(super) fn failure(outcome: EffectOutcome) -> String {
    match outcome {
        EffectOutcome::Failed { why } => why,
        EffectOutcome::Ok { .. }
        | EffectOutcome::Examined(_)
        | EffectOutcome::Verified(_)
        | EffectOutcome::Released(_)
        | EffectOutcome::Launched { .. } => "the effect answered with something else than was asked".into(),
    }
}

impl Core {
    /// The first of these that the sidecar knows decides.
    pub(super) fn can_one_of(&self, names: [&str; 2]) -> Result<(), String> {
        let known = names.into_iter().find(|n| self.capability(n).is_some());
        self.can(known.unwrap_or(names[0]))
    }

    fn can_hold(&self, throttle: &v1::Throttle) -> Result<(), String> {
        let meant = throttle::checked(throttle)?;
        self.can(&throttle::capability(meant.resource, &throttle.via))
            .map_err(|why| if throttle.via.is_empty() { why } else { self.rungs_beside(meant.resource, &why) })?;
        if throttle.process.as_ref().is_some_and(|p| p.pid <= 1 || p.start_ticks == 0) {
            return Err("a throttle of one process needs its pid (above 1) and its start time".into());
        }
        let slots: BTreeSet<SlotKey> = self.kept.leases.values().map(SlotKey::of_lease).collect();
        if slots.len() >= SLOTS_MAX && !slots.contains(&SlotKey::of_throttle(throttle)) {
            return Err(format!("{SLOTS_MAX} limits are in effect already, which is the most: end one by unthrottle"));
        }
        Ok(())
    }

    /// The rung that was asked for is not there: which are.
    fn rungs_beside(&self, resource: v1::Resource, why: &str) -> String {
        let prefix = throttle::capability(resource, "") + ".";
        let there = self.identity.capabilities.iter().filter(|c| c.available);
        let rungs: Vec<&str> = there.filter_map(|c| c.name.strip_prefix(&prefix)).collect();
        match rungs.as_slice() {
            [] => format!("{why}; no rung for {} is there", throttle::word(resource)),
            rungs => format!("{why}; there is: {}", rungs.join(", ")),
        }
    }

    pub(super) fn fitness(&self, kind: &Kind) -> Fitness {
        match kind {
            Kind::Directive(_) | Kind::Unthrottle(_) => Fitness::Fit,
            Kind::Kill(kill) => match (&kill.process, self.can("kill")) {
                (_, Err(why)) => Fitness::Never(why),
                (Some(p), Ok(())) if p.pid > 1 && p.start_ticks > 0 => Fitness::Fit,
                (_, Ok(())) => {
                    Fitness::Never("a kill needs the pid (above 1) and the start time of its process".into())
                }
            },
            Kind::Throttle(throttle) => match self.can_hold(throttle) {
                Ok(()) => Fitness::Fit,
                Err(why) => Fitness::Never(why),
            },
            Kind::Restart(restart) => {
                if let Err(why) = self.can_one_of(["restart", "launch"]) {
                    return Fitness::Never(why);
                }
                self.fits_incarnation(restart.incarnation)
            }
            Kind::Activate(activate) => {
                if let Err(why) = self.can_one_of(["activate", "launch"]) {
                    return Fitness::Never(why);
                }
                match self.presence.root() {
                    Some(root) => Fitness::Never(format!("the agent runs already: {}", shown(root))),
                    None => self.fits_incarnation(activate.incarnation),
                }
            }
        }
    }

    fn fits_incarnation(&self, meant: u64) -> Fitness {
        if !self.presence.known() || self.another_life_begins() {
            return Fitness::NotYet;
        }
        let now = self.presence.incarnation;
        if meant == now {
            return Fitness::Fit;
        }
        Fitness::Never(format!("it is meant for incarnation {meant} of the agent, the last one seen is {now}"))
    }

    /// A restart or an activation is under way.
    pub(super) fn another_life_begins(&self) -> bool {
        self.kept.commands.values().any(|c| {
            matches!(c.state(), CommandState::Accepted | CommandState::Running) && c.step() != state::Step::Unspecified
        })
    }

    pub(super) fn accept(&mut self, mut command: state::Command, kind: &Kind) {
        let id = command.id.clone();
        match kind {
            Kind::Restart(_) => {
                command.root = self.presence.root().map(process);
                command.set_step(if command.root.is_some() { state::Step::Ending } else { state::Step::Launching });
                self.keep(command);
            }
            Kind::Activate(_) => {
                command.set_step(state::Step::Launching);
                self.keep(command);
            }
            Kind::Throttle(throttle) => self.begin_lease(&id, throttle),
            Kind::Directive(_) | Kind::Unthrottle(_) | Kind::Kill(_) => {}
        }
        self.step(&id, CommandState::Accepted, String::new());
    }

    /// Accepted: its next effect, once the intent is durable.
    pub(super) fn proceed(&mut self, id: &str) {
        if self.work.acting.contains(id) || !self.is_durable(id) {
            return;
        }
        let Some((command, Some(kind))) = self.command(id) else { return };
        if !self.has_room_for(&kind) {
            return;
        }
        let command = command.clone();
        let recovered = self.work.recovered.contains(id);
        if !recovered && !self.work.begun.contains(id) && !self.may_still_start(&command) {
            // The state file could not be written for so long, or too many others were under way.
            return self.step(
                id,
                CommandState::Expired,
                "it could not be recorded, or had to wait for others, and was not started in time".into(),
            );
        }
        if self.only_observes() && !matches!(kind, Kind::Throttle(_) | Kind::Unthrottle(_)) {
            if !recovered && !self.work.begun.contains(id) {
                // It waits until somebody is adopted, or expires.
                return;
            }
            let detail =
                "this sidecar only observes, as another one has the same state; it may or may not have taken effect";
            return self.step(id, CommandState::Unknown, detail.into());
        }
        match kind {
            Kind::Directive(_)
                if recovered && !self.may_still_start(&command) && !mutant!("directive-after-expiry") =>
            {
                let detail = "the sidecar was restarted meanwhile; it may or may not lie in the inbox";
                self.step(id, CommandState::Unknown, detail.into());
            }
            Kind::Directive(directive) => {
                self.work.recovered.remove(id);
                let file_name = directive::file_name(id, &directive);
                let text = directive::text(id, &directive, self.kept.plan.as_ref());
                self.begin(id, Purpose::Directive(id.into()), Effect::PutDirective { file_name, text });
            }
            Kind::Kill(kill) => self.proceed_kill(&command, &kill, recovered),
            Kind::Restart(restart) => {
                if !recovered && self.puts_note_first(&command) {
                    return;
                }
                self.proceed_life(&command, restart.grace_ms, recovered);
            }
            Kind::Activate(_) => self.proceed_life(&command, 0, recovered),
            Kind::Throttle(_) => self.proceed_throttle(id),
            Kind::Unthrottle(unthrottle) => self.proceed_unthrottle(&command, &unthrottle),
        }
    }

    /// A kill is never behind a flood of others, nor they behind one of kills.
    fn has_room_for(&self, kind: &Kind) -> bool {
        let kills = self.effects.values().filter(|p| matches!(p, Purpose::Kill(_))).count();
        match kind {
            Kind::Kill(_) => kills < KILLS_MAX,
            _ => self.work.acting.len().saturating_sub(kills) < EFFECTS_MAX,
        }
    }

    /// An agent that is started again finds in its inbox why. Where it cannot be put there, it is started all the same.
    fn puts_note_first(&mut self, command: &state::Command) -> bool {
        let id = &command.id;
        if command.step() == state::Step::Launching && command.root.is_some() || !self.work.noted.insert(id.clone()) {
            return false;
        }
        let note = self.resume_note(&format!("An operator asked for a restart ({id})."));
        self.begin(id, Purpose::Note(id.clone()), note);
        true
    }

    fn begin(&mut self, id: &str, purpose: Purpose, what: Effect) {
        self.work.acting.insert(id.into());
        self.work.begun.insert(id.into());
        self.act(purpose, what);
    }

    /// Nothing was seen of the agent for too long to say what an earlier life has brought about.
    fn give_up_unseen(&mut self, id: &str) {
        if self.now.boot_ms >= self.work.born + PRESENCE_WITHIN_MS {
            let detail = "the sidecar was restarted meanwhile, and could not see what became of it";
            self.step(id, CommandState::Unknown, detail.into());
        }
    }

    pub(super) fn presence_deadline(&self) -> Option<u64> {
        let unseen = self.work.recovered.iter().any(|id| !self.resting.rests(id)) && !self.presence.known();
        unseen.then_some(self.work.born + PRESENCE_WITHIN_MS)
    }

    fn proceed_kill(&mut self, command: &state::Command, kill: &v1::Kill, recovered: bool) {
        let id = &command.id;
        let Some(mut target) = kill.process.clone() else { return };
        if mutant!("kill-without-identity") {
            let alive = self.work.alive.iter().flatten().find(|(pid, _)| *pid == target.pid);
            target.start_ticks = alive.map_or(target.start_ticks, |(_, ticks)| *ticks);
        }
        if recovered {
            let Some(alive) = &self.work.alive else { return self.give_up_unseen(id) };
            if !alive.contains(&(target.pid, target.start_ticks)) {
                let detail = format!("{} was gone when the sidecar came back", shown(&target));
                self.process_gone(id, target);
                if kill.tree {
                    // Whom it had started, nobody can tell any more.
                    let detail = format!("{detail}; what it had started may live: see the agent's processes");
                    return self.step(id, CommandState::Unknown, detail);
                }
                return self.step(id, CommandState::Succeeded, detail);
            }
            if !self.may_still_start(command) {
                let detail = format!("the sidecar was restarted meanwhile; {} is alive", shown(&target));
                return self.step(id, CommandState::Unknown, detail);
            }
            self.work.recovered.remove(id);
        }
        let grace_ms = if kill.grace_ms == 0 { KILL_GRACE_MS } else { kill.grace_ms };
        self.begin(id, Purpose::Kill(id.clone()), Effect::Kill { process: target, grace_ms, tree: kill.tree });
    }

    fn proceed_life(&mut self, command: &state::Command, grace_ms: u32, recovered: bool) {
        let id = &command.id;
        let ending = command.step() == state::Step::Ending;
        if recovered {
            if !self.presence.known() {
                return self.give_up_unseen(id);
            }
            match (self.presence.root().cloned(), &command.root) {
                // The one that was to end is still there: ending it again ends no other.
                (Some(now), Some(old)) if ending && same(&now, old) && self.may_still_start(command) => {}
                (Some(now), old) if !ending && old.as_ref().is_none_or(|old| !same(&now, old)) => {
                    let detail = format!("{} was seen when the sidecar came back", shown(&now));
                    return self.step(id, CommandState::Succeeded, detail);
                }
                // It ended, and the next was not started yet.
                (None, Some(_)) if ending => return self.go_on_to_launch(command),
                (Some(_) | None, _) => {
                    let detail = "the sidecar was restarted in the middle of it: see whether the agent runs";
                    return self.step(id, CommandState::Unknown, detail.into());
                }
            }
            self.work.recovered.remove(id);
        }
        match command.root.as_ref().filter(|_| ending) {
            Some(root) => {
                let grace_ms = if grace_ms == 0 { RESTART_GRACE_MS } else { grace_ms };
                self.begin(id, Purpose::End(id.clone()), Effect::EndAgent { root: identity(root), grace_ms });
            }
            None => self.begin(id, Purpose::Launch(id.clone()), Effect::Launch),
        }
    }

    /// Durable before the launch.
    fn go_on_to_launch(&mut self, command: &state::Command) {
        let mut command = command.clone();
        command.set_step(state::Step::Launching);
        self.work.acting.remove(&command.id);
        self.work.recovered.remove(&command.id);
        self.work.begun.insert(command.id.clone());
        self.keep(command);
    }

    pub(super) fn done(&mut self, effect: EffectId, outcome: EffectOutcome) {
        let Some(purpose) = self.effects.remove(&effect) else { return };
        match purpose {
            Purpose::Directive(id) => match outcome {
                EffectOutcome::Ok { detail } => self.step(&id, CommandState::Succeeded, detail),
                other => self.step(&id, CommandState::Failed, failure(other)),
            },
            Purpose::Note(id) => {
                self.work.acting.remove(&id);
                self.note_put(&id, outcome);
            }
            Purpose::Own(id) => self.own_done(&id, outcome),
            Purpose::Kill(id) => self.killed(&id, outcome),
            Purpose::End(id) => match outcome {
                EffectOutcome::Ok { .. } => {
                    if let Some(command) = self.kept.commands.get(&id).cloned() {
                        self.go_on_to_launch(&command);
                    }
                }
                other => self.step(&id, CommandState::Failed, failure(other)),
            },
            Purpose::Launch(id) => match outcome {
                EffectOutcome::Launched { root } => {
                    // Beside a container it is the engine's child, whose end nobody tells this process.
                    let change = match self.launches() {
                        true => self.presence.launched(&root),
                        false => self.presence.sampled(Some(&root), false),
                    };
                    self.presence_changed(change);
                    let detail = format!("{} started, incarnation {}", shown(&root), self.presence.incarnation);
                    self.step(&id, CommandState::Succeeded, detail);
                    self.restarts_begin_anew("an operator started the agent");
                }
                other => self.step(&id, CommandState::Failed, failure(other)),
            },
            Purpose::Examine(key) => self.examined(key, outcome),
            Purpose::Hold(key) => self.held(key, outcome),
            Purpose::Verify(key) => self.verified(key, outcome),
            Purpose::Release(key) => self.released(key, outcome),
            Purpose::StopAgent => self.agent_stopped(outcome),
            Purpose::CleanUp => self.cleaned_up(outcome),
        }
    }

    fn killed(&mut self, id: &str, outcome: EffectOutcome) {
        match outcome {
            EffectOutcome::Ok { detail } => {
                if let Some((_, Some(Kind::Kill(v1::Kill { process: Some(target), .. })))) = self.command(id) {
                    self.watch_for_return(&target);
                    self.process_gone(id, target);
                }
                self.step(id, CommandState::Succeeded, detail);
            }
            other => self.step(id, CommandState::Failed, failure(other)),
        }
    }

    fn process_gone(&mut self, id: &str, target: v1::ProcessIdentity) {
        let Some(command) = self.kept.commands.get(id).filter(|c| !c.gone_told) else { return };
        let command = state::Command { gone_told: true, ..command.clone() };
        self.keep(command);
        self.tell(fact::Kind::ProcessGone(v1::ProcessGone { process: Some(target) }));
    }

    /// Processes that a kill was meant for and did not end may end later.
    pub(super) fn look_for_killed(&mut self, sample: &Sample) {
        let seen = sample.processes.iter().filter_map(|p| p.identity.as_ref()).chain(&sample.root);
        let alive: BTreeSet<(i32, u64)> = seen.map(|p| (p.pid, p.start_ticks)).collect();
        let missed = self.kept.commands.values().filter(|c| {
            let received = c.received.clone().unwrap_or_default();
            let (age, other_boot) = crate::clock::age(self.now, &self.boot_id, &received);
            matches!(c.state(), CommandState::Failed | CommandState::Unknown)
                && !c.gone_told
                && (age < WATCH_KILLED_MS || other_boot)
        });
        for id in missed.map(|c| c.id.clone()).collect::<Vec<_>>() {
            if let Some((_, Some(Kind::Kill(v1::Kill { process: Some(target), .. })))) = self.command(&id)
                && !alive.contains(&(target.pid, target.start_ticks))
                && target.start_ticks > 0
            {
                self.process_gone(&id, target);
            }
        }
        self.work.alive = Some(alive);
    }
}
