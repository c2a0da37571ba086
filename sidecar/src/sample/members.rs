//! Which processes are the agent's: its cgroup's, else the root's descendants and whatever once was one.
use std::path::Path;

use super::cgroup;
use super::procfs::{ProcFs, Stat};
use crate::act::agent::AgentView;

/// Where processes are looked at: `/proc` itself, or what is remembered of it.
pub trait Look {
    /// All process ids, in no order.
    fn pids(&mut self, into: &mut Vec<i32>);
    fn stat(&mut self, pid: i32) -> Option<Stat>;
    /// Is it in one of these cgroups, as the kernel writes them?
    fn is_in(&mut self, pid: i32, cgroups: [&str; 2]) -> Option<bool>;
    /// The pids in a cgroup and in all below it.
    fn listed(&mut self, directory: &Path, into: &mut Vec<i32>);
    fn proc(&self) -> &ProcFs;
}

impl Look for ProcFs {
    fn pids(&mut self, into: &mut Vec<i32>) {
        Self::pids(self, into);
    }

    fn stat(&mut self, pid: i32) -> Option<Stat> {
        Self::stat(self, pid)
    }

    fn is_in(&mut self, pid: i32, cgroups: [&str; 2]) -> Option<bool> {
        let own = self.cgroup_of(pid)?;
        Some(cgroups.contains(&own.as_str()))
    }

    fn listed(&mut self, directory: &Path, into: &mut Vec<i32>) {
        cgroup::members(self, directory, into);
    }

    fn proc(&self) -> &ProcFs {
        self
    }
}

/// Kept from one look to the next, so that a process whose parent ended is still known for the agent's.
#[derive(Debug, Default)]
pub struct Members {
    /// Pid and start time, by pid.
    known: Vec<(i32, u64)>,
    pids: Vec<i32>,
    /// By pid.
    table: Vec<Stat>,
    verdicts: Vec<Option<bool>>,
    way: Vec<usize>,
    /// Beside the sidecar: processes that wait to become the agent.
    pub holding: usize,
}

impl Members {
    /// Living processes of the agent, in no order. `myself` and what it started is never among them, save the agent.
    pub fn look(&mut self, proc: &mut impl Look, view: &AgentView, myself: i32, into: &mut Vec<Stat>) {
        into.clear();
        if let Some(beside) = &view.beside {
            proc.pids(&mut self.pids);
            self.holding = beside.look(proc, &self.pids, &mut self.known, into);
            return;
        }
        match view.places.members() {
            Some(directory) => {
                proc.listed(directory, &mut self.pids);
                into.extend(self.pids.iter().filter(|pid| **pid != myself).filter_map(|pid| proc.stat(*pid)));
            }
            None if view.root.is_some() => {
                proc.pids(&mut self.pids);
                self.table.clear();
                self.table.extend(self.pids.iter().filter_map(|pid| proc.stat(*pid)));
                self.table.sort_unstable_by_key(|stat| stat.pid);
                self.descendants(view, myself, into);
            }
            None => {}
        }
        into.retain(Stat::alive);
        keep_known(into, &mut self.known);
    }

    fn descendants(&mut self, view: &AgentView, myself: i32, into: &mut Vec<Stat>) {
        self.verdicts.clear();
        self.verdicts.resize(self.table.len(), None);
        for at in 0..self.table.len() {
            if self.belongs(at, view, myself) {
                into.push(self.table[at]);
            }
        }
    }

    /// Follows the parents up to one that is decided, then decides all on the way.
    fn belongs(&mut self, start: usize, view: &AgentView, myself: i32) -> bool {
        let mut at = start;
        self.way.clear();
        let verdict = loop {
            if let Some(verdict) = self.verdicts[at] {
                break verdict;
            }
            let stat = self.table[at];
            self.way.push(at);
            if self.is_seed(&stat, view) {
                break true;
            }
            if stat.pid == myself {
                break false;
            }
            match self.parent_of(&stat) {
                // A ring cannot be, but the table is not read at one instant.
                Some(parent) if !self.way.contains(&parent) => at = parent,
                Some(_) | None => break false,
            }
        };
        for at in &self.way {
            self.verdicts[*at] = Some(verdict);
        }
        verdict
    }

    /// What is remembered of a process that rests may name a parent that has ended: one that was born later only has its pid.
    fn parent_of(&self, stat: &Stat) -> Option<usize> {
        let at = self.table.binary_search_by_key(&stat.ppid, |other| other.pid).ok()?;
        (self.table[at].start_ticks <= stat.start_ticks).then_some(at)
    }

    fn is_seed(&self, stat: &Stat, view: &AgentView) -> bool {
        let Some(root) = &view.root else { return false };
        // The session of an agent that was launched here is its own; its members stay in it when their parent ends.
        let in_session = view.launched && stat.session == root.pid && stat.start_ticks >= root.start_ticks;
        stat.is(root) || in_session || is_known(&self.known, stat)
    }
}

/// Replaces what was known by these.
pub fn keep_known(stats: &[Stat], known: &mut Vec<(i32, u64)>) {
    known.clear();
    known.extend(stats.iter().map(|s| (s.pid, s.start_ticks)));
    known.sort_unstable();
}

pub fn is_known(known: &[(i32, u64)], stat: &Stat) -> bool {
    known.binary_search(&(stat.pid, stat.start_ticks)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use pitwall_proto::v1;

    use super::*;

    fn process(root: &Path, pid: i32, ppid: i32, session: i32, start: u64, state: char) {
        let directory = root.join(pid.to_string());
        fs::create_dir_all(&directory).unwrap();
        let stat =
            format!("{pid} (p{pid}) {state} {ppid} {pid} {session} 0 -1 0 0 0 0 0 1 1 0 0 20 0 1 0 {start} 0 10 0");
        fs::write(directory.join("stat"), stat).unwrap();
    }

    fn look(members: &mut Members, root: &Path, view: &AgentView) -> Vec<i32> {
        let mut found = Vec::new();
        members.look(&mut ProcFs::at(root), view, 50, &mut found);
        let mut pids: Vec<i32> = found.iter().map(|s| s.pid).collect();
        pids.sort_unstable();
        pids
    }

    fn view(launched: bool) -> AgentView {
        let root = v1::ProcessIdentity { pid: 100, start_ticks: 1000, name: String::new() };
        AgentView { root: Some(root), launched, ..AgentView::default() }
    }

    #[test]
    fn descendants_belong_to_the_agent_and_neither_zombies_nor_the_sidecar_do() {
        let proc = tempfile::tempdir().unwrap();
        let p = proc.path();
        process(p, 1, 0, 1, 1, 'S');
        process(p, 100, 1, 100, 1000, 'S');
        process(p, 101, 100, 100, 1001, 'R');
        process(p, 102, 101, 102, 1002, 'S');
        process(p, 103, 101, 100, 1003, 'Z');
        process(p, 50, 100, 100, 1004, 'S');
        process(p, 51, 50, 50, 1005, 'S');
        process(p, 60, 1, 60, 900, 'S');
        assert_eq!(look(&mut Members::default(), p, &view(false)), [100, 101, 102]);
    }

    #[test]
    fn what_once_was_a_descendant_stays_known_by_pid_and_start_time() {
        let proc = tempfile::tempdir().unwrap();
        let p = proc.path();
        process(p, 100, 1, 100, 1000, 'S');
        process(p, 102, 100, 102, 1002, 'S');
        let mut members = Members::default();
        assert_eq!(look(&mut members, p, &view(false)), [100, 102]);
        process(p, 102, 1, 102, 1002, 'S');
        assert_eq!(look(&mut members, p, &view(false)), [100, 102]);
        fs::remove_dir_all(p.join("100")).unwrap();
        assert_eq!(look(&mut members, p, &view(false)), [102]);
        // The pid was given to somebody else.
        process(p, 102, 1, 102, 2000, 'S');
        assert!(look(&mut members, p, &view(false)).is_empty());
    }

    #[test]
    fn the_session_of_a_launched_agent_counts_and_that_of_an_older_one_does_not() {
        let proc = tempfile::tempdir().unwrap();
        let p = proc.path();
        process(p, 105, 1, 100, 1005, 'S');
        process(p, 106, 1, 100, 999, 'S');
        assert_eq!(look(&mut Members::default(), p, &view(true)), [105]);
        assert!(look(&mut Members::default(), p, &view(false)).is_empty());
    }

    #[test]
    fn a_parent_that_was_born_after_its_child_only_has_the_pid_of_the_true_one() {
        let proc = tempfile::tempdir().unwrap();
        let p = proc.path();
        process(p, 100, 1, 100, 1000, 'S');
        process(p, 102, 100, 100, 1005, 'S');
        // Its parent was another process 102, which has ended.
        process(p, 70, 102, 70, 900, 'S');
        assert_eq!(look(&mut Members::default(), p, &view(false)), [100, 102]);
    }

    #[test]
    fn another_process_with_the_roots_pid_is_not_the_agent() {
        let proc = tempfile::tempdir().unwrap();
        process(proc.path(), 100, 1, 100, 5000, 'S');
        assert!(look(&mut Members::default(), proc.path(), &view(false)).is_empty());
    }
}
