//! Commands that only ask: one call, one answer.
use pitwall_core::text as words;
use pitwall_proto::v1;

use super::{
    amount::Target,
    args::{self, Connect},
    client::{Client, within},
    exit::{CliError, Result},
    follow::{self, Heard, Terms},
    out::{Out, now},
    render::{self, text},
    watch,
};

pub async fn status(out: Out, connect: &Connect) -> Result<()> {
    let client = Client::connect(connect).await?;
    let answer = within(client.api().get_situation(v1::GetSituationRequest { project: client.project() })).await?;
    out.show(&answer, |style| {
        answer.situation.as_ref().map_or_else(String::new, |s| render::situation(s, now(), style))
    })
}

pub async fn blockers(out: Out, connect: &Connect) -> Result<()> {
    let client = Client::connect(connect).await?;
    let answer = within(client.api().list_blockers(v1::ListBlockersRequest { project: client.project() })).await?;
    out.show(&answer, |style| render::blockers::all(&answer.blockers, now(), style))
}

pub async fn agents(out: Out, connect: &Connect) -> Result<()> {
    let client = Client::connect(connect).await?;
    let answer = within(client.api().list_agents(v1::ListAgentsRequest { project: client.project() })).await?;
    out.show(&answer, |style| render::agents::all(&answer.agents, now(), style))
}

pub async fn hosts(out: Out, connect: &Connect) -> Result<()> {
    let client = Client::connect(connect).await?;
    let answer = within(client.api().list_hosts(v1::ListHostsRequest { project: client.project() })).await?;
    out.show(&answer, |style| render::hosts::all(&answer.hosts, style))
}

pub async fn findings(out: Out, asked: &args::Findings) -> Result<()> {
    let client = Client::connect(&asked.connect).await?;
    let request = v1::ListFindingsRequest { project: client.project(), include_closed: asked.all };
    let answer = within(client.api().list_findings(request)).await?;
    out.show(&answer, |style| render::findings::all(&answer.findings, now(), style))
}

pub async fn why(out: Out, target: &Target, connect: &Connect) -> Result<()> {
    let client = Client::connect(connect).await?;
    let request = v1::ExplainRequest {
        project: client.project(),
        agent: target.agent.clone(),
        deliverable: target.deliverable.clone(),
    };
    let answer = within(client.api().explain(request)).await?;
    out.show(&answer, |style| render::agents::why(&answer, style))
}

pub async fn commands(out: Out, asked: &args::Commands) -> Result<()> {
    let client = Client::connect(&asked.connect).await?;
    let id = asked.id.clone().unwrap_or_default();
    let request = v1::ListCommandsRequest {
        project: client.project(),
        agent: asked.agent.clone().unwrap_or_default(),
        id: id.clone(),
        limit: asked.limit,
    };
    let answer = within(client.api().list_commands(request)).await?;
    if !id.is_empty() && answer.commands.is_empty() {
        return Err(unknown_command(&id));
    }
    out.show(&answer, |style| match answer.commands.as_slice() {
        [one] if !id.is_empty() => {
            let intervention = answer.interventions.iter().find(|i| i.id == one.id);
            render::commands::one(one, intervention, now(), style)
        }
        all => render::commands::list(all, &answer.interventions, now(), style),
    })
}

pub fn unknown_command(id: &str) -> Box<CliError> {
    CliError::bad_input(format!("the ledger has no command {id:?}")).hint("`pitwall commands` lists the commands")
}

pub async fn events(out: Out, asked: &args::Events) -> Result<()> {
    let client = Client::connect(&asked.connect).await?;
    let agent = asked.agent.clone().unwrap_or_default();
    let request = v1::ListEventsRequest {
        project: client.project(),
        after_sequence: asked.after.unwrap_or(0),
        limit: asked.limit,
        newest: asked.after.is_none(),
        agent: agent.clone(),
    };
    let answer = within(client.api().list_events(request)).await?;
    if let Some(at) = answer.gave_up_at {
        let more = if asked.after.is_none() { "what is older was not looked at" } else { "go on with --after" };
        out.note(&format!("the search for {} ended at event {at}: {more}", text::clean(&agent)));
    }
    if let Some(kept) = &answer.kept_from {
        let (first, ago) = (kept.sequence, text::ago(now(), kept.at_unix_ms));
        out.note(&format!(
            "the kept journal begins with event {first}, {ago} ago: what was before is compacted, see `windows.keep` of the plan"
        ));
    }
    if !asked.follow {
        return out.show(&answer, |style| answer.events.iter().map(|e| render::events::line(e, style)).collect());
    }
    // May be beyond the revision, which was read before the events were.
    let last = answer.events.last().map(|e| e.sequence);
    for event in &answer.events {
        print(out, event)?;
    }
    // What is told by the stream goes on exactly where the list ended; with a full page that is its last event.
    let full = answer.events.len() >= asked.limit as usize && asked.after.is_some();
    let mut from = answer.revision;
    if let (true, Some(revision), Some(last)) = (full, from.as_mut(), last) {
        revision.sequence = last;
    }
    follow_events(out, asked, from, last, &agent).await
}

async fn follow_events(
    out: Out,
    asked: &args::Events,
    from: Option<v1::Revision>,
    last: Option<u64>,
    agent: &str,
) -> Result<()> {
    let mut told = from.as_ref().map_or(0, |r| r.sequence).max(last.unwrap_or(0));
    let terms = Terms { connect: asked.connect.clone(), from, give_up_after: watch::GIVE_UP_AFTER, patient: false };
    let mut heard = follow::follow(terms);
    while let Some(heard) = heard.recv().await {
        match heard? {
            Heard::Message(message) => match message.body {
                Some(v1::watch_response::Body::Change(change)) => {
                    for event in change.events.iter().filter(|e| e.sequence > told && is_about(e, agent)) {
                        print(out, event)?;
                    }
                    told = told.max(change.revision.map_or(0, |r| r.sequence));
                }
                Some(v1::watch_response::Body::Snapshot(situation)) => {
                    let at = situation.revision.map_or(0, |r| r.sequence);
                    if at > told {
                        out.note(&format!(
                            "events {} to {at} were missed here: pitwall events --after {told}",
                            told + 1
                        ));
                    }
                    told = at;
                }
                Some(v1::watch_response::Body::Readouts(_)) | None => {}
            },
            Heard::Lost(why) => out.progress(&format!("{why}; trying again")),
            Heard::Connected(_) => {}
        }
    }
    Ok(())
}

fn is_about(event: &v1::Event, agent: &str) -> bool {
    agent.is_empty() || event.subject.strip_prefix(agent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

pub fn print(out: Out, event: &v1::Event) -> Result<()> {
    if out.json { out.json_line(event) } else { out.text(&render::events::line(event, out.style)) }
}

/// The word for a state, as receipts show it.
pub fn state_word(state: v1::CommandState) -> String {
    words::state_word(state).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_filtered_by_agent_not_by_prefix() {
        let about = |subject: &str| v1::Event { subject: subject.into(), ..Default::default() };
        let table = [("ai", true), ("ai/models", true), ("ai-ml", false), ("", false)];
        for (subject, expected) in table {
            assert_eq!(is_about(&about(subject), "ai"), expected, "{subject}");
            assert!(is_about(&about(subject), ""));
        }
    }
}
