//! What went through: kinds of facts and commands, how commands ended, what else happened that a run must not be without.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_proto::{
    journal::{Event, event::Body},
    v1::{self, CommandState, command_spec::Kind, fact::Kind as Told},
};
use prost::Message as _;

#[derive(Clone, Debug, Default)]
pub struct Flows {
    counts: BTreeMap<String, u64>,
    /// Kinds of the commands that are under way.
    kinds: BTreeMap<String, &'static str>,
    unknown: BTreeSet<String>,
}

/// From ten thousand seeds on each of them has happened.
const REQUIRED: [&str; 40] = [
    "directive Succeeded",
    "directive Expired",
    "directive Cancelled",
    "directive Unknown",
    "throttle Succeeded",
    "throttle Failed",
    "throttle Superseded",
    "throttle Cancelled",
    "throttle Expired",
    "throttle Unknown",
    "unthrottle Succeeded",
    "kill Succeeded",
    "kill Expired",
    "kill Cancelled",
    "kill Unknown",
    "restart Succeeded",
    "restart Rejected",
    "restart Expired",
    "restart Unknown",
    "activate Succeeded",
    "activate Rejected",
    "fact Activity",
    "fact AgentExited",
    "fact AgentSeen",
    "fact Claim",
    "fact EffectMeasured",
    "fact FactsDropped",
    "fact Lease Active",
    "fact Lease Adopted",
    "fact Lease Ended",
    "fact Lease Lapsed",
    "fact ProcessGone",
    "fact Verdict",
    "fact Workspace",
    "sidecar lost",
    "mass loss told",
    "mass loss over",
    "second instance refused",
    "agent removed",
    "unknown refined",
];

fn kind_of(spec: &v1::CommandSpec) -> &'static str {
    match &spec.kind {
        Some(Kind::Directive(_)) => "directive",
        Some(Kind::Throttle(_)) => "throttle",
        Some(Kind::Unthrottle(_)) => "unthrottle",
        Some(Kind::Kill(_)) => "kill",
        Some(Kind::Restart(_)) => "restart",
        Some(Kind::Activate(_)) => "activate",
        None => "nothing",
    }
}

impl Flows {
    pub fn add(&mut self, other: &Flows) {
        for (name, times) in &other.counts {
            *self.counts.entry(name.clone()).or_default() += times;
        }
    }

    fn count(&mut self, name: impl Into<String>) {
        *self.counts.entry(name.into()).or_default() += 1;
    }

    /// An agent left the plan.
    pub fn removed(&mut self, one: bool) {
        if one {
            self.count("agent removed");
        }
    }

    pub fn told(&mut self, fact: &Told) {
        let kind = format!("{fact:?}");
        let name: String = kind.chars().take_while(|c| c.is_alphanumeric()).collect();
        match fact {
            Told::Lease(lease) => self.count(format!("fact {name} {:?}", lease.state())),
            _ => self.count(format!("fact {name}")),
        }
    }

    pub fn committed(&mut self, events: &[Event]) {
        for event in events {
            match &event.body {
                Some(Body::CommandIssued(issued)) => {
                    let spec = v1::CommandSpec::decode(issued.spec.as_slice()).unwrap_or_default();
                    self.kinds.insert(issued.id.clone(), kind_of(&spec));
                }
                Some(Body::CommandStep(step)) => self.stepped(step.id.as_str(), step.state),
                Some(Body::SidecarLiveness(l)) if l.status == v1::SidecarStatus::Lost as i32 => {
                    self.count("sidecar lost")
                }
                Some(Body::MassLoss(loss)) => self.count(if loss.on { "mass loss told" } else { "mass loss over" }),
                Some(Body::InstanceRefused(_)) => self.count("second instance refused"),
                _ => {}
            }
        }
    }

    fn stepped(&mut self, id: &str, state: i32) {
        let state = CommandState::try_from(state).unwrap_or_default();
        if !crate::model::is_end(state) {
            return;
        }
        let kind = self.kinds.get(id).copied().unwrap_or("nothing");
        if state == CommandState::Unknown {
            self.unknown.insert(id.into());
        } else if self.unknown.remove(id) {
            self.count("unknown refined");
        }
        self.count(format!("{kind} {state:?}"));
    }

    pub fn absent(&self) -> Vec<&'static str> {
        REQUIRED.into_iter().filter(|name| !self.counts.contains_key(*name)).collect()
    }

    pub fn render(&self) -> String {
        let mut text = String::from("what went through:\n");
        for (name, times) in &self.counts {
            text += &format!("  {name:<28} {times:>10}\n");
        }
        text
    }
}
