//! The roster with every deliverable and check, and the story of one of them (`pitwall why`).
use pitwall_core::text as words;
use pitwall_proto::{
    throttle,
    v1::{self, DeliverableStatus, NeedState, Outcome},
};

use super::{Paint, Style, gpus, situation, text, usage};

/// `pitwall agents`.
pub fn all(agents: &[v1::Agent], now: i64, style: Style) -> String {
    agents.iter().map(|agent| one(agent, now, style)).collect()
}

fn one(agent: &v1::Agent, now: i64, style: Style) -> String {
    let status = words::agent_word(agent.status());
    let mut out = format!(
        "{}  {}  {}{}\n",
        style.paint(Paint::Bold, &text::clean(&agent.name)),
        style.paint(situation::paint(agent.status()), status),
        if agent.since_unix_ms > 0 { format!("for {}: ", text::ago(now, agent.since_unix_ms)) } else { String::new() },
        text::clean(&agent.reason)
    );
    let mut line = |indent: usize, paint: Paint, told: String| {
        out.push_str(&style.line(paint, &format!("{}{told}", " ".repeat(indent))));
    };
    let mut progress = vec![format!("verified {}", text::percent(agent.verified))];
    if let Some(claimed) = agent.claimed {
        let said = text::clean(&agent.claim_text);
        let said = if said.is_empty() { said } else { format!(" ({said})") };
        progress.push(format!("claimed {}{said}", text::percent(claimed)));
        let gap = (claimed - agent.verified) * 100.0;
        progress.push(format!("gap {gap:+.0}"));
    }
    if agent.unknown > 0.0 {
        progress.push(format!("unknown {:.0} %", (agent.unknown * 100.0).ceil()));
    }
    line(2, Paint::None, progress.join("   "));
    line(2, Paint::None, sidecar(agent));
    for told in usage(agent) {
        line(2, Paint::None, told);
    }
    for told in gpus::lines(agent) {
        line(2, Paint::None, told);
    }
    for lease in &agent.leases {
        line(
            2,
            Paint::Warn,
            format!(
                "held at {} for {} more ({}): {}{}",
                held(lease),
                text::ago(lease.until_unix_ms, now),
                text::clean(&lease.command),
                text::clean(&lease.detail),
                if lease.orphaned { "; orphaned: its sidecar is lost" } else { "" }
            ),
        );
    }
    for deliverable in &agent.deliverables {
        line(2, paint(deliverable.status()), self::deliverable(deliverable, now));
        for check in &deliverable.checks {
            line(4, Paint::None, self::check(check, now));
        }
        for need in &deliverable.needs {
            let state = match need.state() {
                NeedState::Met => "met",
                NeedState::Provisional => "provisional, a fallback stands in",
                NeedState::Open => "open",
                NeedState::Unspecified => "of unknown state",
            };
            line(4, Paint::None, format!("needs {}: {state}", text::reference(need.on.as_ref())));
        }
    }
    if !agent.next.is_empty() {
        line(2, Paint::None, format!("next: {}", text::clean(&agent.next)));
    }
    out
}

/// `0.5c`, `memory 1.0 GiB`, `cpu 0.50 cores of next-server (pid 812)`.
pub(super) fn held(lease: &v1::ActiveLease) -> String {
    // Older orchestrators tell of no other resource.
    if lease.resource <= v1::Resource::Cpu as i32 && lease.process.is_none() {
        return text::cores(lease.cpu_cores);
    }
    text::clean(&throttle::of_whom(&v1::Throttle {
        cpu_cores: lease.cpu_cores,
        resource: lease.resource,
        amount: lease.amount,
        process: lease.process.clone(),
        ..Default::default()
    }))
}

fn sidecar(agent: &v1::Agent) -> String {
    let word = words::sidecar_word(agent.sidecar()).to_lowercase().replace('_', " ");
    let root = agent.root.as_ref().map(|p| format!(", {}", text::process(p))).unwrap_or_default();
    let life = if agent.incarnation > 0 { format!(", incarnation {}", agent.incarnation) } else { String::new() };
    let cannot: Vec<String> = agent
        .capabilities
        .iter()
        .filter(|c| !c.available)
        .map(|c| format!("{} ({})", text::clean(&c.name), text::clean(&c.reason)))
        .collect();
    let cannot = if cannot.is_empty() { String::new() } else { format!("; cannot: {}", cannot.join(", ")) };
    format!("sidecar {word}{root}{life}{cannot}")
}

/// Its use as a whole, what of it uses most, and the sidecar's own.
fn usage(agent: &v1::Agent) -> Vec<String> {
    situation::readout(agent).map(usage::lines).unwrap_or_default()
}

fn deliverable(d: &v1::Deliverable, now: i64) -> String {
    let status = words::deliverable_word(d.status()).to_lowercase();
    let mut parts = vec![format!("{}  {status} {}", text::clean(&d.name), text::percent(d.verified))];
    if let Some(since) = d.failing_since_unix_ms {
        parts.push(format!("failing {}", text::ago(now, since)));
    }
    if let Some(claimed) = d.claimed {
        parts.push(format!("claimed {}", text::percent(claimed)));
    }
    if d.status() != DeliverableStatus::Verified {
        if d.workable {
            parts.push("workable".into());
        }
        if !d.started {
            parts.push("not started".into());
        }
        match d.planned_finish_unix_ms {
            Some(at) if at < now => parts.push(format!("overdue by {}", text::ago(now, at))),
            Some(at) => parts.push(format!("planned in {}", text::ago(at, now))),
            None => parts.push("no estimate".into()),
        }
    }
    if d.critical {
        parts.push("critical".into());
    }
    if !d.title.is_empty() && d.title != d.name {
        parts.push(format!("\"{}\"", text::clean(&d.title)));
    }
    parts.join(", ")
}

fn check(c: &v1::CheckResult, now: i64) -> String {
    let outcome = match c.outcome() {
        Outcome::Passed => "passed ",
        Outcome::Failed => "failed ",
        Outcome::Unknown | Outcome::Unspecified => "unknown",
    };
    let optional = if c.required { "" } else { " (optional)" };
    let age = c.observed_unix_ms.map(|at| format!(" ({} ago)", text::ago(now, at))).unwrap_or_default();
    let summary = c.evidence.as_ref().map(|e| text::clean(&e.summary)).filter(|s| !s.is_empty());
    let summary = summary.map(|s| format!(": {s}")).unwrap_or_default();
    format!("{outcome} {}{optional}{summary}{age}", text::clean(&c.id))
}

fn paint(status: DeliverableStatus) -> Paint {
    match status {
        DeliverableStatus::Verified => Paint::Good,
        DeliverableStatus::Regressed => Paint::Bad,
        DeliverableStatus::Unknown => Paint::Warn,
        DeliverableStatus::Pending | DeliverableStatus::Partial | DeliverableStatus::Unspecified => Paint::None,
    }
}

/// `pitwall why`: the server's story, whole lines, as evidence must not be cut.
pub fn why(explained: &v1::ExplainResponse, style: Style) -> String {
    let mut out = String::new();
    for (i, line) in explained.lines.iter().enumerate() {
        let cleaned = text::clean(line);
        let paint = if i == 0 {
            Paint::Bold
        } else if cleaned.trim_start().starts_with("root cause:") {
            Paint::Bad
        } else {
            Paint::None
        };
        out.push_str(&style.paint(paint, &cleaned));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn the_roster_with_its_evidence() {
        insta::assert_snapshot!(all(&samples::night().agents, samples::NOW, Style::plain()));
    }

    #[test]
    fn the_story_keeps_its_indentation() {
        let lines = ["frontend is BLOCKED", "  frontend/talent-list: pending", "    root cause: \x1b[31mmisdirected"];
        let told = v1::ExplainResponse { lines: lines.map(String::from).to_vec(), ..Default::default() };
        let expected = "frontend is BLOCKED\n  frontend/talent-list: pending\n    root cause: [31mmisdirected\n";
        assert_eq!(why(&told, Style::plain()), expected);
    }
}
