//! `pitwall doctor AGENT`: what its sidecar can do there, what not, why, and what would change it; and `pitwall health`,
//! one word for whoever keeps the orchestrator running.
use std::time::Duration;

use pitwall_proto::v1;
use serde::Serialize;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{
    args::{Connect, OfAgent},
    client::{Client, within},
    exit::{CliError, Exit, Result},
    out::Out,
    render::text,
};

/// A look that takes longer says that something is wrong.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Told<'a> {
    agent: &'a str,
    sidecar: &'a str,
    capabilities: &'a [v1::Capability],
}

pub async fn doctor(out: Out, asked: &OfAgent) -> Result<()> {
    let client = Client::connect(&asked.connect).await?;
    let request = v1::GetSituationRequest { project: client.project() };
    let situation = within(client.api().get_situation(request)).await?.situation.unwrap_or_default();
    let Some(agent) = situation.agents.iter().find(|a| a.name == asked.agent) else {
        let known: Vec<&str> = situation.agents.iter().map(|a| a.name.as_str()).collect();
        let message = format!("the plan has no agent {:?}", asked.agent);
        return Err(CliError::bad_input(message).hint(format!("it has {}", known.join(", "))));
    };
    if out.json {
        return out.document(&Told {
            agent: &agent.name,
            sidecar: agent.sidecar().as_str_name(),
            capabilities: &agent.capabilities,
        });
    }
    out.text(&render(agent))
}

fn render(agent: &v1::Agent) -> String {
    if agent.capabilities.is_empty() {
        return format!(
            "{}: no sidecar of it ever connected, so nothing is known of its place\n  change: start one beside it; \
             `pitwall compose print --service {0}` prints it\n",
            agent.name
        );
    }
    let wide = agent.capabilities.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut all: Vec<&v1::Capability> = agent.capabilities.iter().collect();
    all.sort_by_key(|c| !c.available);
    let mut lines = format!("{}: as its sidecar found it at its start\n", agent.name);
    for capability in all {
        let name = text::clean(&capability.name);
        if capability.available {
            lines.push_str(&format!("  ok     {name}\n"));
            continue;
        }
        lines.push_str(&format!("  lacks  {name:<wide$}  {}\n", text::clean(&capability.reason)));
        if !capability.enabled_by.is_empty() {
            lines.push_str(&format!("         {:<wide$}  change: {}\n", "", text::clean(&capability.enabled_by)));
        }
    }
    lines.push_str("In its place itself: pitwall-sidecar doctor\n");
    lines
}

pub async fn health(out: Out, connect: &Connect) -> Result<()> {
    let client = Client::connect(connect).await?;
    let mut api = HealthClient::new(client.channel());
    let asked = tokio::time::timeout(HEALTH_WITHIN, within(api.check(HealthCheckRequest::default()))).await;
    let answer = asked.unwrap_or_else(|_| {
        Err(CliError::new(Exit::Unreachable, format!("no answer within {} s", HEALTH_WITHIN.as_secs())))
    })?;
    match answer.status() {
        ServingStatus::Serving => out.text("serving\n"),
        other => {
            let message = format!("the orchestrator answers, and says {}", other.as_str_name());
            Err(CliError::new(Exit::Failed, message)
                .hint("its journal cannot be written, or it is ending; see its log"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lacks_is_told_with_what_would_change_it() {
        let capability = |name: &str, available| v1::Capability {
            name: name.into(),
            available,
            reason: if available { String::new() } else { "no cgroup is bound".into() },
            enabled_by: if available { String::new() } else { "cgroup_parent: /pitwall/AGENT".into() },
        };
        let agent = v1::Agent {
            name: "backend".into(),
            capabilities: vec![capability("throttle.cpu.cgroup1", false), capability("kill", true)],
            ..Default::default()
        };
        let told = render(&agent);
        assert!(told.find("ok     kill") < told.find("lacks  throttle.cpu.cgroup1  no cgroup is bound"), "{told}");
        assert!(told.contains("change: cgroup_parent"), "{told}");
        let never = render(&v1::Agent { name: "docs".into(), ..Default::default() });
        assert!(never.contains("compose print --service docs"), "{never}");
    }
}
