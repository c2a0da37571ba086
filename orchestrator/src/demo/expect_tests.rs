//! The table for every variant, and that the judgement sees what is missing and what should not be.
use pitwall_proto::v1::{self, AgentStatus, Cause, FindingKind, InterventionOutcome as Outcome, ProcessIdentity};

use super::{
    args::{Variant, Windows, Without},
    expect::{Effect, Judgement, judge, table},
    night::Night,
    record::{BlockSeen, Found, Recording, StatusSeen},
    truth::{Truth, Watched},
};

fn night(without: &[Without], operator: bool) -> Night {
    Night::new(Variant { seed: 0, without: without.to_vec(), operator, suppress_inbox: false, windows: Windows::Short })
}

fn words(night: &Night) -> (Vec<String>, Vec<String>) {
    let table = table(night);
    let finding = |(kind, subject): &(FindingKind, String)| format!("{} {subject}", super::record::kind_word(*kind));
    let command = |(kind, target, outcome): &(&str, String, Outcome)| {
        format!("{kind} {target} {}", super::record::outcome_word(*outcome))
    };
    (table.findings.iter().map(finding).collect(), table.interventions.iter().map(command).collect())
}

const MISSING: &str = "missing_deliverable backend/talents-api";
const MISDIRECTED: &str = "misdirected backend/talents-api";
const DESIGN: &str = "agent_missing design";
const DOCS: &str = "agent_missing docs";
const CPU: &str = "quota_exceeded frontend/cpu";
const MEMORY: &str = "quota_exceeded frontend/memory";
const TELL: &str = "directive backend/talents-api effective";
const SEEN: &str = "activate design effective";
const REFUSED: &str = "activate docs rejected";
const THROTTLE: &str = "throttle frontend effective";
const KILL: &str = "kill frontend effective";

#[test]
fn every_variant_has_its_findings_and_interventions() {
    type Row = (Option<Without>, &'static [&'static str], &'static [&'static str]);
    let rows: [Row; 5] = [
        (None, &[MISSING, MISDIRECTED, DESIGN, DOCS, CPU, MEMORY], &[TELL, SEEN, REFUSED, THROTTLE, KILL]),
        (Some(Without::Missing), &[DESIGN, DOCS, CPU, MEMORY], &[SEEN, REFUSED, THROTTLE, KILL]),
        (Some(Without::Misdirected), &[MISSING, DESIGN, DOCS, CPU, MEMORY], &[TELL, SEEN, REFUSED, THROTTLE, KILL]),
        (Some(Without::Absent), &[MISSING, MISDIRECTED, CPU, MEMORY], &[TELL, THROTTLE, KILL]),
        (Some(Without::Runaway), &[MISSING, MISDIRECTED, DESIGN, DOCS], &[TELL, SEEN, REFUSED]),
    ];
    for (without, findings, interventions) in rows {
        let without: Vec<Without> = without.into_iter().collect();
        let (found, done) = words(&night(&without, true));
        assert_eq!(found, findings, "{without:?}");
        assert_eq!(done, interventions, "{without:?}");
        // Without an operator the same is found, and nothing is done.
        let (found, done) = words(&night(&without, false));
        assert_eq!(found, findings, "{without:?}");
        assert!(done.is_empty(), "{without:?}");
    }
}

#[test]
fn without_an_operator_nothing_takes_effect() {
    let effects = table(&night(&[], false)).effects;
    for effect in [
        Effect::RouteAnswers(false),
        Effect::FrontendWentOn(false),
        Effect::CpuFell(false),
        Effect::RunawayGone(false),
        Effect::DesignSeen(false),
        Effect::FrontendBlocked(true),
    ] {
        assert!(effects.contains(&effect), "{effect:?}");
    }
}

/// A recording in which all went as it must.
fn good() -> (Recording, Truth) {
    let mut seen = Recording::new(0);
    let kinds = [
        (FindingKind::MissingDeliverable, "backend/talents-api"),
        (FindingKind::Misdirected, "backend/talents-api"),
        (FindingKind::AgentMissing, "design"),
        (FindingKind::AgentMissing, "docs"),
        (FindingKind::QuotaExceeded, "frontend/cpu"),
        (FindingKind::QuotaExceeded, "frontend/memory"),
    ];
    for (id, (kind, subject)) in (1..).zip(kinds) {
        seen.findings.insert(id, found(kind, subject));
    }
    let done = [
        ("directive", "backend/talents-api", Outcome::Effective),
        ("activate", "design", Outcome::Effective),
        ("activate", "docs", Outcome::Rejected),
        ("throttle", "frontend", Outcome::Effective),
        ("kill", "frontend", Outcome::Effective),
    ];
    for (n, (kind, target, outcome)) in done.into_iter().enumerate() {
        let intervention = v1::Intervention {
            id: format!("c{n}"),
            kind: kind.into(),
            target: target.into(),
            outcome: outcome.into(),
            received_unix_ms: Some(2_000),
            ..Default::default()
        };
        seen.interventions.insert(format!("c{n}"), intervention);
    }
    use AgentStatus as S;
    course(&mut seen, "frontend", &[S::Expected, S::Active, S::Blocked, S::Active, S::Done]);
    course(&mut seen, "ai-ml", &[S::Active, S::Blocked, S::Active]);
    course(&mut seen, "integration", &[S::Expected, S::Idle]);
    course(&mut seen, "testing", &[S::Idle]);
    course(&mut seen, "design", &[S::Expected, S::Missing, S::Active]);
    seen.verified.insert("frontend/talents-list".into(), 9_000);
    seen.blocks.push(block("frontend/talents-list", "backend/talents-api", Cause::NotStarted));
    seen.blocks.push(block("ai-ml/search", "devops/gpu-config", Cause::InProgress));
    let truth = Truth {
        route: Some("export async function GET() {}".into()),
        answer: Some((200, r#"{"talents":[{"id":"1"}]}"#.into())),
        page: true,
        design_files: 3,
        runaway: Some(Watched {
            process: ProcessIdentity::default(),
            samples: vec![(500, 0.4), (1_500, 1.25), (2_000, 1.7), (3_000, 2.0), (4_000, 2.3)],
            gone: true,
        }),
        cpu_crossed: Some(500),
        memory_crossed: Some(3_500),
    };
    (seen, truth)
}

fn found(kind: FindingKind, subject: &str) -> Found {
    Found {
        kind,
        subject: subject.into(),
        message: String::new(),
        next: String::new(),
        process: None,
        limit: None,
        used: None,
        found_ms: 0,
    }
}

fn course(seen: &mut Recording, agent: &str, statuses: &[AgentStatus]) {
    let statuses = statuses.iter().map(|status| StatusSeen {
        agent: agent.into(),
        status: *status,
        reason: String::new(),
        since_ms: 0,
    });
    seen.statuses.extend(statuses);
}

fn block(waiting: &str, root: &str, cause: Cause) -> BlockSeen {
    BlockSeen {
        waiting: waiting.into(),
        root: root.into(),
        chain: vec![root.into()],
        cause,
        holds_agents: vec![waiting.split('/').next().unwrap_or_default().into()],
        since_ms: 0,
    }
}

#[test]
fn a_good_night_is_judged_good() {
    let (seen, truth) = good();
    assert_eq!(judge(&night(&[], true), &seen, &truth), Judgement::default());
}

#[test]
fn whatever_did_not_really_happen_is_seen() {
    type Spoil = fn(&mut Recording, &mut Truth);
    let rows: [(&str, Spoil); 12] = [
        ("finding misdirected", |seen, _| drop(seen.findings.remove(&2))),
        ("route.ts answers HTTP", |_, truth| truth.answer = Some((404, String::new()))),
        ("route.ts answers HTTP", |_, truth| truth.route = Some("// TODO".into())),
        ("route.ts answers HTTP", |_, truth| truth.answer = Some((200, "{}".into()))),
        ("next-server gone", |_, truth| {
            if let Some(watched) = &mut truth.runaway {
                watched.gone = false;
            }
        }),
        ("held below its throttle", |_, truth| {
            if let Some(watched) = &mut truth.runaway {
                watched.samples = vec![(2_000, 1.7), (3_000, 2.5), (4_000, 3.3)];
            }
        }),
        ("its page verified", |_, truth| truth.page = false),
        ("design seen", |_, truth| truth.design_files = 0),
        ("testing IDLE", |seen, _| seen.statuses.retain(|s| s.agent != "testing")),
        ("directive backend/talents-api is undecided", |seen, _| {
            seen.interventions.get_mut("c0").expect("it is there").outcome = Outcome::Undecided.into();
        }),
        ("ai-ml BLOCKED by devops", |seen, _| drop(seen.blocks.pop())),
        ("frontend BLOCKED by backend", |seen, _| seen.blocks[0].chain.clear()),
    ];
    for (what, spoil) in rows {
        let (mut seen, mut truth) = good();
        spoil(&mut seen, &mut truth);
        let judgement = judge(&night(&[], true), &seen, &truth);
        assert!(judgement.missing.iter().any(|m| m.contains(what)), "{what}: {judgement:?}");
    }
}

#[test]
fn whatever_must_not_be_is_seen() {
    type Spoil = fn(&mut Recording);
    let rows: [(&str, Spoil); 6] = [
        ("agent_stalled devops", |seen| {
            seen.findings.insert(9, found(FindingKind::AgentStalled, "devops"));
        }),
        ("directive backend/talents-api is ineffective", |seen| {
            seen.interventions.get_mut("c0").expect("it is there").outcome = Outcome::Ineffective.into();
        }),
        ("activate docs is effective", |seen| {
            seen.interventions.get_mut("c2").expect("it is there").outcome = Outcome::Effective.into();
        }),
        ("integration BLOCKED", |seen| course(seen, "integration", &[AgentStatus::Blocked])),
        ("a blocker of testing", |seen| seen.blocks.push(block("testing/suite", "ai-ml/search", Cause::InProgress))),
        ("ai-ml/search waits for devops/qdrant-db: misdirected", |seen| {
            seen.blocks.push(block("ai-ml/search", "devops/qdrant-db", Cause::Misdirected));
        }),
    ];
    for (what, spoil) in rows {
        let (mut seen, truth) = good();
        spoil(&mut seen);
        let judgement = judge(&night(&[], true), &seen, &truth);
        assert!(judgement.wrong.iter().any(|m| m.contains(what)), "{what}: {judgement:?}");
    }
}

/// A night that goes as usual must not pass for one in which somebody behaved, or nobody acted.
#[test]
fn the_usual_night_is_no_other_variant() {
    let (seen, truth) = good();
    for without in [Without::Missing, Without::Misdirected, Without::Absent, Without::Runaway] {
        assert!(!judge(&night(&[without], true), &seen, &truth).wrong.is_empty(), "{without:?}");
    }
    assert!(!judge(&night(&[], false), &seen, &truth).wrong.is_empty());
}
