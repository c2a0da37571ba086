//! The ledger: commands, their receipts, and what came of what they promised.
use pitwall_core::text as words;
use pitwall_proto::v1::{self, CommandState, InterventionOutcome};

use super::{
    Paint, Style,
    table::{Cell, Column, table},
    text,
};

const LIST: [Column; 7] = [
    Column::left("ID", 0),
    Column::left("AGENT", 0),
    Column::left("COMMAND", 0),
    Column::left("STATE", 0),
    Column::right("AGE", 4),
    Column::left("OUTCOME", 0),
    Column::left("DETAIL", 0),
];
const INTERVENTIONS: [Column; 5] =
    [Column::left("", 0), Column::left("", 0), Column::left("", 0), Column::left("", 0), Column::left("", 0)];

/// `pitwall commands`: newest first.
pub fn list(commands: &[v1::Command], interventions: &[v1::Intervention], now: i64, style: Style) -> String {
    if commands.is_empty() {
        return "no commands\n".into();
    }
    let rows: Vec<Vec<Cell>> = commands
        .iter()
        .map(|c| {
            let outcome = interventions.iter().find(|i| i.id == c.id).filter(|i| !i.promise.is_empty());
            let outcome = outcome.map_or_else(
                || Cell::painted("-", Paint::Dim),
                |i| Cell::painted(self::outcome(i.outcome()), paint_outcome(i.outcome())),
            );
            vec![
                Cell::painted(text::clean(&c.id), Paint::Bold),
                Cell::new(text::clean(&c.agent)),
                Cell::new(text::command(c.spec.as_ref())),
                Cell::painted(words::state_word(c.state()), paint(c.state())),
                Cell::new(text::ago(now, c.issued_unix_ms)),
                outcome,
                Cell::new(text::clean(&c.detail)),
            ]
        })
        .collect();
    table(&LIST, &rows, style)
}

/// `pitwall commands ID`: every receipt, and the promise.
pub fn one(command: &v1::Command, intervention: Option<&v1::Intervention>, now: i64, style: Style) -> String {
    let mut out = format!(
        "{}  {}  {}  {}\n",
        style.paint(Paint::Bold, &text::clean(&command.id)),
        text::clean(&command.agent),
        text::command(command.spec.as_ref()),
        style.paint(paint(command.state()), words::state_word(command.state())),
    );
    if let Some(v1::command_spec::Kind::Directive(directive)) = command.spec.as_ref().and_then(|s| s.kind.as_ref()) {
        out.push_str(&style.line(Paint::None, &format!("  text: {}", text::clean(&directive.text))));
    }
    let by = if command.origin.is_empty() { "nobody named" } else { &command.origin };
    out.push_str(&style.line(
        Paint::None,
        &format!(
            "  issued {} by {}, must start by {}",
            text::clock(command.issued_unix_ms),
            text::clean(by),
            text::clock(command.expires_unix_ms)
        ),
    ));
    for step in &command.history {
        out.push_str(&style.line(Paint::None, &format!("  {}", receipt(step))));
    }
    if let Some(intervention) = intervention {
        out.push_str(&promise(intervention, now, style));
    }
    out
}

/// `04:01:07Z  SUCCEEDED  put into /inbox/URGENT-1.md`.
pub fn receipt(step: &v1::CommandStep) -> String {
    let told = format!("{}  {}", text::clock(step.at_unix_ms), words::state_word(step.state()));
    if step.detail.is_empty() { told } else { format!("{told}  {}", text::clean(&step.detail)) }
}

/// The line that ends a command on standard output.
pub fn end(command: &v1::Command, style: Style) -> String {
    let word = style.paint(paint(command.state()), words::state_word(command.state()));
    let detail = text::clean(&command.detail);
    let detail = if detail.is_empty() { detail } else { format!(": {detail}") };
    format!("{} {word}{detail}\n", text::clean(&command.id))
}

/// What was promised, and whether it was seen; nothing where nothing was promised.
pub fn promise(intervention: &v1::Intervention, now: i64, style: Style) -> String {
    if intervention.promise.is_empty() {
        return String::new();
    }
    let line = format!("  promised: {} ({})", text::clean(&intervention.promise), verdict(intervention, now));
    style.line(Paint::None, &line)
}

/// One line each.
pub fn interventions(all: &[&v1::Intervention], now: i64, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = all
        .iter()
        .map(|i| {
            vec![
                Cell::new(text::clean(&i.id)),
                Cell::new(text::clean(&i.kind)),
                Cell::new(text::clean(&i.target)),
                Cell::painted(outcome(i.outcome()), paint_outcome(i.outcome())),
                Cell::new(format!("{}: {}", text::clean(&i.promise), verdict(i, now))),
            ]
        })
        .collect();
    table(&INTERVENTIONS, &rows, style)
}

fn verdict(i: &v1::Intervention, now: i64) -> String {
    let evidence = text::clean(&i.evidence);
    let evidence = if evidence.is_empty() { evidence } else { format!(": {evidence}") };
    match i.outcome() {
        InterventionOutcome::Effective => {
            let after = match (i.effect_unix_ms, i.delivered_unix_ms) {
                (Some(effect), Some(delivered)) => format!(" {} after delivery", text::ago(effect, delivered)),
                _ => String::new(),
            };
            format!("came true{after}{evidence}")
        }
        InterventionOutcome::SelfResolved => format!("came true before delivery{evidence}"),
        InterventionOutcome::Ineffective => format!("not true in its window{evidence}"),
        InterventionOutcome::Rejected => format!("never tried{evidence}"),
        InterventionOutcome::Undecided | InterventionOutcome::Unspecified => {
            if i.delivered_unix_ms.is_none() {
                "not delivered".into()
            } else if i.window_ends_unix_ms > now {
                format!("watched for until {}", text::clock(i.window_ends_unix_ms))
            } else {
                "undecided".into()
            }
        }
    }
}

fn outcome(outcome: InterventionOutcome) -> String {
    words::outcome_word(outcome).to_lowercase().replace('_', " ")
}

fn paint_outcome(outcome: InterventionOutcome) -> Paint {
    match outcome {
        InterventionOutcome::Effective | InterventionOutcome::SelfResolved => Paint::Good,
        InterventionOutcome::Ineffective | InterventionOutcome::Rejected => Paint::Bad,
        InterventionOutcome::Undecided | InterventionOutcome::Unspecified => Paint::Dim,
    }
}

pub fn paint(state: CommandState) -> Paint {
    use CommandState as S;
    match state {
        S::Succeeded => Paint::Good,
        S::Failed | S::Rejected | S::Unknown => Paint::Bad,
        S::Expired | S::Cancelled | S::Superseded => Paint::Warn,
        S::Unspecified | S::Queued | S::Sent | S::Received | S::Accepted | S::Running => Paint::None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn the_ledger_as_a_list() {
        let (commands, interventions) = samples::ledger();
        insta::assert_snapshot!(list(&commands, &interventions, samples::NOW, Style::plain()));
        assert_eq!(list(&[], &[], 0, Style::plain()), "no commands\n");
    }

    #[test]
    fn one_command_with_every_receipt() {
        let (commands, interventions) = samples::ledger();
        let told: Vec<String> = commands
            .iter()
            .map(|c| one(c, interventions.iter().find(|i| i.id == c.id), samples::NOW, Style::plain()))
            .collect();
        insta::assert_snapshot!(told.concat());
    }

    #[test]
    fn every_outcome_is_told() {
        use InterventionOutcome as O;
        let now = samples::NOW;
        let base = v1::Intervention {
            delivered_unix_ms: Some(now - 9_000),
            effect_unix_ms: Some(now - 3_000),
            window_ends_unix_ms: now + 1_000,
            ..Default::default()
        };
        let table = [
            (O::Effective, "came true 6s after delivery"),
            (O::SelfResolved, "came true before delivery"),
            (O::Ineffective, "not true in its window"),
            (O::Rejected, "never tried"),
            (O::Undecided, "watched for until 04:01:08Z"),
        ];
        for (outcome, expected) in table {
            assert_eq!(verdict(&v1::Intervention { outcome: outcome as i32, ..base.clone() }, now), expected);
        }
        assert_eq!(verdict(&base, now + 1_000), "undecided");
    }
}
