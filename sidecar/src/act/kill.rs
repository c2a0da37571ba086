//! Ends one process by identity, or all of the agent. The outcome is exact, or says what is not known.
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use pitwall_proto::v1;
use pitwall_sidecar_core::io::EffectOutcome;
use rustix::process::Signal;

use super::process::{self, Ending, Missed, told};
use super::{Actor, agent::AgentHandle};
use crate::clock;
use crate::sample::cgroup::Places;
use crate::sample::procfs::{ProcFs, Stat};

/// A killed process is gone at once, unless it sleeps in the kernel.
pub(super) const AFTER_KILL: Duration = Duration::from_secs(2);
/// No grace is longer.
const GRACE_MAX: Duration = Duration::from_secs(600);
/// How often the agent's remaining processes are counted.
pub(super) const RECOUNT: Duration = Duration::from_millis(20);

fn failed(why: impl Into<String>) -> EffectOutcome {
    EffectOutcome::Failed { why: why.into() }
}

fn same(a: &v1::ProcessIdentity, b: &v1::ProcessIdentity) -> bool {
    (a.pid, a.start_ticks) == (b.pid, b.start_ticks)
}

pub(super) fn grace(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms)).min(GRACE_MAX)
}

pub(super) fn living(agent: &AgentHandle) -> Vec<Stat> {
    let mut stats = Vec::new();
    agent.processes(&mut ProcFs::default(), &mut stats);
    stats
}

impl Actor {
    pub(super) async fn kill(&self, target: v1::ProcessIdentity, grace_ms: u32) -> EffectOutcome {
        match self.held_by_pidfd(&target).and_then(Ending::of) {
            Ok(ending) => {
                self.thaw_for_an_end();
                self.end_one(&target, &ending, grace(grace_ms)).await
            }
            Err(why) => failed(why),
        }
    }

    /// Who may be ended: this very process, and one of the agent's.
    pub(super) fn held_by_pidfd(&self, target: &v1::ProcessIdentity) -> Result<OwnedFd, String> {
        if target.pid <= 1 || target.pid == std::process::id() as i32 {
            return Err(format!("pid {} is never ended: it is not an agent's process", target.pid));
        }
        let fd = process::open(target).map_err(|missed| match missed {
            Missed::Ended => format!("{} has ended already", told(target)),
            Missed::Other(now) => format!(
                "pid {} is another process by now: {} started at {}, not {}; read its identity again",
                target.pid, now.name, now.start_ticks, target.start_ticks
            ),
            Missed::Refused(why) => format!("{} cannot be held: {why}", told(target)),
        })?;
        match living(&self.agent).iter().any(|s| s.is(target)) {
            true => Ok(fd),
            false => Err(format!("{} does not belong to the agent", told(target))),
        }
    }

    async fn end_one(&self, target: &v1::ProcessIdentity, ending: &Ending, grace: Duration) -> EffectOutcome {
        let began = Instant::now();
        // One that is stopped sees TERM only when it is continued.
        if let Err(why) = ending.signal(Signal::TERM).and_then(|()| ending.signal(Signal::CONT)) {
            return failed(format!("{}: {why}", told(target)));
        }
        if ending.within(grace).await {
            let took = began.elapsed().as_millis();
            return EffectOutcome::Ok { detail: format!("{} ended on TERM after {took} ms", told(target)) };
        }
        // It may have been frozen again meanwhile.
        self.thaw_for_an_end();
        if let Err(why) = ending.signal(Signal::KILL) {
            return failed(format!("{} did not end on TERM within {} ms: {why}", told(target), grace.as_millis()));
        }
        if ending.within(AFTER_KILL).await {
            let took = began.elapsed().as_millis();
            return EffectOutcome::Ok { detail: format!("{} ended on KILL after {took} ms", told(target)) };
        }
        failed(format!("{} got TERM and KILL and is still there: it sleeps in the kernel", told(target)))
    }

    /// TERM to the root; once it has ended, or at the end of the grace, to nobody's surprise the rest follows.
    pub(super) async fn end_agent(&self, root: v1::ProcessIdentity, grace_ms: u32) -> EffectOutcome {
        let view = self.agent.view();
        if !view.launched {
            return failed(
                "this sidecar did not start the agent; ends only what it started: give it the command after --",
            );
        }
        if view.root.as_ref().is_some_and(|now| now.pid != root.pid || now.start_ticks != root.start_ticks) {
            return failed(format!("{} is not the agent's root any more", told(&root)));
        }
        // A stopped process does not see TERM.
        self.stop_duty_cycle().await;
        self.thaw_for_an_end();
        let began = Instant::now();
        let deadline = began + grace(grace_ms);
        let mut how = "had ended already";
        if let Ok(ending) = process::open(&root).map_err(|_| ()).and_then(|fd| Ending::of(fd).map_err(|_| ())) {
            if let Err(why) = ending.signal(Signal::TERM).and_then(|()| ending.signal(Signal::CONT)) {
                return failed(format!("{}: {why}", told(&root)));
            }
            how = if ending.within(grace(grace_ms)).await { "ended on TERM" } else { "was killed after the grace" };
        }
        self.signal_rest(Signal::TERM);
        while Instant::now() < deadline && !living(&self.agent).is_empty() {
            tokio::time::sleep(RECOUNT).await;
        }
        let killed = self.kill_rest(&view.places).await;
        match killed {
            Ok(0) => {
                EffectOutcome::Ok { detail: format!("{} {how} after {} ms", told(&root), began.elapsed().as_millis()) }
            }
            Ok(rest) => EffectOutcome::Ok {
                detail: format!(
                    "{} {how}; {rest} of its processes were killed, after {} ms",
                    told(&root),
                    began.elapsed().as_millis()
                ),
            },
            Err(why) => failed(why),
        }
    }

    /// TERM to the root, and once it has ended KILL to what of that life is left: the engine may have begun another
    /// already, which is none of this command's business.
    pub(super) async fn end_beside(&self, root: v1::ProcessIdentity, grace_ms: u32) -> EffectOutcome {
        self.thaw_for_an_end();
        let mut this_life = Life::of(&living(&self.agent));
        if self.agent.view().root.as_ref().is_some_and(|now| !same(now, &root)) {
            return failed(format!("{} is not the agent's root any more", told(&root)));
        }
        let began = Instant::now();
        let Ok(ending) = process::open(&root).map_err(|_| ()).and_then(|fd| Ending::of(fd).map_err(|_| ())) else {
            // Whoever is there now may be of the next life.
            return EffectOutcome::Ok { detail: format!("{} had ended already", told(&root)) };
        };
        if let Err(why) = ending.signal(Signal::TERM).and_then(|()| ending.signal(Signal::CONT)) {
            return failed(format!("{}: {why}", told(&root)));
        }
        let mut how = "ended on TERM";
        if !ending.within(grace(grace_ms)).await {
            how = "was killed after the grace";
            if let Err(why) = ending.signal(Signal::KILL) {
                return failed(format!("{}: {why}", told(&root)));
            }
            if !ending.within(AFTER_KILL).await {
                return failed(format!(
                    "{} got TERM and KILL and is still there: it sleeps in the kernel",
                    told(&root)
                ));
            }
        }
        this_life.ended = Some(clock::boot_ticks());
        // One that is still there could be taken for the next life; what they start meanwhile is of theirs too.
        let until = Instant::now() + AFTER_KILL;
        loop {
            let left: Vec<Stat> = living(&self.agent).into_iter().filter(|s| this_life.has(s)).collect();
            let Some(first) = left.first().map(Stat::identity) else { break };
            if Instant::now() >= until {
                return failed(format!("{} got KILL and is still there: it sleeps in the kernel", told(&first)));
            }
            for process in left.iter().map(Stat::identity) {
                if let Ok(fd) = process::open(&process)
                    && let Err(why) = process::signal(&fd, Signal::KILL)
                {
                    return failed(format!("{}: {why}", told(&process)));
                }
            }
            this_life.join(&left);
            tokio::time::sleep(RECOUNT / 4).await;
        }
        EffectOutcome::Ok { detail: format!("{} {how} after {} ms", told(&root), began.elapsed().as_millis()) }
    }

    fn signal_rest(&self, what: Signal) {
        for stat in living(&self.agent) {
            if let Ok(fd) = process::open(&stat.identity()) {
                let _ = process::signal(&fd, what);
                let _ = process::signal(&fd, Signal::CONT);
            }
        }
    }

    /// KILL until none is left: what they start meanwhile is killed in the next round.
    pub(super) async fn kill_rest(&self, places: &Places) -> Result<usize, String> {
        let deadline = Instant::now() + AFTER_KILL;
        let mut killed = std::collections::HashSet::new();
        loop {
            let rest = living(&self.agent);
            if rest.is_empty() {
                return Ok(killed.len());
            }
            if Instant::now() >= deadline {
                let names: Vec<String> = rest.iter().take(5).map(|s| told(&s.identity())).collect();
                return Err(format!("{} processes did not end on KILL within 2 s: {}", rest.len(), names.join(", ")));
            }
            killed.extend(rest.iter().map(|s| (s.pid, s.start_ticks)));
            self.thaw_for_an_end();
            // At once and complete where the kernel can; its file is absent elsewhere.
            if let Some(v2) = &places.v2 {
                let _ = std::fs::write(v2.join("cgroup.kill"), "1");
            }
            for stat in &rest {
                if let Ok(fd) = process::open(&stat.identity()) {
                    process::signal(&fd, Signal::KILL).map_err(|why| format!("{}: {why}", told(&stat.identity())))?;
                }
            }
            tokio::time::sleep(RECOUNT / 4).await;
        }
    }
}

/// Who is of one life of an agent beside: an engine begins the next one in a session of its own, and only after the end
/// of this one's root.
#[derive(Debug, Default)]
struct Life {
    sessions: BTreeSet<i32>,
    processes: BTreeSet<(i32, u64)>,
    /// The tick at which its root ended.
    ended: Option<u64>,
}

impl Life {
    fn of(all: &[Stat]) -> Self {
        let mut life = Self::default();
        life.join(all);
        life
    }

    fn join(&mut self, more: &[Stat]) {
        // 0: its leader is outside of this pid namespace, and may be anybody.
        self.sessions.extend(more.iter().map(|s| s.session).filter(|session| *session > 0));
        self.processes.extend(more.iter().map(|s| (s.pid, s.start_ticks)));
    }

    fn has(&self, stat: &Stat) -> bool {
        self.processes.contains(&(stat.pid, stat.start_ticks))
            || self.sessions.contains(&stat.session)
            || self.ended.is_some_and(|ended| stat.start_ticks <= ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_starts_while_it_ends_is_not_its_next_life() {
        let stat = |pid, session, start_ticks| Stat { pid, session, start_ticks, ..Stat::default() };
        let mut life = Life::of(&[stat(10, 10, 100), stat(11, 10, 101), stat(12, 12, 102)]);
        life.ended = Some(500);
        let table = [
            (stat(10, 10, 100), true, "its root"),
            (stat(13, 10, 501), true, "a child that a survivor started after the root's end"),
            (stat(14, 14, 499), true, "one that left the session before the root's end"),
            (stat(15, 15, 510), false, "the next life"),
            (stat(11, 15, 511), false, "a child of the next life under a pid that was in use before"),
        ];
        for (stat, of_this_life, what) in table {
            assert_eq!(life.has(&stat), of_this_life, "{what}");
        }
        life.join(&[stat(14, 14, 499)]);
        assert!(life.has(&stat(16, 14, 501)), "a child of one that left the session");
    }
}
