//! Why an agent or a deliverable is where it is: the chain with its evidence, line by line.
use pitwall_proto::v1::{self, NeedState, Outcome};

use crate::{
    derive::{BlockerView, Seen},
    io::{Millis, Refusal, RefusalKind},
    plan::DeliverableId,
    project::Project,
    text, view,
};

impl Project {
    pub fn explain(&self, now: Millis, agent: &str, deliverable: &str) -> Result<v1::ExplainResponse, Refusal> {
        let not_found = |reason, message| Refusal { kind: RefusalKind::NotFound, reason, message };
        let Some(spec) = self.state.plan.agents.get(agent) else {
            let known = self.state.agents.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(not_found("AGENT_UNKNOWN", format!("the plan has no agent {agent:?}; it has: {known}")));
        };
        if !deliverable.is_empty() && !spec.deliverables.contains_key(deliverable) {
            let known = spec.deliverables.keys().cloned().collect::<Vec<_>>().join(", ");
            let message = format!("{agent} has no deliverable {deliverable:?}; it has: {known}");
            return Err(not_found("DELIVERABLE_UNKNOWN", message));
        }
        let asked = |id: &DeliverableId| id.agent == agent && (deliverable.is_empty() || id.name == deliverable);
        let blockers = view::blockers(&self.state, &self.derived);
        let pick = |which: &dyn Fn(&BlockerView) -> bool| -> Vec<v1::Blocker> {
            self.derived
                .blockers
                .iter()
                .zip(&blockers)
                .filter(|(b, _)| which(b))
                .map(|(_, told)| told.clone())
                .collect()
        };
        let now = now.max(self.state.at);
        let about = |f: &&v1::Finding| {
            f.subject == agent || f.subject.strip_prefix(agent).is_some_and(|rest| rest.starts_with('/'))
        };
        let findings: Vec<v1::Finding> = self.findings(false).iter().filter(about).cloned().collect();
        Ok(v1::ExplainResponse {
            agent: Some(view::agent(&self.state, &self.derived, agent, now)),
            waits_for: pick(&|b| asked(&b.waiting)),
            holds_up: pick(&|b| b.root.chain.iter().any(asked)),
            lines: self.lines(now, agent, deliverable, &findings),
            findings,
        })
    }

    fn lines(&self, now: Millis, agent: &str, deliverable: &str, findings: &[v1::Finding]) -> Vec<String> {
        let (state, derived) = (&self.state, &self.derived);
        let view = &derived.agents[agent];
        let told = &state.agents[agent];
        let claimed = view.claimed.map(|c| format!(", claims {}", text::percent(c))).unwrap_or_default();
        let mut lines = vec![format!(
            "{agent} is {} for {}: {} (verified {}{claimed})",
            text::agent_word(view.status),
            text::ago(now, told.since),
            view.reason,
            text::percent(view.verified),
        )];
        let asked = |id: &&DeliverableId| id.agent == agent && (deliverable.is_empty() || id.name == deliverable);
        for id in derived.deliverables.keys().filter(asked) {
            self.tell_deliverable(now, id, "  ", &mut lines);
            self.tell_wait(now, id, &mut lines);
        }
        self.tell_held(now, &asked, &mut lines);
        for finding in findings {
            let kind = text::finding_word(finding.kind()).to_lowercase().replace('_', " ");
            lines.push(format!("  finding #{} {kind}: {}", finding.id, finding.message));
            if !finding.next.is_empty() {
                lines.push(format!("    next: {}", finding.next));
            }
        }
        lines
    }

    /// The chain of a waiting deliverable down to its root, why that is not there, and what to do.
    fn tell_wait(&self, now: Millis, id: &DeliverableId, lines: &mut Vec<String>) {
        let derived = &self.derived;
        let Some(root) = derived.roots.get(id) else { return };
        let mut indent = String::from("    ");
        for link in &root.chain {
            lines.push(format!("{indent}waits for {link}"));
            indent.push_str("  ");
            self.tell_deliverable(now, link, &indent, lines);
        }
        if let Some(cause) = derived.causes.get(root.id()) {
            let since = cause.since.map(|s| format!(", for {}", text::ago(now, s))).unwrap_or_default();
            lines.push(format!("{indent}root cause: {}{since}: {}", text::cause_word(cause.cause), cause.detail));
            let next = view::advice(&self.state, root.id(), cause.cause);
            if !next.is_empty() {
                lines.push(format!("{indent}next: {next}"));
            }
        }
        let clear = derived.deliverables.get(root.id()).and_then(|v| v.expected_finish);
        if let Some(clear) = clear {
            lines.push(format!("{indent}there in {} at the earliest", text::duration(clear - now)));
        }
        for other in root.all.iter().filter(|r| *r != root.id()) {
            lines.push(format!("    also waits for {other}"));
        }
    }

    /// Whom the asked deliverables hold up as roots.
    fn tell_held(&self, now: Millis, asked: &dyn Fn(&&DeliverableId) -> bool, lines: &mut Vec<String>) {
        for blocker in self.derived.blockers.iter().filter(|b| asked(&b.root.id())) {
            let held: Vec<&str> = blocker.holds_agents.iter().map(String::as_str).collect();
            let told = format!(
                "  {} holds up {} ({}), {} for {}: {}, {}",
                blocker.root.id(),
                held.join(", "),
                text::count(blocker.holds_deliverables, "deliverable"),
                blocker.waiting,
                text::ago(now, blocker.since),
                text::cause_word(blocker.cause.cause),
                blocker.cause.detail,
            );
            lines.push(told);
        }
    }

    fn tell_deliverable(&self, now: Millis, id: &DeliverableId, indent: &str, lines: &mut Vec<String>) {
        let Some(view) = self.derived.deliverables.get(id) else { return };
        let state = &self.state.deliverables[id];
        let failing = view.failing_since.map(|s| format!(", failing {}", text::ago(now, s))).unwrap_or_default();
        let started = if view.started { "" } else { ", not started" };
        lines.push(format!(
            "{indent}{id}: {}{failing}{started} for {}",
            text::deliverable_word(view.status).to_lowercase(),
            text::ago(now, state.since)
        ));
        for check in &view.checks {
            let mark = match check.outcome {
                Seen::NotYet => "not made yet",
                Seen::Failing(_) => "failing",
                other => match other.outcome() {
                    Outcome::Passed => "passes",
                    Outcome::Failed => "fails",
                    Outcome::Unknown | Outcome::Unspecified => "unknown",
                },
            };
            let verdict = state.checks.get(&check.id).and_then(|c| c.verdict.as_ref());
            let evidence = verdict.and_then(|v| {
                let summary = v.evidence.as_ref().map(|e| e.summary.clone()).filter(|s| !s.is_empty())?;
                Some(format!(
                    ": {summary} (since {}{})",
                    text::ago(now, v.observed_ms),
                    self.still_so(now, id, &check.id)
                ))
            });
            lines.push(format!("{indent}  {} {mark}{}", check.id, evidence.unwrap_or_default()));
        }
        for (need, _) in view.needs.iter().filter(|(_, s)| *s == NeedState::Met) {
            lines.push(format!("{indent}  needs {need}: met"));
        }
    }

    /// A heartbeat confirms evidence that has not changed.
    fn still_so(&self, now: Millis, id: &DeliverableId, check: &str) -> String {
        let confirmed = self.confirmed(id, check);
        confirmed.map(|at| format!(", seen {} ago", text::ago(now, at))).unwrap_or_default()
    }
}
