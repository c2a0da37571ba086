//! Which step of an orchestrator an action is, and what it says to people.
use pitwall_core::io::Action;
use pitwall_proto::{
    journal::{self, event::Body as Journaled},
    v1::{self, CommandState, connect_response::Body},
};

use crate::matrix::Step;

pub fn step_of(action: &Action) -> Step {
    match action {
        Action::Append { events, .. } => {
            let told = |event: &journal::Event| match &event.body {
                Some(Journaled::FactsAccepted(_)) => true,
                Some(Journaled::CommandStep(step)) => step.state >= CommandState::Received as i32,
                _ => false,
            };
            if events.iter().any(told) { Step::Record } else { Step::Persist }
        }
        Action::Send { body: Body::FactAck(_) | Body::CommandUpdateAck(_), .. } | Action::Reply { .. } => {
            Step::Acknowledge
        }
        Action::Send { .. } | Action::Close { .. } => Step::Send,
        Action::Publish { .. } => Step::Publish,
    }
}

pub fn names(events: &[journal::Event]) -> String {
    let name = |event: &journal::Event| match &event.body {
        Some(Journaled::CommandStep(step)) => {
            format!("{} {:?}", step.id, CommandState::try_from(step.state).unwrap_or_default())
        }
        Some(Journaled::FactsAccepted(facts)) => format!("facts of {} to {}", facts.agent, facts.seq),
        Some(body) => format!("{body:?}").chars().take_while(|c| c.is_alphanumeric()).collect(),
        None => String::new(),
    };
    events.iter().map(name).collect::<Vec<_>>().join(", ")
}

pub fn said(frame: &v1::ConnectResponse) -> String {
    match &frame.body {
        Some(Body::Welcome(w)) => format!("welcome, epoch {}, facts to {} are here", w.epoch, w.fact_acked),
        Some(Body::FactAck(ack)) => format!("facts to {} are durable", ack.seq),
        Some(Body::Command(d)) => format!("command {}", d.id),
        Some(Body::Cancel(c)) => format!("cancel {}", c.id),
        Some(Body::CommandUpdateAck(ack)) => format!("state {} of {} is durable", ack.state, ack.id),
        Some(Body::LeaseRenewal(r)) => format!("renews {}", r.commands.join(", ")),
        Some(Body::Plan(p)) => format!("plan generation {}", p.generation),
        Some(Body::Pulse(_)) => "pulse".into(),
        Some(Body::Conduct(c)) => format!("only observe: {}", c.only_observe),
        Some(Body::GoAway(_)) => "go away".into(),
        Some(Body::Unsupported(_)) | None => "something unknown".into(),
    }
}
