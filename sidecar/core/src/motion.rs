//! Does the agent move? *Quiet*: for `stall_after` no file event, no evidence change and less than 1 % of a core.
//! *Looping*: three such windows in a row at least 5 % of a core on average, and nothing of its evidence changed; file
//! events do not help there. Only transitions are told.
use crate::window::Window;

const QUIET_BELOW: f64 = 0.01;
const BUSY_FROM: f64 = 0.05;
const LOOPING_WINDOWS: u64 = 3;
/// A window counts as measured when so much of it was.
const MEASURED: f64 = 0.9;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Quiet(bool),
    Looping(bool),
}

#[derive(Debug)]
pub struct Motion {
    cpu: Window,
    /// Present since; `None`: no process of the agent.
    since: Option<u64>,
    moved_at: u64,
    evidence_at: u64,
    quiet: bool,
    looping: bool,
}

impl Motion {
    /// As told by an earlier life: it stands until something shows otherwise.
    pub fn new(quiet: bool, looping: bool) -> Self {
        Self { cpu: Window::default(), since: None, moved_at: 0, evidence_at: 0, quiet, looping }
    }

    /// Another incarnation: what was measured of the old one says nothing.
    pub fn began(&mut self, now: u64, fresh: bool) -> Vec<Change> {
        self.cpu.clear();
        self.since = Some(now);
        self.moved_at = self.moved_at.max(now);
        self.evidence_at = self.evidence_at.max(now);
        if fresh { self.moves(true) } else { Vec::new() }
    }

    pub fn ended(&mut self) -> Vec<Change> {
        self.cpu.clear();
        self.since = None;
        self.moves(true)
    }

    pub fn file_event(&mut self, now: u64) -> Vec<Change> {
        self.moved_at = now;
        self.moves(false)
    }

    pub fn evidence_changed(&mut self, now: u64) -> Vec<Change> {
        self.moved_at = now;
        self.evidence_at = now;
        self.moves(true)
    }

    fn moves(&mut self, evidence: bool) -> Vec<Change> {
        let mut changes = Vec::new();
        if std::mem::take(&mut self.quiet) {
            changes.push(Change::Quiet(false));
        }
        if evidence && std::mem::take(&mut self.looping) {
            changes.push(Change::Looping(false));
        }
        changes
    }

    pub fn sampled(&mut self, now: u64, interval: u64, cpu_cores: Option<f64>, stall_after: u64) -> Vec<Change> {
        if self.since.is_some()
            && let Some(cores) = cpu_cores
        {
            self.cpu.add(now, interval, cores, stall_after.saturating_mul(LOOPING_WINDOWS + 1));
        }
        self.judge(now, stall_after)
    }

    fn judge(&mut self, now: u64, stall_after: u64) -> Vec<Change> {
        let (Some(since), true) = (self.since, stall_after > 0) else { return Vec::new() };
        let mut changes = Vec::new();
        let from = now.saturating_sub(stall_after);
        let still = self.moved_at.max(since) <= from;
        let quiet = match self.cpu.mean(from, now, MEASURED) {
            Some(mean) => still && mean < QUIET_BELOW,
            // Not known: what was said last stands.
            None => self.quiet,
        };
        if quiet != self.quiet {
            self.quiet = quiet;
            changes.push(Change::Quiet(quiet));
        }
        // Windows follow each other from the last change of its evidence on.
        let anchor = self.evidence_at.max(since);
        let whole = now.saturating_sub(anchor) / stall_after;
        let busy = |n: u64| {
            let until = anchor + (whole - n) * stall_after;
            self.cpu.mean(until - stall_after, until, MEASURED).map(|mean| mean >= BUSY_FROM)
        };
        let looping = match (whole > 0).then(|| busy(0)).flatten() {
            None => self.looping,
            // Once looping, the latest window decides whether it goes on.
            Some(latest) if self.looping => latest,
            Some(latest) => latest && whole >= LOOPING_WINDOWS && (1..LOOPING_WINDOWS).all(|n| busy(n) == Some(true)),
        };
        if looping != self.looping {
            self.looping = looping;
            changes.push(Change::Looping(looping));
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: u64 = 5_000;
    /// A host that is up for a while; times below count from here.
    const BEGIN: u64 = 1_000_000;

    /// One sample a second with these cores; what changed, and when.
    fn run(motion: &mut Motion, from: u64, cores: impl IntoIterator<Item = f64>) -> Vec<(u64, Change)> {
        let mut changes = Vec::new();
        for (n, cores) in cores.into_iter().enumerate() {
            let now = from + (n as u64 + 1) * 1_000;
            changes.extend(motion.sampled(BEGIN + now, 1_000, Some(cores), STALL).into_iter().map(|c| (now, c)));
        }
        changes
    }

    fn begun() -> Motion {
        let mut motion = Motion::new(false, false);
        assert!(motion.began(BEGIN, true).is_empty());
        motion
    }

    #[test]
    fn quiet_after_a_window_without_anything() {
        let mut motion = begun();
        assert_eq!(run(&mut motion, 0, [0.001; 8]), [(5_000, Change::Quiet(true))]);
        assert_eq!(motion.file_event(BEGIN + 8_500), [Change::Quiet(false)]);
        assert_eq!(run(&mut motion, 8_500, [0.0; 5]), [(13_500, Change::Quiet(true))]);
    }

    #[test]
    fn one_percent_of_a_core_is_not_quiet() {
        assert!(run(&mut begun(), 0, [0.02; 12]).is_empty());
    }

    #[test]
    fn cpu_alone_ends_quiet() {
        let mut motion = begun();
        run(&mut motion, 0, [0.0; 6]);
        assert_eq!(run(&mut motion, 6_000, [0.9]), [(7_000, Change::Quiet(false))]);
    }

    #[test]
    fn looping_after_three_busy_windows_without_evidence_whatever_files_change() {
        let mut motion = begun();
        let mut told = Vec::new();
        for n in 0..15 {
            assert!(motion.file_event(BEGIN + n * 1_000 + 500).is_empty());
            told.extend(run(&mut motion, n * 1_000, [0.4]));
        }
        assert_eq!(told, [(15_000, Change::Looping(true))]);
        assert_eq!(motion.evidence_changed(BEGIN + 16_000), [Change::Looping(false)]);
    }

    #[test]
    fn a_window_that_was_not_busy_breaks_the_row() {
        let row = [vec![0.4; 5], vec![0.02; 5], vec![0.4; 14]].concat();
        assert!(run(&mut begun(), 0, row).is_empty());
    }

    #[test]
    fn evidence_within_the_row_begins_it_anew() {
        let mut motion = begun();
        run(&mut motion, 0, [0.4; 14]);
        assert!(motion.evidence_changed(BEGIN + 14_000).is_empty());
        assert_eq!(run(&mut motion, 14_000, [0.4; 16]), [(29_000, Change::Looping(true))]);
    }

    #[test]
    fn what_was_told_stands_until_something_shows_otherwise() {
        let mut motion = Motion::new(true, false);
        assert!(motion.began(BEGIN, false).is_empty());
        assert!(run(&mut motion, 0, [0.0; 2]).is_empty());
        let mut motion = Motion::new(true, true);
        motion.began(BEGIN, false);
        assert_eq!(motion.ended(), [Change::Quiet(false), Change::Looping(false)]);
    }

    #[test]
    fn an_absent_agent_neither_rests_nor_loops() {
        let mut motion = Motion::new(false, false);
        assert!(run(&mut motion, 0, [0.0; 20]).is_empty());
    }
}
