//! The rungs that are a setting of each thread: which cores it may run on (affinity) and how it stands back against
//! others (nice). Written to every thread of the agent or of one process, those that come later included; old settings
//! are kept for each thread that differed, and put back exactly. A thread that somebody else set otherwise is left alone.
use std::collections::BTreeMap;

use rustix::process::{Pid, getpriority_process, setpriority_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::sample::procfs::ProcFs;

/// Threads that differed from the rest are remembered one by one, up to here.
const EXCEPTIONS_MAX: usize = 512;
/// Threads of one agent.
const THREADS_MAX: usize = 32_768;
/// New threads are born while the old ones are set: rounds until none is found.
const ROUNDS_MAX: usize = 16;
const NICE_MAX: i32 = 19;
/// One step of nice is so much of the kernel's weight.
const NICE_STEP: f64 = 1.25;
const WEIGHT_USUAL: f64 = 100.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knob {
    Affinity,
    Nice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Thread {
    pub tid: i32,
    pub start_ticks: u64,
}

/// How all threads stand to what was written.
#[derive(Debug, PartialEq, Eq)]
pub enum Standing {
    /// None is looser than what was written.
    Held,
    /// All are as they were before.
    Before,
    /// Some are as before: born late, or a write was cut short.
    Partly,
    /// Somebody else set this one so.
    Foreign(String),
}

/// As in a hold's `old`: what most had, then `TID:START VALUE` for each that differed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Old {
    usual: String,
    exceptions: BTreeMap<Thread, String>,
}

impl Old {
    pub fn parse(text: &str) -> Self {
        let mut lines = text.lines();
        let usual = lines.next().unwrap_or_default().to_owned();
        let exceptions = lines.filter_map(|line| {
            let (thread, value) = line.split_once(' ')?;
            let (tid, start) = thread.split_once(':')?;
            Some((Thread { tid: tid.parse().ok()?, start_ticks: start.parse().ok()? }, value.to_owned()))
        });
        Self { usual, exceptions: exceptions.take(EXCEPTIONS_MAX).collect() }
    }

    pub fn text(&self) -> String {
        let mut text = self.usual.clone();
        for (thread, value) in &self.exceptions {
            text.push_str(&format!("\n{}:{} {value}", thread.tid, thread.start_ticks));
        }
        text
    }

    fn of(&self, thread: Thread) -> &str {
        self.exceptions.get(&thread).map_or(&self.usual, String::as_str)
    }

    /// This thread had it, or one that it was born of while the others were set: a child has what its parent had.
    fn may_have_had(&self, thread: Thread, value: &str) -> bool {
        value == self.of(thread)
            || !self.exceptions.contains_key(&thread) && self.exceptions.values().any(|other| other == value)
    }
}

/// Every thread of these processes.
pub fn of_processes(pids: &[i32]) -> Vec<Thread> {
    let mut threads = Vec::new();
    for pid in pids {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        let tids = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        // A thread's own directory answers below /proc too, though it is not listed there.
        threads.extend(tids.filter_map(thread).take(THREADS_MAX - threads.len().min(THREADS_MAX)));
    }
    threads
}

fn thread(tid: i32) -> Option<Thread> {
    let stat = ProcFs::default().stat(tid).filter(|s| s.alive())?;
    Some(Thread { tid, start_ticks: stat.start_ticks })
}

impl Knob {
    pub fn rung(self) -> &'static str {
        match self {
            Self::Affinity => "affinity",
            Self::Nice => "nice",
        }
    }

    /// `None`: the thread has ended, or its setting cannot be read.
    fn read(self, tid: i32) -> Option<String> {
        let pid = Pid::from_raw(tid).filter(|_| tid > 0)?;
        match self {
            Self::Affinity => sched_getaffinity(Some(pid)).ok().map(|set| list_of(&set)),
            Self::Nice => getpriority_process(Some(pid)).ok().map(|nice| nice.to_string()),
        }
    }

    fn write(self, thread: Thread, value: &str) -> Result<(), String> {
        let pid = Pid::from_raw(thread.tid).filter(|_| thread.tid > 0).ok_or("no thread has such a number")?;
        // One that has ended meanwhile needs nothing; whoever has its number by now gets nothing.
        if self::thread(thread.tid) != Some(thread) {
            return Ok(());
        }
        let written = match self {
            Self::Affinity => sched_setaffinity(Some(pid), &set_of(value)),
            Self::Nice => setpriority_process(Some(pid), value.parse().unwrap_or(0)),
        };
        match written {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => Err(format!(
                "{} of thread {} may not be set to {value}: the sidecar needs the capability SYS_NICE",
                self.rung(),
                thread.tid
            )),
            Err(e) => Err(format!("{} of thread {} cannot be set to {value}: {e}", self.rung(), thread.tid)),
        }
    }

    /// The same setting again.
    pub fn probe(self, tid: i32) -> Result<(), String> {
        let thread = thread(tid).ok_or("no process of the agent is alive")?;
        let now = self.read(tid).ok_or_else(|| format!("{} of thread {tid} cannot be read", self.rung()))?;
        self.write(thread, &now)
    }

    /// What is there now, and what would hold to `amount`. Or why it cannot be.
    /// `beneath`: what was there before a hold of ours that stands now.
    pub fn limited(
        self,
        main: i32,
        threads: &[Thread],
        amount: f64,
        beneath: Option<Old>,
    ) -> Result<(Old, String), String> {
        if let Some(old) = beneath {
            let new = self.stricter_than(&old.usual, amount)?;
            return Ok((old, new));
        }
        let usual = self.read(main).ok_or("no process of the agent is alive")?;
        let mut exceptions = BTreeMap::new();
        for thread in threads {
            if let Some(value) = self.read(thread.tid).filter(|value| *value != usual) {
                exceptions.insert(*thread, value);
            }
        }
        if exceptions.len() > EXCEPTIONS_MAX {
            return Err(format!("{} threads are set otherwise than the rest, too many to remember", exceptions.len()));
        }
        let new = self.stricter_than(&usual, amount)?;
        Ok((Old { usual, exceptions }, new))
    }

    fn stricter_than(self, usual: &str, amount: f64) -> Result<String, String> {
        match self {
            Self::Affinity => first_cores(usual, amount),
            Self::Nice => Ok(nice_for(amount).max(usual.parse().unwrap_or(0)).to_string()),
        }
    }

    /// Not looser than what was written.
    fn accepts(self, value: &str, new: &str) -> bool {
        match self {
            Self::Affinity => {
                let (value, new) = (cores_of(value), cores_of(new));
                value.iter().all(|core| new.contains(core))
            }
            Self::Nice => value.parse::<i32>().unwrap_or(i32::MIN) >= new.parse::<i32>().unwrap_or(i32::MAX),
        }
    }

    pub fn standing(self, threads: &[Thread], old: &Old, new: &str) -> Standing {
        let (mut held, mut before) = (0, 0);
        for thread in threads {
            let Some(value) = self.read(thread.tid) else { continue };
            if self.accepts(&value, new) {
                held += 1;
            } else if value == old.of(*thread) {
                before += 1;
            } else {
                return Standing::Foreign(format!("thread {}: {value}", thread.tid));
            }
        }
        match (held, before) {
            (_, 0) => Standing::Held,
            (0, _) => Standing::Before,
            (_, _) => Standing::Partly,
        }
    }

    /// Only what is as it was before, or as one of our own has it that gives way, be that looser or stricter: what somebody
    /// else set meanwhile is left to them.
    fn is_to_be_set(self, value: &str, as_before: bool, ours: Option<&str>, new: &str) -> bool {
        value != new && (ours == Some(value) || as_before && !self.accepts(value, new))
    }

    /// All of them, and those that are born meanwhile. How many were set.
    pub fn hold(
        self,
        look: impl Fn() -> Vec<Thread>,
        old: &Old,
        ours: Option<&str>,
        new: &str,
    ) -> Result<usize, String> {
        let mut set = 0;
        for _ in 0..ROUNDS_MAX {
            let looser = |thread: &Thread| {
                self.read(thread.tid)
                    .is_some_and(|value| self.is_to_be_set(&value, old.may_have_had(*thread, &value), ours, new))
            };
            let left: Vec<Thread> = look().into_iter().filter(looser).collect();
            if left.is_empty() {
                return Ok(set);
            }
            for thread in &left {
                self.write(*thread, new)?;
            }
            set += left.len();
        }
        // A fast forker: each of its children inherits; the next look takes the rest.
        Ok(set)
    }

    /// Puts back what is ours.
    pub fn release(self, look: impl Fn() -> Vec<Thread>, old: &Old, new: &str) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let is_ours = |thread: &Thread| {
                let before = old.of(*thread);
                self.read(thread.tid).is_some_and(|value| value == new && value != before)
            };
            let left: Vec<Thread> = look().into_iter().filter(is_ours).collect();
            if left.is_empty() {
                return Ok(());
            }
            for thread in left {
                self.write(thread, old.of(thread))?;
            }
        }
        Ok(())
    }
}

/// As many as `amount`, rounded up, of those that may be used now. Fewer cores than asked for are never given.
fn first_cores(now: &str, amount: f64) -> Result<String, String> {
    let cores = cores_of(now);
    let wanted = amount.ceil().max(1.0);
    if !amount.is_finite() || wanted >= cores.len() as f64 {
        return Err(format!("it may use {} cores in all: affinity holds it to fewer than that only", cores.len()));
    }
    Ok(list(&cores[..wanted as usize]))
}

/// What the kernel weighs as this share.
fn nice_for(weight: f64) -> i32 {
    let weight = if weight.is_finite() { weight.clamp(1.0, WEIGHT_USUAL) } else { WEIGHT_USUAL };
    ((WEIGHT_USUAL / weight).ln() / NICE_STEP.ln()).round().clamp(0.0, f64::from(NICE_MAX)) as i32
}

fn list_of(set: &CpuSet) -> String {
    let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    list(&cores)
}

/// `0-3,8`
fn list(cores: &[usize]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < cores.len() {
        let begin = at;
        while at + 1 < cores.len() && cores[at + 1] == cores[at] + 1 {
            at += 1;
        }
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&cores[begin].to_string());
        if at > begin {
            text.push_str(&format!("-{}", cores[at]));
        }
        at += 1;
    }
    text
}

fn cores_of(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some(first..=last.min(CpuSet::MAX_CPU - 1))
    };
    list.split(',').filter_map(range).flatten().collect()
}

fn set_of(list: &str) -> CpuSet {
    let mut set = CpuSet::new();
    for core in cores_of(list) {
        set.set(core);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_listed_as_the_kernel_lists_them_and_rounded_up() {
        for (text, cores) in [("0-3,8", vec![0, 1, 2, 3, 8]), ("5", vec![5]), ("0,2", vec![0, 2])] {
            assert_eq!((cores_of(text), list(&cores)), (cores.clone(), text.to_owned()));
            assert_eq!(list_of(&set_of(text)), text);
        }
        for (now, amount, then) in [
            ("0-3", 1.0, Some("0")),
            ("0-3", 1.2, Some("0-1")),
            ("2,5-6", 0.1, Some("2")),
            ("0-3", 4.0, None),
            ("0", 0.5, None),
            ("0-1", f64::NAN, None),
        ] {
            assert_eq!(first_cores(now, amount).ok().as_deref(), then, "{now} {amount}");
        }
        assert!(cores_of("0-99999999999").len() <= CpuSet::MAX_CPU);
    }

    #[test]
    fn what_somebody_else_set_meanwhile_is_left_to_them() {
        for (knob, value, ours, set) in [
            (Knob::Affinity, "0-3", None, true),
            (Knob::Affinity, "0-1", None, false),
            (Knob::Affinity, "0", None, false),
            (Knob::Affinity, "3", None, false),
            (Knob::Affinity, "0-2", None, false),
            (Knob::Affinity, "0-2", Some("0-2"), true),
            (Knob::Affinity, "0", Some("0"), true),
            (Knob::Affinity, "3", Some("0"), false),
            (Knob::Nice, "0", None, true),
            (Knob::Nice, "5", None, false),
            (Knob::Nice, "15", None, false),
            (Knob::Nice, "15", Some("15"), true),
        ] {
            let (before, new) = if knob == Knob::Affinity { ("0-3", "0-1") } else { ("0", "10") };
            assert_eq!(knob.is_to_be_set(value, value == before, ours, new), set, "{knob:?} {value} {ours:?}");
        }
    }

    #[test]
    fn a_second_writer_between_two_rounds_is_not_written_over() {
        let sleep = || std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut children = [sleep(), sleep()];
        let tids = children.each_ref().map(|child| child.id().cast_signed());
        let usual: i32 = Knob::Nice.read(tids[0]).unwrap().parse().unwrap();
        let (theirs, new) = (usual + 2, (usual + 4).to_string());
        let rounds = std::cell::Cell::new(0);
        let look = || {
            rounds.set(rounds.get() + 1);
            if rounds.get() == 2 {
                setpriority_process(Pid::from_raw(tids[1]), theirs).unwrap();
            }
            tids.iter().take(rounds.get()).filter_map(|tid| thread(*tid)).collect()
        };
        let old = Old { usual: usual.to_string(), exceptions: BTreeMap::new() };
        let set = Knob::Nice.hold(look, &old, None, &new);
        let now = tids.map(|tid| Knob::Nice.read(tid).unwrap());
        let standing = Knob::Nice.standing(&of_processes(&tids), &old, &new);
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(set, Ok(1));
        assert_eq!(now, [new, theirs.to_string()]);
        assert_eq!(standing, Standing::Foreign(format!("thread {}: {theirs}", tids[1])));
    }

    #[test]
    fn a_weight_is_the_nice_that_the_kernel_weighs_so() {
        for (weight, nice) in [(100.0, 0), (80.0, 1), (50.0, 3), (10.0, 10), (1.0, 19), (400.0, 0), (f64::NAN, 0)] {
            assert_eq!(nice_for(weight), nice, "{weight}");
        }
    }

    #[test]
    fn what_was_there_comes_back_as_text_with_each_thread_that_differed() {
        let mut old = Old { usual: "0-3".into(), exceptions: BTreeMap::new() };
        assert_eq!(Old::parse(&old.text()), old);
        let thread = Thread { tid: 7, start_ticks: 99 };
        old.exceptions.insert(thread, "2".into());
        assert_eq!(old.text(), "0-3\n7:99 2");
        assert_eq!(Old::parse(&old.text()), old);
        let child = Thread { tid: 7, start_ticks: 100 };
        assert_eq!((old.of(thread), old.of(child)), ("2", "0-3"));
        // It may have been born of the one that had another value.
        assert!(old.may_have_had(child, "2") && old.may_have_had(child, "0-3") && !old.may_have_had(child, "1"));
        assert!(old.may_have_had(thread, "2") && !old.may_have_had(thread, "0-3"));
    }
}
