//! What a fact says, in a form in which the journal can be asked for it. Not verdicts, of which the last counts and must
//! show in the situation.
use pitwall_proto::{
    journal::event::Body as Journaled,
    v1::{self, fact::Kind},
};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FactKey {
    Seen { agent: String, incarnation: u64, pid: i32, ticks: u64 },
    Exited { agent: String },
    Lease { agent: String, command: String, state: i32 },
    Gone { agent: String, pid: i32, ticks: u64 },
    Activity { agent: String, window: u32, changes: u32 },
    Claim { agent: String, text: String },
    Measured { agent: String, command: String, held: bool },
    Workspace { agent: String, present: bool },
    Quota { agent: String, exceeded: bool },
    Motion { agent: String, quiet: bool },
    Dropped { agent: String, count: u64 },
}

impl FactKey {
    pub(super) fn of_fact(agent: &str, kind: &Kind) -> Option<Self> {
        let agent = agent.to_owned();
        let ids = |p: &Option<v1::ProcessIdentity>| p.as_ref().map_or((0, 0), |p| (p.pid, p.start_ticks));
        Some(match kind {
            Kind::AgentSeen(seen) => {
                let (pid, ticks) = ids(&seen.root);
                Self::Seen { agent, incarnation: seen.incarnation, pid, ticks }
            }
            Kind::AgentExited(_) => Self::Exited { agent },
            Kind::Lease(lease) => Self::Lease { agent, command: lease.command.clone(), state: lease.state },
            Kind::ProcessGone(gone) => {
                let (pid, ticks) = ids(&gone.process);
                Self::Gone { agent, pid, ticks }
            }
            Kind::Activity(activity) => {
                let changes = activity.deliverables.iter().map(|d| d.changes).sum::<u32>() + activity.unattributed;
                Self::Activity { agent, window: activity.window_ms, changes }
            }
            Kind::Claim(claim) => Self::Claim { agent, text: claim.text.clone() },
            Kind::EffectMeasured(m) => Self::Measured { agent, command: m.command.clone(), held: m.held },
            Kind::Workspace(w) => Self::Workspace { agent, present: w.present },
            Kind::Quota(q) => Self::Quota { agent, exceeded: q.exceeded },
            Kind::AgentMotion(m) => Self::Motion { agent, quiet: m.quiet },
            Kind::FactsDropped(d) => Self::Dropped { agent, count: d.count },
            Kind::Verdict(_)
            | Kind::AgentLooping(_)
            | Kind::Pressure(_)
            | Kind::QuotaActed(_)
            | Kind::Restart(_)
            | Kind::ProcessReturned(_)
            | Kind::OutOfMemory(_)
            | Kind::Health(_) => return None,
        })
    }

    pub(super) fn of_event(body: &Journaled) -> Option<Self> {
        let ids = |p: &Option<pitwall_proto::journal::Process>| p.as_ref().map_or((0, 0), |p| (p.pid, p.start_ticks));
        Some(match body {
            Journaled::AgentSeen(seen) => {
                let (pid, ticks) = ids(&seen.root);
                Self::Seen { agent: seen.agent.clone(), incarnation: seen.incarnation, pid, ticks }
            }
            Journaled::AgentExited(exit) => Self::Exited { agent: exit.agent.clone() },
            // Not told by the sidecar: what it does not have any more has ended.
            Journaled::Lease(lease) if lease.detail == "the sidecar came back without it" => return None,
            Journaled::Lease(lease) => {
                Self::Lease { agent: lease.agent.clone(), command: lease.command.clone(), state: lease.state }
            }
            Journaled::ProcessGone(gone) => {
                let (pid, ticks) = ids(&gone.process);
                Self::Gone { agent: gone.agent.clone(), pid, ticks }
            }
            Journaled::Activity(activity) => Self::Activity {
                agent: activity.agent.clone(),
                window: activity.window_ms,
                changes: activity.deliverables.values().sum::<u32>() + activity.unattributed,
            },
            Journaled::ClaimMade(claim) => Self::Claim { agent: claim.agent.clone(), text: claim.text.clone() },
            Journaled::EffectMeasured(m) => {
                Self::Measured { agent: m.agent.clone(), command: m.command.clone(), held: m.held }
            }
            Journaled::Workspace(w) => Self::Workspace { agent: w.agent.clone(), present: w.present },
            Journaled::Quota(q) => Self::Quota { agent: q.agent.clone(), exceeded: q.exceeded },
            Journaled::AgentMotion(m) => Self::Motion { agent: m.agent.clone(), quiet: m.quiet },
            Journaled::FactsDropped(d) => Self::Dropped { agent: d.agent.clone(), count: d.count },
            _ => return None,
        })
    }
}
