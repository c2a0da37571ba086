//! Facts of what a sidecar did by itself become events: quotas that acted, restarts, processes that came back, kills for want
//! of memory, health. Names that the plan does not have are dropped, and what is no number was not measured.
use pitwall_proto::{
    journal::{self, event::Body},
    v1::{self, fact},
};

use super::{
    Project,
    facts::{cut, process},
};
use crate::io::Millis;

/// Also none that only a newer protocol than this one has.
pub(super) fn has_quotas(resource: v1::Resource) -> bool {
    use v1::Resource as R;
    matches!(resource, R::Cpu | R::Memory | R::Pids | R::Disk | R::GpuMemory)
}

impl Project {
    /// The whole agent, or a named process of the plan.
    pub(super) fn names(&self, agent: &str, named: &str) -> bool {
        named.is_empty() || self.state.plan.agents.get(agent).is_some_and(|spec| spec.processes.contains_key(named))
    }

    pub(super) fn on_policy_fact(&mut self, agent: String, kind: fact::Kind, at_ms: Millis) {
        let body = match kind {
            fact::Kind::QuotaActed(acted) => {
                let numbers = acted.used.is_finite() && acted.limit.is_finite();
                if !numbers || !has_quotas(acted.resource()) || !self.names(&agent, &acted.named) {
                    return;
                }
                Body::QuotaActed(journal::QuotaActed {
                    agent,
                    id: cut(acted.id),
                    resource: acted.resource,
                    action: acted.action,
                    named: acted.named,
                    used: acted.used,
                    limit: acted.limit,
                    process: acted.process.map(process),
                    process_used: if acted.process_used.is_finite() { acted.process_used } else { 0.0 },
                    done: acted.done,
                    detail: cut(acted.detail),
                    at_ms,
                })
            }
            fact::Kind::Restart(restart) => Body::Restart(journal::Restart {
                agent,
                id: cut(restart.id),
                cause: cut(restart.cause),
                state: restart.state,
                attempt: restart.attempt,
                max: restart.max,
                incarnation: restart.incarnation,
                detail: cut(restart.detail),
                at_ms,
            }),
            fact::Kind::ProcessReturned(returned) if self.names(&agent, &returned.named) => {
                Body::ProcessReturned(journal::ProcessReturned {
                    agent,
                    named: returned.named,
                    process: returned.process.map(process),
                    after_ms: returned.after_ms,
                    killed: returned.killed.map(process),
                    at_ms,
                })
            }
            fact::Kind::OutOfMemory(oom) => Body::OutOfMemory(journal::OutOfMemory {
                agent,
                kills: oom.kills,
                process: oom.process.map(process),
                memory_bytes: oom.memory_bytes,
                agent_bytes: oom.agent_bytes,
                at_ms,
            }),
            fact::Kind::Health(health) => {
                let known = self.state.agents[&agent].unhealthy.contains_key(&health.name);
                let planned = self.state.plan.agents.get(&agent).is_some_and(|a| a.health.contains_key(&health.name));
                if !known && !planned {
                    return;
                }
                Body::Health(journal::Health {
                    agent,
                    name: health.name,
                    healthy: health.healthy,
                    detail: cut(health.detail),
                    since_ms: at_ms,
                })
            }
            _ => return,
        };
        self.emit(body);
    }
}
