//! What shows that a limit holds, which is a throttle's result: the use that is measured while it is in effect, or, where
//! nobody need run into it, the value that is read back.
use pitwall_proto::{
    throttle::{brief, is_measured},
    v1::{self, CommandState, LeaseState, Resource, fact::Kind},
};

use super::Core;
use crate::{
    io::Sample,
    slot::{SlotKey, amount_of},
};

/// How long the agent's use is measured before a limit is said to hold: at least so long, and over whole samples.
const MEASURE_MS: u64 = 5_000;
/// Without samples for so long, or for so many times of the plan, the result says that it was not measured.
const MEASURE_WITHIN_MS: u64 = 15_000;
const MEASURE_WITHIN_SAMPLES: u64 = 3;
/// A limit may take so long to bite.
const SETTLE_MS: u64 = 100;
/// It holds when the use is at most so much above what was asked.
const TOLERANCE: f64 = 1.15;
const TOLERANCE_CORES: f64 = 0.03;
/// A block or two that were under way.
const TOLERANCE_BYTES_PER_S: f64 = 65_536.0;

/// What is still to be seen of a lease in effect.
#[derive(Clone, Copy, Debug)]
pub(super) enum Proof {
    /// What was used while it was held.
    Measured(Measure),
    /// The next look that finds the value there.
    ReadBack,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    since: u64,
    /// When a sample last told anything of it.
    heard: u64,
    /// Amount times milliseconds.
    used: f64,
    over_ms: u64,
}

impl Core {
    /// From now on: what is measured already is measured anew.
    pub(super) fn prove_from_now(&mut self, id: &str) {
        let Some(key) = self.kept.leases.get(id).map(SlotKey::of_lease) else { return };
        let since = self.now.boot_ms + SETTLE_MS;
        let proof = if is_measured(key.resource()) {
            Proof::Measured(Measure { since, heard: since, used: 0.0, over_ms: 0 })
        } else {
            self.verify_soon(key);
            Proof::ReadBack
        };
        self.limits.proofs.insert(id.into(), proof);
    }

    /// The value of this slot stands where it was written.
    pub(super) fn read_back(&mut self, key: SlotKey) {
        let held = self.kept.limits.get(&key).and_then(|l| l.hold.as_ref()).map(|h| h.amount);
        let waiting = self.limits.proofs.iter().filter(|(_, proof)| matches!(proof, Proof::ReadBack));
        for id in waiting.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            let Some(lease) = self.kept.leases.get(&id).filter(|l| SlotKey::of_lease(l) == key) else { continue };
            let asked = amount_of(lease);
            // A stricter one is not written yet.
            let Some(held) = held.filter(|held| *held <= asked) else { continue };
            self.limits.proofs.remove(&id);
            self.tell(Kind::EffectMeasured(v1::EffectMeasured {
                command: id.clone(),
                resource: key.resource,
                asked,
                measured: None,
                over_ms: 0,
                held: true,
            }));
            let resource = key.resource();
            let stricter = match held < asked {
                true => format!("; {} holds, which another lease wants", brief(resource, held)),
                false => String::new(),
            };
            let detail = format!("asked {}, read back{stricter}", brief(resource, asked));
            self.step(&id, CommandState::Succeeded, detail);
        }
    }

    /// A throttle's result is what was measured.
    pub(super) fn measured(&mut self, sample: &Sample) {
        let now = self.now.boot_ms;
        let began = now.saturating_sub(u64::from(sample.interval_ms));
        for (id, proof) in self.limits.proofs.clone() {
            let Proof::Measured(mut measure) = proof else { continue };
            let Some(key) = self.kept.leases.get(&id).map(SlotKey::of_lease) else { continue };
            let counts = began >= measure.since && sample.interval_ms > 0;
            if let Some(used) = used(sample, key).filter(|_| counts) {
                measure.used += used * f64::from(sample.interval_ms);
                measure.over_ms += u64::from(sample.interval_ms);
                measure.heard = now;
            }
            if measure.over_ms >= MEASURE_MS {
                self.limits.proofs.remove(&id);
                self.conclude(&id, key, measure);
            } else {
                self.limits.proofs.insert(id, Proof::Measured(measure));
            }
        }
        self.pass_measures();
    }

    fn conclude(&mut self, id: &str, key: SlotKey, measure: Measure) {
        let Some(lease) = self.kept.leases.get(id) else { return };
        let (asked, resource) = (amount_of(lease), key.resource());
        let measured = measure.used / measure.over_ms as f64;
        let spare = if resource == Resource::Io { TOLERANCE_BYTES_PER_S } else { TOLERANCE_CORES };
        let holds = measured <= asked * TOLERANCE + spare;
        self.tell(Kind::EffectMeasured(v1::EffectMeasured {
            command: id.into(),
            resource: key.resource,
            asked,
            measured: Some(measured),
            over_ms: u32::try_from(measure.over_ms).unwrap_or(u32::MAX),
            held: holds,
        }));
        let (a, m) = (brief(resource, asked), brief(resource, measured));
        let detail = format!("asked {a}, measured {m} over {}", seconds(measure.over_ms));
        if holds {
            self.step(id, CommandState::Succeeded, detail);
        } else {
            let detail = format!("{detail}: the limit does not hold, it is undone");
            self.step(id, CommandState::Failed, detail.clone());
            self.end_lease(id, LeaseState::Ended, &detail);
        }
    }

    /// Where samples are rare, they are waited for.
    fn pass_measures(&mut self) {
        let every = self.kept.plan.as_ref().and_then(|p| p.windows.as_ref()).map_or(0, |w| w.sample_every_ms);
        let within = MEASURE_WITHIN_MS.max(MEASURE_WITHIN_SAMPLES * u64::from(every));
        let now = self.now.boot_ms;
        let over = self.limits.proofs.iter().filter(|(_, proof)| match proof {
            Proof::Measured(measure) => now >= measure.heard + within,
            Proof::ReadBack => false,
        });
        for id in over.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.limits.proofs.remove(&id);
            let whose = match self.kept.leases.get(&id).and_then(|l| l.process.as_ref()) {
                Some(p) => format!("the use of pid {}", p.pid),
                None => "the agent's use".to_owned(),
            };
            let detail = format!("the limit is in effect; {whose} could not be measured");
            self.step(&id, CommandState::Succeeded, detail);
        }
    }
}

/// Of whom the slot is about. `None`: not measured.
fn used(sample: &Sample, key: SlotKey) -> Option<f64> {
    let Some((pid, ticks)) = key.target else {
        // Nothing of the agent runs: it uses nothing.
        if sample.root.is_none() && sample.processes.is_empty() {
            return Some(0.0);
        }
        let usage = &sample.agent;
        return amount(key.resource(), usage.cpu_cores, usage.read_bytes_per_s, usage.write_bytes_per_s);
    };
    let is_it = |p: &&v1::ProcessUsage| p.identity.as_ref().is_some_and(|i| (i.pid, i.start_ticks) == (pid, ticks));
    let usage = sample.processes.iter().find(is_it)?;
    amount(key.resource(), usage.cpu_cores, usage.read_bytes_per_s, usage.write_bytes_per_s)
}

/// Reads and writes are limited each: the larger one counts.
fn amount(resource: Resource, cpu: Option<f64>, read: Option<f64>, written: Option<f64>) -> Option<f64> {
    match resource {
        Resource::Cpu => cpu,
        Resource::Io => read.into_iter().chain(written).max_by(f64::total_cmp),
        _ => None,
    }
}

pub(super) fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{} s", ms / 1_000) } else { format!("{:.1} s", ms as f64 / 1_000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_whom_and_of_what_a_use_is() {
        let busy = v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid: 9, start_ticks: 7, name: "x".into() }),
            cpu_cores: Some(0.4),
            write_bytes_per_s: Some(3.0),
            ..Default::default()
        };
        let agent = v1::Usage {
            cpu_cores: Some(1.0),
            read_bytes_per_s: Some(5.0),
            write_bytes_per_s: Some(8.0),
            ..Default::default()
        };
        let sample = Sample { processes: vec![busy], agent, ..Default::default() };
        let key = |resource: Resource, target| SlotKey { resource: resource as i32, target };
        let table = [
            (Resource::Cpu, None, Some(1.0)),
            (Resource::Io, None, Some(8.0)),
            (Resource::Cpu, Some((9, 7)), Some(0.4)),
            (Resource::Io, Some((9, 7)), Some(3.0)),
            // Another process of that pid.
            (Resource::Cpu, Some((9, 8)), None),
            (Resource::Memory, None, None),
        ];
        for (resource, target, expected) in table {
            assert_eq!(used(&sample, key(resource, target)), expected, "{resource:?} {target:?}");
        }
        assert_eq!(used(&Sample::default(), key(Resource::Io, None)), Some(0.0), "nothing of it runs");
        assert_eq!(used(&Sample::default(), key(Resource::Cpu, Some((9, 7)))), None, "it may be gone");
    }
}
