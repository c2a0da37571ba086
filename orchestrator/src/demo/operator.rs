//! The operator part: a client like any other. It knows nothing of the night, only what `Watch` and `Explain` tell,
//! and answers each finding by its kind. Which answer is a pure function; sending it is a thin shell around that.
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use pitwall_proto::v1::{
    self, CommandSpec, FindingKind, Outcome, Priority, command_spec::Kind,
    control_service_client::ControlServiceClient, watch_response::Body,
};
use tonic::transport::Channel;

/// A throttle leaves so much of what the quota allows.
const THROTTLE_SHARE: f64 = 0.6;
/// Never below 10 % of a core, which the orchestrator would refuse.
const CPU_FLOOR: f64 = 0.1;
const KILL_GRACE_MS: u32 = 1_000;

/// How the operator works, not what it will meet.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// How long it looks on whether an owner comes back to what is missing by itself.
    pub patience: Duration,
    pub throttle_for_ms: u32,
    pub throttle_ttl_ms: u32,
}

/// What to do about a finding.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Once it has been open for so long; a later finding about the same may be answered earlier.
    Tell {
        agent: String,
        about: String,
        after: Duration,
    },
    Throttle {
        agent: String,
        cpu_cores: f64,
    },
    Kill {
        agent: String,
        process: v1::ProcessIdentity,
    },
    Activate {
        agent: String,
    },
    /// Nothing that a command could mend.
    Nothing,
}

pub fn answer(finding: &v1::Finding, habits: Habits) -> Answer {
    let (agent, rest) = finding.subject.split_once('/').unwrap_or((&finding.subject, ""));
    let (agent, about) = (agent.to_owned(), rest.to_owned());
    match finding.kind() {
        FindingKind::MissingDeliverable => Answer::Tell { agent, about, after: habits.patience },
        FindingKind::Misdirected => Answer::Tell { agent, about, after: Duration::ZERO },
        FindingKind::AgentMissing => Answer::Activate { agent },
        FindingKind::QuotaExceeded => match (rest, &finding.process, finding.limit) {
            ("cpu", _, Some(limit)) => Answer::Throttle { agent, cpu_cores: (limit * THROTTLE_SHARE).max(CPU_FLOOR) },
            ("memory", Some(process), _) => Answer::Kill { agent, process: process.clone() },
            _ => Answer::Nothing,
        },
        FindingKind::Unspecified
        | FindingKind::SidecarLost
        | FindingKind::AgentExited
        | FindingKind::AgentStalled
        | FindingKind::DeliverableRegressed
        | FindingKind::LeaseLapsed
        | FindingKind::SecondInstance
        | FindingKind::FactsDropped
        | FindingKind::CommandUnknown
        | FindingKind::NetworkOrOrchestrator
        | FindingKind::WorkspaceAbsent
        | FindingKind::LeaseForeign
        | FindingKind::TokenMisused
        | FindingKind::SidecarCloned
        | FindingKind::LeaseOrphaned
        | FindingKind::JournalRestored => Answer::Nothing,
    }
}

/// The note to an agent, from what `Explain` says about its deliverable.
pub fn note(explained: &v1::ExplainResponse, about: &str) -> String {
    let agent = explained.agent.as_ref();
    let deliverable = agent.and_then(|a| a.deliverables.iter().find(|d| d.name == about));
    let open = deliverable.into_iter().flat_map(|d| &d.checks).filter(|c| c.outcome() != Outcome::Passed);
    let waiting: BTreeSet<&str> =
        explained.holds_up.iter().filter_map(|b| b.waiting.as_ref()).map(|waiting| waiting.agent.as_str()).collect();
    let waiting = waiting.into_iter().collect::<Vec<_>>().join(", ");
    let mut text =
        format!("Stop what you are at: {waiting} cannot go on without {about}.\n\nWhat is still missing:\n\n");
    for check in open {
        let what = check.id.split_once(':').map_or(check.id.as_str(), |(_, what)| what);
        let seen = check.evidence.as_ref().map(|e| e.summary.as_str()).filter(|s| !s.is_empty());
        text.push_str(&format!("- `{what}`{}\n", seen.map(|s| format!(" ({s})")).unwrap_or_default()));
    }
    text.push_str("\nDo that first, with a real handler, then go on.\n");
    text
}

/// Answers findings until its task is ended. Each subject and kind of answer once.
pub async fn run(mut client: ControlServiceClient<Channel>, habits: Habits) -> Result<()> {
    let mut stream = client.watch(v1::WatchRequest::default()).await.context("the operator cannot watch")?.into_inner();
    let mut done: BTreeSet<String> = BTreeSet::new();
    let mut later: Vec<(Instant, u64, Answer)> = Vec::new();
    let mut open: BTreeSet<u64> = BTreeSet::new();
    loop {
        let due = later.iter().map(|(at, ..)| *at).min();
        let wait = due.map_or(Duration::from_secs(3_600), |at| at.saturating_duration_since(Instant::now()));
        let findings = match tokio::time::timeout(wait, stream.message()).await {
            Err(_) => Vec::new(),
            Ok(message) => match message.context("the operator's watch broke")?.and_then(|m| m.body) {
                None => anyhow::bail!("the operator's watch ended"),
                Some(Body::Snapshot(situation)) => situation.findings,
                Some(Body::Change(change)) => change.findings,
                Some(Body::Readouts(_)) => Vec::new(),
            },
        };
        for finding in findings {
            if finding.closed_unix_ms.is_some() {
                open.remove(&finding.id);
            } else if open.insert(finding.id) {
                let answer = answer(&finding, habits);
                let after = if let Answer::Tell { after, .. } = &answer { *after } else { Duration::ZERO };
                later.push((Instant::now() + after, finding.id, answer));
            }
        }
        let now = Instant::now();
        let (due, rest): (Vec<_>, Vec<_>) = later.into_iter().partition(|(at, ..)| *at <= now);
        later = rest;
        for (_, finding, answer) in due {
            // What closed meanwhile needs no answer.
            if open.contains(&finding) {
                give(&mut client, answer, habits, &mut done).await?;
            }
        }
    }
}

async fn give(
    client: &mut ControlServiceClient<Channel>,
    answer: Answer,
    habits: Habits,
    done: &mut BTreeSet<String>,
) -> Result<()> {
    let (agent, key) = match &answer {
        Answer::Tell { agent, about, .. } => (agent, format!("tell {agent}/{about}")),
        Answer::Throttle { agent, .. } => (agent, format!("throttle {agent}")),
        Answer::Kill { agent, process } => (agent, format!("kill {agent} {} {}", process.pid, process.start_ticks)),
        Answer::Activate { agent } => (agent, format!("activate {agent}")),
        Answer::Nothing => return Ok(()),
    };
    if !done.insert(key.clone()) {
        return Ok(());
    }
    let agent = agent.clone();
    let kind = match answer {
        Answer::Tell { about, .. } => {
            let ask = v1::ExplainRequest { agent: agent.clone(), deliverable: about.clone(), ..Default::default() };
            let explained = client.explain(ask).await.context("the operator cannot ask why")?.into_inner();
            let text = note(&explained, &about);
            Kind::Directive(v1::Directive { text, about, priority: Priority::Urgent.into() })
        }
        Answer::Throttle { cpu_cores, .. } => Kind::Throttle(v1::Throttle {
            cpu_cores,
            for_ms: habits.throttle_for_ms,
            ttl_ms: habits.throttle_ttl_ms,
            ..Default::default()
        }),
        Answer::Kill { process, .. } => {
            Kind::Kill(v1::Kill { process: Some(process), grace_ms: KILL_GRACE_MS, tree: false })
        }
        Answer::Activate { .. } => Kind::Activate(v1::Activate { incarnation: 0 }),
        Answer::Nothing => return Ok(()),
    };
    let request = v1::IssueCommandRequest {
        agent: agent.clone(),
        spec: Some(CommandSpec { kind: Some(kind) }),
        idempotency_key: key.clone(),
        origin: "demo's operator".into(),
        ..Default::default()
    };
    client.issue_command(request).await.with_context(|| format!("the operator cannot {key}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HABITS: Habits = Habits { patience: Duration::from_secs(6), throttle_for_ms: 1, throttle_ttl_ms: 1 };

    fn finding(kind: FindingKind, subject: &str) -> v1::Finding {
        let process = v1::ProcessIdentity { pid: 7, start_ticks: 9, name: "next-server".into() };
        v1::Finding {
            kind: kind.into(),
            subject: subject.into(),
            process: Some(process),
            limit: Some(0.5),
            ..Default::default()
        }
    }

    #[test]
    fn each_kind_of_finding_has_its_answer() {
        let tell = |seconds| Answer::Tell {
            agent: "api".into(),
            about: "players".into(),
            after: Duration::from_secs(seconds),
        };
        assert_eq!(answer(&finding(FindingKind::MissingDeliverable, "api/players"), HABITS), tell(6));
        assert_eq!(answer(&finding(FindingKind::Misdirected, "api/players"), HABITS), tell(0));
        assert_eq!(answer(&finding(FindingKind::AgentMissing, "ux"), HABITS), Answer::Activate { agent: "ux".into() });
        assert_eq!(
            answer(&finding(FindingKind::QuotaExceeded, "web/cpu"), HABITS),
            Answer::Throttle { agent: "web".into(), cpu_cores: 0.3 }
        );
        let Answer::Kill { process, .. } = answer(&finding(FindingKind::QuotaExceeded, "web/memory"), HABITS) else {
            panic!("memory is answered by a kill")
        };
        assert_eq!((process.pid, process.start_ticks), (7, 9));
        assert_eq!(answer(&finding(FindingKind::SidecarLost, "web"), HABITS), Answer::Nothing);
    }

    #[test]
    fn a_note_names_what_is_missing_and_who_waits() {
        let check = |id: &str, outcome: Outcome| v1::CheckResult {
            id: id.into(),
            outcome: outcome.into(),
            ..Default::default()
        };
        let deliverable = v1::Deliverable {
            name: "players".into(),
            checks: vec![check("file:app/api/players/route.ts", Outcome::Failed), check("tcp:x:1", Outcome::Passed)],
            ..Default::default()
        };
        let agent = v1::Agent { name: "api".into(), deliverables: vec![deliverable], ..Default::default() };
        let waiting = v1::DeliverableRef { agent: "web".into(), deliverable: "list".into() };
        let blocker = v1::Blocker { waiting: Some(waiting), ..Default::default() };
        let explained = v1::ExplainResponse { agent: Some(agent), holds_up: vec![blocker], ..Default::default() };
        let text = note(&explained, "players");
        assert!(text.contains("web cannot go on without players"), "{text}");
        assert!(text.contains("- `app/api/players/route.ts`"), "{text}");
        assert!(!text.contains("x:1"), "{text}");
    }
}
