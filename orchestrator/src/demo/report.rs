//! The report: each finding with the moment it was knowable, the moment a client received it, and the latency; each
//! intervention with its outcome. A pure function over what was recorded; latency is reported, not judged.
use std::fmt::Write as _;

use pitwall_proto::v1::{FindingKind, InterventionOutcome};
use serde::Serialize;

use super::{
    night::Night,
    record::{DemoMs, Found, Recording, kind_word, outcome_word},
    truth::Truth,
};

/// `pitwall demo --output json`. The shape is a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub ok: bool,
    pub findings: Vec<FindingLine>,
    pub interventions: Vec<InterventionLine>,
}

/// Milliseconds since the demo began.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FindingLine {
    pub kind: String,
    pub subject: String,
    /// Null where nothing tells it.
    pub knowable_ms: Option<DemoMs>,
    pub found_ms: DemoMs,
    pub latency_ms: Option<DemoMs>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InterventionLine {
    pub kind: String,
    pub target: String,
    pub outcome: String,
    pub issued_ms: DemoMs,
    /// Null where it never reached a sidecar.
    pub received_ms: Option<DemoMs>,
    /// Null where no effect was seen.
    pub effect_ms: Option<DemoMs>,
}

/// The moments that the windows of the plan count from.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    /// When the plan's generation was applied.
    pub plan_applied: DemoMs,
}

impl Report {
    pub fn new(night: &Night, told: Told, recording: &Recording, truth: &Truth, ok: bool) -> Self {
        let mut findings: Vec<FindingLine> = Vec::new();
        for found in recording.findings.values().filter(|f| reported(f.kind)) {
            let kind = kind_word(found.kind);
            // One that opened again was knowable, and found, the first time.
            if findings.iter().any(|line| line.kind == kind && line.subject == found.subject) {
                continue;
            }
            let knowable = knowable(night, told, recording, truth, found);
            findings.push(FindingLine {
                kind,
                subject: found.subject.clone(),
                knowable_ms: knowable,
                found_ms: found.found_ms,
                latency_ms: knowable.map(|at| found.found_ms - at),
            });
        }
        findings.sort_by_key(|line| line.found_ms);
        let mut interventions: Vec<InterventionLine> = recording
            .interventions
            .values()
            .map(|i| InterventionLine {
                kind: i.kind.clone(),
                target: i.target.clone(),
                outcome: outcome_word(i.outcome()),
                issued_ms: recording.demo_ms(i.issued_unix_ms),
                received_ms: i.received_unix_ms.map(|at| recording.demo_ms(at)),
                effect_ms: i.effect_unix_ms.map(|at| recording.demo_ms(at)),
            })
            .collect();
        interventions.sort_by_key(|line| line.issued_ms);
        Self { ok, findings, interventions }
    }

    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        let mut text =
            String::from("\nFOUND                                            KNOWABLE     FOUND   LATENCY\n");
        let seconds = |ms: Option<DemoMs>| ms.map_or("-".into(), |ms| format!("{:.2} s", ms as f64 / 1_000.0));
        for line in &self.findings {
            // Writing to a string cannot fail.
            writeln!(
                text,
                "{:<20} {:<24} {:>11} {:>9} {:>9}",
                line.kind,
                line.subject,
                seconds(line.knowable_ms),
                seconds(Some(line.found_ms)),
                seconds(line.latency_ms)
            )
            .ok();
        }
        if self.findings.is_empty() {
            text.push_str("nothing\n");
        }
        text.push_str("\nINTERVENTION                      OUTCOME           ISSUED  RECEIVED    EFFECT\n");
        for line in &self.interventions {
            writeln!(
                text,
                "{:<10} {:<22} {:<14} {:>9} {:>9} {:>9}",
                line.kind,
                line.target,
                line.outcome,
                seconds(Some(line.issued_ms)),
                seconds(line.received_ms),
                seconds(line.effect_ms)
            )
            .ok();
        }
        if self.interventions.is_empty() {
            text.push_str("none\n");
        }
        let effective = InterventionOutcome::Effective;
        let good = self.interventions.iter().filter(|i| i.outcome == outcome_word(effective)).count();
        writeln!(text, "\n{} interventions, {good} effective", self.interventions.len()).ok();
        text
    }
}

/// The kinds that the contract names. Any other is told as a problem, and `ok` is false.
fn reported(kind: FindingKind) -> bool {
    matches!(
        kind,
        FindingKind::MissingDeliverable
            | FindingKind::Misdirected
            | FindingKind::AgentMissing
            | FindingKind::QuotaExceeded
    )
}

fn knowable(night: &Night, told: Told, recording: &Recording, truth: &Truth, found: &Found) -> Option<DemoMs> {
    let windows = &night.pace.windows;
    let ms = |window: u64| DemoMs::try_from(window).unwrap_or(DemoMs::MAX);
    // The wait that it is about: the last that began before it was found.
    let before = recording.blocks.iter().filter(|b| b.root == found.subject && b.since_ms <= found.found_ms);
    let block = before.max_by_key(|b| b.since_ms);
    match found.kind {
        FindingKind::AgentMissing => {
            let within = if night.is_absent(&found.subject) {
                windows.expected_within_ms
            } else {
                windows.expected_within_others_ms
            };
            Some(told.plan_applied + ms(within))
        }
        FindingKind::QuotaExceeded => {
            let crossed = if found.subject.ends_with("/memory") { truth.memory_crossed } else { truth.cpu_crossed };
            crossed.map(|at| at + ms(windows.quota_for_ms))
        }
        // The waiter's last other workable item was verified.
        FindingKind::MissingDeliverable => {
            let waiter = block?.waiting.split_once('/')?.0;
            let own = recording.verified.iter().filter(|(id, _)| id.split('/').next() == Some(waiter));
            own.map(|(_, at)| *at).filter(|at| *at <= found.found_ms).max()
        }
        FindingKind::Misdirected => Some(block?.since_ms + ms(windows.misdirected_after_ms)),
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
        | FindingKind::OutOfMemory
        | FindingKind::RestartsGaveUp
        | FindingKind::Unhealthy
        | FindingKind::JournalRestored
        | FindingKind::HostPressure => None,
    }
}

#[cfg(test)]
mod tests {
    use pitwall_proto::v1::{Cause, Intervention};

    use super::*;
    use crate::demo::{
        args::{Variant, Windows},
        record::BlockSeen,
    };

    fn night() -> Night {
        Night::new(Variant {
            seed: 0,
            without: Vec::new(),
            operator: true,
            suppress_inbox: false,
            windows: Windows::Short,
        })
    }

    fn found(kind: FindingKind, subject: &str, found_ms: DemoMs) -> Found {
        Found {
            kind,
            subject: subject.into(),
            message: String::new(),
            next: String::new(),
            process: None,
            limit: None,
            used: None,
            found_ms,
        }
    }

    fn recording() -> Recording {
        let mut recording = Recording::new(1_000);
        recording.verified.insert("frontend/layout".into(), 900);
        recording.verified.insert("frontend/login-page".into(), 3_900);
        recording.verified.insert("backend/auth-api".into(), 3_950);
        recording.verified.insert("frontend/talents-list".into(), 12_000);
        recording.blocks.push(BlockSeen {
            waiting: "frontend/talents-list".into(),
            root: "backend/talents-api".into(),
            chain: vec!["backend/talents-api".into()],
            cause: Cause::NotStarted,
            holds_agents: vec!["frontend".into()],
            since_ms: 3_910,
        });
        recording
    }

    #[test]
    fn every_kind_has_its_own_knowable_moment() {
        let truth = Truth { cpu_crossed: Some(5_000), memory_crossed: Some(12_000), ..Truth::default() };
        let told = Told { plan_applied: 200 };
        let table = [
            (FindingKind::AgentMissing, "design", Some(200 + 3_000)),
            (FindingKind::AgentMissing, "backend", Some(200 + 15_000)),
            (FindingKind::QuotaExceeded, "frontend/cpu", Some(5_000 + 1_000)),
            (FindingKind::QuotaExceeded, "frontend/memory", Some(12_000 + 1_000)),
            (FindingKind::MissingDeliverable, "backend/talents-api", Some(3_900)),
            (FindingKind::Misdirected, "backend/talents-api", Some(3_910 + 3_000)),
            (FindingKind::Misdirected, "backend/other", None),
        ];
        for (kind, subject, expected) in table {
            let found = found(kind, subject, 7_000);
            assert_eq!(knowable(&night(), told, &recording(), &truth, &found), expected, "{kind:?} {subject}");
        }
    }

    #[test]
    fn the_json_has_exactly_the_promised_keys() {
        let mut recording = recording();
        recording.findings.insert(2, found(FindingKind::AgentMissing, "docs", 3_250));
        recording.findings.insert(1, found(FindingKind::AgentMissing, "design", 3_240));
        recording.findings.insert(3, found(FindingKind::AgentStalled, "devops", 3_300));
        recording.findings.insert(4, found(FindingKind::AgentMissing, "design", 9_000));
        let intervention = Intervention {
            id: "c1".into(),
            kind: "activate".into(),
            target: "docs".into(),
            outcome: InterventionOutcome::Rejected.into(),
            issued_unix_ms: 4_300,
            ..Default::default()
        };
        recording.interventions.insert("c1".into(), intervention);
        let report = Report::new(&night(), Told { plan_applied: 200 }, &recording, &Truth::default(), true);
        let json: serde_json::Value = serde_json::from_str(&report.json()).expect("JSON");
        let expected = serde_json::json!({
            "ok": true,
            "findings": [
                { "kind": "agent_missing", "subject": "design", "knowable_ms": 3200, "found_ms": 3240, "latency_ms": 40 },
                { "kind": "agent_missing", "subject": "docs", "knowable_ms": 3200, "found_ms": 3250, "latency_ms": 50 },
            ],
            "interventions": [
                { "kind": "activate", "target": "docs", "outcome": "rejected",
                  "issued_ms": 3300, "received_ms": null, "effect_ms": null },
            ],
        });
        assert_eq!(json, expected);
    }

    #[test]
    fn the_words_of_kinds_and_outcomes_are_the_contract() {
        let kinds = [
            (FindingKind::MissingDeliverable, "missing_deliverable"),
            (FindingKind::Misdirected, "misdirected"),
            (FindingKind::AgentMissing, "agent_missing"),
            (FindingKind::QuotaExceeded, "quota_exceeded"),
        ];
        assert!(kinds.iter().all(|(kind, word)| kind_word(*kind) == *word));
        let outcomes = [
            (InterventionOutcome::Effective, "effective"),
            (InterventionOutcome::Ineffective, "ineffective"),
            (InterventionOutcome::SelfResolved, "self_resolved"),
            (InterventionOutcome::Undecided, "undecided"),
            (InterventionOutcome::Rejected, "rejected"),
        ];
        assert!(outcomes.iter().all(|(outcome, word)| outcome_word(*outcome) == *word));
    }
}
