//! From what was written to the plan with every default filled in.
use std::collections::BTreeMap;

use super::{
    Parsed, graph,
    mistake::Mistakes,
    node::Place,
    policy, raw,
    read::{At, Duration},
    rules::{self, CheckWindows},
    types::{
        AgentPlan, AgentWindows, Check, Deliverable, DeliverableId, HOST_PRESSURE_AFTER_DEFAULT_MS, KEEP_DEFAULT_MS,
        KEEP_MIN_MS, Plan, ProjectWindows,
    },
};
use crate::text;

const AGENTS_MAX: usize = 1_000;
const DELIVERABLES_MAX: usize = 10_000;
const PER_DELIVERABLE_MAX: usize = 64;
const NAME_MAX: usize = 63;

pub fn resolve(raw: raw::Plan, mistakes: &mut Mistakes) -> Parsed {
    let project = match &raw.project {
        Some(name) => {
            check_name(&name.value.0, name.place, "project", mistakes);
            name.value.0.clone()
        }
        None => {
            mistakes.add(Place::START, "the plan has no `project`", "add a line like `project: talent-platform`");
            String::new()
        }
    };
    let defaults = raw.defaults.map(|at| at.value).unwrap_or_default();
    let mut plan =
        Plan { project, windows: project_windows(raw.windows.map(|at| at.value), mistakes), agents: BTreeMap::new() };
    let mut needs = graph::Needs::new();
    let (agents, place) = raw.agents.map_or((BTreeMap::new(), Place::START), |at| (at.value.0, at.place));
    if agents.is_empty() {
        mistakes.add(place, "the plan has no agents", "add at least one below `agents:`");
    }
    if agents.len() > AGENTS_MAX {
        mistakes.add(
            place,
            format!("{} agents", agents.len()),
            format!("a project has at most {AGENTS_MAX}: split it"),
        );
    }
    for (name, at) in agents {
        check_name(&name, at.place, "agent", mistakes);
        let agent = agent(&name, at, &defaults, &mut needs, mistakes);
        plan.agents.insert(name, agent);
    }
    let count = plan.deliverables().count();
    if count > DELIVERABLES_MAX {
        mistakes.add(
            place,
            format!("{count} deliverables"),
            format!("a project has at most {DELIVERABLES_MAX}: split it"),
        );
    }
    graph::connect(&mut plan, &needs, mistakes);
    graph::cycles(&plan, &needs, mistakes);
    let warnings = warnings(&plan);
    Parsed { plan, warnings }
}

pub(super) fn check_name(name: &str, place: Place, what: &str, mistakes: &mut Mistakes) {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let good =
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(fits) && name.len() <= NAME_MAX;
    if !good {
        let help = format!("letters, digits, `.`, `_` and `-`, a letter or digit first, at most {NAME_MAX}");
        mistakes.add(place, format!("{name:?} is no name for a {what}"), help);
    }
}

pub(super) fn ms(value: &Option<At<Duration>>) -> Option<u64> {
    value.as_ref().map(|at| at.value.0)
}

fn project_windows(raw: Option<raw::ProjectWindows>, mistakes: &mut Mistakes) -> ProjectWindows {
    let raw = raw.unwrap_or_default();
    if let Some(keep) = raw.keep.as_ref().filter(|at| at.value.0 < KEEP_MIN_MS) {
        let told = format!("events are kept for {} only", text::duration(keep.value.0 as i64));
        mistakes.add(keep.place, told, "keep them for at least 1h, or leave it out: 7d");
    }
    ProjectWindows {
        heartbeat_every_ms: ms(&raw.heartbeat_every).unwrap_or(10_000),
        start_grace_ms: ms(&raw.start_grace).unwrap_or(30_000),
        command_expiry_ms: ms(&raw.command_expiry).unwrap_or(600_000),
        result_grace_ms: ms(&raw.result_grace).unwrap_or(60_000),
        effect_within_ms: ms(&raw.effect_within).unwrap_or(600_000),
        keep_ms: ms(&raw.keep).unwrap_or(KEEP_DEFAULT_MS),
        host_pressure_after_ms: ms(&raw.host_pressure_after).unwrap_or(HOST_PRESSURE_AFTER_DEFAULT_MS),
    }
}

fn agent(
    name: &str,
    at: At<raw::Agent>,
    defaults: &raw::AgentDefaults,
    needs: &mut graph::Needs,
    mistakes: &mut Mistakes,
) -> AgentPlan {
    let raw = at.value;
    let window = |own: &Option<At<Duration>>, default: &Option<At<Duration>>, last| {
        ms(own).or_else(|| ms(default)).unwrap_or(last)
    };
    let windows = AgentWindows {
        expected_within_ms: window(&raw.expected_within, &defaults.expected_within, 120_000),
        stall_after_ms: window(&raw.stall_after, &defaults.stall_after, 300_000),
        misdirected_after_ms: window(&raw.misdirected_after, &defaults.misdirected_after, 600_000),
        waiting_for_ms: window(&raw.waiting_for, &defaults.waiting_for, 900_000),
        activity_every_ms: window(&raw.activity_every, &defaults.activity_every, 10_000),
        sample_every_ms: window(&raw.sample_every, &defaults.sample_every, 1_000),
        rescan_every_ms: window(&raw.rescan_every, &defaults.rescan_every, 2_000),
    };
    let checks = CheckWindows::DEFAULT
        .or(defaults.checks.as_ref().map(|at| &at.value))
        .or(raw.checks.as_ref().map(|at| &at.value));
    let deliverables = raw.deliverables.map(|at| at.value.0).unwrap_or_default();
    if deliverables.is_empty() {
        let help = "say below `deliverables:` what it owes, each with a check that proves it";
        mistakes.add(at.place, format!("agent {name} has no deliverables"), help);
    }
    let mut resolved = BTreeMap::new();
    for (deliverable_name, at) in deliverables {
        check_name(&deliverable_name, at.place, "deliverable", mistakes);
        let id = DeliverableId::new(name, &deliverable_name);
        resolved.insert(deliverable_name, deliverable(&id, at, checks, needs, mistakes));
    }
    let own = policy::Written {
        quota: raw.quota,
        protect: raw.protect,
        processes: raw.processes,
        restart: raw.restart,
        health: raw.health,
    };
    let policy = policy::resolve(own, defaults, checks, mistakes);
    let inbox = raw.inbox.or_else(|| defaults.inbox.clone());
    AgentPlan {
        windows,
        inbox: inbox.map(|at| at.value.0),
        quotas: policy.quotas,
        protect: policy.protect,
        processes: policy.processes,
        restart: policy.restart,
        health: policy.health,
        deliverables: resolved,
    }
}

fn deliverable(
    id: &DeliverableId,
    at: At<raw::Deliverable>,
    windows: CheckWindows,
    needs: &mut graph::Needs,
    mistakes: &mut Mistakes,
) -> Deliverable {
    let raw = at.value;
    let wanted = raw::many(raw.needs);
    let said = raw.checks.is_some();
    let checks = raw::many(raw.checks);
    if checks.is_empty() && !said {
        mistakes.add(
            at.place,
            format!("{id} has no checks"),
            "say what proves it, for example `checks: [ file: app/page.tsx ]`",
        );
    }
    for (what, count) in [("checks", checks.len()), ("needs", wanted.len())] {
        if count > PER_DELIVERABLE_MAX {
            mistakes.add(at.place, format!("{id} has {count} {what}"), format!("at most {PER_DELIVERABLE_MAX}"));
        }
    }
    needs.insert(id.clone(), wanted.into_iter().map(|at| (at.value.0, at.place)).collect());
    let mut resolved: Vec<Check> = Vec::new();
    for raw in checks {
        let Some(mut check) = rules::check(raw.value, windows, mistakes) else { continue };
        // Two checks of one path, say, are told apart by a number.
        let same = resolved.iter().filter(|c| c.id == check.id || c.id.starts_with(&format!("{}#", check.id))).count();
        if same > 0 {
            check.id = format!("{}#{}", check.id, same + 1);
        }
        resolved.push(check);
    }
    Deliverable {
        title: raw.title.map_or_else(|| id.name.clone(), |at| at.value.0),
        weight: raw.weight.map_or(1.0, |at| at.value.0),
        estimate_ms: ms(&raw.estimate),
        needs: Vec::new(),
        checks: resolved,
    }
}

fn warnings(plan: &Plan) -> Vec<String> {
    let mut warnings = Vec::new();
    for (id, deliverable) in plan.deliverables() {
        let needed = plan.deliverables().any(|(_, other)| other.needs.contains(&id));
        if needed && deliverable.estimate_ms.is_none() {
            warnings.push(format!("{id} has no estimate: whoever waits for it is never told that it is overdue"));
        }
        if deliverable.checks.iter().all(|c| !c.required) && !deliverable.checks.is_empty() {
            warnings.push(format!("{id} has no required check: all of them count as required"));
        }
    }
    warnings
}
