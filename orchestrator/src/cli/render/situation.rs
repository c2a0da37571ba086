//! What an operator sees at 3 a.m.: one header line, the agents, the blockers, what else should be known, what was done.
use pitwall_core::text as words;
use pitwall_proto::v1::{self, AgentStatus, FindingKind};

use super::{
    Paint, Style, blockers, commands, findings,
    table::{Cell, Column, or_dash, table},
    text,
};

/// A reading older than this says nothing of now.
const READOUT_FRESH_MS: u32 = 30_000;
/// A claim so far above what is verified is worth a colour.
const GAP: f64 = 0.25;
/// Decided interventions in the situation; `pitwall commands` has all.
const DECIDED_SHOWN: usize = 5;

const COLUMNS: [Column; 7] = [
    Column::left("AGENT", 9),
    Column::left("STATUS", 8),
    Column::right("VERIFIED", 8),
    Column::right("CLAIMED", 7),
    Column::right("CPU", 4),
    Column::right("MEM", 4),
    Column::left("NEXT", 0),
];

/// All of it. `now` is the moment that ages are told as of, Unix milliseconds.
pub fn situation(situation: &v1::Situation, now: i64, style: Style) -> String {
    // A client's clock may be behind the server's: no age is negative.
    let now = now.max(situation.at_unix_ms);
    let mut out = header(situation, now, style);
    out.push_str(&network_or_orchestrator(situation, style));
    out.push_str(&agents(&situation.agents, now, style));
    out.push_str(&blockers::section(&situation.blockers, now, style));
    out.push_str(&findings::section(&situation.findings, now, style));
    out.push_str(&interventions(&situation.interventions, now, style));
    out
}

pub fn header(situation: &v1::Situation, now: i64, style: Style) -> String {
    let mut parts = vec![
        format!("{}  {}", text::clean(&situation.project), text::clock(now)),
        text::count(situation.agents.len(), "agent"),
        text::count(blockers::roots(&situation.blockers).len(), "blocker"),
        format!("verified {}", text::percent(situation.verified)),
    ];
    if let Some(claimed) = situation.claimed {
        parts.push(format!("claimed {}", text::percent(claimed)));
    }
    if situation.unknown > 0.0 {
        parts.push(format!("unknown {:.0} %", (situation.unknown * 100.0).ceil()));
    }
    let wide = parts.join("   ");
    let narrow = style.width.is_some_and(|columns| text::width(&wide) > columns);
    style.line(Paint::Bold, &if narrow { parts.join("  ") } else { wide })
}

/// Most sidecars are silent at once: what the table below says of them is old.
fn network_or_orchestrator(situation: &v1::Situation, style: Style) -> String {
    let told = situation.findings.iter().filter(|f| f.kind() == FindingKind::NetworkOrOrchestrator);
    told.map(|f| style.line(Paint::Bad, &format!("NETWORK OR ORCHESTRATOR: {}", text::clean(&f.message)))).collect()
}

/// The table of agents.
pub fn agents(agents: &[v1::Agent], now: i64, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = agents.iter().map(|agent| row(agent, now)).collect();
    table(&COLUMNS, &rows, style)
}

fn row(agent: &v1::Agent, now: i64) -> Vec<Cell> {
    let usage = readout(agent).and_then(|r| r.agent.as_ref());
    let unknown = if agent.unknown > 0.0 { "?" } else { "" };
    let gap = agent.claimed.is_some_and(|claimed| claimed - agent.verified > GAP);
    let claimed = agent.claimed.map(text::percent);
    vec![
        Cell::painted(text::clean(&agent.name), Paint::Bold),
        Cell::painted(words::agent_word(agent.status()), paint(agent.status())),
        Cell::new(format!("{}{unknown}", text::percent(agent.verified))),
        if gap { Cell::painted(claimed.unwrap_or_default(), Paint::Warn) } else { or_dash(claimed) },
        or_dash(usage.and_then(|u| u.cpu_cores).map(text::cores)),
        or_dash(usage.and_then(|u| u.memory_bytes).map(text::bytes)),
        Cell::new(next(agent, now)),
    ]
}

/// What it should do, and what holds it back meanwhile.
fn next(agent: &v1::Agent, now: i64) -> String {
    let mut next = text::clean(&agent.next);
    let held = agent.leases.iter().map(|lease| {
        let left = text::ago(lease.until_unix_ms, now);
        format!("{}, {left} left", super::agents::held(lease))
    });
    let held: Vec<String> = held.collect();
    if !held.is_empty() {
        next.push_str(&format!(" [held at {}]", held.join("; ")));
    }
    next.trim_start().to_owned()
}

/// The latest reading, where it is of now.
pub fn readout(agent: &v1::Agent) -> Option<&v1::Readout> {
    agent.readout.as_ref().filter(|r| r.age_ms <= READOUT_FRESH_MS)
}

pub fn paint(status: AgentStatus) -> Paint {
    match status {
        AgentStatus::Active | AgentStatus::Done => Paint::Good,
        AgentStatus::Blocked | AgentStatus::Waiting => Paint::Warn,
        AgentStatus::Missing | AgentStatus::Lost | AgentStatus::Exited | AgentStatus::Stalled => Paint::Bad,
        AgentStatus::Expected | AgentStatus::Idle | AgentStatus::Unspecified => Paint::Dim,
    }
}

/// Undecided ones and the latest decided; nothing where nobody intervened.
fn interventions(all: &[v1::Intervention], now: i64, style: Style) -> String {
    let mut decided = 0;
    let shown = all.iter().filter(|i| !i.promise.is_empty()).filter(|i| {
        let open = i.outcome() == v1::InterventionOutcome::Undecided;
        decided += usize::from(!open);
        // What ended before it was tried stays undecided for ever: no news.
        (open && i.window_ends_unix_ms > now) || (!open && decided <= DECIDED_SHOWN)
    });
    let shown: Vec<&v1::Intervention> = shown.collect();
    if shown.is_empty() {
        return String::new();
    }
    let mut out = style.line(Paint::Bold, "INTERVENTIONS");
    out.push_str(&commands::interventions(&shown, now, style));
    out
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn the_night_reads_as_the_design_draws_it() {
        insta::assert_snapshot!(situation(&samples::night(), samples::NOW, Style::plain()));
    }

    #[test]
    fn most_sidecars_silent_at_once_is_told_before_anything_else() {
        let mut night = samples::night();
        assert!(!situation(&night, samples::NOW, Style::plain()).contains("NETWORK OR ORCHESTRATOR"));
        night.findings.push(v1::Finding {
            kind: FindingKind::NetworkOrOrchestrator as i32,
            subject: "talent-platform".into(),
            message: "5 of 7 sidecars fell silent together".into(),
            ..Default::default()
        });
        let told = situation(&night, samples::NOW, Style::plain());
        let second = told.lines().nth(1);
        assert_eq!(second, Some("NETWORK OR ORCHESTRATOR: 5 of 7 sidecars fell silent together"), "{told}");
    }

    #[test]
    fn on_a_narrow_terminal_no_line_wraps() {
        let style = Style { width: Some(80), color: false };
        let told = situation(&samples::night(), samples::NOW, style);
        for line in told.lines() {
            assert!(text::width(line) <= 80, "{line}");
        }
        insta::assert_snapshot!(told);
    }

    #[test]
    fn what_was_not_measured_is_a_dash_and_no_zero() {
        let mut night = samples::night();
        night.agents[0].readout = None;
        night.agents[0].claimed = None;
        night.agents[1].readout.as_mut().expect("a readout").age_ms = READOUT_FRESH_MS + 1;
        let told = agents(&night.agents, samples::NOW, Style::plain());
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[1].contains("38 %        -     -     -  create"), "{}", lines[1]);
        assert!(lines[2].contains("40 %     -     -  waits"), "{}", lines[2]);
    }

    #[test]
    fn hostile_names_do_not_reach_the_terminal() {
        let mut night = samples::night();
        night.project = "talent\x1b[31m".into();
        night.agents[0].next = "create \x1b]0;x\x07 file\nAGENT".into();
        night.blockers[0].cause_detail = "\x1b[2J".into();
        night.findings[0].message = "\u{9b}2J".into();
        let told = situation(&night, samples::NOW, Style::plain());
        assert!(!told.contains(|c: char| c.is_control() && c != '\n'), "{told:?}");
    }
}
