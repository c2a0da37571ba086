//! Streams over links: bytes in order, late, held up, or cut at any byte. Frames go through their encoding.
use std::collections::VecDeque;

use pitwall_core::io::Input as CoreInput;
use pitwall_proto::v1;
use pitwall_sidecar_core::io::{Input, SessionId};
use prost::Message as _;

use super::{Event, World};
use crate::model::{CheckName, Invariant};

/// A link that is blocked is looked at again after so long.
const LOOK_MS: u64 = 250;
/// Interval and timeout of the keepalive of both shells.
const KEEPALIVE_MS: (u64, u64) = (20_000, 30_000);
const CONNECT_WITHIN_MS: u64 = 5_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToOrchestrator,
    ToSidecar,
}

#[derive(Clone, Debug)]
pub enum Parcel {
    Frame(Vec<u8>),
    End { why: &'static str, refusal: Option<&'static str> },
}

/// A parcel, and what the sender knew of its evidence when it was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    parcel: Parcel,
    at: u64,
    evidence: Vec<(CheckName, u64)>,
}

#[derive(Debug)]
pub struct Stream {
    pub site: usize,
    pub gen_: u64,
    pub session: SessionId,
    pub orchestrator: usize,
    up: VecDeque<Sent>,
    down: VecDeque<Sent>,
    up_last: u64,
    down_last: u64,
    pub site_open: bool,
    pub orchestrator_open: bool,
    hello: bool,
    pub seq_down: u64,
    seq_up: u64,
    /// As its hello said.
    pub instance: String,
    /// Of the welcome that was handed over.
    pub lineage: Option<String>,
    /// A GoAway was handed over: it must not say anything more.
    pub told_to_go: bool,
    /// When its hello was handed to the orchestrator.
    pub hello_at: u64,
    /// A welcome of an epoch below the one that the sidecar holds was handed to it: it must not say anything more.
    pub refused_welcome: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Link {
    pub up_blocked_until: u64,
    pub down_blocked_until: u64,
    pub slow_until: u64,
}

impl Link {
    fn blocked(&self, to: Direction, now: u64) -> bool {
        match to {
            Direction::ToOrchestrator => self.up_blocked_until > now,
            Direction::ToSidecar => self.down_blocked_until > now,
        }
    }
}

impl World {
    pub(super) fn connect(&mut self, site: usize, session: SessionId, hello: &v1::ConnectRequest) {
        let gen_ = self.gen_of(site);
        let link = &self.sites[site].link;
        let blocked = link.blocked(Direction::ToOrchestrator, self.now) || link.blocked(Direction::ToSidecar, self.now);
        let listens = |id: &usize| self.orchestrators[*id].as_ref().is_some_and(|o| !o.draining);
        let alive: Vec<usize> = (0..self.orchestrators.len()).filter(listens).collect();
        let target = self.dice.pick(&alive).filter(|_| !blocked);
        let Some(orchestrator) = target else {
            let after = if blocked { CONNECT_WITHIN_MS } else { self.dice.between(1, 20) };
            return self.at(after, Event::Unreachable { site, gen_, session });
        };
        let id = self.next_stream;
        self.next_stream += 1;
        let stream = Stream {
            site,
            gen_,
            session,
            orchestrator,
            up: VecDeque::new(),
            down: VecDeque::new(),
            up_last: 0,
            down_last: 0,
            site_open: true,
            orchestrator_open: true,
            hello: false,
            seq_down: 0,
            seq_up: 0,
            instance: String::new(),
            lineage: None,
            told_to_go: false,
            hello_at: 0,
            refused_welcome: false,
        };
        self.streams.insert(id, stream);
        self.post(id, Direction::ToOrchestrator, Parcel::Frame(hello.encode_to_vec()));
    }

    pub(super) fn stream_of(&self, site: usize, session: SessionId) -> Option<u64> {
        let gen_ = self.gen_of(site);
        let found = self.streams.iter().find(|(_, s)| s.site == site && s.gen_ == gen_ && s.session == session);
        found.map(|(id, _)| *id)
    }

    pub(super) fn post(&mut self, id: u64, to: Direction, parcel: Parcel) {
        self.post_decided(id, to, parcel, self.now);
    }

    pub(super) fn post_decided(&mut self, id: u64, to: Direction, parcel: Parcel, decided: u64) {
        let Some(stream) = self.streams.get(&id) else { return };
        let site = stream.site;
        let evidence = if to == Direction::ToOrchestrator { self.sites[site].evidence() } else { Vec::new() };
        let slow = self.sites[site].link.slow_until > self.now;
        let latency = if slow { self.dice.between(200, 4_000) } else { self.dice.between(1, 12) };
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (queue, last) = match to {
            Direction::ToOrchestrator => (&mut stream.up, &mut stream.up_last),
            Direction::ToSidecar => (&mut stream.down, &mut stream.down_last),
        };
        queue.push_back(Sent { parcel, at: decided, evidence });
        *last = (*last).max(now + latency);
        let after = *last - now;
        self.at(after, Event::Arrives { stream: id, to });
    }

    pub(super) fn arrives(&mut self, id: u64, to: Direction) {
        let Some(stream) = self.streams.get(&id) else { return };
        if self.sites[stream.site].link.blocked(to, self.now) {
            return self.at(LOOK_MS, Event::Arrives { stream: id, to });
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let queue = match to {
            Direction::ToOrchestrator => &mut stream.up,
            Direction::ToSidecar => &mut stream.down,
        };
        let Some(sent) = queue.pop_front() else { return };
        match to {
            Direction::ToOrchestrator => self.arrives_up(id, sent),
            Direction::ToSidecar => self.arrives_down(id, sent),
        }
        self.drop_ended(id);
    }

    fn drop_ended(&mut self, id: u64) {
        if self.streams.get(&id).is_some_and(|s| !s.site_open && !s.orchestrator_open) {
            self.streams.remove(&id);
        }
    }

    fn arrives_up(&mut self, id: u64, sent: Sent) {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| s.orchestrator_open) else { return };
        let orchestrator = stream.orchestrator;
        match sent.parcel {
            Parcel::End { .. } => {
                stream.orchestrator_open = false;
                if stream.hello {
                    self.give(orchestrator, CoreInput::SessionClosed { session: id });
                }
            }
            Parcel::Frame(bytes) => {
                let Ok(frame) = v1::ConnectRequest::decode(bytes.as_slice()) else { return };
                stream.seq_up = frame.seq;
                // The orchestrator knows ages as of the sending only: the time under way counts as fresh.
                let ages =
                    sent.evidence.into_iter().map(|(check, passed)| (check, sent.at.saturating_sub(passed))).collect();
                match frame.body {
                    Some(v1::connect_request::Body::Hello(hello)) if !stream.hello => {
                        stream.hello = true;
                        stream.instance = hello.instance.clone();
                        self.give(orchestrator, CoreInput::Hello { session: id, hello: Box::new(hello) });
                    }
                    Some(body) => self.give_frame(orchestrator, CoreInput::FromSidecar { session: id, body }, ages),
                    None => {}
                }
            }
        }
    }

    fn arrives_down(&mut self, id: u64, sent: Sent) {
        let Some(stream) = self.streams.get_mut(&id).filter(|s| s.site_open) else { return };
        let (site, gen_, session) = (stream.site, stream.gen_, stream.session);
        if !self.runs(site, gen_) {
            return;
        }
        match sent.parcel {
            Parcel::End { why, refusal } => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.site_open = false;
                }
                self.feed(site, Input::Closed { session, why: why.into(), refusal: refusal.map(Into::into) });
            }
            Parcel::Frame(bytes) => {
                if let Ok(frame) = v1::ConnectResponse::decode(bytes.as_slice()) {
                    self.feed(site, Input::Received { session, frame });
                }
            }
        }
    }

    /// The sidecar's side is over. `told`: the other side's kernel hears of it.
    pub(super) fn site_hangs_up(&mut self, id: u64, told: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.site_open = false;
        if told {
            self.post(id, Direction::ToOrchestrator, Parcel::End { why: "ended", refusal: None });
        } else {
            self.watch_by_keepalive(id);
        }
    }

    pub(super) fn orchestrator_hangs_up(
        &mut self,
        id: u64,
        told: bool,
        why: &'static str,
        refusal: Option<&'static str>,
    ) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.orchestrator_open = false;
        if told {
            self.post(id, Direction::ToSidecar, Parcel::End { why, refusal });
        } else {
            self.watch_by_keepalive(id);
        }
    }

    pub(super) fn watch_by_keepalive(&mut self, id: u64) {
        let after = self.dice.between(KEEPALIVE_MS.0, KEEPALIVE_MS.1);
        self.at(after, Event::Keepalive { stream: id });
    }

    /// Nothing came back for too long: whoever still holds it open gives it up.
    pub(super) fn keepalive(&mut self, id: u64) {
        let Some(stream) = self.streams.get(&id) else { return };
        let link = &self.sites[stream.site].link;
        let blocked = link.blocked(Direction::ToOrchestrator, self.now) || link.blocked(Direction::ToSidecar, self.now);
        let half = stream.site_open != stream.orchestrator_open;
        if !blocked && !half {
            return;
        }
        self.break_stream(id);
    }

    /// Both ends notice, nothing that was under way arrives.
    pub(super) fn break_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.story.note(self.now, &self.sites[stream.site].name, "break", &id.to_le_bytes());
        if stream.site_open && self.runs(stream.site, stream.gen_) {
            let why = "the connection ended".into();
            self.feed(stream.site, Input::Closed { session: stream.session, why, refusal: None });
        }
        if stream.orchestrator_open && stream.hello {
            self.give(stream.orchestrator, CoreInput::SessionClosed { session: id });
        }
    }

    /// Cut at some byte: whole frames before it arrive, the rest does not; each end notices for itself.
    pub(super) fn cut_stream(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        for queue in [&mut stream.up, &mut stream.down] {
            let size = |s: &Sent| match &s.parcel {
                Parcel::Frame(bytes) => bytes.len() + 5,
                Parcel::End { .. } => 1,
            };
            let total: usize = queue.iter().map(size).sum();
            let mut left = self.dice.below(total + 1);
            let whole = queue.iter().take_while(|s| {
                let fits = size(s) <= left;
                left = left.saturating_sub(size(s));
                fits
            });
            let whole = whole.count();
            queue.truncate(whole);
        }
        for to in [Direction::ToOrchestrator, Direction::ToSidecar] {
            self.post(id, to, Parcel::End { why: "cut", refusal: None });
        }
    }

    pub(super) fn streams_of_site(&self, site: usize) -> Vec<u64> {
        self.streams.iter().filter(|(_, s)| s.site == site).map(|(id, _)| *id).collect()
    }

    pub(super) fn unreachable(&mut self, site: usize, session: SessionId) {
        self.feed(site, Input::Closed { session, why: "cannot connect".into(), refusal: None });
    }

    /// A frame of the sidecar must never tell what its disk does not have.
    pub(super) fn check_told(&mut self, site: usize, stream: u64, frame: &v1::ConnectRequest) {
        use v1::connect_request::Body;
        let known = &self.model.sites[site];
        let (instance, life) = (known.instance.clone(), known.life);
        let name = self.sites[site].name.clone();
        let now = self.now;
        if let Some(open) = self.streams.get(&stream) {
            let (refused, told_to_go) = (open.refused_welcome, open.told_to_go);
            self.model.require(!refused, Invariant::FencedOwnerIsNotFollowed, now, || {
                format!("{name} goes on with an orchestrator of an older epoch")
            });
            self.model.require(!told_to_go, Invariant::GoAwayIsHonoured, now, || {
                format!("{name} was told to go away, and goes on")
            });
        }
        match &frame.body {
            Some(Body::Hello(hello)) => {
                if let Some(damaged) = self.sites[site].rotten.take() {
                    let told = std::mem::take(&mut self.sites[site].told_damage);
                    let another = damaged != hello.instance || damaged.is_empty();
                    self.model.require(told && another, Invariant::DamageIsRecognised, now, || {
                        format!("a bit of {name}'s file flipped; told: {told}, goes on as {}", hello.instance)
                    });
                }
                let same = hello.life == life && hello.instance == instance;
                self.model.require(same, Invariant::ToldOnlyWhatIsDurable, now, || {
                    format!(
                        "{name} says life {} of {}, its disk has {} of {}",
                        hello.life, hello.instance, life, instance
                    )
                });
            }
            Some(Body::Facts(batch)) => {
                batch.facts.iter().filter_map(|f| f.kind.as_ref()).for_each(|kind| self.flows.told(kind));
                let known = &self.model.sites[site];
                let untold = batch.facts.iter().filter(|fact| !known.has(fact));
                let untold: Vec<String> =
                    untold.map(|f| format!("{name} tells fact {} before its disk has it", f.seq)).collect();
                self.model.require_none(Invariant::ToldOnlyWhatIsDurable, batch.facts.len() as u64, now, untold);
            }
            Some(Body::CommandUpdate(update)) => {
                let held = self.model.sites[site].commands.get(&update.id).map(|c| c.state as i32);
                self.model.require(
                    held.is_some_and(|h| h >= update.state),
                    Invariant::ToldOnlyWhatIsDurable,
                    now,
                    || format!("{name} tells {} of {}, its disk has {held:?}", update.state, update.id),
                );
            }
            _ => {}
        }
    }
}
