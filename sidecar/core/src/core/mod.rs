//! The sidecar's decider: takes `(now, Input)`, changes what is kept by records, and answers with actions. After each
//! input it settles: whatever is due and whose grounds are durable is done (level-triggered), so that it does not matter
//! which input made it due, nor whether a crash lay in between.
mod acknowledgement;
mod acting;
mod acts;
mod commands;
mod conduct;
mod fencing;
mod leases;
mod limit;
mod link;
mod outbox;
mod own;
mod proof;
mod reconnect;
mod relaunch;
mod resume;
mod session;
mod slots;
mod stop;
mod watch;
mod welcome;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use pitwall_proto::{
    mutant,
    state::{self, record::Body},
    v1::{self, CommandState, fact::Kind},
};

use crate::{
    activity::{Activity, Paths},
    checks::Checks,
    clock::{self, Jitter},
    frame::Lost,
    io::{Action, Effect, EffectId, Identity, Input, Now},
    kept::{self, Kept, Stated as _},
    motion::Motion,
    presence::Presence,
    pressure::Pressure,
    quota::Quotas,
    readings::Told,
    slot::SlotKey,
    spool::{self, Topic},
    store::{Store, Ticket},
};

/// A deadline that has passed already waits for something else, so it is not asked for at once.
const DEADLINE_MIN_MS: u64 = 100;
/// Everything a sidecar decides.
#[derive(Debug)]
pub struct Core {
    identity: Identity,
    boot_id: String,
    now: Now,
    kept: Kept,
    store: Store,
    /// The life's own record.
    life: Ticket,
    lost: Lost,
    lost_facts: kept::LostFacts,
    jitter: Jitter,
    out: Vec<Action>,
    effects: BTreeMap<EffectId, acting::Purpose>,
    next_effect: EffectId,
    checks: Checks,
    paths: Paths,
    activity: Activity,
    motion: Motion,
    quotas: Quotas,
    own: own::Own,
    pressure: Pressure,
    readings: Told,
    presence: Presence,
    link: session::Link,
    work: commands::Work,
    resting: resume::Resting,
    was_moved: bool,
    limits: slots::Limits,
    stop: Option<stop::Stop>,
    /// What was said last of a claim that cannot be read.
    claim_error: String,
    overflow_told: bool,
    /// No fact above it was ever sent from this state: the last of earlier lives, or sent by this one.
    sent_highest: u64,
}

impl Core {
    /// From the bytes of the state file. The second value is how many of them are whole: the shell truncates the rest.
    pub fn recover(identity: Identity, now: Now, read: kept::Read) -> Core {
        let kept::Read { mut kept, valid, lost, lost_facts } = read;
        let damaged = matches!(lost, Lost::Damaged { .. });
        if damaged {
            forget_what_damage_makes_doubtful(&mut kept, lost_facts);
        }
        let boot_id = identity.host.boot_id.clone();
        spoil(&mut kept, now, &boot_id);
        let was_moved = resume::moved(&kept, &identity);
        let resting = resume::Resting::recovered(&kept, &identity);
        let mut store = Store::new(valid, &kept, damaged || kept.version < kept::VERSION);
        let sent_highest = kept.spool.last_seq;
        let life = next_life(&kept.life, &identity);
        let format = Body::Format(state::Format { version: kept::VERSION });
        record_in(&mut kept, &mut store, format);
        let life = record_in(&mut kept, &mut store, Body::Life(life));
        let work = commands::Work::recovered(&kept, now);
        let limits = slots::Limits::recovered(&kept);
        let own = own::Own::recovered(&kept, now, &boot_id);
        let presence = watch::presence(&kept, &boot_id);
        let (motion, quotas, pressure) = watch::told_before(&kept, now, &boot_id);
        Core {
            jitter: Jitter::new(identity.seed),
            identity,
            boot_id,
            now,
            kept,
            store,
            life,
            lost,
            lost_facts,
            out: Vec::new(),
            effects: BTreeMap::new(),
            next_effect: 1,
            checks: Checks::default(),
            paths: Paths::default(),
            activity: Activity::default(),
            motion,
            quotas,
            own,
            pressure,
            readings: Told::default(),
            presence,
            link: session::Link::new(now.boot_ms),
            work,
            resting,
            was_moved,
            limits,
            stop: None,
            claim_error: String::new(),
            overflow_told: false,
            sent_highest,
        }
    }

    /// Takes one input and says what to do, in order.
    pub fn handle(&mut self, now: Now, input: Input) -> Vec<Action> {
        // Neither clock may take back what was decided.
        self.now = Now { boot_ms: now.boot_ms.max(self.now.boot_ms), wall_ms: now.wall_ms };
        match input {
            Input::Started => self.started(),
            Input::Received { session, frame } => self.received(session, frame),
            Input::Closed { session, why, refusal } => self.closed(session, &why, refusal.as_deref()),
            Input::Persisted { batch } => self.store.persisted(batch),
            Input::PersistFailed { batch, why } => self.persist_failed(batch, &why),
            Input::Observed(observation) => self.observed(observation),
            Input::FilesChanged { paths, more } => self.files_changed(&paths, more),
            Input::Workspace { present, reason } => self.workspace(present, reason),
            Input::Claim(claim) => self.claim(claim),
            Input::Sampled(sample) => self.sampled(&sample),
            Input::CommandLines(lines) => self.command_lines(lines),
            Input::WorkspaceUsed(bytes) => self.own.disk_bytes = bytes,
            Input::ChildExited { root, code, signal } => {
                let change = self.presence.child_exited(root, code, signal);
                self.presence_changed(change);
            }
            Input::Done { effect, outcome } => self.done(effect, outcome),
            Input::Stop => self.stop_asked(),
            Input::Tick => {}
        }
        self.settle();
        std::mem::take(&mut self.out)
    }

    /// When something changes by itself next (boot time), and why.
    pub fn next_deadline(&self) -> Option<(u64, String)> {
        let mut all: Vec<(u64, String)> = Vec::new();
        let mut add = |at: Option<u64>, why: &str| all.extend(at.map(|at| (at, why.to_owned())));
        add(self.store.deadline(), "the state file is to be written");
        add(self.checks.deadline().filter(|_| self.stop.is_none()), "a check is due");
        add(self.activity.deadline(self.activity_every()), "file activity is to be told");
        add(self.session_deadline(), "the stream to the orchestrator");
        add(self.commands_deadline(), "a command must start or expires");
        add(self.limits_deadline(), "a limit ends, or is looked at");
        add(self.own_deadline(), "the sidecar's own policy: a health check, a restart, or a limit to renew");
        add(self.stop_deadline(), "the sidecar must have stopped");
        let (at, why) = all.into_iter().min()?;
        let at = if at > self.now.boot_ms { at } else { self.now.boot_ms + DEADLINE_MIN_MS };
        Some((at, why))
    }

    fn settle(&mut self) {
        self.settle_watch();
        self.settle_own();
        self.settle_limits();
        self.settle_commands();
        // What was accepted just now.
        self.settle_limits();
        self.settle_stop();
        self.settle_session();
        if let Some(action) = self.store.issue(self.now, &self.kept) {
            self.out.push(action);
        }
    }

    fn started(&mut self) {
        match self.lost {
            Lost::Nothing => {}
            Lost::TornTail { bytes } => {
                self.log(false, format!("the state file ended in {bytes} bytes of an unfinished write: cut off"));
            }
            Lost::Damaged { bytes } => {
                let facts = match self.lost_facts {
                    kept::LostFacts { counted, more: false } => format!("{counted} facts are lost"),
                    kept::LostFacts { counted, more: true } => format!("{counted} facts are lost, and perhaps more"),
                };
                let text = format!(
                    "the state file is damaged, {bytes} bytes of it cannot be read ({facts}): going on with all else, as a \
                     new instance; commands without a result end as unknown"
                );
                self.log(true, text);
                self.end_leases_without_a_record();
            }
        }
        self.rest();
        if self.kept.plan.is_some() {
            self.adopt();
        }
    }

    fn persist_failed(&mut self, batch: u64, why: &str) {
        if self.store.failed(self.now, batch) {
            let text = format!("the state file cannot be written: {why}; nothing is told or done until it can");
            self.log(true, text);
        }
    }

    /// Changes what is kept. It may be relied on once the ticket is durable.
    fn record(&mut self, body: Body) -> Ticket {
        record_in(&mut self.kept, &mut self.store, body)
    }

    /// For what would be found out again, if a crash lost it.
    fn record_lazily(&mut self, body: Body) {
        let record = state::Record { body: Some(body) };
        self.kept.apply(&record);
        self.store.push_lazily(self.now, record);
    }

    fn tell(&mut self, kind: Kind) -> u64 {
        let at = clock::moment(self.now, &self.boot_id);
        self.tell_at(at, kind)
    }

    /// Puts a fact into the spool; its number.
    fn tell_at(&mut self, at: state::Moment, kind: Kind) -> u64 {
        let seq = self.kept.spool.last_seq + 1;
        self.record(Body::Fact(spool::record(seq, at, kind)));
        let seqs = self.kept.spool.overflow();
        if !seqs.is_empty() {
            let counted = if mutant!("overflow-uncounted") { 0 } else { seqs.len() as u64 };
            let untold = self.kept.spool.untold + counted;
            if !std::mem::replace(&mut self.overflow_told, true) {
                self.log(true, "the spool of facts is full: the oldest are dropped and counted".into());
            }
            self.record(Body::FactsOverflowed(state::FactsOverflowed { seqs, untold }));
        }
        seq
    }

    fn told(&self, topic: &Topic) -> Option<&Kind> {
        self.kept.spool.told(topic).map(|f| &f.kind)
    }

    fn log(&mut self, severe: bool, text: String) {
        self.out.push(Action::Log { severe, text });
    }

    fn act(&mut self, purpose: acting::Purpose, what: Effect) {
        let effect = self.next_effect;
        self.next_effect += 1;
        self.effects.insert(effect, purpose);
        self.out.push(Action::Do { effect, what });
    }

    /// A capability of this name, or the first whose name begins with `name.`; available ones first.
    fn capability(&self, name: &str) -> Option<&v1::Capability> {
        let all = &self.identity.capabilities;
        let fits = |c: &&v1::Capability| {
            c.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        all.iter().filter(fits).find(|c| c.available).or_else(|| all.iter().find(fits))
    }

    /// Whether it can be done here, and else what would enable it.
    fn can(&self, name: &str) -> Result<(), String> {
        match self.capability(name) {
            Some(c) if c.available => Ok(()),
            Some(c) if c.enabled_by.is_empty() => Err(format!("{} is not possible here: {}", c.name, c.reason)),
            Some(c) => Err(format!("{} is not possible here: {}; {}", c.name, c.reason, c.enabled_by)),
            None => Err(format!("this sidecar has no capability {name}")),
        }
    }

    /// The agent is this sidecar's own child, or that of an earlier life.
    fn launches(&self) -> bool {
        self.can("launch").is_ok()
    }
}

/// Deliberate bugs (see [`pitwall_proto::mutant!`]) in what a new life takes over. Nothing, else.
fn spoil(kept: &mut Kept, now: Now, boot_id: &str) {
    let moment = clock::moment(now, boot_id);
    for lease in kept.leases.values_mut() {
        if mutant!("adopted-past-its-end") {
            (lease.started, lease.renewed) = (Some(moment.clone()), Some(moment.clone()));
        }
        if mutant!("lapsed-lease-applied-again") {
            lease.renewed = Some(moment.clone());
        }
    }
    if mutant!("dedupe-forgotten-at-restart") {
        kept.commands.clear();
        kept.cursor.command_cursor = None;
    }
}

fn record_in(kept: &mut Kept, store: &mut Store, body: Body) -> Ticket {
    let record = state::Record { body: Some(body) };
    kept.apply(&record);
    store.push(record)
}

fn next_life(last: &state::Life, identity: &Identity) -> state::Life {
    let instance = if last.instance.is_empty() { identity.fresh_instance.clone() } else { last.instance.clone() };
    // Of a directory that was moved or copied its old place stays, until this sidecar may start the agent.
    let place = if last.place.is_empty() { identity.place.clone() } else { last.place.clone() };
    let (project, agent) = (identity.project.clone(), identity.agent.clone());
    state::Life { instance, life: last.life + 1, project, agent, place, only_observes: last.only_observes }
}

/// A sidecar whose memory has a hole may have acted on what it does not remember: it is another instance, forgets
/// how far it had come, and starts nothing that was underway. To the orchestrator none of its facts is known: what was told
/// last is told anew, with what had waited.
fn forget_what_damage_makes_doubtful(kept: &mut Kept, lost: kept::LostFacts) {
    kept.life = state::Life { agent: kept.life.agent.clone(), ..Default::default() };
    kept.cursor.command_cursor = None;
    kept.spool.begin_anew(lost.at_least());
    keep_newest_leases(kept);
    kept.acts.clear();
    for command in kept.commands.values_mut() {
        if !commands::is_terminal(command.state()) {
            command.set_state(CommandState::Unknown);
            command.detail = "the sidecar's state file was damaged: it may or may not have taken effect".into();
        }
        // By whom it was acknowledged may be lost with the cursor: another history than that one must be told.
        command.acked = false;
    }
}

/// That an older one ended may stand in what cannot be read; the newer of the same slot took its place.
fn keep_newest_leases(kept: &mut Kept) {
    let started = |l: &state::Lease| l.started.as_ref().map_or(0, |at| at.boot_ms);
    let mut newest: BTreeMap<SlotKey, (u64, String)> = BTreeMap::new();
    for lease in kept.leases.values().filter(|l| l.origin() == state::LeaseOrigin::Orchestrator) {
        let this = (started(lease), lease.command.clone());
        let known = newest.entry(SlotKey::of_lease(lease)).or_insert_with(|| this.clone());
        if this.0 >= known.0 {
            *known = this;
        }
    }
    let stays = |id: &String, l: &state::Lease| newest.get(&SlotKey::of_lease(l)).is_some_and(|(_, n)| n == id);
    kept.leases.retain(|id, l| l.origin() != state::LeaseOrigin::Orchestrator || stays(id, l));
}
