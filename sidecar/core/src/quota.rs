//! Is the agent, or a named process of it, above a quota for longer than it may be? Told when it begins and ends, with
//! the largest process. What is done about it is decided in [`remedy`](crate::remedy).
use std::collections::BTreeMap;

use pitwall_proto::v1::{self, Resource};

use crate::io::Sample;

/// It ends when the use is below this share of the limit, so that a use that swings about the limit is told once.
pub const ENDS_BELOW: f64 = 0.95;
/// Another process became the largest: told again, at most so often.
const RENAMED_EVERY_MS: u64 = 10_000;

/// One limit of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Empty: the whole agent.
    pub named: String,
    pub resource: i32,
    pub soft: bool,
}

impl Target {
    pub fn of(named: &str, quota: &v1::Quota) -> Self {
        Self { named: named.into(), resource: quota.resource, soft: quota.soft }
    }

    fn ended(&self) -> v1::QuotaFact {
        v1::QuotaFact {
            exceeded: false,
            resource: self.resource,
            named: self.named.clone(),
            soft: self.soft,
            ..Default::default()
        }
    }
}

/// Whose use is held against which quotas: the agent's, or a named process's.
#[derive(Clone, Debug, Default)]
pub struct Scope<'a> {
    /// Empty: the whole agent.
    pub named: &'a str,
    pub quotas: &'a [v1::Quota],
    pub usage: v1::Usage,
    pub processes: Vec<&'a v1::ProcessUsage>,
    /// Nothing of it runs.
    pub none: bool,
    /// What the rates cover.
    pub interval_ms: u32,
    pub disk_bytes: Option<u64>,
    /// Devices that tell what each process has.
    pub gpus_tell: bool,
}

impl<'a> Scope<'a> {
    /// The whole agent.
    pub fn agent(sample: &'a Sample, quotas: &'a [v1::Quota]) -> Self {
        Self {
            quotas,
            usage: sample.agent,
            processes: sample.processes.iter().collect(),
            none: sample.root.is_none() && sample.processes.is_empty(),
            interval_ms: sample.interval_ms,
            gpus_tell: gpus_tell(sample),
            ..Self::default()
        }
    }

    /// `None`: not measured.
    pub fn used(&self, resource: Resource) -> Option<f64> {
        let known = match resource {
            // It stays when the agent ends.
            Resource::Disk => return self.disk_bytes.map(|b| b as f64),
            Resource::Cpu => self.usage.cpu_cores,
            Resource::Memory => self.usage.memory_bytes.map(|b| b as f64),
            Resource::Pids => self.usage.threads.or(self.usage.processes).map(f64::from),
            Resource::GpuMemory => {
                let each = self.processes.iter().filter_map(|p| p.gpu_memory_bytes);
                self.gpus_tell.then(|| each.fold(0, u64::saturating_add) as f64)
            }
            Resource::Io
            | Resource::CpuWeight
            | Resource::Freeze
            | Resource::GpuPower
            | Resource::GpuClock
            | Resource::Unspecified => None,
        };
        // No process is no use; a figure that is absent otherwise is not known.
        if self.none { Some(0.0) } else { known }
    }

    /// Since when a use that this sample shows has been so: a rate was during its interval, an amount is from now on.
    pub fn since(&self, now: u64, resource: Resource) -> u64 {
        let lasted = if resource == Resource::Cpu { u64::from(self.interval_ms) } else { 0 };
        now.saturating_sub(lasted)
    }
}

/// A device that is cut into instances, or whose driver is gone, says nothing of processes.
pub fn gpus_tell(sample: &Sample) -> bool {
    sample.gpus.iter().any(|gpu| gpu.mig != Some(true) && gpu.missing.is_empty())
}

#[derive(Debug)]
struct Watch {
    above_since: Option<u64>,
    told: bool,
    told_at: u64,
    largest: Option<v1::ProcessIdentity>,
}

#[derive(Debug, Default)]
pub struct Quotas {
    watches: BTreeMap<Target, Watch>,
}

fn of_process(resource: Resource, process: &v1::ProcessUsage) -> Option<f64> {
    match resource {
        Resource::Cpu => process.cpu_cores,
        Resource::Memory => process.memory_bytes.map(|b| b as f64),
        Resource::Pids => process.threads.map(f64::from),
        Resource::GpuMemory => process.gpu_memory_bytes.map(|b| b as f64),
        Resource::Io
        | Resource::CpuWeight
        | Resource::Freeze
        | Resource::GpuPower
        | Resource::GpuClock
        | Resource::Disk
        | Resource::Unspecified => None,
    }
}

/// The process that uses most of it.
pub fn largest<'a>(
    resource: Resource,
    processes: impl IntoIterator<Item = &'a v1::ProcessUsage>,
) -> Option<(v1::ProcessIdentity, f64)> {
    let known = processes.into_iter().filter_map(|p| Some((p.identity.clone()?, of_process(resource, p)?)));
    known.max_by(|a, b| a.1.total_cmp(&b.1))
}

impl Quotas {
    /// As told by an earlier life.
    pub fn told_before<'a>(&mut self, facts: impl IntoIterator<Item = (u64, &'a v1::QuotaFact)>) {
        for (at, fact) in facts.into_iter().filter(|(_, f)| f.exceeded) {
            let since = at.saturating_sub(u64::from(fact.above_for_ms));
            let watch = Watch { above_since: Some(since), told: true, told_at: at, largest: fact.process.clone() };
            let target = Target { named: fact.named.clone(), resource: fact.resource, soft: fact.soft };
            self.watches.insert(target, watch);
        }
    }

    pub fn sampled(&mut self, now: u64, scopes: &[Scope<'_>]) -> Vec<v1::QuotaFact> {
        let mut facts = Vec::new();
        // A quota that the plan no longer has is not exceeded.
        self.watches.retain(|target, watch| {
            let kept = scopes
                .iter()
                .any(|s| s.named == target.named && s.quotas.iter().any(|q| Target::of(s.named, q) == *target));
            if !kept && watch.told {
                facts.push(target.ended());
            }
            kept
        });
        for (scope, quota) in scopes.iter().flat_map(|s| s.quotas.iter().map(move |q| (s, q))) {
            let Some(used) = scope.used(quota.resource()) else { continue };
            let target = Target::of(scope.named, quota);
            let watch = self.watches.entry(target.clone()).or_insert(Watch {
                above_since: None,
                told: false,
                told_at: 0,
                largest: None,
            });
            facts.extend(watch.judge(now, &target, quota, used, scope));
        }
        facts
    }
}

impl Watch {
    fn judge(
        &mut self,
        now: u64,
        target: &Target,
        quota: &v1::Quota,
        used: f64,
        scope: &Scope<'_>,
    ) -> Option<v1::QuotaFact> {
        let resource = quota.resource();
        if used > quota.limit {
            self.above_since.get_or_insert(scope.since(now, resource));
        } else if !self.told || used < quota.limit * ENDS_BELOW {
            self.above_since = None;
        }
        let Some(since) = self.above_since else {
            self.largest = None;
            let ended = v1::QuotaFact { limit: quota.limit, used, ..target.ended() };
            return std::mem::take(&mut self.told).then_some(ended);
        };
        let above_for = now.saturating_sub(since);
        let found = largest(resource, scope.processes.iter().copied());
        let process = found.as_ref().map(|(p, _)| p.clone());
        let renamed = self.told && process != self.largest && now.saturating_sub(self.told_at) >= RENAMED_EVERY_MS;
        let due = !self.told && above_for >= u64::from(quota.for_ms);
        if !due && !renamed {
            return None;
        }
        (self.told, self.told_at, self.largest) = (true, now, process.clone());
        Some(v1::QuotaFact {
            exceeded: true,
            limit: quota.limit,
            used,
            above_for_ms: u32::try_from(above_for).unwrap_or(u32::MAX),
            process,
            process_used: found.map_or(0.0, |(_, used)| used),
            ..target.ended()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_gpus_counts_where_a_device_tells_and_is_else_not_measured() {
        let with = |bytes: Option<u64>| v1::ProcessUsage { gpu_memory_bytes: bytes, ..process(7, 0.1) };
        let of = |gpu: v1::GpuUsage, processes| Sample { gpus: vec![gpu], processes, ..sample(&[0.1]) };
        let used = |sample: &Sample| Scope::agent(sample, &[]).used(Resource::GpuMemory);
        let two = vec![with(Some(300)), with(None), with(Some(200))];
        assert_eq!(used(&of(v1::GpuUsage::default(), two.clone())), Some(500.0));
        assert_eq!(used(&of(v1::GpuUsage::default(), vec![with(None)])), Some(0.0), "it gave it back");
        assert_eq!(used(&of(v1::GpuUsage { mig: Some(true), ..Default::default() }, two.clone())), None);
        assert_eq!(used(&of(v1::GpuUsage { missing: "the driver is gone".into(), ..Default::default() }, two)), None);
        assert_eq!(used(&sample(&[0.1])), None);
        assert_eq!(largest(Resource::GpuMemory, &[with(None), with(Some(9))]).map(|(_, used)| used), Some(9.0));
    }

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
        vec![v1::Quota { resource: Resource::Cpu as i32, limit, for_ms, ..Default::default() }]
    }

    fn sampled(quotas: &mut Quotas, now: u64, sample: &Sample, plan: &[v1::Quota]) -> Vec<v1::QuotaFact> {
        quotas.sampled(now, &[Scope::agent(sample, plan)])
    }

    /// Seconds at which it was told, and whether it was exceeded then.
    fn run(quotas: &mut Quotas, plan: &[v1::Quota], from: u64, row: &[f64]) -> Vec<(u64, bool)> {
        let mut told = Vec::new();
        for (n, cores) in row.iter().enumerate() {
            let now = from + n as u64 + 1;
            told.extend(sampled(quotas, now * 1_000, &sample(&[*cores]), plan).iter().map(|f| (now, f.exceeded)));
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
        let facts = sampled(&mut Quotas::default(), 5_000, &sample(&[0.2, 1.4, 0.1]), &quota(1.0, 1_000));
        assert_eq!(facts.len(), 1);
        assert_eq!(facts[0].process.as_ref().map(|p| p.pid), Some(11));
        assert_eq!((facts[0].process_used, facts[0].above_for_ms), (1.4, 1_000));
        assert!((facts[0].used - 1.7).abs() < 1e-9);
    }

    #[test]
    fn memory_is_above_from_the_sample_that_shows_it() {
        let mut quotas = Quotas::default();
        let plan = [v1::Quota { resource: Resource::Memory as i32, limit: 100.0, for_ms: 1_000, ..Default::default() }];
        let mut sample = sample(&[0.1]);
        sample.agent.memory_bytes = Some(200);
        assert!(sampled(&mut quotas, 1_000, &sample, &plan).is_empty());
        let facts = sampled(&mut quotas, 2_000, &sample, &plan);
        assert_eq!(facts.iter().map(|f| (f.exceeded, f.used)).collect::<Vec<_>>(), [(true, 200.0)]);
    }

    #[test]
    fn no_process_left_ends_it_and_an_unknown_figure_does_not() {
        let mut quotas = Quotas::default();
        let plan = quota(1.0, 0);
        assert_eq!(run(&mut quotas, &plan, 0, &[1.5]), [(1, true)]);
        let mut unknown = sample(&[1.5]);
        unknown.agent.cpu_cores = None;
        assert!(sampled(&mut quotas, 2_000, &unknown, &plan).is_empty());
        assert!(!sampled(&mut quotas, 3_000, &Sample::default(), &plan)[0].exceeded);
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
        let facts = sampled(&mut quotas, 2_000, &sample(&[1.5]), &[]);
        assert_eq!(facts.iter().map(|f| f.exceeded).collect::<Vec<_>>(), [false]);
    }

    #[test]
    fn a_soft_and_a_hard_limit_and_a_named_process_are_told_apart() {
        let hard = quota(2.0, 0)[0];
        let plan = [v1::Quota { limit: 1.0, soft: true, ..hard }, hard];
        let mut quotas = Quotas::default();
        let told =
            |facts: Vec<v1::QuotaFact>| facts.into_iter().map(|f| (f.named, f.soft, f.exceeded)).collect::<Vec<_>>();
        let one = sample(&[1.5]);
        assert_eq!(told(sampled(&mut quotas, 1_000, &one, &plan)), [(String::new(), true, true)]);
        let both = sample(&[2.5]);
        let own = quota(0.5, 0);
        let named = Scope { named: "web", usage: both.agent, ..Scope::agent(&both, &own) };
        let facts = quotas.sampled(2_000, &[Scope::agent(&both, &plan), named]);
        assert_eq!(told(facts), [(String::new(), false, true), ("web".into(), false, true)]);
    }

    #[test]
    fn the_disk_stays_full_when_the_agent_ends() {
        let plan = [v1::Quota { resource: Resource::Disk as i32, limit: 100.0, ..Default::default() }];
        let mut quotas = Quotas::default();
        let full = Scope { none: true, disk_bytes: Some(101), quotas: &plan, ..Scope::default() };
        assert!(quotas.sampled(1_000, std::slice::from_ref(&full))[0].exceeded);
        assert!(quotas.sampled(2_000, &[Scope { disk_bytes: None, ..full.clone() }]).is_empty(), "not known");
        assert!(!quotas.sampled(3_000, &[Scope { disk_bytes: Some(50), ..full }])[0].exceeded);
    }
}
