//! A situation as an operator would read it: the golden text of scenarios.
use std::fmt::Write as _;

use pitwall_core::{project::Project, text};
use pitwall_proto::v1;

use super::{START, World};

pub fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase()
}

/// Time since the scenario began.
pub fn clock(ms: i64) -> String {
    let s = (ms - START) / 1_000;
    format!("{:02}:{:02}", s / 60, s % 60)
}

fn share(value: f64) -> String {
    text::percent(value)
}

pub fn situation(world: &World, title: &str) -> String {
    situation_at(&world.project, world.now, title)
}

/// As of its last event.
pub fn situation_of(project: &Project, title: &str) -> String {
    situation_at(project, project.state().at, title)
}

fn situation_at(project: &Project, at: i64, title: &str) -> String {
    let now = project.situation(at);
    let mut out = String::new();
    let claimed = now.claimed.map_or("-".into(), share);
    writeln!(
        out,
        "=== {}  {title}\n{}  generation {}  verified {}  claimed {claimed}  unknown {}",
        clock(at),
        now.project,
        now.generation,
        share(now.verified),
        share(now.unknown)
    )
    .unwrap();
    writeln!(out, "{:<12} {:<9} {:>8} {:>8}  {:<6} NEXT", "AGENT", "STATUS", "VERIFIED", "CLAIMED", "SINCE").unwrap();
    for agent in &now.agents {
        let status = text::agent_word(agent.status());
        let claimed = agent.claimed.map_or("-".into(), share);
        let since = clock(agent.since_unix_ms);
        let line = format!(
            "{:<12} {status:<9} {:>8} {claimed:>8}  {since:<6} {}{}",
            agent.name,
            share(agent.verified),
            agent.next,
            match agent.sidecar() {
                v1::SidecarStatus::Late => "  [sidecar late]",
                v1::SidecarStatus::Lost => "  [sidecar lost]",
                _ => "",
            }
        );
        writeln!(out, "{}", line.trim_end()).unwrap();
    }
    section(&mut out, "BLOCKERS", now.blockers.iter().map(blocker));
    section(&mut out, "FINDINGS", now.findings.iter().map(finding));
    section(&mut out, "COMMANDS", project.commands("", "", 100).iter().rev().map(command));
    section(&mut out, "INTERVENTIONS", now.interventions.iter().rev().map(intervention));
    if !now.critical_path.is_empty() {
        let path: Vec<String> = now.critical_path.iter().map(reference).collect();
        let length = now.critical_path_ms.map_or("unknown length".into(), text::duration);
        writeln!(out, "CRITICAL PATH  {length}: {}", path.join(" -> ")).unwrap();
    }
    out
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() {
        return;
    }
    writeln!(out, "{title}").unwrap();
    for line in lines {
        writeln!(out, "{}", line.trim_end()).unwrap();
    }
}

fn reference(of: &v1::DeliverableRef) -> String {
    format!("{}/{}", of.agent, of.deliverable)
}

fn blocker(b: &v1::Blocker) -> String {
    let chain: Vec<String> = b.chain.iter().map(reference).collect();
    let others: Vec<String> = b.other_roots.iter().map(reference).collect();
    let others = if others.is_empty() { String::new() } else { format!("\n     also waits for {}", others.join(", ")) };
    let next = if b.next.is_empty() { String::new() } else { format!("\n     next: {}", b.next) };
    let done = if b.interventions.is_empty() {
        String::new()
    } else {
        format!("\n     being done: {}", b.interventions.join(", "))
    };
    let clear =
        b.expected_clear_unix_ms.map_or("no estimate".into(), |at| format!("clears {}, {}", clock(at), b.certainty));
    format!(
        "{:>2}  {} waits for {} since {}\n     {}: {}\n     holds {} ({}){}; {clear}{others}{done}{next}",
        b.rank,
        b.waiting.as_ref().map(reference).unwrap_or_default(),
        chain.join(" -> "),
        clock(b.since_unix_ms),
        text::cause_word(b.cause()),
        b.cause_detail,
        b.holds_agents.join(", "),
        text::count(b.holds_deliverables as usize, "deliverable"),
        if b.critical { ", critical" } else { "" },
    )
}

fn finding(f: &v1::Finding) -> String {
    let kind = word(f.kind().as_str_name(), "FINDING_KIND_").replace('_', " ");
    let next = if f.next.is_empty() { String::new() } else { format!("\n     next: {}", f.next) };
    format!("{:>2}  {kind}: {} since {}: {}{next}", f.id, f.subject, clock(f.since_unix_ms), f.message)
}

fn command(c: &v1::Command) -> String {
    let steps: Vec<String> = c
        .history
        .iter()
        .map(|s| format!("{} {}", clock(s.at_unix_ms), text::state_word(s.state()).to_lowercase()))
        .collect();
    let detail = if c.detail.is_empty() { String::new() } else { format!("\n     {}", c.detail) };
    let kind = pitwall_core::state::kind_name(c.spec.as_ref().unwrap());
    format!("{}  {kind} {}: {}{detail}", c.id, c.agent, steps.join(", "))
}

fn intervention(i: &v1::Intervention) -> String {
    let outcome = text::outcome_word(i.outcome()).to_lowercase();
    let effect = i.effect_unix_ms.map(|at| format!(" at {}: {}", clock(at), i.evidence)).unwrap_or_default();
    format!("{}  {} {} promises \"{}\": {outcome}{effect}", i.id, i.kind, i.target, i.promise)
}
