//! Effects: may they begin, what do they do to the agent, and who is their cause.
use pitwall_proto::{
    state,
    v1::{CommandState, Resource, command_spec::Kind},
};
use pitwall_sidecar_core::io::{Effect, EffectId, EffectOutcome, Hold, Input};

use super::{Event, World, agent::identity};
use crate::model::{Exemption, Invariant};

impl World {
    /// May this effect begin now? By what the disk has, and by what was received.
    pub(super) fn check_start(&mut self, site: usize, decided: u64, what: &Effect) {
        let now = self.now;
        let of_stop = self.sites[site].stopping && matches!(what, Effect::EndAgent { .. });
        let id = self.command_of(site, what);
        self.model.tally.judged(Invariant::ActedOnlyOnDurableIntent, 1);
        let Some(id) = id else {
            if !of_stop
                && !matches!(what, Effect::Examine { .. } | Effect::Verify(_) | Effect::Release(_) | Effect::CleanUp)
            {
                let text = format!("{}: {what:?} without a command or a limit on its disk", self.sites[site].name);
                self.model.breach(Invariant::ActedOnlyOnDurableIntent, now, text);
            }
            return;
        };
        if id.is_empty() {
            return;
        }
        // What was begun goes on: its launch, or the same once more after a crash (which must not act, see there).
        let model = &self.model.sites[site];
        let begun = self.model.acts_of(&id) > 0 || model.commands.get(&id).is_some_and(|c| c.step == 2);
        let by = model.start_by.get(&id).copied();
        let cancelled = model.cancelled_in_time.contains(&id);
        if let Some(by) = by.filter(|_| !begun) {
            let host = &self.homes[self.sites[site].home].host;
            if by.boots != host.boots && by.wall_skew != host.wall_skew {
                self.model.tally.excused(Exemption::ClockJumpedOverAReboot, 1);
            } else {
                self.model.require(decided <= by.at, Invariant::NoStartAfterExpiry, now, || {
                    format!("{id} starts {} ms late", decided - by.at)
                });
            }
        }
        self.model
            .require(!cancelled, Invariant::CancelledNeverStarts, now, || format!("{id} starts after its cancel"));
    }

    /// The command whose durable intent this effect rests on; empty: a limit that is on the disk.
    fn command_of(&self, site: usize, what: &Effect) -> Option<String> {
        let model = &self.model.sites[site];
        let open =
            || model.commands.iter().filter(|(_, c)| matches!(c.state, CommandState::Accepted | CommandState::Running));
        match what {
            // The note before a restart says who asked for it.
            Effect::PutDirective { file_name, text } if file_name.starts_with("RESUME-") => {
                let asked = |id: &String| text.contains(&format!("({id})"));
                open().find(|(id, c)| c.step != 0 && asked(id)).map(|(id, _)| id.clone())
            }
            Effect::PutDirective { file_name, .. } => {
                open().find(|(id, _)| file_name.ends_with(&format!("-{id}.md"))).map(|(id, _)| id.clone())
            }
            // The one that names it; else one that names its pid, for the process is another one then.
            Effect::Kill { process, grace_ms, .. } => {
                let aims = |exactly: bool| {
                    open().find(|(_, c)| match &c.spec.kind {
                        // The sidecar's own policy may end the same process, with its own grace.
                        Some(Kind::Kill(kill)) if kill.grace_ms != 0 && kill.grace_ms != *grace_ms => false,
                        Some(Kind::Kill(kill)) => kill.process.as_ref().is_some_and(|p| {
                            p.pid == process.pid && (!exactly || p.start_ticks == process.start_ticks)
                        }),
                        _ => false,
                    })
                };
                // Or the sidecar's own policy wants it: this very process.
                let own = model.own.values().any(|act| {
                    let of = |p: &state::Process| p.pid == process.pid && p.start_ticks == process.start_ticks;
                    act.kind() == state::ActKind::Kill && act.process.as_ref().is_some_and(of)
                });
                let commanded = aims(true).or_else(|| if own { None } else { aims(false) }).map(|(id, _)| id.clone());
                commanded.or_else(|| own.then(String::new))
            }
            Effect::EndAgent { .. } | Effect::Launch => open().find(|(_, c)| c.step != 0).map(|(id, _)| id.clone()),
            Effect::Hold(hold) => {
                let recorded = model.limits.get(&(hold.slot.resource as i32))?.hold.as_ref()?;
                (recorded.new == hold.new && recorded.old == hold.old).then(String::new)
            }
            Effect::Examine { .. } | Effect::Verify(_) | Effect::Release(_) | Effect::CleanUp => None,
        }
    }

    /// The effect takes place. Its outcome is on its way to the core, unless the process ends before.
    pub(super) fn effect_happens(&mut self, site: usize, effect: EffectId, what: Effect) {
        let now = self.now;
        let command = self.command_of(site, &what);
        let boot_id = self.homes[self.sites[site].home].host.boot_id();
        let name = self.sites[site].name.clone();
        self.story.note(now, &name, "effect", &effect.to_le_bytes());
        let agent = &mut self.homes[self.sites[site].home].agent;
        let mut act = None;
        let outcome = match what {
            Effect::PutDirective { file_name, text } => match agent.inbox.get(&file_name) {
                Some(there) if *there == text => EffectOutcome::Ok { detail: file_name },
                Some(_) => EffectOutcome::Failed { why: "another file of that name".into() },
                None => {
                    agent.inbox.insert(file_name.clone(), text);
                    act = Some(if file_name.starts_with("RESUME-") { "note" } else { "put" });
                    EffectOutcome::Ok { detail: file_name }
                }
            },
            Effect::Examine { slot, amount } => EffectOutcome::Examined(Hold {
                rung: "cgroup2".into(),
                place: "/cg".into(),
                inode: agent.inode,
                boot_id,
                old: agent.stands(slot.resource).to_owned(),
                new: if slot.resource == Resource::Memory {
                    format!("{amount}")
                } else {
                    format!("{} 20000", (amount * 20_000.0) as u64)
                },
                amount,
                slot,
            }),
            Effect::Hold(hold) if hold.inode == agent.inode && hold.boot_id == boot_id => {
                agent.put(hold.slot.resource, hold.new);
                EffectOutcome::Ok { detail: "written".into() }
            }
            Effect::Hold(_) => EffectOutcome::Failed { why: "the cgroup is gone".into() },
            Effect::Verify(hold) => EffectOutcome::Verified(agent.state_of(&hold, &boot_id)),
            Effect::Release(hold) => {
                let state = agent.state_of(&hold, &boot_id);
                if state == pitwall_sidecar_core::io::HoldState::Ours {
                    agent.put(hold.slot.resource, hold.old);
                }
                EffectOutcome::Released(state)
            }
            Effect::Kill { process, .. } => {
                let target = (process.pid, process.start_ticks);
                if agent.kill(target) {
                    act = Some("kill");
                }
                self.check_victim(site, &command, target);
                EffectOutcome::Ok { detail: "ended".into() }
            }
            Effect::Launch => {
                let root = agent.begin();
                act = Some("launch");
                if let Some(process) = self.sites[site].process.as_mut() {
                    process.child = Some(root);
                }
                EffectOutcome::Launched { root: identity(root) }
            }
            Effect::EndAgent { root, .. } => {
                if agent.root == Some((root.pid, root.start_ticks)) {
                    agent.end();
                    act = Some("end");
                }
                EffectOutcome::Ok { detail: "ended".into() }
            }
            Effect::CleanUp => EffectOutcome::Ok { detail: String::new() },
        };
        if let Some(what) = act {
            let id = command.unwrap_or_default();
            self.tell(&name, || format!("EFFECT {what} for {id}"));
            // What a stop ends has no command.
            if !id.is_empty() {
                self.model.acted(&id, what, now);
            }
        }
        let gen_ = self.gen_of(site);
        let after = self.dice.between(0, 150);
        self.at(after, Event::EffectOver { site, gen_, effect, outcome });
    }

    fn check_victim(&mut self, site: usize, command: &Option<String>, target: (i32, u64)) {
        let Some(id) = command else { return };
        let Some(held) = self.model.sites[site].commands.get(id) else { return };
        let Some(Kind::Kill(kill)) = &held.spec.kind else { return };
        let meant = kill.process.as_ref().map(|p| (p.pid, p.start_ticks));
        self.model.require(meant == Some(target), Invariant::ActedOnlyOnDurableIntent, self.now, || {
            format!("{id} was meant for {meant:?} and is aimed at {target:?}")
        });
    }

    pub(super) fn effect_over(&mut self, site: usize, effect: EffectId, outcome: EffectOutcome) {
        self.feed(site, Input::Done { effect, outcome });
    }
}
