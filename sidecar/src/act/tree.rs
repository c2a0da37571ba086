//! Ends one process with all that it started: by identity, the descendants looked for until none is left, also of those
//! whose parent has ended meanwhile. Who left both parent and session before anybody looked is not known for one of them;
//! it is still the agent's.
use std::collections::{HashMap, HashSet};
use std::time::Instant;

use pitwall_proto::v1;
use pitwall_sidecar_core::io::EffectOutcome;
use rustix::process::Signal;

use super::Actor;
use super::kill::{AFTER_KILL, RECOUNT, grace, living};
use super::process::{self, told};
use crate::sample::procfs::Stat;

/// Stopped before they are killed, so that nothing is born between two looks; rounds until nobody new is found.
const STOP_ROUNDS: usize = 32;

/// Who is of the tree: by identity, so that they stay known when their parent ends.
#[derive(Debug)]
struct Tree {
    members: HashSet<(i32, u64)>,
    /// Of a session's leader all of the session.
    session: Option<i32>,
}

impl Tree {
    fn of(root: &v1::ProcessIdentity, all: &[Stat]) -> Self {
        let leads = all.iter().any(|s| s.is(root) && s.session == root.pid);
        let mut tree =
            Self { members: HashSet::from([(root.pid, root.start_ticks)]), session: leads.then_some(root.pid) };
        tree.join(all);
        tree
    }

    fn has(&self, stat: &Stat) -> bool {
        self.members.contains(&(stat.pid, stat.start_ticks))
    }

    /// Those of `all` that are of the tree; how many were not known before is told.
    fn join(&mut self, all: &[Stat]) -> usize {
        let before = self.members.len();
        let by_pid: HashMap<i32, &Stat> = all.iter().map(|s| (s.pid, s)).collect();
        loop {
            // A parent's pid that was given to another meanwhile has another start, and is younger than its child.
            let of_it = |s: &Stat| {
                let parent = by_pid.get(&s.ppid).filter(|parent| parent.start_ticks <= s.start_ticks);
                self.session == Some(s.session) || parent.is_some_and(|parent| self.has(parent))
            };
            let new: Vec<(i32, u64)> =
                all.iter().filter(|s| !self.has(s) && of_it(s)).map(|s| (s.pid, s.start_ticks)).collect();
            if new.is_empty() {
                return self.members.len() - before;
            }
            self.members.extend(new);
        }
    }

    fn left(&mut self, all: Vec<Stat>) -> Vec<Stat> {
        self.join(&all);
        all.into_iter().filter(|s| self.has(s)).collect()
    }
}

fn signal(stats: &[Stat], what: Signal) -> Result<(), String> {
    for stat in stats {
        if let Ok(fd) = process::open(&stat.identity()) {
            process::signal(&fd, what).map_err(|why| format!("{}: {why}", told(&stat.identity())))?;
        }
    }
    Ok(())
}

impl Actor {
    /// TERM to all of it, and KILL to what is left after the grace.
    pub(super) async fn kill_tree(&self, root: v1::ProcessIdentity, grace_ms: u32) -> EffectOutcome {
        // Held for as long as this takes: its pid is nobody else's meanwhile.
        let _held = match self.held_by_pidfd(&root) {
            Ok(fd) => fd,
            Err(why) => return EffectOutcome::Failed { why },
        };
        match self.end_tree(&root, grace_ms).await {
            Ok(detail) => EffectOutcome::Ok { detail },
            Err(why) => EffectOutcome::Failed { why },
        }
    }

    async fn end_tree(&self, root: &v1::ProcessIdentity, grace_ms: u32) -> Result<String, String> {
        self.thaw_for_an_end();
        let began = Instant::now();
        let all = living(&self.agent);
        let mut tree = Tree::of(root, &all);
        let mut asked = HashSet::new();
        let mut left = tree.left(all);
        while !left.is_empty() && began.elapsed() < grace(grace_ms) {
            // Each is asked once; one that is stopped sees it only when it is continued.
            let new: Vec<Stat> = left.iter().copied().filter(|s| asked.insert((s.pid, s.start_ticks))).collect();
            signal(&new, Signal::TERM)?;
            signal(&new, Signal::CONT)?;
            tokio::time::sleep(RECOUNT).await;
            left = tree.left(living(&self.agent));
        }
        if left.is_empty() {
            return Ok(told_end(root, tree.members.len(), 0, began));
        }
        let killed = self.kill_all_of(&mut tree).await?;
        Ok(told_end(root, tree.members.len(), killed, began))
    }

    async fn kill_all_of(&self, tree: &mut Tree) -> Result<usize, String> {
        let until = Instant::now() + AFTER_KILL;
        let mut killed = HashSet::new();
        loop {
            self.thaw_for_an_end();
            let mut left = tree.left(living(&self.agent));
            for _ in 0..STOP_ROUNDS {
                signal(&left, Signal::STOP)?;
                let now = tree.left(living(&self.agent));
                let is_new = |s: &Stat| !left.iter().any(|l| (l.pid, l.start_ticks) == (s.pid, s.start_ticks));
                let grew = now.iter().any(is_new);
                left = now;
                if !grew {
                    break;
                }
            }
            if left.is_empty() {
                return Ok(killed.len());
            }
            killed.extend(left.iter().map(|s| (s.pid, s.start_ticks)));
            signal(&left, Signal::KILL)?;
            if Instant::now() >= until {
                let names: Vec<String> = left.iter().take(5).map(|s| told(&s.identity())).collect();
                return Err(format!("{} processes are still there after KILL: {}", left.len(), names.join(", ")));
            }
            tokio::time::sleep(RECOUNT / 4).await;
        }
    }
}

fn told_end(root: &v1::ProcessIdentity, all: usize, killed: usize, began: Instant) -> String {
    let took = began.elapsed().as_millis();
    let others = all.saturating_sub(1);
    match killed {
        0 => format!("{} and {others} that it started ended on TERM after {took} ms", told(root)),
        _ => format!("{} and {others} that it started ended after {took} ms, {killed} of them on KILL", told(root)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_of_the_tree_also_when_their_parent_has_ended_and_others_are_not() {
        let stat = |pid, ppid, session, start_ticks| Stat { pid, ppid, session, start_ticks, ..Stat::default() };
        let root = v1::ProcessIdentity { pid: 10, start_ticks: 100, name: String::new() };
        let all = [stat(10, 1, 5, 100), stat(11, 10, 5, 101), stat(12, 11, 12, 102), stat(20, 1, 5, 90)];
        let mut tree = Tree::of(&root, &all);
        assert_eq!(tree.members.len(), 3);
        // 11 ended: 12 was given to another parent, and has a child of its own; 13's parent is not of the tree.
        let later = [stat(10, 1, 5, 100), stat(12, 1, 12, 102), stat(14, 12, 12, 150), stat(13, 20, 5, 151)];
        let left: Vec<i32> = tree.left(later.to_vec()).iter().map(|s| s.pid).collect();
        assert_eq!(left, [10, 12, 14]);
        // A later process under a known pid is another one, and so are its children.
        let reused = [stat(12, 1, 1, 300), stat(15, 12, 1, 301)];
        assert!(tree.left(reused.to_vec()).is_empty());
        // Of a session's leader all of the session.
        let led = [stat(10, 1, 10, 100), stat(16, 1, 10, 160), stat(17, 1, 17, 161)];
        assert_eq!(Tree::of(&root, &led).members.len(), 2);
    }
}
