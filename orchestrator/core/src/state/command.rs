//! One command as the ledger knows it, and what it promised.
use pitwall_proto::{
    journal,
    throttle::{self, Target},
    v1,
};
use prost::Message as _;

use crate::{io::Millis, plan::DeliverableId};

#[derive(Clone, Debug)]
pub struct CommandRecord {
    pub issued: journal::CommandIssued,
    pub issued_at: Millis,
    pub spec: v1::CommandSpec,
    pub state: v1::CommandState,
    pub steps: Vec<(v1::CommandState, Millis, String)>,
    pub cancel_requested: bool,
    /// The sidecar's lease for it, where it is one.
    pub lease: Option<(v1::LeaseState, Millis, String)>,
    /// When the promised effect was seen.
    pub effect: Option<(Millis, String)>,
    pub outcome: v1::InterventionOutcome,
    /// Nothing more will be decided about its outcome.
    pub decided: bool,
}

/// What a command promises; credited only when it is verified.
#[derive(Clone, Debug, PartialEq)]
pub enum Promise {
    Verified(DeliverableId),
    ProcessGone(v1::ProcessIdentity),
    /// The agent, or one process of it, held at this amount.
    Held {
        resource: v1::Resource,
        amount: f64,
        process: Option<v1::ProcessIdentity>,
    },
    Seen,
    Reborn {
        after_incarnation: u64,
    },
    Nothing,
}

impl CommandRecord {
    pub fn new(issued: journal::CommandIssued, at: Millis) -> Self {
        let spec = v1::CommandSpec::decode(issued.spec.as_slice()).unwrap_or_default();
        Self {
            issued,
            issued_at: at,
            spec,
            state: v1::CommandState::Queued,
            steps: vec![(v1::CommandState::Queued, at, String::new())],
            cancel_requested: false,
            lease: None,
            effect: None,
            outcome: v1::InterventionOutcome::Undecided,
            decided: false,
        }
    }

    pub fn is_terminal(&self) -> bool {
        is_terminal(self.state)
    }

    /// Its promise is open: what is seen now can still be credited.
    pub fn awaits_effect(&self) -> bool {
        self.effect.is_none() && !self.decided
    }

    /// Every command but a message about nothing in particular.
    pub fn intervenes(&self) -> bool {
        use v1::command_spec::Kind;
        !matches!(&self.spec.kind, Some(Kind::Directive(directive)) if directive.about.is_empty())
    }

    pub fn reached(&self, state: v1::CommandState) -> Option<Millis> {
        self.steps.iter().find(|(s, _, _)| *s == state).map(|(_, at, _)| *at)
    }

    /// When it was in the sidecar's hands; a directive, when it lay in the inbox.
    pub fn delivered(&self) -> Option<Millis> {
        match self.spec.kind {
            Some(v1::command_spec::Kind::Directive(_)) => self.reached(v1::CommandState::Succeeded),
            _ => [
                v1::CommandState::Received,
                v1::CommandState::Accepted,
                v1::CommandState::Running,
                v1::CommandState::Succeeded,
            ]
            .into_iter()
            .find_map(|s| self.reached(s)),
        }
    }

    pub fn promise(&self) -> Promise {
        use v1::command_spec::Kind;
        match &self.spec.kind {
            Some(Kind::Directive(d)) if !d.about.is_empty() => {
                Promise::Verified(DeliverableId::new(&self.issued.agent, &d.about))
            }
            Some(Kind::Throttle(t)) => {
                let throttle::Meant { resource, amount } = throttle::meant(t);
                Promise::Held { resource, amount, process: t.process.clone() }
            }
            Some(Kind::Kill(k)) => k.process.clone().map_or(Promise::Nothing, Promise::ProcessGone),
            Some(Kind::Restart(r)) => Promise::Reborn { after_incarnation: r.incarnation },
            Some(Kind::Activate(_)) => Promise::Seen,
            Some(Kind::Directive(_) | Kind::Unthrottle(_)) | None => Promise::Nothing,
        }
    }

    /// What a throttle is of, and of whom: of those with the same one only the newest holds.
    pub fn slot(&self) -> Option<(v1::Resource, Target)> {
        let Some(v1::command_spec::Kind::Throttle(throttle)) = &self.spec.kind else { return None };
        Some((throttle::meant(throttle).resource, throttle::target(throttle.process.as_ref())))
    }

    /// A throttle that the orchestrator still wants, and until when.
    pub fn wanted_lease(&self) -> Option<(&v1::Throttle, Millis)> {
        let Some(v1::command_spec::Kind::Throttle(throttle)) = &self.spec.kind else { return None };
        let (state, since, _) = self.lease.as_ref()?;
        match state {
            v1::LeaseState::Active | v1::LeaseState::Adopted => Some((throttle, since + i64::from(throttle.for_ms))),
            _ => None,
        }
    }
}

pub fn is_terminal(state: v1::CommandState) -> bool {
    use v1::CommandState as S;
    match state {
        S::Unspecified | S::Queued | S::Sent | S::Received | S::Accepted | S::Running => false,
        S::Succeeded | S::Failed | S::Rejected | S::Expired | S::Cancelled | S::Superseded | S::Unknown => true,
    }
}

/// The word for a command's kind, as people and scripts see it.
pub fn kind_name(spec: &v1::CommandSpec) -> &'static str {
    use v1::command_spec::Kind;
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
