//! When a check is made, and what its outcome means: a verdict is told when outcome or evidence changed. One that passed
//! before and fails now is *failing* first, and failed only past its hysteresis. At most one try of a check is under
//! way, and a bounded number in all. Observations of rules that the plan does not have are dropped.
use std::collections::BTreeMap;

use pitwall_proto::v1::{self, Outcome};

use crate::io::Observation;

/// Tries under way at once, whatever the plan's size.
pub const IN_FLIGHT_MAX: usize = 16;
/// However short a plan's pace.
const EVERY_MIN_MS: u64 = 50;
/// A try that says nothing for so long beyond twice its own limit is given up.
const LOST_AFTER_MS: u64 = 10_000;
const SUMMARY_BYTES: usize = 1_000;
const EXCERPT_BYTES: usize = 240;
const DIGEST_BYTES: usize = 128;

pub type Key = (String, String);

#[derive(Clone, Debug, PartialEq)]
struct Told {
    outcome: Outcome,
    failing: bool,
    evidence: v1::Evidence,
    /// Number of the fact that tells it.
    seq: u64,
}

#[derive(Debug)]
struct Check {
    rule: v1::Check,
    due: u64,
    flight: Option<u64>,
    /// Something changed while a try was under way: it may have seen the old state.
    again: bool,
    told: Option<Told>,
    /// It passed, and did not fail for longer than its hysteresis since.
    passed: bool,
    failing_since: Option<u64>,
    /// When it was last made with the outcome told last, in this process.
    confirmed: Option<u64>,
}

#[derive(Debug, Default)]
pub struct Checks {
    all: BTreeMap<Key, Check>,
    /// Observations for rules that the plan does not have.
    pub foreign: u64,
}

impl Check {
    fn every(&self) -> u64 {
        u64::from(self.rule.every_ms).max(EVERY_MIN_MS)
    }

    fn hint(&mut self, now: u64) {
        if self.flight.is_some() {
            self.again = true;
        }
        self.due = self.due.min(now);
    }

    fn lost_at(&self) -> Option<u64> {
        self.flight.map(|since| since + u64::from(self.rule.timeout_ms) * 2 + LOST_AFTER_MS)
    }

    /// Whether a failure counts as merely failing.
    fn weigh(&mut self, now: u64, outcome: Outcome) -> bool {
        match outcome {
            Outcome::Passed => {
                self.passed = true;
                self.failing_since = None;
            }
            // Says nothing about whether it still passes.
            Outcome::Unknown | Outcome::Unspecified => {}
            Outcome::Failed if self.passed => {
                let since = *self.failing_since.get_or_insert(now);
                if now < since + u64::from(self.rule.hysteresis_ms) {
                    return true;
                }
                self.passed = false;
                self.failing_since = None;
            }
            Outcome::Failed => {}
        }
        false
    }
}

fn changed(a: &v1::Evidence, b: &v1::Evidence) -> bool {
    a.digest != b.digest || a.size_bytes != b.size_bytes || a.http_status != b.http_status || a.files != b.files
}

fn cut(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

fn bounded(mut evidence: v1::Evidence) -> v1::Evidence {
    cut(&mut evidence.summary, SUMMARY_BYTES);
    cut(&mut evidence.excerpt, EXCERPT_BYTES);
    cut(&mut evidence.digest, DIGEST_BYTES);
    evidence
}

impl Checks {
    /// The rules of a part of the plan. `told` gives what was told last for a rule: when, in which fact, and the verdict.
    pub fn adopt<'a>(
        &mut self,
        now: u64,
        plan: &v1::AgentPlan,
        told: impl Fn(&Key) -> Option<(u64, u64, &'a v1::VerdictFact)>,
    ) {
        let mut old = std::mem::take(&mut self.all);
        for deliverable in &plan.deliverables {
            for rule in &deliverable.checks {
                let key = (deliverable.name.clone(), rule.id.clone());
                let same = old.remove(&key).filter(|c| c.rule.digest == rule.digest);
                let before = told(&key).filter(|(.., v)| v.check_digest == rule.digest);
                let mut check = same.unwrap_or_else(|| Check {
                    rule: rule.clone(),
                    due: now,
                    flight: None,
                    again: false,
                    told: None,
                    passed: before.is_some_and(|(.., v)| v.failing || v.outcome() == Outcome::Passed),
                    failing_since: before.filter(|(.., v)| v.failing).map(|(at, ..)| at),
                    confirmed: None,
                });
                check.told = before.map(|(_, seq, v)| Told {
                    outcome: v.outcome(),
                    failing: v.failing,
                    evidence: v.evidence.clone().unwrap_or_default(),
                    seq,
                });
                check.rule = rule.clone();
                if check.told.is_none() {
                    // Never told, or to be told anew.
                    check.hint(now);
                }
                self.all.insert(key, check);
            }
        }
    }

    /// A file that this check looks at has changed.
    pub fn hint(&mut self, now: u64, key: &Key) {
        if let Some(check) = self.all.get_mut(key) {
            check.hint(now);
        }
    }

    /// All checks whose rule is of such a kind.
    pub fn hint_kind(&mut self, now: u64, concerned: impl Fn(&v1::check::Rule) -> bool) {
        for check in self.all.values_mut().filter(|c| c.rule.rule.as_ref().is_some_and(&concerned)) {
            check.hint(now);
        }
    }

    /// What to try now, longest due first.
    pub fn start_due(&mut self, now: u64) -> Vec<(String, v1::Check)> {
        for check in self.all.values_mut() {
            if check.lost_at().is_some_and(|at| at <= now) {
                check.flight = None;
            }
        }
        let room = IN_FLIGHT_MAX.saturating_sub(self.all.values().filter(|c| c.flight.is_some()).count());
        let mut due: Vec<(u64, Key)> = self
            .all
            .iter()
            .filter(|(_, c)| c.flight.is_none() && c.due <= now)
            .map(|(key, c)| (c.due, key.clone()))
            .collect();
        due.sort();
        due.truncate(room);
        let mut started = Vec::with_capacity(due.len());
        for (_, key) in due {
            if let Some(check) = self.all.get_mut(&key) {
                check.flight = Some(now);
                check.again = false;
                started.push((key.0, check.rule.clone()));
            }
        }
        started
    }

    /// The verdict, where there is something new to tell. Its fact's number is to be given to [`Checks::told`].
    pub fn observed(&mut self, now: u64, seen: Observation) -> Option<v1::VerdictFact> {
        let key = (seen.deliverable, seen.check_id);
        let Some(check) = self.all.get_mut(&key) else {
            self.foreign += 1;
            return None;
        };
        if check.rule.digest != seen.check_digest {
            self.foreign += 1;
            // The answer of a rule that was replaced; the new one may be under way already.
            return None;
        }
        check.flight = None;
        check.due = if std::mem::take(&mut check.again) { now } else { now + check.every() };
        let outcome = match seen.outcome {
            Outcome::Unspecified => Outcome::Unknown,
            known @ (Outcome::Passed | Outcome::Failed | Outcome::Unknown) => known,
        };
        let evidence = bounded(seen.evidence);
        let failing = check.weigh(now, outcome);
        if let Some(since) = check.failing_since {
            // Looked at once more when it is over.
            check.due = check.due.min((since + u64::from(check.rule.hysteresis_ms)).max(now));
        }
        let same = check.told.as_ref().is_some_and(|told| {
            let same_outcome = told.outcome == outcome && told.failing == failing;
            // While failing, since when is what counts.
            same_outcome && (failing || !changed(&told.evidence, &evidence))
        });
        if same {
            check.confirmed = Some(now);
            return None;
        }
        Some(v1::VerdictFact {
            deliverable: key.0,
            check_id: key.1,
            check_digest: seen.check_digest,
            outcome: outcome as i32,
            evidence: Some(evidence),
            failing,
        })
    }

    /// This verdict is in the spool under that number.
    pub fn told(&mut self, now: u64, verdict: &v1::VerdictFact, seq: u64) {
        let key = (verdict.deliverable.clone(), verdict.check_id.clone());
        if let Some(check) = self.all.get_mut(&key) {
            check.confirmed = Some(now);
            check.told = Some(Told {
                outcome: verdict.outcome(),
                failing: verdict.failing,
                evidence: verdict.evidence.clone().unwrap_or_default(),
                seq,
            });
        }
    }

    /// Ages of the checks whose verdict the orchestrator has been sent: a newer one that still waits here would be
    /// taken for a confirmation of the older.
    pub fn ages(&self, now: u64, sent: u64) -> Vec<v1::CheckAge> {
        let known = self.all.iter().filter(|(_, c)| c.told.as_ref().is_some_and(|t| t.seq <= sent));
        let ages = known.filter_map(|((deliverable, check_id), check)| {
            let age = now.saturating_sub(check.confirmed?);
            Some(v1::CheckAge {
                deliverable: deliverable.clone(),
                check_id: check_id.clone(),
                age_ms: u32::try_from(age).unwrap_or(u32::MAX),
            })
        });
        ages.collect()
    }

    pub fn deadline(&self) -> Option<u64> {
        let in_flight = self.all.values().filter(|c| c.flight.is_some()).count();
        let lost = self.all.values().filter_map(Check::lost_at).min();
        let due = self.all.values().filter(|c| c.flight.is_none()).map(|c| c.due).min();
        if in_flight >= IN_FLIGHT_MAX { lost } else { due.into_iter().chain(lost).min() }
    }
}

#[cfg(test)]
mod tests {
    use Outcome::{Failed, Passed, Unknown};

    use super::*;

    fn rule(id: &str, digest: &str, hysteresis_ms: u32) -> v1::Check {
        v1::Check {
            id: id.into(),
            digest: digest.into(),
            every_ms: 1_000,
            timeout_ms: 500,
            hysteresis_ms,
            rule: Some(v1::check::Rule::Tcp(v1::TcpCheck { address: "h:1".into() })),
            ..Default::default()
        }
    }

    fn plan(checks: Vec<v1::Check>) -> v1::AgentPlan {
        let deliverable = v1::DeliverablePlan { name: "d".into(), checks, ..Default::default() };
        v1::AgentPlan { deliverables: vec![deliverable], ..Default::default() }
    }

    fn checks(hysteresis_ms: u32) -> Checks {
        let mut checks = Checks::default();
        checks.adopt(0, &plan(vec![rule("c", "1", hysteresis_ms)]), |_| None);
        checks
    }

    fn seen(outcome: Outcome, digest: &str) -> Observation {
        Observation {
            deliverable: "d".into(),
            check_id: "c".into(),
            check_digest: "1".into(),
            outcome,
            evidence: v1::Evidence { digest: digest.into(), ..Default::default() },
        }
    }

    /// Tells what is new, as the core does.
    fn observe(checks: &mut Checks, now: u64, outcome: Outcome, digest: &str) -> Option<(Outcome, bool)> {
        let fact = checks.observed(now, seen(outcome, digest))?;
        checks.told(now, &fact, now);
        Some((fact.outcome(), fact.failing))
    }

    #[test]
    fn told_on_change_of_outcome_or_evidence_only() {
        let mut checks = checks(0);
        assert_eq!(observe(&mut checks, 1, Failed, ""), Some((Failed, false)));
        assert_eq!(observe(&mut checks, 2, Failed, ""), None);
        assert_eq!(observe(&mut checks, 3, Passed, "a"), Some((Passed, false)));
        assert_eq!(observe(&mut checks, 4, Passed, "a"), None);
        assert_eq!(observe(&mut checks, 5, Passed, "b"), Some((Passed, false)));
        assert_eq!(observe(&mut checks, 6, Unknown, ""), Some((Unknown, false)));
        assert_eq!(observe(&mut checks, 7, Failed, ""), Some((Failed, false)));
    }

    #[test]
    fn failing_first_and_failed_past_its_hysteresis() {
        let mut checks = checks(3_000);
        assert_eq!(observe(&mut checks, 100, Failed, ""), Some((Failed, false)), "it never passed");
        observe(&mut checks, 1_000, Passed, "a");
        assert_eq!(observe(&mut checks, 2_000, Failed, "b"), Some((Failed, true)));
        assert_eq!(observe(&mut checks, 3_000, Failed, "c"), None);
        assert_eq!(observe(&mut checks, 3_500, Passed, "a"), Some((Passed, false)));
        assert_eq!(observe(&mut checks, 4_000, Failed, ""), Some((Failed, true)));
        assert_eq!(observe(&mut checks, 6_999, Failed, ""), None);
        assert_eq!(checks.deadline(), Some(7_000));
        assert_eq!(observe(&mut checks, 7_000, Failed, ""), Some((Failed, false)));
        assert_eq!(observe(&mut checks, 8_000, Failed, ""), None);
    }

    #[test]
    fn not_being_observed_in_between_is_no_failure() {
        let mut checks = checks(3_000);
        observe(&mut checks, 1_000, Passed, "a");
        assert_eq!(observe(&mut checks, 2_000, Unknown, ""), Some((Unknown, false)));
        assert_eq!(observe(&mut checks, 3_000, Failed, ""), Some((Failed, true)));
    }

    #[test]
    fn hysteresis_goes_on_in_a_new_life() {
        let verdict =
            v1::VerdictFact { check_digest: "1".into(), outcome: Failed as i32, failing: true, ..Default::default() };
        let mut checks = Checks::default();
        checks.adopt(5_000, &plan(vec![rule("c", "1", 3_000)]), |_| Some((4_000, 9, &verdict)));
        assert_eq!(observe(&mut checks, 6_000, Failed, ""), None);
        assert_eq!(observe(&mut checks, 7_000, Failed, ""), Some((Failed, false)));
    }

    #[test]
    fn a_changed_rule_is_tried_anew_and_answers_of_the_old_one_are_dropped() {
        let mut checks = checks(0);
        assert_eq!(checks.start_due(0).len(), 1);
        checks.adopt(10, &plan(vec![rule("c", "2", 0)]), |_| None);
        assert_eq!(checks.start_due(10).len(), 1);
        assert_eq!(checks.observed(11, seen(Passed, "")), None);
        assert_eq!(checks.foreign, 1);
        // The new rule's try is still the only one.
        assert!(checks.start_due(12).is_empty());
    }

    #[test]
    fn one_try_of_a_check_at_a_time_and_again_when_something_changed_meanwhile() {
        let mut checks = checks(0);
        let key = ("d".to_string(), "c".to_string());
        assert_eq!(checks.start_due(0).len(), 1);
        checks.hint(5, &key);
        assert!(checks.start_due(5).is_empty());
        observe(&mut checks, 10, Failed, "");
        assert_eq!(checks.start_due(10).len(), 1);
        observe(&mut checks, 20, Passed, "");
        assert!(checks.start_due(1_019).is_empty());
        assert_eq!(checks.deadline(), Some(1_020));
        checks.hint(500, &key);
        assert_eq!(checks.start_due(500).len(), 1);
    }

    #[test]
    fn a_bounded_number_is_under_way_and_a_silent_one_is_given_up() {
        let mut checks = Checks::default();
        checks.adopt(0, &plan((0..40).map(|n| rule(&format!("c{n}"), "1", 0)).collect()), |_| None);
        assert_eq!(checks.start_due(0).len(), IN_FLIGHT_MAX);
        assert!(checks.start_due(1).is_empty());
        assert_eq!(checks.deadline(), Some(11_000));
        assert_eq!(checks.start_due(11_000).len(), IN_FLIGHT_MAX);
    }

    #[test]
    fn ages_are_of_verdicts_that_were_sent() {
        let mut checks = checks(0);
        observe(&mut checks, 100, Passed, "");
        observe(&mut checks, 300, Passed, "");
        assert!(checks.ages(1_000, 99).is_empty());
        assert_eq!(checks.ages(1_000, 100).iter().map(|a| a.age_ms).collect::<Vec<_>>(), [700]);
    }
}
