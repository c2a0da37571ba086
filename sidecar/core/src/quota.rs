//! Is the agent above a quota for longer than it may be? Told when it begins and ends, with the largest process.
use std::collections::BTreeMap;

use pitwall_proto::v1::{self, Resource};

use crate::io::Sample;

/// It ends when the use is below this share of the limit, so that a use that swings about the limit is told once.
const ENDS_BELOW: f64 = 0.95;
/// Another process became the largest: told again, at most so often.
const RENAMED_EVERY_MS: u64 = 10_000;

#[derive(Debug)]
struct Watch {
    above_since: Option<u64>,
    told: bool,
    told_at: u64,
    largest: Option<v1::ProcessIdentity>,
}

#[derive(Debug, Default)]
pub struct Quotas {
    watches: BTreeMap<i32, Watch>,
}

fn used(resource: Resource, sample: &Sample) -> Option<f64> {
    // No process is no use; a figure that is absent otherwise is not known.
    let none = sample.root.is_none() && sample.processes.is_empty();
    let known = match resource {
        Resource::Cpu => sample.agent.cpu_cores,
        Resource::Memory => sample.agent.memory_bytes.map(|b| b as f64),
        Resource::Pids => sample.agent.threads.or(sample.agent.processes).map(f64::from),
        Resource::Io
        | Resource::CpuWeight
        | Resource::Freeze
        | Resource::GpuPower
        | Resource::GpuClock
        | Resource::Disk
        | Resource::GpuMemory
        | Resource::Unspecified => None,
    };
    if none { Some(0.0) } else { known }
}

fn of_process(resource: Resource, process: &v1::ProcessUsage) -> Option<f64> {
    match resource {
        Resource::Cpu => process.cpu_cores,
        Resource::Memory => process.memory_bytes.map(|b| b as f64),
        Resource::Pids => process.threads.map(f64::from),
        Resource::Io
        | Resource::CpuWeight
        | Resource::Freeze
        | Resource::GpuPower
        | Resource::GpuClock
        | Resource::Disk
        | Resource::GpuMemory
        | Resource::Unspecified => None,
    }
}

/// The process that uses most of it.
pub fn largest(resource: Resource, processes: &[v1::ProcessUsage]) -> Option<(v1::ProcessIdentity, f64)> {
    let known = processes.iter().filter_map(|p| Some((p.identity.clone()?, of_process(resource, p)?)));
    known.max_by(|a, b| a.1.total_cmp(&b.1))
}

impl Quotas {
    /// As told by an earlier life.
    pub fn told_before<'a>(&mut self, facts: impl IntoIterator<Item = (u64, &'a v1::QuotaFact)>) {
        for (at, fact) in facts.into_iter().filter(|(_, f)| f.exceeded) {
            let since = at.saturating_sub(u64::from(fact.above_for_ms));
            let watch = Watch { above_since: Some(since), told: true, told_at: at, largest: fact.process.clone() };
            self.watches.insert(fact.resource, watch);
        }
    }

    pub fn sampled(&mut self, now: u64, sample: &Sample, quotas: &[v1::Quota]) -> Vec<v1::QuotaFact> {
        let mut facts = Vec::new();
        // A quota that the plan no longer has is not exceeded.
        self.watches.retain(|resource, watch| {
            let kept = quotas.iter().any(|q| q.resource == *resource);
            if !kept && watch.told {
                facts.push(v1::QuotaFact { exceeded: false, resource: *resource, ..Default::default() });
            }
            kept
        });
        for quota in quotas {
            let resource = quota.resource();
            let Some(used) = used(resource, sample) else { continue };
            let watch = self.watches.entry(quota.resource).or_insert(Watch {
                above_since: None,
                told: false,
                told_at: 0,
                largest: None,
            });
            facts.extend(watch.judge(now, quota, used, sample));
        }
        facts
    }
}

impl Watch {
    fn judge(&mut self, now: u64, quota: &v1::Quota, used: f64, sample: &Sample) -> Option<v1::QuotaFact> {
        let resource = quota.resource();
        if used > quota.limit {
            // A rate was above the limit during its interval; an amount is known from now on.
            let lasted = if resource == Resource::Cpu { u64::from(sample.interval_ms) } else { 0 };
            self.above_since.get_or_insert(now.saturating_sub(lasted));
        } else if !self.told || used < quota.limit * ENDS_BELOW {
            self.above_since = None;
        }
        let Some(since) = self.above_since else {
            self.largest = None;
            return std::mem::take(&mut self.told).then(|| v1::QuotaFact {
                exceeded: false,
                resource: quota.resource,
                limit: quota.limit,
                used,
                ..Default::default()
            });
        };
        let above_for = now.saturating_sub(since);
        let found = largest(resource, &sample.processes);
        let process = found.as_ref().map(|(p, _)| p.clone());
        let renamed = self.told && process != self.largest && now.saturating_sub(self.told_at) >= RENAMED_EVERY_MS;
        let due = !self.told && above_for >= u64::from(quota.for_ms);
        if !due && !renamed {
            return None;
        }
        (self.told, self.told_at, self.largest) = (true, now, process.clone());
        Some(v1::QuotaFact {
            exceeded: true,
            resource: quota.resource,
            limit: quota.limit,
            used,
            above_for_ms: u32::try_from(above_for).unwrap_or(u32::MAX),
            process,
            process_used: found.map_or(0.0, |(_, used)| used),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32, cpu: f64) -> v1::ProcessUsage {
        v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid, start_ticks: 1, name: format!("p{pid}") }),
            cpu_cores: Some(cpu),
            memory_bytes: Some(1_000),
            ..Default::default()
        }
    }

    fn sample(cores: &[f64]) -> Sample {
        let processes: Vec<_> = cores.iter().enumerate().map(|(n, c)| process(n as i32 + 10, *c)).collect();
        Sample {
            interval_ms: 1_000,
            root: processes[0].identity.clone(),
            agent: v1::Usage { cpu_cores: Some(cores.iter().sum()), ..Default::default() },
            processes,
            ..Default::default()
        }
    }

    fn quota(limit: f64, for_ms: u32) -> Vec<v1::Quota> {
        vec![v1::Quota { resource: Resource::Cpu as i32, limit, for_ms }]
    }

    /// Seconds at which it was told, and whether it was exceeded then.
    fn run(quotas: &mut Quotas, plan: &[v1::Quota], from: u64, row: &[f64]) -> Vec<(u64, bool)> {
        let mut told = Vec::new();
        for (n, cores) in row.iter().enumerate() {
            let now = from + n as u64 + 1;
            told.extend(quotas.sampled(now * 1_000, &sample(&[*cores]), plan).iter().map(|f| (now, f.exceeded)));
        }
        told
    }

    #[test]
    fn told_after_its_time_and_again_when_it_ends() {
        let mut quotas = Quotas::default();
        let plan = quota(1.0, 3_000);
        let row = [0.5, 1.5, 1.5, 1.5, 1.5, 0.97, 0.98, 0.5, 0.5];
        // From second 1, when the first rate above the limit began; 0.97 is below it but not by enough.
        assert_eq!(run(&mut quotas, &plan, 0, &row), [(4, true), (8, false)]);
    }

    #[test]
    fn a_dip_begins_the_time_anew() {
        assert!(run(&mut Quotas::default(), &quota(1.0, 3_000), 0, &[1.5, 1.5, 0.99, 1.5, 1.5, 0.9]).is_empty());
    }

    #[test]
    fn it_names_the_largest_process_and_since() {
        let facts = Quotas::default().sampled(5_000, &sample(&[0.2, 1.4, 0.1]), &quota(1.0, 1_000));
        assert_eq!(facts.len(), 1);
        assert_eq!(facts[0].process.as_ref().map(|p| p.pid), Some(11));
        assert_eq!((facts[0].process_used, facts[0].above_for_ms), (1.4, 1_000));
        assert!((facts[0].used - 1.7).abs() < 1e-9);
    }

    #[test]
    fn memory_is_above_from_the_sample_that_shows_it() {
        let mut quotas = Quotas::default();
        let plan = [v1::Quota { resource: Resource::Memory as i32, limit: 100.0, for_ms: 1_000 }];
        let mut sample = sample(&[0.1]);
        sample.agent.memory_bytes = Some(200);
        assert!(quotas.sampled(1_000, &sample, &plan).is_empty());
        let facts = quotas.sampled(2_000, &sample, &plan);
        assert_eq!(facts.iter().map(|f| (f.exceeded, f.used)).collect::<Vec<_>>(), [(true, 200.0)]);
    }

    #[test]
    fn no_process_left_ends_it_and_an_unknown_figure_does_not() {
        let mut quotas = Quotas::default();
        let plan = quota(1.0, 0);
        assert_eq!(run(&mut quotas, &plan, 0, &[1.5]), [(1, true)]);
        let mut unknown = sample(&[1.5]);
        unknown.agent.cpu_cores = None;
        assert!(quotas.sampled(2_000, &unknown, &plan).is_empty());
        assert!(!quotas.sampled(3_000, &Sample::default(), &plan)[0].exceeded);
    }

    #[test]
    fn an_earlier_life_told_it_already() {
        let mut quotas = Quotas::default();
        let fact = v1::QuotaFact { exceeded: true, resource: Resource::Cpu as i32, ..Default::default() };
        quotas.told_before([(500, &fact)]);
        let plan = quota(1.0, 0);
        assert_eq!(run(&mut quotas, &plan, 0, &[1.5, 0.1]), [(2, false)]);
    }

    #[test]
    fn a_quota_that_left_the_plan_is_not_exceeded() {
        let mut quotas = Quotas::default();
        run(&mut quotas, &quota(1.0, 0), 0, &[1.5]);
        let facts = quotas.sampled(2_000, &sample(&[1.5]), &[]);
        assert_eq!(facts.iter().map(|f| f.exceeded).collect::<Vec<_>>(), [false]);
    }
}
