//! Which step of a sidecar an action is, and what its frames say to people.
use pitwall_proto::{
    state::record::Body,
    v1::{self, CommandState, connect_request},
};
use pitwall_sidecar_core::io::Action;

use crate::{
    matrix::Step,
    model::{is_end, records},
};

pub fn step_of(action: &Action) -> Option<Step> {
    Some(match action {
        Action::Persist { bytes, .. } | Action::Rewrite { bytes, .. } => {
            let outcome = |body: &Body| match body {
                Body::Command(c) => is_end(CommandState::try_from(c.state).unwrap_or_default()),
                Body::Limit(limit) => limit.confirmed,
                Body::LimitGone(_) | Body::LeaseEnded(_) => true,
                _ => false,
            };
            if records(bytes).iter().any(outcome) { Step::Record } else { Step::Persist }
        }
        Action::Send { frame, .. } => match frame.body {
            Some(connect_request::Body::CommandUpdate(_)) => Step::Acknowledge,
            _ => Step::Send,
        },
        Action::Connect { .. } => Step::Send,
        Action::Do { .. } => Step::Act,
        Action::Disconnect { .. }
        | Action::Probe { .. }
        | Action::Adopt { .. }
        | Action::StartAgent
        | Action::Log { .. }
        | Action::Exit { .. } => {
            return None;
        }
    })
}

pub fn said(frame: &v1::ConnectRequest) -> String {
    use connect_request::Body;
    match &frame.body {
        Some(Body::Facts(batch)) => {
            let kinds = batch.facts.iter().map(|f| {
                if let Some(v1::fact::Kind::Verdict(v)) = &f.kind {
                    let failing = if v.failing { ", failing" } else { "" };
                    return format!("{} {} {:?}{failing}", f.seq, v.check_id, v.outcome());
                }
                let kind = format!("{:?}", f.kind);
                let name: String = kind.chars().skip(5).take_while(|c| c.is_alphanumeric()).collect();
                format!("{} {name}", f.seq)
            });
            format!("facts {}", kinds.collect::<Vec<_>>().join(", "))
        }
        Some(Body::CommandUpdate(update)) => format!("{} is {:?} {}", update.id, update.state(), update.detail),
        Some(Body::Heartbeat(beat)) => {
            let ages = beat.checks.iter().map(|c| format!("{} {} ms", c.check_id, c.age_ms));
            format!("heartbeat: {}", ages.collect::<Vec<_>>().join(", "))
        }
        Some(Body::Readings(_)) => "readings".into(),
        Some(Body::Hello(_)) => "hello".into(),
        Some(Body::Unsupported(_)) | None => "something unknown".into(),
    }
}
