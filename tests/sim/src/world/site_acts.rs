//! What a sidecar does: the actions of its core, carried out one at a time.
use std::collections::BTreeSet;

use pitwall_proto::v1::{self, CommandState, check::Rule};
use pitwall_sidecar_core::io::{Action, Input, Observation};

use super::{
    Event, World,
    agent::identity,
    disk::Write,
    net::{Direction, Parcel},
    steps::said,
};
use crate::model::{Invariant, records};

pub const SAMPLE_MS: u32 = 2_000;

impl World {
    pub(super) fn carry_out(&mut self, site: usize, decided: u64, action: Action) {
        let now = self.now;
        let name = self.sites[site].name.clone();
        match action {
            Action::Persist { batch, bytes } => self.write(site, batch, Write::Append(bytes)),
            Action::Rewrite { batch, bytes } => self.write(site, batch, Write::Replace(bytes)),
            Action::Connect { session, hello } => {
                self.story.note(now, &name, "connect", &session.to_le_bytes());
                self.tell(&name, || format!("connects (session {session})"));
                self.check_told(site, 0, &hello);
                self.connect(site, session, &hello);
            }
            Action::Send { session, frame } => {
                if let Some(stream) = self.stream_of(site, session).filter(|id| self.streams[id].site_open) {
                    self.check_told(site, stream, &frame);
                    let bytes = prost::Message::encode_to_vec(&frame);
                    self.story.note(now, &name, "send", &bytes);
                    self.tell(&name, || format!("says {}", said(&frame)));
                    self.post_decided(stream, Direction::ToOrchestrator, Parcel::Frame(bytes), decided);
                }
            }
            Action::Disconnect { session } => {
                if let Some(stream) = self.stream_of(site, session) {
                    self.tell(&name, || format!("ends session {session}"));
                    self.site_hangs_up(stream, true);
                }
            }
            Action::Probe { deliverable, check } => {
                let gen_ = self.gen_of(site);
                // Now and then a check hangs: what is known of it grows old.
                let hangs = self.dice.one_in(200) && !self.converging;
                let after = if hangs { 45_000 } else { self.dice.between(1, 60) };
                self.at(after, Event::Probed { site, gen_, deliverable, check });
            }
            Action::Adopt { .. } | Action::StartAgent => {}
            Action::Do { effect, what } => {
                self.check_start(site, decided, &what);
                let gen_ = self.gen_of(site);
                let after = self.dice.between(0, 120);
                self.tell(&name, || format!("begins {what:?}"));
                self.at(after, Event::EffectHappens { site, gen_, effect, what });
            }
            Action::Log { severe, text } => {
                self.sites[site].told_damage |= severe && text.contains("damaged");
                self.tell(&name, || format!("log: {text}"));
            }
            Action::Exit { code } => self.exits(site, code),
        }
    }

    /// It was told to stop, and has.
    fn exits(&mut self, site: usize, code: u8) {
        let name = self.sites[site].name.clone();
        self.tell(&name, || format!("ends with {code}"));
        let home = &self.homes[self.sites[site].home];
        let held = home.held_at().filter(|_| code == 0 && !home.twins).map(str::to_owned);
        self.model.require(held.is_none(), Invariant::StopIsBounded, self.now, || {
            format!("{name} stopped in good order and left its agent held at {}", held.unwrap_or_default())
        });
        self.site_dies(site, true);
    }

    fn write(&mut self, site: usize, batch: u64, write: Write) {
        let now = self.now;
        let boot = self.homes[self.sites[site].home].host.boot_ms(now);
        let bytes = match &write {
            Write::Append(bytes) | Write::Replace(bytes) => bytes,
        };
        self.story.note(now, &self.sites[site].name, "write", bytes);
        let bodies = records(bytes);
        self.model.leases[site].issued(&bodies, boot);
        self.sites[site].disk.unsynced = Some((batch, write));
        let gen_ = self.gen_of(site);
        let after = self.dice.between(1, 15);
        self.at(after, Event::Synced { site, gen_, batch });
    }

    pub(super) fn synced(&mut self, site: usize, batch: u64) {
        let now = self.now;
        let disk = &mut self.sites[site].disk;
        if disk.unsynced.as_ref().is_none_or(|(b, _)| *b != batch) {
            return;
        }
        if disk.full_until > now {
            disk.unsynced = None;
            self.sites[site].failing = true;
            return self.feed(site, Input::PersistFailed { batch, why: "no space".into() });
        }
        self.settle_write(site);
        self.sites[site].failing = false;
        // (See NumbersBeforeTheyMet.)
        let met = !self.sites[site].set_back;
        // Most telling is one of a moment at which something was under way.
        let under_way = self.model.sites[site].commands.values().any(|c| c.state == CommandState::Running);
        let odds = if under_way { 3 } else { 12 };
        if met && self.sites[site].disk.bytes.len() > 200 && self.dice.one_in(odds) {
            let copy = self.sites[site].disk.bytes.clone();
            let copies = &mut self.sites[site].copies;
            copies.push_back(copy);
            if copies.len() > 6 {
                copies.pop_front();
            }
        }
        self.feed(site, Input::Persisted { batch });
    }

    /// What the kernel was given is on the disk, and the model reads it too.
    pub(super) fn settle_write(&mut self, site: usize) {
        let now = self.now;
        let Some((_, write)) = self.sites[site].disk.unsynced.clone() else { return };
        self.sites[site].disk.sync();
        if self.sites[site].met {
            self.sites[site].set_back = false;
        }
        match &write {
            Write::Append(bytes) => self.model.sites[site].append(bytes),
            Write::Replace(bytes) => self.model.sites[site].rewritten(bytes),
        }
        let name = self.sites[site].name.clone();
        let file = &mut self.model.sites[site];
        let leases = file.leases.clone();
        let found = [
            (Invariant::AnotherHistoryIsResynced, std::mem::take(&mut file.mixed)),
            (Invariant::CommandMovesForward, std::mem::take(&mut file.moved_back)),
            (Invariant::NewestVerdictIsKept, std::mem::take(&mut file.dropped_newest)),
            (Invariant::OverflowIsCounted, std::mem::take(&mut file.uncounted)),
        ];
        let overflows = std::mem::take(&mut file.overflows);
        let slots: BTreeSet<&i32> = leases.values().collect();
        self.model.require(leases.len() == slots.len(), Invariant::SupersededHoldsNothing, now, || {
            format!("{name} holds for {leases:?} at once")
        });
        for (invariant, texts) in found {
            let of_overflow = matches!(invariant, Invariant::NewestVerdictIsKept | Invariant::OverflowIsCounted);
            let judged = if of_overflow { overflows } else { 1 };
            let texts = texts.into_iter().map(|text| format!("in the file of {name}: {text}")).collect();
            self.model.require_none(invariant, judged, now, texts);
        }
    }

    pub(super) fn sampled(&mut self, site: usize) {
        let gen_ = self.gen_of(site);
        let agent = &self.homes[self.sites[site].home].agent;
        let sample = agent.sample(SAMPLE_MS);
        let root = agent.root;
        let ended = self.sites[site].process.as_mut().and_then(|p| p.child.take_if(|child| Some(*child) != root));
        if let Some(child) = ended {
            self.feed(site, Input::ChildExited { root: identity(child), code: Some(0), signal: None });
        }
        self.feed(site, Input::Sampled(sample));
        self.watch_cancels(site);
        self.watch_lease(site);
        self.at(u64::from(SAMPLE_MS), Event::Sampled { site, gen_ });
    }

    pub(super) fn probed(&mut self, site: usize, deliverable: String, check: &v1::Check) {
        let home = &self.homes[self.sites[site].home];
        let there = match &check.rule {
            Some(Rule::File(file)) => home.agent.files.contains(&file.path),
            _ => false,
        };
        let outcome = match there {
            _ if home.workspace_gone => v1::Outcome::Unknown,
            true => v1::Outcome::Passed,
            false => v1::Outcome::Failed,
        };
        let evidence = v1::Evidence { summary: format!("there: {there}"), ..Default::default() };
        let (check_id, check_digest) = (check.id.clone(), check.digest.clone());
        self.feed(site, Input::Observed(Observation { deliverable, check_id, check_digest, outcome, evidence }));
    }

    pub(super) fn files_seen(&mut self, site: usize, paths: Vec<String>) {
        if self.homes[self.sites[site].home].workspace_gone {
            return;
        }
        self.feed(site, Input::FilesChanged { paths, more: 0 });
    }
}
