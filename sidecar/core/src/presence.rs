//! Is a process of the agent alive, and which life of the agent is it? The incarnation is a counter that outlives this
//! process: it grows when the root process (pid and start time) or the host's boot is another one than was told last.
use pitwall_proto::{mutant, v1};

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Seen(v1::AgentSeen),
    Exited(v1::AgentExited),
    /// Still the one that an earlier life of the sidecar told.
    Known,
}

#[derive(Debug, Default)]
pub struct Presence {
    /// Lives of the agent seen so far.
    pub incarnation: u64,
    told_root: Option<v1::ProcessIdentity>,
    told_alive: bool,
    /// It was told that there was none, or that one ended.
    told_absent: bool,
    /// As of this process of the sidecar; `None` before the first sample.
    alive: Option<Option<v1::ProcessIdentity>>,
    ended: Option<(v1::ProcessIdentity, Option<i32>, Option<i32>)>,
    /// The root is a child of this process, whose end it is told.
    child: Option<v1::ProcessIdentity>,
    /// A sample without process came before the child's end was told.
    waited: bool,
}

fn same(a: &v1::ProcessIdentity, b: &v1::ProcessIdentity) -> bool {
    a.pid == b.pid && a.start_ticks == b.start_ticks
}

impl Presence {
    /// As told by an earlier life; `same_boot`: on this boot of the host.
    pub fn new(seen: Option<(&v1::AgentSeen, bool)>, exited: Option<&v1::AgentExited>) -> Self {
        let incarnation = seen.map_or(0, |(s, _)| s.incarnation);
        Self {
            incarnation,
            told_root: seen.filter(|(_, same_boot)| *same_boot).and_then(|(s, _)| s.root.clone()),
            told_absent: exited.is_some(),
            told_alive: seen.is_some() && exited.is_none_or(|e| e.incarnation < incarnation),
            ..Self::default()
        }
    }

    /// Something was measured: presence is not a guess.
    pub fn known(&self) -> bool {
        self.alive.is_some()
    }

    pub fn root(&self) -> Option<&v1::ProcessIdentity> {
        self.alive.as_ref()?.as_ref()
    }

    /// The sidecar has just started it.
    pub fn launched(&mut self, root: &v1::ProcessIdentity) -> Option<Change> {
        self.child = Some(root.clone());
        self.present(root, true)
    }

    pub fn sampled(&mut self, root: Option<&v1::ProcessIdentity>, launched: bool) -> Option<Change> {
        match root {
            Some(root) => self.present(root, launched),
            None => self.absent(),
        }
    }

    fn present(&mut self, root: &v1::ProcessIdentity, launched: bool) -> Option<Change> {
        let first = self.root().is_none_or(|r| !same(r, root));
        self.alive = Some(Some(root.clone()));
        self.waited = false;
        if self.told_alive && self.told_root.as_ref().is_some_and(|told| same(told, root)) {
            return first.then_some(Change::Known);
        }
        self.incarnation += 1;
        self.told_root = Some(root.clone());
        self.told_alive = true;
        Some(Change::Seen(v1::AgentSeen { incarnation: self.incarnation, root: Some(root.clone()), launched }))
    }

    fn absent(&mut self) -> Option<Change> {
        let gone = self.root().cloned().or_else(|| self.told_root.clone());
        let first = self.alive.is_none();
        self.alive = Some(None);
        if !self.told_alive {
            // Without a memory of any: the orchestrator may remember one, which is gone.
            let unheard = first && self.incarnation == 0 && !self.told_absent && !mutant!("absence-not-told");
            self.told_absent |= unheard;
            let none = v1::AgentExited { incarnation: 0, exit_code: None, signal: None };
            return unheard.then_some(Change::Exited(none));
        }
        let ending = self.ended.take_if(|(root, ..)| gone.as_ref().is_some_and(|g| same(g, root)));
        let own_child = self.child.as_ref().zip(gone.as_ref()).is_some_and(|(c, g)| same(c, g));
        if ending.is_none() && own_child && !std::mem::replace(&mut self.waited, true) {
            // How it ended is on its way: one more sample.
            return None;
        }
        self.waited = false;
        self.told_alive = false;
        let (exit_code, signal) = ending.map_or((None, None), |(_, code, signal)| (code, signal));
        Some(Change::Exited(v1::AgentExited { incarnation: self.incarnation, exit_code, signal }))
    }

    /// The root that the sidecar started ended; others of its processes may live on. One that ended before any sample
    /// saw it had lived all the same: it is told first.
    pub fn child_exited(
        &mut self,
        root: v1::ProcessIdentity,
        code: Option<i32>,
        signal: Option<i32>,
    ) -> Option<Change> {
        let later = self.told_root.as_ref().is_none_or(|told| told.start_ticks < root.start_ticks);
        let unseen = later && !self.told_alive;
        let change = if unseen { self.launched(&root) } else { None };
        self.ended = Some((root, code, signal));
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, start_ticks: u64) -> v1::ProcessIdentity {
        v1::ProcessIdentity { pid, start_ticks, name: "agent".into() }
    }

    fn seen(incarnation: u64, root: &v1::ProcessIdentity) -> Change {
        Change::Seen(v1::AgentSeen { incarnation, root: Some(root.clone()), launched: false })
    }

    fn exited(incarnation: u64, exit_code: Option<i32>) -> Change {
        Change::Exited(v1::AgentExited { incarnation, exit_code, signal: None })
    }

    #[test]
    fn lives_of_an_agent_are_counted() {
        let (a, b, reused) = (process(10, 1), process(11, 2), process(11, 9));
        let mut presence = Presence::default();
        assert!(!presence.known());
        // None, and no memory of any: told once, as the orchestrator may have one.
        assert_eq!(presence.sampled(None, false), Some(exited(0, None)));
        assert!(presence.known());
        assert_eq!(presence.sampled(None, false), None);
        assert_eq!(presence.sampled(Some(&a), false), Some(seen(1, &a)));
        assert_eq!(presence.sampled(Some(&a), false), None);
        assert_eq!(presence.sampled(None, false), Some(exited(1, None)));
        assert_eq!(presence.sampled(None, false), None);
        assert_eq!(presence.sampled(Some(&b), false), Some(seen(2, &b)));
        // The same pid is another process when it started at another time.
        assert_eq!(presence.sampled(Some(&reused), false), Some(seen(3, &reused)));
    }

    #[test]
    fn an_agent_still_alive_keeps_its_incarnation_across_sidecar_restarts() {
        let root = process(10, 1);
        let told = v1::AgentSeen { incarnation: 4, root: Some(root.clone()), launched: true };
        let mut presence = Presence::new(Some((&told, true)), None);
        assert_eq!(presence.sampled(Some(&root), true), Some(Change::Known));
        // On another boot the same pid and ticks are another process.
        let mut presence = Presence::new(Some((&told, false)), None);
        assert!(matches!(presence.sampled(Some(&root), true), Some(Change::Seen(s)) if s.incarnation == 5));
        // It ended while no sidecar looked.
        let mut presence = Presence::new(Some((&told, true)), None);
        assert_eq!(presence.sampled(None, true), Some(exited(4, None)));
        // And that was told before already.
        let gone = v1::AgentExited { incarnation: 4, ..Default::default() };
        let mut presence = Presence::new(Some((&told, true)), Some(&gone));
        assert_eq!(presence.sampled(None, true), None);
    }

    #[test]
    fn the_code_of_a_child_is_told_whichever_comes_first() {
        let root = process(10, 1);
        let mut presence = Presence::default();
        presence.launched(&root);
        presence.child_exited(root.clone(), Some(3), None);
        assert_eq!(presence.sampled(None, true), Some(exited(1, Some(3))));
        let mut presence = Presence::default();
        presence.launched(&root);
        assert_eq!(presence.sampled(None, true), None);
        presence.child_exited(root.clone(), Some(3), None);
        assert_eq!(presence.sampled(None, true), Some(exited(1, Some(3))));
        let mut presence = Presence::default();
        presence.launched(&root);
        assert_eq!(presence.sampled(None, true), None);
        assert_eq!(presence.sampled(None, true), Some(exited(1, None)));
    }

    #[test]
    fn one_that_ended_before_any_sample_had_lived() {
        let (old, root) = (process(9, 1), process(10, 5));
        let mut presence = Presence::default();
        assert_eq!(presence.sampled(None, true), Some(exited(0, None)));
        let change = presence.child_exited(root.clone(), Some(3), None);
        assert!(matches!(change, Some(Change::Seen(s)) if s.incarnation == 1 && s.launched));
        assert_eq!(presence.sampled(None, true), Some(exited(1, Some(3))));
        // The end of an earlier one, told late, is no new life.
        assert_eq!(presence.child_exited(old, Some(0), None), None);
        assert_eq!(presence.child_exited(root, Some(3), None), None);
        assert_eq!(presence.sampled(None, true), None);
    }
}
