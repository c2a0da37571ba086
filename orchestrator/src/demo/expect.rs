//! What must and what must not happen, for every variant of the night, and whether it did. The table is data; the
//! judgement compares it with what a client received and with what is really there.
use pitwall_proto::v1::{AgentStatus, Cause, FindingKind, InterventionOutcome as Outcome};

use super::{
    args::Without,
    cast::Role,
    night::Night,
    plan::CPU_LIMIT,
    record::{BlockSeen, DemoMs, Recording, kind_word, outcome_word},
    truth::Truth,
};

/// A throttle holds when use stays below what was asked, times this, plus [`THROTTLE_MARGIN`] cores.
const THROTTLE_TOLERANCE: f64 = 1.2;
const THROTTLE_MARGIN: f64 = 0.05;

/// What one variant must come to. Whatever is not listed must not appear.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub findings: Vec<(FindingKind, String)>,
    pub interventions: Vec<(&'static str, String, Outcome)>,
    pub effects: Vec<Effect>,
}

/// Something that is really so in the end, or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    RouteAnswers(bool),
    /// Frontend was BLOCKED by the API, with the chain and what clearing it frees.
    FrontendBlocked(bool),
    /// It went on by itself, through ACTIVE, and made its page.
    FrontendWentOn(bool),
    CpuFell(bool),
    RunawayGone(bool),
    DesignSeen(bool),
    /// ai-ml was BLOCKED by devops, whose work is in progress, and by nothing worse.
    SearchWaitsForProgress,
    /// Integration and testing are IDLE, without blocker.
    LaterIdle,
}

pub fn table(night: &Night) -> Table {
    let (cast, variant) = (&night.cast, &night.variant);
    let (missing, misdirected) = (variant.has(Without::Missing), variant.has(Without::Misdirected));
    let (absent, runaway, operator) = (variant.has(Without::Absent), variant.has(Without::Runaway), variant.operator);
    let frontend = cast.name(Role::Frontend);
    let (design, docs) = (cast.name(Role::Design), cast.name(Role::Docs));
    let mut table = Table { findings: Vec::new(), interventions: Vec::new(), effects: Vec::new() };
    let mut finding = |kind, subject: &str| table.findings.push((kind, subject.to_owned()));
    if missing {
        finding(FindingKind::MissingDeliverable, &cast.api_id());
        if misdirected {
            finding(FindingKind::Misdirected, &cast.api_id());
        }
    }
    if absent {
        finding(FindingKind::AgentMissing, design);
        finding(FindingKind::AgentMissing, docs);
    }
    if runaway {
        finding(FindingKind::QuotaExceeded, &format!("{frontend}/cpu"));
        finding(FindingKind::QuotaExceeded, &format!("{frontend}/memory"));
    }
    if operator {
        let mut command = |kind, target: &str, outcome| table.interventions.push((kind, target.to_owned(), outcome));
        if missing {
            command("directive", &cast.api_id(), Outcome::Effective);
        }
        if absent {
            command("activate", design, Outcome::Effective);
            command("activate", docs, Outcome::Rejected);
        }
        if runaway {
            command("throttle", frontend, Outcome::Effective);
            command("kill", frontend, Outcome::Effective);
        }
    }
    // Backend answers where it behaves or is told; a runaway is dealt with where somebody does.
    table.effects = vec![
        Effect::RouteAnswers(!missing || operator),
        Effect::FrontendBlocked(missing),
        Effect::FrontendWentOn(!missing || operator),
        Effect::DesignSeen(!absent || operator),
        Effect::SearchWaitsForProgress,
        Effect::LaterIdle,
    ];
    if runaway {
        table.effects.push(Effect::CpuFell(operator));
        table.effects.push(Effect::RunawayGone(operator));
    }
    table
}

/// What is not as the table says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// It may still come.
    pub missing: Vec<String>,
    /// It must not be, and is.
    pub wrong: Vec<String>,
}

impl Judgement {
    pub fn is_good(&self) -> bool {
        self.missing.is_empty() && self.wrong.is_empty()
    }
}

pub fn judge(night: &Night, seen: &Recording, truth: &Truth) -> Judgement {
    let table = table(night);
    let mut judgement = Judgement::default();
    for (kind, subject) in &table.findings {
        if !seen.findings.values().any(|f| f.kind == *kind && f.subject == *subject) {
            judgement.missing.push(format!("finding {} {subject}", kind_word(*kind)));
        }
    }
    for found in seen.findings.values() {
        if !table.findings.iter().any(|(kind, subject)| *kind == found.kind && *subject == found.subject) {
            let told = format!("finding {} {}: {}", kind_word(found.kind), found.subject, found.message);
            judgement.wrong.push(told);
        }
    }
    judge_interventions(&table, seen, &mut judgement);
    for effect in &table.effects {
        judge_effect(*effect, night, seen, truth, &mut judgement);
    }
    judgement
}

fn judge_interventions(table: &Table, seen: &Recording, judgement: &mut Judgement) {
    let mut open: Vec<_> = seen.interventions.values().collect();
    for (kind, target, outcome) in &table.interventions {
        let Some(at) = open.iter().position(|i| i.kind == *kind && i.target == *target) else {
            judgement.missing.push(format!("{kind} {target}"));
            continue;
        };
        let found = open.remove(at);
        let told = format!(
            "{kind} {target} is {}, not {}: {}",
            outcome_word(found.outcome()),
            outcome_word(*outcome),
            if found.evidence.is_empty() { "no effect was seen" } else { &found.evidence }
        );
        if found.outcome() == Outcome::Undecided {
            judgement.missing.push(told);
        } else if found.outcome() != *outcome {
            judgement.wrong.push(told);
        }
    }
    for more in open {
        judgement.wrong.push(format!("{} {} was not called for", more.kind, more.target));
    }
}

fn judge_effect(effect: Effect, night: &Night, seen: &Recording, truth: &Truth, judgement: &mut Judgement) {
    let cast = &night.cast;
    let mut expect = |wanted: bool, is: bool, what: &str| match (wanted, is) {
        (true, false) => judgement.missing.push(what.to_owned()),
        (false, true) => judgement.wrong.push(what.to_owned()),
        _ => {}
    };
    match effect {
        Effect::RouteAnswers(wanted) => {
            expect(wanted, truth.route_answers(&cast.resource), &format!("{} answers HTTP", cast.route_path()));
        }
        Effect::FrontendBlocked(wanted) => {
            let blocked = seen.blocks.iter().any(|b| is_night_block(b, night));
            let status = seen.course(cast.name(Role::Frontend)).contains(&AgentStatus::Blocked);
            expect(wanted, blocked && status, &format!("{} BLOCKED by {}", cast.name(Role::Frontend), cast.api_id()));
        }
        Effect::FrontendWentOn(wanted) => {
            let course = seen.course(cast.name(Role::Frontend));
            let unblocked = course.iter().position(|s| *s == AgentStatus::Blocked).map_or(0, |at| at + 1);
            let active = course[unblocked..].contains(&AgentStatus::Active);
            let list = format!("{}/{}", cast.name(Role::Frontend), cast.list());
            let went_on = active && truth.page && seen.verified.contains_key(&list);
            expect(wanted, went_on, &format!("{} ACTIVE by itself, and its page verified", cast.name(Role::Frontend)));
        }
        Effect::CpuFell(wanted) => {
            let what = format!("{} held below its throttle", cast.runaway);
            expect(wanted, cpu_fell(seen, truth), &what);
        }
        Effect::RunawayGone(wanted) => {
            let gone = truth.runaway.as_ref().is_some_and(|w| w.gone);
            expect(wanted, gone, &format!("{} gone", cast.runaway));
        }
        Effect::DesignSeen(wanted) => {
            let name = cast.name(Role::Design);
            let up = seen.course(name).iter().any(|s| !matches!(s, AgentStatus::Expected | AgentStatus::Missing));
            expect(wanted, up && truth.design_files > 0, &format!("{name} seen and at work"));
        }
        Effect::SearchWaitsForProgress => {
            let (search, devops) = (cast.name(Role::AiMl), cast.name(Role::Devops));
            let of = |id: &str, agent: &str| id.split('/').next() == Some(agent);
            let blocked = seen.course(search).contains(&AgentStatus::Blocked);
            let waits: Vec<&BlockSeen> = seen.blocks.iter().filter(|b| of(&b.waiting, search)).collect();
            let progress = waits.iter().any(|b| of(&b.root, devops) && b.cause == Cause::InProgress);
            expect(true, blocked && progress, &format!("{search} BLOCKED by {devops}, in progress"));
            let calm = |b: &&BlockSeen| matches!(b.cause, Cause::InProgress | Cause::NotStarted);
            for worse in waits.iter().filter(|b| !calm(b)) {
                let cause = pitwall_core::text::cause_word(worse.cause);
                judgement.wrong.push(format!("{} waits for {}: {cause}", worse.waiting, worse.root));
            }
        }
        Effect::LaterIdle => {
            for role in [Role::Integration, Role::Testing] {
                let name = cast.name(role);
                let course = seen.course(name);
                expect(true, course.contains(&AgentStatus::Idle), &format!("{name} IDLE"));
                let alarm = course.iter().find(|s| !matches!(s, AgentStatus::Expected | AgentStatus::Idle));
                let alarm = alarm.map(|s| pitwall_core::text::agent_word(*s)).unwrap_or_default();
                expect(false, !alarm.is_empty(), &format!("{name} {alarm}"));
                let blocker = seen.blocks.iter().any(|b| b.waiting.split('/').next() == Some(name));
                expect(false, blocker, &format!("a blocker of {name}"));
            }
        }
    }
}

/// Frontend waits for the API, with a chain that leads there, and clearing it frees frontend.
fn is_night_block(block: &BlockSeen, night: &Night) -> bool {
    let frontend = night.cast.name(Role::Frontend);
    block.waiting == format!("{frontend}/{}", night.cast.list())
        && block.root == night.cast.api_id()
        && block.chain.last() == Some(&block.root)
        && block.holds_agents.iter().any(|a| a == frontend)
}

/// The process burned more than its quota before the throttle was received, and less than the throttle after.
fn cpu_fell(seen: &Recording, truth: &Truth) -> bool {
    let Some(watched) = &truth.runaway else { return false };
    let throttle = seen.interventions.values().find(|i| i.kind == "throttle");
    let Some(received) = throttle.and_then(|i| i.received_unix_ms).map(|at| seen.demo_ms(at)) else { return false };
    let burned = truth.cpu_crossed.is_some_and(|at| at < received);
    let asked = asked_cores(seen).unwrap_or(CPU_LIMIT);
    let after = watched.use_between(received, DemoMs::MAX);
    burned && after.is_some_and(|(_, least)| least <= asked * THROTTLE_TOLERANCE + THROTTLE_MARGIN)
}

fn asked_cores(seen: &Recording) -> Option<f64> {
    use pitwall_proto::v1::command_spec::Kind;
    seen.commands.values().find_map(|c| match c.spec.as_ref()?.kind.as_ref()? {
        Kind::Throttle(throttle) => Some(throttle.cpu_cores),
        Kind::Directive(_) | Kind::Unthrottle(_) | Kind::Kill(_) | Kind::Restart(_) | Kind::Activate(_) => None,
    })
}
