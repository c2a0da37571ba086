//! Has a host too little for those that are on it, and who uses most? Judged from the latest readings, which are volatile:
//! only that it begins and ends is an event, with those who used most at that moment, across all agents of the host.
//! Once for each episode; a host that nobody speaks of any more is not under pressure.
use std::collections::BTreeMap;

use pitwall_proto::{
    journal::{self, event::Body},
    v1::{self, SidecarStatus},
};

use super::{
    Project,
    facts::{cut, process},
};
use crate::io::Millis;

/// Shares of a host's CPUs and memory in use at which it begins and below which it ends.
const CPU_FROM: f64 = 0.95;
const CPU_BELOW: f64 = 0.85;
const MEMORY_FROM: f64 = 0.92;
const MEMORY_BELOW: f64 = 0.88;
/// Consumers that are named.
const NAMED: usize = 3;
/// Who uses less names nobody.
const NAMED_FROM_CORES: f64 = 0.05;
const NAMED_FROM_BYTES: u64 = 64 << 20;

/// By boot id: since when a host has been short without a break. Volatile.
pub(super) type Shortages = BTreeMap<String, Millis>;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Short {
    Cpu(f64),
    Memory(f64),
}

/// What the host has too little of, at these limits.
fn short(usage: &v1::HostUsage, cpu_from: f64, memory_from: f64) -> Option<Short> {
    let cpu = usage.cpu_cores.zip(usage.cpus).map(|(cores, cpus)| cores / f64::from(cpus.max(1)));
    let memory = usage.memory_used_bytes.zip(usage.memory_total_bytes.filter(|total| *total > 0));
    let memory = memory.map(|(used, total)| used as f64 / total as f64);
    // Who runs out of memory is hurt worse.
    memory
        .filter(|share| *share >= memory_from)
        .map(Short::Memory)
        .or(cpu.filter(|share| *share >= cpu_from).map(Short::Cpu))
}

impl Project {
    /// After a reading of this agent.
    pub(super) fn judge_host_of(&mut self, agent: &str) {
        let Some(usage) = self.readings.get(agent).and_then(|(_, r)| r.host.clone()) else { return };
        let boot = usage.boot_id.clone();
        // Of the host that its hello named: nobody speaks for another one.
        if boot.is_empty() || self.host_of(agent) != Some(boot.as_str()) {
            return;
        }
        self.forget_left_hosts();
        match self.state.host_pressures.get(&boot) {
            None => match short(&usage, CPU_FROM, MEMORY_FROM) {
                None => {
                    self.shortages.remove(&boot);
                }
                Some(of) => {
                    let since = *self.shortages.entry(boot).or_insert(self.now);
                    if self.now - since >= self.state.plan.windows.host_pressure_after_ms as Millis {
                        self.host_is_short(&usage, of, since);
                    }
                }
            },
            Some(_) if short(&usage, CPU_BELOW, MEMORY_BELOW).is_none() => self.host_has_enough(&boot),
            Some(_) => {}
        }
    }

    fn host_is_short(&mut self, usage: &v1::HostUsage, of: Short, since: Millis) {
        let what = match of {
            Short::Cpu(share) => format!("{:.0} % of its {} CPUs in use", share * 100.0, usage.cpus.unwrap_or(0)),
            Short::Memory(share) => format!("{:.0} % of its memory in use", share * 100.0),
        };
        let mut top = self.consumers(&usage.boot_id, matches!(of, Short::Memory(_)));
        top.truncate(NAMED);
        self.emit(Body::HostPressure(journal::HostPressure {
            boot_id: cut(usage.boot_id.clone()),
            hostname: cut(usage.hostname.clone()),
            on: true,
            what,
            top,
            since_ms: since,
        }));
    }

    fn host_has_enough(&mut self, boot: &str) {
        self.shortages.remove(boot);
        let Some(was) = self.state.host_pressures.get(boot) else { return };
        let over = journal::HostPressure {
            boot_id: was.boot_id.clone(),
            hostname: was.hostname.clone(),
            since_ms: self.now,
            ..Default::default()
        };
        self.emit(Body::HostPressure(over));
    }

    /// A host from which every agent is gone, or that was started again.
    fn forget_left_hosts(&mut self) {
        let known = self.state.host_pressures.keys().chain(self.shortages.keys());
        let is_left = |boot: &&String| !self.state.agents.keys().any(|name| self.host_of(name) == Some(boot.as_str()));
        for boot in known.filter(is_left).cloned().collect::<Vec<_>>() {
            self.host_has_enough(&boot);
        }
    }

    /// Of a sidecar that is lost nothing is known any more: neither where it is, nor what its agent uses.
    fn host_of(&self, agent: &str) -> Option<&str> {
        let sidecar = self.state.agents.get(agent)?.sidecar.as_ref().filter(|s| s.status != SidecarStatus::Lost)?;
        Some(sidecar.connected.host_boot_id.as_str())
    }

    /// The processes of all agents of a host that use most, the largest first.
    fn consumers(&self, boot: &str, by_memory: bool) -> Vec<journal::Consumer> {
        let there = self.readings.iter().filter(|(name, _)| self.host_of(name) == Some(boot));
        let mut all: Vec<journal::Consumer> = there
            .flat_map(|(name, (_, readings))| readings.top.iter().map(move |usage| (name, usage)))
            .filter(|(_, usage)| match by_memory {
                true => usage.memory_bytes.is_some_and(|bytes| bytes >= NAMED_FROM_BYTES),
                false => usage.cpu_cores.is_some_and(|cores| cores >= NAMED_FROM_CORES),
            })
            .map(|(name, usage)| journal::Consumer {
                agent: name.clone(),
                process: usage.identity.clone().map(process),
                cpu_cores: usage.cpu_cores.filter(|cores| cores.is_finite()),
                memory_bytes: usage.memory_bytes,
            })
            .collect();
        let cores = |c: &journal::Consumer| c.cpu_cores.unwrap_or(0.0);
        all.sort_by(|a, b| match by_memory {
            true => b.memory_bytes.cmp(&a.memory_bytes),
            false => cores(b).total_cmp(&cores(a)),
        });
        all
    }

    /// An agent that waits for what others use is pointed to who uses most of the host, whoever owns it.
    pub(super) fn pressure(&mut self, agent: String, fact: v1::PressureFact, observed: Millis) -> Body {
        let mut by = (fact.process.map(process), String::new());
        if fact.on && fact.waits {
            let boot = self.host_of(&agent).map(str::to_owned);
            let first = boot.and_then(|boot| self.consumers(&boot, false).into_iter().next());
            if let Some(first) = first {
                by.1 = if first.agent == agent { String::new() } else { first.agent };
                by.0 = first.process;
            }
        }
        let (process, by_agent) = by;
        let (on, what) = (fact.on, cut(fact.what));
        Body::Pressure(journal::Pressure { agent, on, what, process, since_ms: observed, by_agent })
    }
}
