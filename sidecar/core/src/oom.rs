//! Whom did the kernel kill for want of memory? The cgroup counts its kills and names nobody: of the processes that
//! vanished about then, the largest is told, with the memory that it was seen with last. Where none was seen to vanish (it
//! came and went between two samples) nobody is named.
use std::collections::{BTreeMap, VecDeque};

use pitwall_proto::v1;

use crate::{
    io::Sample,
    named::{Id, id},
};

/// The counter and the process table are not read at one instant.
const ABOUT_MS: u64 = 3_000;
/// Vanished processes that are remembered.
const GONE_MAX: usize = 256;

#[derive(Debug)]
struct Gone {
    process: v1::ProcessIdentity,
    memory: u64,
    at: u64,
}

#[derive(Debug, Default)]
pub struct Oom {
    before: BTreeMap<Id, (v1::ProcessIdentity, u64)>,
    agent_bytes: Option<u64>,
    gone: VecDeque<Gone>,
    /// Kills that nobody was named for yet, with the use before them.
    pending: u64,
    pending_bytes: Option<u64>,
}

impl Oom {
    pub fn sampled(&mut self, now: u64, sample: &Sample) -> Option<v1::OutOfMemory> {
        // Where nobody counts kills there is nobody to name.
        let kills = sample.oom_kills.unwrap_or(0);
        if sample.oom_kills.is_none() {
            self.before.clear();
        } else {
            self.look(now, sample);
        }
        self.gone.retain(|g| now.saturating_sub(g.at) <= ABOUT_MS);
        while self.gone.len() > GONE_MAX {
            self.gone.pop_front();
        }
        let agent_bytes = std::mem::replace(&mut self.agent_bytes, sample.agent.memory_bytes);
        let told = self.tell(kills, agent_bytes);
        if told.is_none() && kills > 0 {
            // Perhaps the next sample shows who is gone.
            self.pending = kills;
            self.pending_bytes = agent_bytes;
        }
        told
    }

    /// Who is there now, and who of those before is not.
    fn look(&mut self, now: u64, sample: &Sample) {
        let mut before = std::mem::take(&mut self.before);
        for process in &sample.processes {
            let Some(identity) = process.identity.as_ref() else { continue };
            let known = before.remove(&id(identity));
            let memory = process.memory_bytes.or(known.as_ref().map(|(_, memory)| *memory));
            if let Some(memory) = memory {
                // After an exec it has another name.
                let known = known.map(|(known, _)| known).filter(|known| known.name == identity.name);
                let identity = known.unwrap_or_else(|| identity.clone());
                self.before.insert(id(&identity), (identity, memory));
            }
        }
        self.gone.extend(before.into_values().map(|(process, memory)| Gone { process, memory, at: now }));
    }

    fn tell(&mut self, kills: u64, agent_bytes: Option<u64>) -> Option<v1::OutOfMemory> {
        let waited = std::mem::take(&mut self.pending);
        let total = kills.saturating_add(waited);
        if total == 0 {
            return None;
        }
        let largest = self.gone.iter().enumerate().max_by_key(|(_, g)| g.memory).map(|(at, _)| at);
        let victim = largest.and_then(|at| self.gone.remove(at));
        if victim.is_none() && waited == 0 {
            return None;
        }
        Some(v1::OutOfMemory {
            kills: total,
            memory_bytes: victim.as_ref().map(|v| v.memory),
            process: victim.map(|v| v.process),
            agent_bytes: self.pending_bytes.take().or(agent_bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(processes: &[(i32, u64)], kills: u64) -> Sample {
        let process = |(pid, memory): &(i32, u64)| v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid: *pid, start_ticks: 1, name: format!("p{pid}") }),
            memory_bytes: Some(*memory),
            ..Default::default()
        };
        let memory_bytes = Some(processes.iter().map(|(_, m)| m).sum());
        Sample {
            processes: processes.iter().map(process).collect(),
            agent: v1::Usage { memory_bytes, ..Default::default() },
            oom_kills: Some(kills),
            ..Default::default()
        }
    }

    fn told(fact: Option<v1::OutOfMemory>) -> Option<(u64, Option<i32>, Option<u64>)> {
        fact.map(|f| (f.kills, f.process.map(|p| p.pid), f.memory_bytes))
    }

    #[test]
    fn the_largest_that_vanished_is_named() {
        let mut oom = Oom::default();
        assert_eq!(told(oom.sampled(1_000, &sample(&[(1, 10), (2, 500), (3, 20)], 0))), None);
        // An end without a kill is none.
        assert_eq!(told(oom.sampled(2_000, &sample(&[(1, 10), (2, 500)], 0))), None);
        let fact = oom.sampled(3_000, &sample(&[(1, 10)], 1));
        assert_eq!(fact.as_ref().and_then(|f| f.agent_bytes), Some(510));
        assert_eq!(told(fact), Some((1, Some(2), Some(500))));
        assert_eq!(told(oom.sampled(4_000, &sample(&[(1, 10)], 0))), None, "told once");
    }

    #[test]
    fn the_counter_may_be_ahead_of_the_process_table_or_behind_it() {
        let mut oom = Oom::default();
        oom.sampled(1_000, &sample(&[(1, 10), (2, 500)], 0));
        assert_eq!(told(oom.sampled(2_000, &sample(&[(1, 10), (2, 500)], 1))), None);
        assert_eq!(told(oom.sampled(3_000, &sample(&[(1, 10)], 0))), Some((1, Some(2), Some(500))));
        oom.sampled(4_000, &sample(&[(1, 10), (4, 60)], 0));
        assert_eq!(told(oom.sampled(5_000, &sample(&[(1, 10)], 0))), None);
        assert_eq!(told(oom.sampled(6_000, &sample(&[(1, 10)], 1))), Some((1, Some(4), Some(60))));
    }

    #[test]
    fn nobody_is_named_where_nobody_was_seen() {
        let mut oom = Oom::default();
        oom.sampled(1_000, &sample(&[(1, 10), (2, 500)], 0));
        // This one ended long before.
        oom.sampled(2_000, &sample(&[(1, 10)], 0));
        assert_eq!(told(oom.sampled(9_000, &sample(&[(1, 10)], 2))), None);
        assert_eq!(told(oom.sampled(10_000, &sample(&[(1, 10)], 0))), Some((2, None, None)));
    }
}
