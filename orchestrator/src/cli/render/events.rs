//! Journaled events, one line each: what `pitwall events` and `pitwall watch` print.
use pitwall_proto::v1;

use super::{Paint, Style, text};

/// Kinds line up in a column of this width; longer ones push their line.
const KIND_WIDTH: usize = 20;

pub fn line(event: &v1::Event, style: Style) -> String {
    let kind = text::clean(&event.kind);
    let pad = KIND_WIDTH.saturating_sub(text::width(&kind));
    let subject = if event.subject.is_empty() { String::new() } else { format!("{}  ", text::clean(&event.subject)) };
    let head = format!("{:>6}  {}  ", event.sequence, text::clock(event.at_unix_ms));
    let tail = format!("{}  {subject}{}", " ".repeat(pad), text::clean(&event.text));
    let room = style.width.map_or(usize::MAX, |all| all.saturating_sub(text::width(&head) + text::width(&kind)));
    format!("{head}{}{}\n", style.paint(paint(&event.kind), &kind), text::fit(&tail, room).trim_end())
}

/// By words of the protocol; an unknown kind is simply not coloured.
fn paint(kind: &str) -> Paint {
    match kind {
        "finding_opened" => Paint::Bad,
        "finding_closed" | "intervention_decided" => Paint::Good,
        "agent_status" | "deliverable_status" | "command" | "command_issued" => Paint::Bold,
        _ => Paint::None,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn events_line_up() {
        let event = |sequence, kind: &str, subject: &str, text: &str| {
            let at_unix_ms = samples::NOW - 10_000 + sequence as i64;
            line(
                &v1::Event { sequence, at_unix_ms, kind: kind.into(), subject: subject.into(), text: text.into() },
                Style::plain(),
            )
        };
        let lines = [
            event(7, "verdict", "backend/models", "file:app/models.ts passes"),
            event(1_208, "finding_opened", "backend/talents-api", "#3 MISDIRECTED: 9 changes\x1b[0m in 10m"),
            event(1_209, "plan_applied", "", "generation 2"),
        ];
        insta::assert_snapshot!(lines.concat());
    }
}
