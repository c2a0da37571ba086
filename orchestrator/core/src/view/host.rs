//! Hosts by their boot id, with the top consumers across agents: from the latest readings, never from the journal.
use std::collections::BTreeSet;

use pitwall_proto::v1::{self, SidecarStatus};

use crate::{io::Millis, project::Project, state::AgentState};

/// Consumers of a host that are named.
const CONSUMERS_SHOWN: usize = 10;

impl Project {
    /// The latest readings of agents whose sidecar is heard, and the hosts they are on.
    pub fn readouts(&self, now: Millis) -> v1::ReadoutUpdate {
        let now = now.max(self.state.at);
        let live = self.readings.iter().filter(|(name, _)| {
            let status = self.state.agents.get(*name).map(AgentState::sidecar_status);
            matches!(status, Some(SidecarStatus::Live | SidecarStatus::Late))
        });
        let readouts = live.map(|(name, (at, r))| {
            let readout = v1::Readout {
                age_ms: u32::try_from(now - at).unwrap_or(u32::MAX),
                interval_ms: r.interval_ms,
                agent: r.agent,
                top: r.top.clone(),
                other: r.other,
                gpus: r.gpus.clone(),
                sidecar: r.sidecar,
                named: r.named.clone(),
                meter: r.meter.clone(),
            };
            (name.clone(), readout)
        });
        v1::ReadoutUpdate { agents: readouts.collect(), hosts: self.hosts() }
    }

    fn hosts(&self) -> Vec<v1::Host> {
        let boots: BTreeSet<&str> = self
            .state
            .agents
            .values()
            .filter_map(|a| a.sidecar.as_ref())
            .map(|s| s.connected.host_boot_id.as_str())
            .collect();
        boots.into_iter().map(|boot| self.host(boot)).collect()
    }

    fn host(&self, boot: &str) -> v1::Host {
        let on_it = |a: &AgentState| a.sidecar.as_ref().is_some_and(|s| s.connected.host_boot_id == boot);
        let agents: Vec<String> =
            self.state.agents.iter().filter(|(_, a)| on_it(a)).map(|(name, _)| name.clone()).collect();
        let readings = || agents.iter().filter_map(|name| Some((name, self.readings.get(name)?)));
        let newest = readings().max_by_key(|(_, (at, _))| *at).and_then(|(_, (_, r))| r.host.clone());
        let known = self.state.agents.values().find(|a| on_it(a)).and_then(|a| a.sidecar.as_ref());
        let usage = newest.unwrap_or_else(|| v1::HostUsage {
            boot_id: boot.into(),
            hostname: known.map(|s| s.connected.hostname.clone()).unwrap_or_default(),
            ..Default::default()
        });
        let mut top: Vec<v1::HostConsumer> = readings()
            .flat_map(|(name, (_, r))| {
                r.top.iter().map(move |p| v1::HostConsumer { agent: name.clone(), process: Some(p.clone()) })
            })
            .collect();
        let size = |c: &v1::HostConsumer| {
            let process = c.process.as_ref();
            (process.and_then(|p| p.cpu_cores).unwrap_or(0.0), process.and_then(|p| p.memory_bytes).unwrap_or(0))
        };
        top.sort_by(|a, b| {
            let (a, b) = (size(a), size(b));
            b.0.total_cmp(&a.0).then(b.1.cmp(&a.1))
        });
        top.truncate(CONSUMERS_SHOWN);
        v1::Host { usage: Some(usage), agents, top }
    }
}
