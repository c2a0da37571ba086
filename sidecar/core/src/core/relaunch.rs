//! The agent started again by the sidecar itself: because it ended, because a quota says so, or because it is unhealthy.
//! All of them go through one budget, so that an agent that cannot live is not started for ever. First the note for its
//! next life is put into its inbox, then it is ended where it lives, then started; each step is in the state file before
//! its effect. A restart that an operator commanded, or that somebody else was faster with, takes its place.
use pitwall_proto::{
    state::{self, ActKind, ActStep, record::Body},
    v1::{self, RestartState, fact::Kind},
};

use super::{
    Core,
    acting::{Purpose, failure, identity, process, same, shown},
};
use crate::{
    clock,
    io::{Effect, EffectOutcome},
    note,
    restarts::{Answer, Budget, Policy},
};

const GRACE_MS: u32 = 5_000;

impl Core {
    fn restart_policy(&self) -> Policy {
        Policy::of(self.kept.plan.as_ref().and_then(|p| p.restart.as_ref()))
    }

    fn budget(&self) -> Budget {
        let kept = &self.kept.policy;
        let last = kept.last_restart.as_ref().map(|at| clock::on_this_boot(self.now, &self.boot_id, at));
        Budget { restarts: kept.restarts, last, gave_up: kept.gave_up }
    }

    fn keep_budget(&mut self, budget: Budget) {
        let began = budget.last == Some(self.now.boot_ms);
        let last_restart = match budget.last {
            None => None,
            Some(_) if began => Some(clock::moment(self.now, &self.boot_id)),
            Some(_) => self.kept.policy.last_restart.clone(),
        };
        let (restarts, gave_up) = (budget.restarts, budget.gave_up);
        let policy = state::OwnPolicy { restarts, last_restart, gave_up, ..self.kept.policy.clone() };
        if policy != self.kept.policy {
            self.record(Body::OwnPolicy(policy));
        }
    }

    fn open_restart(&self) -> Option<&state::Act> {
        self.kept.acts.values().find(|a| a.kind() == ActKind::Restart)
    }

    fn tell_restart(&mut self, act: &state::Act, state: RestartState, incarnation: u64, detail: &str) {
        let max = self.restart_policy().max;
        self.tell(Kind::Restart(v1::RestartFact {
            id: act.id.clone(),
            cause: act.why.clone(),
            state: state as i32,
            attempt: act.attempt,
            max,
            incarnation,
            detail: detail.into(),
        }));
    }

    /// Somebody wants the agent started again. What will be, or why it will not.
    pub(super) fn want_restart(&mut self, why: &str) -> Result<String, String> {
        self.can_one_of(["restart", "launch"])?;
        if let Some(open) = self.open_restart() {
            return Ok(format!("{} is under way", open.id));
        }
        if self.another_life_begins() {
            return Ok("an operator starts it again already".into());
        }
        let (policy, mut budget) = (self.restart_policy(), self.budget());
        let gave_up_before = budget.gave_up;
        let answer = budget.ask(self.now.boot_ms, &policy);
        self.keep_budget(budget);
        let mut act = state::Act {
            why: why.into(),
            process: self.presence.root().map(process),
            decided: Some(clock::moment(self.now, &self.boot_id)),
            attempt: budget.restarts,
            ..Default::default()
        };
        act.set_kind(ActKind::Restart);
        match answer {
            Answer::GaveUp => {
                let detail = format!("it was started again {} times in a row, and no more by itself", budget.restarts);
                if !gave_up_before {
                    self.tell_restart(&act, RestartState::GaveUp, 0, &detail);
                }
                Err(detail)
            }
            Answer::After { wait_ms, attempt } => {
                act.id = self.next_act("restart");
                (act.after_ms, act.attempt) = (wait_ms, attempt);
                let detail =
                    format!("{}, number {attempt} of {} in a row, in {}", act.id, policy.max, seconds(wait_ms));
                self.tell_restart(&act, RestartState::Waiting, 0, &detail);
                self.keep_act(act);
                Ok(detail)
            }
        }
    }

    /// The agent has ended, and nobody here ended it for a restart.
    pub(super) fn ended_by_itself(&mut self, exited: &v1::AgentExited) {
        // It was faster than the first plan, which may ask for a restart.
        self.own.ended = self.kept.plan.is_none().then_some(*exited);
        let wanted = exited.incarnation > 0 && self.restart_policy().wants(exited.exit_code, exited.signal);
        if !wanted || !self.launches() || !self.acts_by_itself() || self.another_life_begins() {
            return;
        }
        if self.open_restart().is_some() {
            return;
        }
        let how = match (exited.exit_code, exited.signal) {
            (Some(code), _) => format!("with code {code}"),
            (None, Some(signal)) => format!("by signal {signal}"),
            (None, None) => "and nobody knows how".into(),
        };
        if let Err(why) = self.want_restart(&format!("It had ended {how}.")) {
            self.log(true, format!("the agent ended {how} and is not started again: {why}"));
        }
    }

    /// The first plan came.
    pub(super) fn look_back_at_end(&mut self) {
        if let Some(exited) = self.own.ended.take().filter(|_| self.presence.root().is_none()) {
            self.ended_by_itself(&exited);
        }
    }

    fn due_at(&self, act: &state::Act) -> u64 {
        let decided = act.decided.clone().unwrap_or_default();
        clock::on_this_boot(self.now, &self.boot_id, &decided).saturating_add(act.after_ms)
    }

    pub(super) fn relaunch_deadline(&self) -> Option<u64> {
        self.open_restart().filter(|a| a.step() == ActStep::Unspecified).map(|a| self.due_at(a))
    }

    pub(super) fn settle_restart(&mut self, act: state::Act) {
        if !self.presence.known() {
            return;
        }
        let root = self.presence.root().cloned();
        let old = act.process.as_ref().map(identity);
        // Another life has begun meanwhile: whoever began it.
        let another = root.as_ref().is_some_and(|now| old.as_ref().is_none_or(|old| !same_id(now, old)));
        if another || self.another_life_begins() {
            if let Some(root) = root.filter(|_| another && act.step() == ActStep::Launching) {
                let detail = format!("{} was seen", shown(&root));
                self.tell_restart(&act, RestartState::Done, self.presence.incarnation, &detail);
            }
            return self.end_act(&act.id);
        }
        self.own.recovered.remove(&act.id);
        if matches!(act.step(), ActStep::Unspecified | ActStep::Held) && self.is_too_old(&act) {
            return self.end_act(&act.id);
        }
        let id = act.id.clone();
        match act.step() {
            ActStep::Unspecified | ActStep::Held => {
                if self.now.boot_ms >= self.due_at(&act) {
                    self.begin_restart(act);
                }
            }
            ActStep::Note => {
                let note = self.resume_note(&act.why);
                self.own.acting.insert(id.clone());
                self.act(Purpose::Own(id), note);
            }
            ActStep::Ending => match root {
                Some(root) => {
                    self.own.acting.insert(id.clone());
                    self.act(Purpose::Own(id), Effect::EndAgent { root, grace_ms: GRACE_MS });
                }
                None => self.go_on_at(act, ActStep::Launching),
            },
            ActStep::Launching => {
                self.own.acting.insert(id.clone());
                self.act(Purpose::Own(id), Effect::Launch);
            }
        }
    }

    /// Counted before it begins: a sidecar that is killed in the middle of each would count none.
    fn begin_restart(&mut self, act: state::Act) {
        let mut budget = self.budget();
        budget.began(self.now.boot_ms);
        self.keep_budget(budget);
        self.go_on_at(act, ActStep::Note);
    }

    fn go_on_at(&mut self, mut act: state::Act, step: ActStep) {
        act.set_step(step);
        self.keep_act(act);
    }

    pub(super) fn restart_done(&mut self, act: state::Act, outcome: EffectOutcome) {
        match (act.step(), outcome) {
            (ActStep::Note, outcome) => {
                self.note_put(&act.id, outcome);
                self.go_on_at(act, ActStep::Ending);
            }
            (ActStep::Ending, EffectOutcome::Ok { .. }) => self.go_on_at(act, ActStep::Launching),
            (ActStep::Launching, EffectOutcome::Launched { root }) => {
                let change = match self.launches() {
                    true => self.presence.launched(&root),
                    false => self.presence.sampled(Some(&root), false),
                };
                self.presence_changed(change);
                let detail = format!("{} started", shown(&root));
                self.tell_restart(&act, RestartState::Done, self.presence.incarnation, &detail);
                self.end_act(&act.id);
            }
            (step, other) => {
                let why = failure(other);
                self.tell_restart(&act, RestartState::Failed, 0, &why);
                self.end_act(&act.id);
                // It lies there ended: again, as often as the budget lets.
                if step == ActStep::Launching && self.acts_by_itself() {
                    let _ = self.want_restart(&act.why);
                }
            }
        }
    }

    /// For the life that begins next.
    pub(super) fn resume_note(&self, why: &str) -> Effect {
        let verdicts = self.kept.spool.all_told().filter_map(|(_, fact)| match &fact.kind {
            Kind::Verdict(v) => Some(((v.deliverable.as_str(), v.check_id.as_str()), v)),
            _ => None,
        });
        let text = note::text(why, self.kept.plan.as_ref(), &verdicts.collect());
        Effect::PutDirective { file_name: note::file_name(self.presence.incarnation + 1), text }
    }

    pub(super) fn note_put(&mut self, id: &str, outcome: EffectOutcome) {
        if !matches!(outcome, EffectOutcome::Ok { .. }) {
            let text = format!("{id}: the note for the agent's next life is not in its inbox: {}", failure(outcome));
            self.log(false, text);
        }
    }

    pub(super) fn restarts_begin_anew(&mut self, why: &str) {
        let budget = self.budget();
        self.keep_budget(Budget::default());
        if budget.gave_up {
            self.tell_restart(&state::Act::default(), RestartState::Reset, self.presence.incarnation, why);
        }
    }
}

fn same_id(a: &v1::ProcessIdentity, b: &v1::ProcessIdentity) -> bool {
    same(a, &process(b))
}

fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{} s", ms / 1_000) } else { format!("{:.1} s", ms as f64 / 1_000.0) }
}
