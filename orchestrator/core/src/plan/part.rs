//! What one sidecar works from, and what changed between two plans.
use pitwall_proto::v1;

use super::types::{
    AgentPlan, Check, Health, NamedProcess, OnExceed, OnUnhealthy, Plan, Quota, Resource, RestartOn, RestartPolicy,
    Rule,
};

fn ms(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The part of the plan for one agent, every default filled in.
pub fn agent_part(plan: &Plan, agent: &str, generation: u64) -> Option<v1::AgentPlan> {
    let spec = plan.agents.get(agent)?;
    let needed_by = plan
        .deliverables()
        .filter(|(id, d)| id.agent != agent && d.needs.iter().any(|need| need.agent == agent))
        .map(|(id, _)| id.to_string());
    Some(v1::AgentPlan {
        project: plan.project.clone(),
        agent: agent.into(),
        generation,
        deliverables: spec
            .deliverables
            .iter()
            .map(|(name, d)| v1::DeliverablePlan {
                name: name.clone(),
                title: d.title.clone(),
                checks: d.checks.iter().map(check).collect(),
            })
            .collect(),
        windows: Some(v1::Windows {
            stall_after_ms: ms(spec.windows.stall_after_ms),
            activity_every_ms: ms(spec.windows.activity_every_ms),
            sample_every_ms: ms(spec.windows.sample_every_ms),
            rescan_every_ms: ms(spec.windows.rescan_every_ms),
        }),
        quotas: spec.quotas.iter().map(quota).collect(),
        needed_by: needed_by.collect(),
        protect: spec.protect.clone(),
        processes: spec.processes.iter().map(named).collect(),
        restart: spec.restart.as_ref().map(restart),
        health: spec.health.iter().map(health).collect(),
    })
}

fn quota(quota: &Quota) -> v1::Quota {
    let on_exceed = match quota.on_exceed {
        OnExceed::Warn => v1::OnExceed::Warn,
        OnExceed::Throttle => v1::OnExceed::Throttle,
        OnExceed::KillProcess => v1::OnExceed::KillProcess,
        OnExceed::Restart => v1::OnExceed::Restart,
        OnExceed::Freeze => v1::OnExceed::Freeze,
    };
    v1::Quota {
        resource: resource(quota.resource) as i32,
        limit: quota.limit,
        for_ms: ms(quota.for_ms),
        on_exceed: on_exceed as i32,
        cooldown_ms: ms(quota.cooldown_ms),
        soft: quota.soft,
    }
}

fn named((name, named): (&String, &NamedProcess)) -> v1::NamedProcess {
    v1::NamedProcess {
        name: name.clone(),
        process: named.process.clone(),
        command: named.command.clone(),
        quotas: named.quotas.iter().map(quota).collect(),
        protect: named.protect,
    }
}

fn restart(policy: &RestartPolicy) -> v1::RestartPolicy {
    let on = match policy.on {
        RestartOn::Never => v1::RestartOn::Never,
        RestartOn::Failure => v1::RestartOn::Failure,
        RestartOn::Always => v1::RestartOn::Always,
    };
    v1::RestartPolicy {
        on: on as i32,
        backoff_ms: ms(policy.backoff_ms),
        backoff_max_ms: ms(policy.backoff_max_ms),
        stable_after_ms: ms(policy.stable_after_ms),
        max: policy.max,
    }
}

fn health((name, health): (&String, &Health)) -> v1::HealthCheck {
    let on_failure = match health.on_failure {
        OnUnhealthy::Warn => v1::OnUnhealthy::Warn,
        OnUnhealthy::Restart => v1::OnUnhealthy::Restart,
    };
    let probe = v1::Check {
        id: name.clone(),
        every_ms: ms(health.every_ms),
        timeout_ms: ms(health.timeout_ms),
        rule: Some(rule(&health.rule)),
        ..Default::default()
    };
    v1::HealthCheck {
        name: name.clone(),
        probe: Some(probe),
        startup_within_ms: ms(health.startup_within_ms),
        failures: health.failures,
        successes: health.successes,
        on_failure: on_failure as i32,
    }
}

fn resource(resource: Resource) -> v1::Resource {
    match resource {
        Resource::Cpu => v1::Resource::Cpu,
        Resource::Memory => v1::Resource::Memory,
        Resource::Pids => v1::Resource::Pids,
        Resource::Disk => v1::Resource::Disk,
        Resource::GpuMemory => v1::Resource::GpuMemory,
    }
}

fn rule(rule: &Rule) -> v1::check::Rule {
    use v1::check::Rule as Wire;
    match rule {
        Rule::File { path, min_bytes, max_bytes, contains, forbids } => Wire::File(v1::FileCheck {
            path: path.clone(),
            min_bytes: *min_bytes,
            max_bytes: *max_bytes,
            contains: contains.clone(),
            forbids: forbids.clone(),
        }),
        Rule::Directory { path, min_files } => {
            Wire::Directory(v1::DirectoryCheck { path: path.clone(), min_files: *min_files })
        }
        Rule::Http { url, status, json } => Wire::Http(v1::HttpCheck {
            url: url.clone(),
            status: u32::from(*status),
            json: json
                .iter()
                .map(|(pointer, value)| v1::JsonCondition {
                    pointer: pointer.clone(),
                    equals_json: value.clone().unwrap_or_default(),
                })
                .collect(),
        }),
        Rule::Tcp { address } => Wire::Tcp(v1::TcpCheck { address: address.clone() }),
        Rule::Process { name } => Wire::Process(v1::ProcessCheck { name: name.clone() }),
        Rule::Grpc { address, service } => {
            Wire::Grpc(v1::GrpcCheck { address: address.clone(), service: service.clone() })
        }
    }
}

fn check(check: &Check) -> v1::Check {
    v1::Check {
        id: check.id.clone(),
        digest: check.digest.clone(),
        weight: check.weight,
        required: check.required,
        every_ms: ms(check.every_ms),
        fresh_for_ms: ms(check.fresh_for_ms),
        hysteresis_ms: ms(check.hysteresis_ms),
        timeout_ms: ms(check.timeout_ms),
        rule: Some(rule(&check.rule)),
    }
}

/// One line for each difference; none where the plans are equal.
pub fn diff(old: &Plan, new: &Plan) -> Vec<String> {
    let mut lines = Vec::new();
    if old.windows != new.windows {
        lines.push("windows of the project changed".to_string());
    }
    for name in old.agents.keys().filter(|name| !new.agents.contains_key(*name)) {
        lines.push(format!("agent {name} removed"));
    }
    for (name, agent) in &new.agents {
        match old.agents.get(name) {
            None => lines.push(format!("agent {name} added, owing {}", names(agent.deliverables.keys()))),
            Some(before) => diff_agent(name, before, agent, &mut lines),
        }
    }
    lines
}

fn names<'a>(all: impl Iterator<Item = &'a String>) -> String {
    all.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn diff_agent(name: &str, old: &AgentPlan, new: &AgentPlan, lines: &mut Vec<String>) {
    if old.windows != new.windows {
        lines.push(format!("agent {name}: windows changed"));
    }
    if old.quotas != new.quotas {
        lines.push(format!("agent {name}: quotas changed"));
    }
    let others = [
        ("protected processes", old.protect != new.protect),
        ("named processes", old.processes != new.processes),
        ("restarts", old.restart != new.restart),
        ("health checks", old.health != new.health),
    ];
    lines
        .extend(others.iter().filter(|(_, changed)| *changed).map(|(what, _)| format!("agent {name}: {what} changed")));
    if old.inbox != new.inbox {
        lines.push(format!("agent {name}: inbox changed"));
    }
    for gone in old.deliverables.keys().filter(|d| !new.deliverables.contains_key(*d)) {
        lines.push(format!("{name}/{gone} removed"));
    }
    for (deliverable, now) in &new.deliverables {
        let id = format!("{name}/{deliverable}");
        let Some(before) = old.deliverables.get(deliverable) else {
            lines.push(format!("{id} added"));
            continue;
        };
        for check in before.checks.iter().filter(|c| !now.checks.iter().any(|n| n.id == c.id)) {
            lines.push(format!("{id}: check {} removed", check.id));
        }
        for check in &now.checks {
            match before.checks.iter().find(|c| c.id == check.id) {
                None => lines.push(format!("{id}: check {} added", check.id)),
                Some(c) if c.digest != check.digest => {
                    lines.push(format!(
                        "{id}: check {} changed, its evidence is unknown until it is made again",
                        check.id
                    ));
                }
                Some(c) if c != check => lines.push(format!("{id}: check {} has other windows or weight", check.id)),
                Some(_) => {}
            }
        }
        if before.needs != now.needs {
            lines.push(format!("{id}: needs changed"));
        }
        if before.estimate_ms != now.estimate_ms {
            lines.push(format!("{id}: estimate changed"));
        }
        if before.title != now.title || before.weight != now.weight {
            lines.push(format!("{id}: title or weight changed"));
        }
        if before.checks != now.checks
            && before.checks.len() == now.checks.len()
            && lines.last().is_none_or(|l| !l.starts_with(&id))
        {
            lines.push(format!("{id}: checks in another order"));
        }
    }
}
