//! What a person should know, one finding a line, with what to type.
use pitwall_proto::v1::{self, FindingKind};

use super::{
    Paint, Style,
    table::{Cell, Column, table},
    text,
};

const COLUMNS: [Column; 5] =
    [Column::right("", 2), Column::left("", 0), Column::left("", 0), Column::right("", 4), Column::left("", 0)];

/// As part of the situation; nothing where there is none.
pub fn section(findings: &[v1::Finding], now: i64, style: Style) -> String {
    if findings.is_empty() {
        return String::new();
    }
    let mut out = style.line(Paint::Bold, "FINDINGS");
    out.push_str(&list(findings, now, style));
    out
}

/// `pitwall findings`.
pub fn all(findings: &[v1::Finding], now: i64, style: Style) -> String {
    if findings.is_empty() {
        return "no findings\n".into();
    }
    list(findings, now, style)
}

fn list(findings: &[v1::Finding], now: i64, style: Style) -> String {
    let rows: Vec<Vec<Cell>> = findings.iter().map(|f| row(f, now)).collect();
    let lines = table(&COLUMNS, &rows, style);
    let mut out = String::new();
    for (line, finding) in lines.lines().zip(findings) {
        out.push_str(line);
        out.push('\n');
        let next = text::clean(&finding.next);
        if !next.is_empty() && finding.closed_unix_ms.is_none() {
            out.push_str(&style.line(Paint::None, &format!("    next: {next}")));
        }
    }
    out
}

fn row(finding: &v1::Finding, now: i64) -> Vec<Cell> {
    let kind = text::finding(finding.kind());
    let (kind, message) = match finding.closed_unix_ms {
        Some(at) => {
            let lasted = text::ago(at, finding.since_unix_ms);
            let note = format!("closed {} ago after {lasted}: {}", text::ago(now, at), finding.message);
            (Cell::painted(kind, Paint::Dim), note)
        }
        None => (Cell::painted(kind, paint(finding.kind())), finding.message.clone()),
    };
    vec![
        Cell::new(format!("#{}", finding.id)),
        kind,
        Cell::new(text::clean(&finding.subject)),
        Cell::new(text::ago(now, finding.since_unix_ms)),
        Cell::new(text::clean(&message)),
    ]
}

fn paint(kind: FindingKind) -> Paint {
    match kind {
        FindingKind::MissingDeliverable
        | FindingKind::Misdirected
        | FindingKind::AgentMissing
        | FindingKind::QuotaExceeded
        | FindingKind::SidecarLost
        | FindingKind::AgentExited
        | FindingKind::AgentStalled
        | FindingKind::DeliverableRegressed
        | FindingKind::NetworkOrOrchestrator
        | FindingKind::JournalRestored
        | FindingKind::HostPressure
        | FindingKind::OutOfMemory
        | FindingKind::RestartsGaveUp
        | FindingKind::Unhealthy
        | FindingKind::WorkspaceAbsent => Paint::Bad,
        FindingKind::LeaseLapsed
        | FindingKind::SecondInstance
        | FindingKind::FactsDropped
        | FindingKind::CommandUnknown
        | FindingKind::LeaseForeign
        | FindingKind::TokenMisused
        | FindingKind::SidecarCloned
        | FindingKind::LeaseOrphaned
        | FindingKind::Unspecified => Paint::Warn,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn open_and_closed_findings() {
        let mut findings = samples::night().findings;
        findings[1].closed_unix_ms = Some(samples::NOW - 60_000);
        insta::assert_snapshot!(all(&findings, samples::NOW, Style::plain()));
        assert_eq!(all(&[], 0, Style::plain()), "no findings\n");
    }
}
