//! A journaled event in one line for people.
use pitwall_proto::{
    journal::{self, event::Body},
    v1::{self, AgentStatus, CommandState, DeliverableStatus, FindingKind, InterventionOutcome, LeaseState, Outcome},
};

use crate::{
    state::{CommandRecord, kind_name},
    text,
};

pub fn event(event: &journal::Event) -> v1::Event {
    let (kind, subject, text) = event.body.as_ref().map_or(("unknown", String::new(), String::new()), words);
    v1::Event { sequence: event.sequence, at_unix_ms: event.at_ms, kind: kind.into(), subject, text }
}

fn of(agent: &str, deliverable: &str) -> String {
    format!("{agent}/{deliverable}")
}

fn words(body: &Body) -> (&'static str, String, String) {
    match body {
        Body::PlanApplied(e) => ("plan_applied", String::new(), format!("generation {}", e.generation)),
        Body::SidecarConnected(e) => {
            let absent: Vec<&str> = e.capabilities.iter().filter(|c| !c.available).map(|c| c.name.as_str()).collect();
            let without = if absent.is_empty() { String::new() } else { format!("; cannot: {}", absent.join(", ")) };
            let text = format!("sidecar {} life {} on {}{without}", short(&e.instance), e.life, e.hostname);
            ("sidecar_connected", e.agent.clone(), text)
        }
        Body::SidecarLiveness(e) => {
            let status = v1::SidecarStatus::try_from(e.status).unwrap_or_default();
            ("sidecar_liveness", e.agent.clone(), format!("sidecar {}", text::sidecar_word(status)))
        }
        Body::FactsAccepted(e) => ("facts_accepted", e.agent.clone(), format!("up to {}", e.seq)),
        Body::Verdict(e) => {
            let outcome = match Outcome::try_from(e.outcome).unwrap_or_default() {
                Outcome::Passed => "passes",
                Outcome::Failed if e.failing => "begins to fail",
                Outcome::Failed => "fails",
                Outcome::Unknown | Outcome::Unspecified => "cannot be observed",
            };
            let why = e.evidence.as_ref().map(|e| e.summary.as_str()).filter(|s| !s.is_empty());
            let text = format!("{} {outcome}{}", e.check_id, why.map(|w| format!(": {w}")).unwrap_or_default());
            ("verdict", of(&e.agent, &e.deliverable), text)
        }
        Body::Staleness(e) => {
            let how = if e.stale { "is too old: unknown" } else { "is fresh again" };
            ("staleness", of(&e.agent, &e.deliverable), format!("evidence for {} {how}", e.check_id))
        }
        Body::ClaimMade(e) => {
            let share = e.progress.map(|p| format!("claims {}", text::percent(p))).unwrap_or_else(|| "claims".into());
            let says = if e.text.is_empty() { String::new() } else { format!(": {}", e.text) };
            let waits = if e.waiting_for.is_empty() { String::new() } else { format!("; waits for {}", e.waiting_for) };
            ("claim", e.agent.clone(), format!("{share}{says}{waits}"))
        }
        Body::AgentSeen(e) => {
            let root = e.root.as_ref().map(|p| format!(", {} (pid {})", p.name, p.pid)).unwrap_or_default();
            ("agent_seen", e.agent.clone(), format!("incarnation {}{root}", e.incarnation))
        }
        Body::AgentExited(e) => {
            let how = text::ending(e.exit_code, e.signal);
            ("agent_exited", e.agent.clone(), format!("no process of it is left{how}"))
        }
        Body::AgentMotion(e) => {
            ("agent_motion", e.agent.clone(), if e.quiet { "quiet".into() } else { "moves".into() })
        }
        Body::AgentLooping(e) => {
            let text = if e.looping { "busy without any change" } else { "evidence changes again" };
            ("agent_looping", e.agent.clone(), text.into())
        }
        Body::Pressure(e) => {
            let text = if e.on { e.what.clone() } else { "no longer under pressure".into() };
            ("pressure", e.agent.clone(), text)
        }
        Body::HostPressure(e) => {
            let text = if e.on { e.what.clone() } else { "no longer under pressure".into() };
            ("host_pressure", e.hostname.clone(), text)
        }
        Body::Quota(e) => {
            let used = text::amount(e.resource, e.used);
            let limit = text::amount(e.resource, e.limit);
            let by = e.process.as_ref().map(|p| format!(", mostly {} (pid {})", p.name, p.pid)).unwrap_or_default();
            let of = if e.named.is_empty() { String::new() } else { format!("{}: ", e.named) };
            let soft = if e.soft { ", the soft limit" } else { "" };
            let text = match e.exceeded {
                true => format!("{of}uses {used} of {limit}{soft}{by}"),
                false => format!("{of}within {limit} again"),
            };
            ("quota", e.agent.clone(), text)
        }
        Body::QuotaActed(e) => {
            let (used, limit) = (text::amount(e.resource, e.used), text::amount(e.resource, e.limit));
            let of = if e.named.is_empty() { String::new() } else { format!("{}: ", e.named) };
            ("quota_acted", e.agent.clone(), format!("{of}used {used} of {limit}: {}", text::acted(e)))
        }
        Body::Restart(e) => ("restart", e.agent.clone(), text::restart(e)),
        Body::ProcessReturned(e) => {
            let pid = e.process.as_ref().map_or(0, |p| p.pid);
            let after = text::duration(i64::try_from(e.after_ms).unwrap_or(i64::MAX));
            ("process_returned", e.agent.clone(), format!("{} came back after {after} as pid {pid}", e.named))
        }
        Body::OutOfMemory(e) => ("out_of_memory", e.agent.clone(), text::out_of_memory(e)),
        Body::Health(e) => {
            let how = if e.healthy { "is well" } else { "fails" };
            let why = if e.detail.is_empty() { String::new() } else { format!(": {}", e.detail) };
            ("health", e.agent.clone(), format!("health check {} {how}{why}", e.name))
        }
        Body::Activity(e) => {
            let own: u32 = e.deliverables.values().sum();
            let what = e.examples.first().map(|p| format!(" (for example {p})")).unwrap_or_default();
            let text = format!("{own} changes on its deliverables, {} elsewhere{what}", e.unattributed);
            ("activity", e.agent.clone(), text)
        }
        Body::Lease(e) => {
            let state = match LeaseState::try_from(e.state).unwrap_or_default() {
                LeaseState::Active => "in effect",
                LeaseState::Adopted => "adopted by a new sidecar process",
                LeaseState::Ended => "undone",
                LeaseState::Lapsed => "lapsed, not renewed: undone",
                LeaseState::Foreign => "changed by somebody else, left alone",
                LeaseState::Unspecified => "of unknown state",
            };
            ("lease", e.agent.clone(), format!("lease of {} {state}: {}", e.command, e.detail))
        }
        Body::ProcessGone(e) => {
            let who = e.process.as_ref().map(|p| format!("{} (pid {})", p.name, p.pid)).unwrap_or_default();
            ("process_gone", e.agent.clone(), format!("{who} is gone"))
        }
        Body::EffectMeasured(e) => {
            let text = format!("{}: {}", e.command, text::effect(e));
            ("effect_measured", e.agent.clone(), text)
        }
        Body::FactsDropped(e) => ("facts_dropped", e.agent.clone(), format!("{} facts dropped: spool full", e.count)),
        Body::Workspace(e) => {
            let text = if e.present { "workspace present".into() } else { format!("workspace absent: {}", e.reason) };
            ("workspace", e.agent.clone(), text)
        }
        Body::CommandIssued(e) => {
            let command = CommandRecord::new(e.clone(), 0);
            let promise = if e.promise.is_empty() { String::new() } else { format!(", promises: {}", e.promise) };
            ("command_issued", e.agent.clone(), format!("{} {}{promise}", e.id, kind_name(&command.spec)))
        }
        Body::CommandStep(e) => {
            let state = text::state_word(CommandState::try_from(e.state).unwrap_or_default());
            let detail = if e.detail.is_empty() { String::new() } else { format!(": {}", e.detail) };
            ("command", String::new(), format!("{} {state}{detail}", e.id))
        }
        Body::CancelRequested(e) => ("cancel_requested", String::new(), e.id.clone()),
        Body::AgentStatusChanged(e) => {
            let status = AgentStatus::try_from(e.to).unwrap_or_default();
            ("agent_status", e.agent.clone(), format!("{}: {}", text::agent_word(status), e.reason))
        }
        Body::DeliverableStatusChanged(e) => {
            let status = DeliverableStatus::try_from(e.to).unwrap_or_default();
            ("deliverable_status", of(&e.agent, &e.deliverable), text::deliverable_word(status).into())
        }
        Body::WaitChanged(e) => {
            let text = if e.waited_for { "somebody waits for it" } else { "nobody waits for it any more" };
            ("wait", of(&e.agent, &e.deliverable), text.into())
        }
        Body::FindingOpened(e) => {
            let kind = text::finding_word(FindingKind::try_from(e.kind).unwrap_or_default());
            ("finding_opened", e.subject.clone(), format!("#{} {kind}: {}", e.id, e.message))
        }
        Body::FindingUpdated(e) => ("finding_updated", String::new(), format!("#{} {}", e.id, e.message)),
        Body::FindingClosed(e) => ("finding_closed", String::new(), format!("#{}", e.id)),
        Body::InterventionDecided(e) => {
            let outcome = text::outcome_word(InterventionOutcome::try_from(e.outcome).unwrap_or_default());
            let why = if e.evidence.is_empty() { String::new() } else { format!(": {}", e.evidence) };
            ("intervention_decided", String::new(), format!("{} {outcome}{why}", e.command))
        }
        Body::DeadlinePassed(e) => ("deadline_passed", String::new(), e.why.clone()),
        Body::InstanceRefused(e) => ("instance_refused", e.agent.clone(), e.reason.clone()),
        Body::Restored(e) if e.found_by.is_empty() => {
            let text = format!("from a backup that ends with event {}: another history begins", e.backup_sequence);
            ("restored", String::new(), text)
        }
        Body::Restored(e) => {
            let text = format!(
                "its sidecar has commands that this journal never gave: it ends with event {}",
                e.backup_sequence
            );
            ("restored", e.found_by.clone(), text)
        }
        Body::SidecarResynced(e) => ("sidecar_resynced", e.agent.clone(), "told again all that it still has".into()),
        Body::TokenMisused(e) => {
            let text =
                format!("join token {} came again with another key ({})", e.token, e.key.get(..16).unwrap_or(&e.key));
            ("token_misused", e.agent.clone(), text)
        }
        Body::SidecarCloned(e) => ("sidecar_cloned", e.agent.clone(), e.reason.clone()),
        Body::SidecarAdopted(e) => {
            let chosen = e.chosen.as_ref().map(text::twin).unwrap_or_default();
            let by = if e.by.is_empty() { String::new() } else { format!(", by {}", e.by) };
            ("sidecar_adopted", e.agent.clone(), format!("{chosen} goes on{by}"))
        }
        Body::MassLoss(e) => {
            let text = if e.on { e.reason.clone() } else { "sidecars are heard again".into() };
            ("mass_loss", String::new(), text)
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}
