//! The rules once more, as plainly as they can be said. Times are whole seconds since the beginning.
use std::collections::BTreeSet;

use pitwall_proto::v1::Outcome;

use crate::support::random::{Op, Team};

const DUE: i64 = 60;
const STALL: i64 = 120;
const WINDOW: i64 = 180;
const WAITING: i64 = 240;
const FRESH: i64 = 30;
const HYSTERESIS: i64 = 5;
const BEAT: i64 = 10;

#[derive(Clone, Default)]
struct Check {
    outcome: Option<Outcome>,
    /// Last known to be so.
    confirmed: i64,
    failing: Option<i64>,
    passed: bool,
    told: bool,
}

#[derive(Default)]
struct Owed {
    checks: Vec<Check>,
    touched: bool,
    passed: bool,
    claimed: f64,
    was_verified: bool,
    /// Continuously, up to now.
    workable_since: Option<i64>,
    waited_since: Option<i64>,
}

#[derive(Default)]
struct Agent {
    owed: Vec<Owed>,
    connected: Option<i64>,
    ever_connected: bool,
    heard: i64,
    seen: Option<i64>,
    exited: bool,
    waiting: Option<i64>,
    quiet: bool,
    looping: bool,
    pressure: bool,
    /// When, of what, and how many that belong to nothing.
    changes: Vec<(i64, Option<usize>, u32)>,
    spool: Vec<(i64, Op)>,
}

pub struct Restated {
    team: Team,
    now: i64,
    agents: Vec<Agent>,
}

pub struct Told {
    pub status: String,
    pub verified: f64,
    pub workable: bool,
    pub started: bool,
    pub root: Option<String>,
    pub cause: Option<i32>,
}

type Place = (usize, usize);

fn name(at: Place) -> String {
    format!("a{}/d{}", at.0, at.1)
}

impl Restated {
    pub fn new(team: &Team) -> Self {
        let owed = |checks: usize| Owed { checks: vec![Check::default(); checks], ..Owed::default() };
        let agents = team
            .agents
            .iter()
            .map(|all| Agent { owed: all.iter().map(|o| owed(o.checks.len())).collect(), ..Agent::default() });
        let mut new = Self { team: team.clone(), now: 0, agents: agents.collect() };
        new.look();
        new
    }

    pub fn seconds(&self) -> i64 {
        self.now
    }

    pub fn play(&mut self, op: &Op) {
        match op {
            Op::Advance(seconds) => (0..*seconds).for_each(|_| self.second()),
            Op::Connect(a) => {
                let agent = &mut self.agents[*a];
                (agent.connected, agent.ever_connected, agent.heard) = (Some(self.now), true, self.now);
                self.look();
                self.flush(*a);
            }
            Op::Cut(a) => self.agents[*a].connected = None,
            Op::Verdict { a, .. } | Op::Claim { a, .. } | Op::Activity { a, .. } => self.tell(*a, op),
            Op::Seen(a) | Op::Exit(a) | Op::Quiet(a, _) | Op::Looping(a, _) | Op::Pressure(a, _) => self.tell(*a, op),
        }
        self.look();
    }

    fn tell(&mut self, a: usize, op: &Op) {
        if let Op::Verdict { a, d, c, .. } = op {
            self.agents[*a].owed[*d].checks[*c].told = true;
        }
        self.agents[a].spool.push((self.now, op.clone()));
        self.flush(a);
    }

    fn flush(&mut self, a: usize) {
        if self.agents[a].connected.is_none() {
            return;
        }
        for (at, op) in std::mem::take(&mut self.agents[a].spool) {
            self.agents[a].heard = self.now;
            self.fact(at, &op);
        }
        self.look();
    }

    /// Heartbeats confirm what was told.
    fn second(&mut self) {
        self.now += 1;
        for agent in &mut self.agents {
            let Some(since) = agent.connected else { continue };
            if (self.now - since) % BEAT == 0 {
                agent.heard = self.now;
                for check in agent.owed.iter_mut().flat_map(|o| &mut o.checks).filter(|c| c.told) {
                    check.confirmed = self.now;
                }
            }
        }
        self.look();
    }

    fn fact(&mut self, at: i64, op: &Op) {
        let moved = |agent: &mut Agent, when: i64| agent.waiting = agent.waiting.filter(|since| *since > when);
        match op {
            Op::Seen(a) => {
                let agent = &mut self.agents[*a];
                (agent.seen, agent.exited, agent.waiting) = (Some(at), false, None);
                (agent.quiet, agent.looping) = (false, false);
            }
            // One that nobody ever saw has not ended.
            Op::Exit(a) if self.agents[*a].seen.is_none() => {}
            Op::Exit(a) => (self.agents[*a].exited, self.agents[*a].pressure) = (true, false),
            Op::Quiet(a, on) => self.agents[*a].quiet = *on,
            Op::Looping(a, on) => self.agents[*a].looping = *on,
            Op::Pressure(a, on) => self.agents[*a].pressure = *on,
            Op::Claim { a, d, tenths, waits } => {
                let agent = &mut self.agents[*a];
                agent.waiting = waits.then_some(at);
                for (n, owed) in agent.owed.iter_mut().enumerate() {
                    owed.claimed = if n == *d { f64::from(*tenths) } else { 0.0 };
                }
            }
            Op::Activity { a, d, unattributed } => {
                let agent = &mut self.agents[*a];
                agent.changes.push((at, *d, *unattributed));
                if let Some(d) = d {
                    agent.owed[*d].touched = true;
                }
                moved(agent, at - 1);
            }
            Op::Verdict { a, d, c, outcome, failing } => {
                let agent = &mut self.agents[*a];
                let owed = &mut agent.owed[*d];
                let check = &mut owed.checks[*c];
                // What had grown stale is not green once more because it fails.
                let fresh = self.now < check.confirmed + FRESH;
                let passed_before = check.outcome == Some(Outcome::Passed) && fresh || check.failing.is_some();
                check.failing = match *failing && *outcome == Outcome::Failed && passed_before {
                    true => check.failing.or(Some(at)),
                    false => None,
                };
                let changed = check.outcome.is_some_and(|before| before != *outcome);
                check.outcome = Some(*outcome);
                check.confirmed = check.confirmed.max(at);
                check.passed |= *outcome == Outcome::Passed;
                owed.passed |= *outcome == Outcome::Passed;
                if changed {
                    moved(agent, at);
                }
            }
            Op::Advance(_) | Op::Connect(_) | Op::Cut(_) => {}
        }
    }

    /// What holds without a break is remembered from when it began.
    fn look(&mut self) {
        for place in self.places() {
            if self.verified(place) {
                self.agents[place.0].owed[place.1].was_verified = true;
            }
        }
        let waited = self.waited_for();
        for place in self.places() {
            let workable = self.workable(place);
            let now = self.now;
            let owed = &mut self.agents[place.0].owed[place.1];
            owed.workable_since = workable.then(|| owed.workable_since.unwrap_or(now));
            owed.waited_since = waited.contains(&place).then(|| owed.waited_since.unwrap_or(now));
        }
    }

    fn places(&self) -> Vec<Place> {
        let all = self.team.agents.iter().enumerate();
        all.flat_map(|(a, owed)| (0..owed.len()).map(move |d| (a, d))).collect()
    }

    fn lost(&self, a: usize) -> bool {
        let agent = &self.agents[a];
        agent.ever_connected && agent.connected.is_none() && self.now - agent.heard >= 4 * BEAT
    }

    // --- deliverables

    /// `Some(true)` passes, `Some(false)` fails, `None` unknown or not made; and whether that should worry anybody.
    fn check(&self, (a, d): Place, c: usize) -> (Option<bool>, bool) {
        let check = &self.agents[a].owed[d].checks[c];
        if self.lost(a) {
            return (None, true);
        }
        let Some(outcome) = check.outcome else {
            return (None, self.agents[a].seen.is_some_and(|seen| seen + FRESH <= self.now));
        };
        if check.confirmed + FRESH <= self.now {
            return (None, true);
        }
        match outcome {
            Outcome::Passed => (Some(true), false),
            Outcome::Failed => (Some(check.failing.is_some_and(|since| self.now < since + HYSTERESIS)), false),
            _ => (None, true),
        }
    }

    fn required(&self, (a, d): Place) -> Vec<usize> {
        let checks = &self.team.agents[a][d].checks;
        let required: Vec<usize> = (0..checks.len()).filter(|c| checks[*c].1).collect();
        if required.is_empty() { (0..checks.len()).collect() } else { required }
    }

    fn verified(&self, place: Place) -> bool {
        self.required(place).iter().all(|c| self.check(place, *c).0 == Some(true))
    }

    fn regressed(&self, place: Place) -> bool {
        let owed = &self.agents[place.0].owed[place.1];
        let lost = |c: &usize| self.check(place, *c).0 == Some(false) && owed.checks[*c].passed;
        !self.verified(place) && owed.was_verified && self.required(place).iter().any(lost)
    }

    fn unknown(&self, place: Place) -> bool {
        let seen: Vec<_> = self.required(place).iter().map(|c| self.check(place, *c)).collect();
        let fails = seen.iter().any(|s| s.0 == Some(false));
        let worries = seen.iter().any(|s| s.0.is_none() && s.1);
        !self.verified(place) && !self.regressed(place) && self.agents[place.0].seen.is_some() && worries && !fails
    }

    fn passed_weight(&self, (a, d): Place) -> f64 {
        let checks = &self.team.agents[a][d].checks;
        let all: f64 = checks.iter().map(|(w, _)| f64::from(*w)).sum();
        let passed = (0..checks.len()).filter(|c| self.check((a, d), *c).0 == Some(true));
        passed.map(|c| f64::from(checks[c].0)).sum::<f64>() / all
    }

    fn progress(&self, place: Place) -> f64 {
        if self.verified(place) { 1.0 } else { self.passed_weight(place).min(0.99) }
    }

    fn open_needs(&self, (a, d): Place) -> Vec<Place> {
        let mut needs = self.team.agents[a][d].needs.clone();
        needs.retain(|need| !self.verified(*need));
        needs.sort_unstable();
        needs
    }

    fn workable(&self, place: Place) -> bool {
        !self.verified(place) && self.open_needs(place).is_empty()
    }

    fn waits(&self, place: Place) -> bool {
        !self.verified(place) && !self.open_needs(place).is_empty()
    }

    fn started(&self, (a, d): Place) -> bool {
        let owed = &self.agents[a].owed[d];
        owed.passed || owed.touched || owed.claimed > 0.0
    }

    fn planned(&self, (a, d): Place) -> Option<i64> {
        let owed = &self.team.agents[a][d];
        let mut begin = 0;
        for need in &owed.needs {
            begin = begin.max(self.planned(*need)?);
        }
        Some(begin + i64::from(owed.estimate_m?) * 60)
    }

    fn overdue(&self, place: Place) -> bool {
        self.planned(place).is_some_and(|finish| finish <= self.now)
    }

    /// In milliseconds from now.
    fn expected(&self, place: Place) -> Option<i64> {
        let mut begin = 0;
        for need in self.open_needs(place) {
            begin = begin.max(self.expected(need)?);
        }
        let estimate = f64::from(self.team.agents[place.0][place.1].estimate_m?) * 60_000.0;
        Some(begin + (estimate * (1.0 - self.progress(place))).round() as i64)
    }

    // --- roots and causes

    fn reached(&self, place: Place) -> BTreeSet<Place> {
        let needs = self.open_needs(place);
        needs.iter().flat_map(|n| if self.waits(*n) { self.reached(*n) } else { BTreeSet::from([*n]) }).collect()
    }

    fn own(&self, a: usize) -> Vec<Place> {
        (0..self.agents[a].owed.len()).map(|d| (a, d)).collect()
    }

    fn waited_for(&self) -> BTreeSet<Place> {
        let mut waited = BTreeSet::new();
        for a in 0..self.agents.len() {
            let own = self.own(a);
            if own.iter().any(|p| self.started(*p)) && !own.iter().any(|p| self.workable(*p)) {
                waited.extend(own.iter().filter(|p| self.waits(**p)).flat_map(|p| self.reached(*p)));
            }
        }
        waited
    }

    fn root(&self, place: Place) -> Place {
        let rank = |need: Place| {
            let end = if self.waits(need) { self.root(need) } else { need };
            let class = match (self.cause(end) <= 9, self.expected(need)) {
                (true, _) => (2, 0),
                (false, None) => (1, 0),
                (false, Some(finish)) => (0, finish),
            };
            (class, end)
        };
        let needs = self.open_needs(place);
        let latest = needs.iter().map(|n| rank(*n).0).max().unwrap();
        let binding = needs.iter().find(|n| rank(**n).0 == latest).unwrap();
        rank(*binding).1
    }

    /// 1 to 12.
    fn cause(&self, place: Place) -> i32 {
        let a = place.0;
        let agent = &self.agents[a];
        let holds = [
            agent.seen.is_none() && self.now >= DUE,
            self.lost(a),
            agent.exited,
            self.regressed(place),
            self.unknown(place),
            self.says_it_waits(a),
            agent.pressure,
            self.stalled(a),
            self.misdirected(place),
            self.overdue(place),
            !self.started(place),
            true,
        ];
        holds.iter().position(|h| *h).unwrap() as i32 + 1
    }

    fn says_it_waits(&self, a: usize) -> bool {
        self.agents[a].waiting.is_some_and(|since| self.now < since + WAITING)
    }

    fn stalled(&self, a: usize) -> bool {
        let agent = &self.agents[a];
        let Some(workable) = agent.owed.iter().filter_map(|o| o.workable_since).min() else { return false };
        let astray = self.own(a).iter().any(|p| self.misdirected(*p));
        (agent.quiet && self.now >= workable + STALL) || (agent.looping && !astray && self.now >= workable + 3 * STALL)
    }

    fn misdirected(&self, (a, d): Place) -> bool {
        let agent = &self.agents[a];
        if !self.workable((a, d)) || agent.owed[d].waited_since.is_none_or(|since| self.now < since + WINDOW) {
            return false;
        }
        let holds_somebody_up =
            |d: usize| self.places().iter().any(|p| self.waits(*p) && self.open_needs(*p).contains(&(a, d)));
        let recent: Vec<_> = agent.changes.iter().filter(|(at, ..)| at + WINDOW > self.now).collect();
        let own = recent.iter().any(|(_, of, _)| *of == Some(d));
        let other = recent.iter().any(|(_, of, none)| *none > 0 || of.is_some_and(|of| !holds_somebody_up(of)));
        other && !own
    }

    // --- what is compared

    pub fn deliverable(&self, id: &str) -> Told {
        let place = self.places().into_iter().find(|p| name(*p) == id).unwrap();
        let status = match () {
            () if self.verified(place) => "verified",
            () if self.regressed(place) => "regressed",
            () if self.unknown(place) => "unknown",
            () if self.passed_weight(place) > 0.0 => "partial",
            () => "pending",
        };
        Told {
            status: status.into(),
            verified: self.progress(place),
            workable: self.workable(place),
            started: self.started(place),
            root: self.waits(place).then(|| name(self.root(place))),
            cause: self.workable(place).then(|| self.cause(place)),
        }
    }

    fn status(&self, a: usize) -> &'static str {
        let agent = &self.agents[a];
        let own = self.own(a);
        let waiting: Vec<Place> = own.iter().copied().filter(|p| self.waits(*p)).collect();
        let workable = own.iter().any(|p| self.workable(*p));
        match () {
            () if agent.seen.is_none() => {
                if self.now < DUE {
                    "expected"
                } else {
                    "missing"
                }
            }
            () if self.lost(a) => "lost",
            () if own.iter().all(|p| self.verified(*p)) => "done",
            () if agent.exited => "exited",
            () if self.says_it_waits(a) => "waiting",
            () if workable && self.stalled(a) => "stalled",
            () if workable => "active",
            () if own.iter().any(|p| self.started(*p)) => "blocked",
            () if waiting.iter().any(|p| self.open_needs(*p).iter().any(|n| self.overdue(*n))) => "blocked",
            () if waiting.iter().any(|p| self.cause(self.root(*p)) <= 9) => "blocked",
            () => "idle",
        }
    }

    pub fn agent(&self, name: &str) -> String {
        self.status(name[1..].parse().unwrap()).into()
    }

    fn blocked_waits(&self) -> Vec<Place> {
        self.places().into_iter().filter(|p| self.waits(*p) && self.status(p.0) == "blocked").collect()
    }

    pub fn blocked(&self) -> BTreeSet<String> {
        self.blocked_waits().iter().map(|p| format!("{} by {}", name(*p), name(self.root(*p)))).collect()
    }

    pub fn missing(&self) -> BTreeSet<String> {
        let nothing = |(a, d): &Place| {
            let owed = &self.agents[*a].owed[*d];
            let fails = (0..owed.checks.len()).any(|c| self.check((*a, *d), c).0 == Some(false));
            self.agents[*a].seen.is_some() && !owed.passed && !owed.touched && fails
        };
        self.blocked_waits().iter().map(|p| self.root(*p)).filter(nothing).map(name).collect()
    }
}
