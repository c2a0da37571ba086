//! Blockers grouped by their root, ranked by what clearing it frees.
use std::collections::{BTreeMap, BTreeSet};

use pitwall_core::text as words;
use pitwall_proto::v1::{self, Cause};

use super::{Paint, Style, text};

/// The cause of a blocker is cut before anything else in its line, and never below this.
const CAUSE_MIN: usize = 20;

/// The blockers of one root, in the order in which to clear them.
pub fn roots(blockers: &[v1::Blocker]) -> Vec<Vec<&v1::Blocker>> {
    let mut groups: BTreeMap<(u32, String), Vec<&v1::Blocker>> = BTreeMap::new();
    for blocker in blockers {
        groups.entry((blocker.rank, text::reference(blocker.root.as_ref()))).or_default().push(blocker);
    }
    groups.into_values().collect()
}

/// As part of the situation: two lines each.
pub fn section(blockers: &[v1::Blocker], now: i64, style: Style) -> String {
    if blockers.is_empty() {
        return style.line(Paint::None, "BLOCKERS: none");
    }
    let mut out = style.line(Paint::Bold, "BLOCKERS, by what clearing them frees");
    out.push_str(&list(blockers, now, style, false));
    out
}

/// `pitwall blockers`: also who waits through which chain, until when, and what is being done.
pub fn all(blockers: &[v1::Blocker], now: i64, style: Style) -> String {
    if blockers.is_empty() {
        return "no blockers\n".into();
    }
    list(blockers, now, style, true)
}

fn list(blockers: &[v1::Blocker], now: i64, style: Style, full: bool) -> String {
    let groups = roots(blockers);
    let widest = |of: &dyn Fn(&v1::Blocker) -> String| {
        groups.iter().filter_map(|g| g.first()).map(|b| text::width(&of(b))).max().unwrap_or(0)
    };
    let root_width = widest(&|b| text::reference(b.root.as_ref()));
    let rank_width = widest(&|b| b.rank.to_string());
    let since = |group: &[&v1::Blocker]| group.iter().map(|b| b.since_unix_ms).min().unwrap_or(now);
    let age_width = groups.iter().map(|g| text::width(&text::ago(now, since(g)))).max().unwrap_or(0);
    let mut out = String::new();
    for group in groups {
        let Some(first) = group.first() else { continue };
        let root = text::reference(first.root.as_ref());
        let pad = root_width - text::width(&root);
        let head = format!("{:>rank_width$}  ", first.rank);
        let tail = format!("   {}", impact(&group));
        let middle = format!("{}  {:>age_width$}  ", " ".repeat(pad), text::ago(now, since(&group)));
        let used = [&head, &root, &middle, &tail].map(|s| text::width(s)).iter().sum::<usize>();
        let room = style.width.map_or(usize::MAX, |all| all.saturating_sub(used).max(CAUSE_MIN));
        let cause = text::fit(&cause(first), room);
        let line = format!("{head}{root}{middle}{cause}{tail}");
        if style.width.is_some_and(|all| text::width(&line) > all) {
            // Too narrow for all: what it holds up goes before the words about why.
            let line = format!("{head}{root}{middle}{}", tail.trim_start());
            out.push_str(&style.line(paint(first.cause()), &line));
            out.push_str(&style.line(Paint::None, &format!("   {}", self::cause(first))));
        } else {
            out.push_str(&format!("{head}{}{middle}{cause}{tail}\n", style.paint(paint(first.cause()), &root)));
        }
        if full {
            detail(&group, now, style, &mut out);
        }
        let next = text::clean(&first.next);
        if !next.is_empty() {
            out.push_str(&style.line(Paint::None, &format!("   next: {next}")));
        }
    }
    out
}

/// `misdirected: 9 changes in 10m, none on it`.
fn cause(blocker: &v1::Blocker) -> String {
    let word = words::cause_word(blocker.cause());
    let detail = text::clean(&blocker.cause_detail);
    if detail.is_empty() { word } else { format!("{word}: {detail}") }
}

/// `holds 3 agents, critical`.
fn impact(group: &[&v1::Blocker]) -> String {
    let agents: BTreeSet<&str> = group.iter().flat_map(|b| b.holds_agents.iter().map(String::as_str)).collect();
    let critical = if group.iter().any(|b| b.critical) { ", critical" } else { "" };
    format!("holds {}{critical}", text::count(agents.len(), "agent"))
}

fn paint(cause: Cause) -> Paint {
    match cause {
        Cause::OwnerMissing
        | Cause::OwnerLost
        | Cause::OwnerExited
        | Cause::Regressed
        | Cause::EvidenceUnknown
        | Cause::OwnerWaiting
        | Cause::ResourcePressure
        | Cause::OwnerStalled
        | Cause::Misdirected => Paint::Bad,
        Cause::Overdue | Cause::NotStarted | Cause::InProgress | Cause::Unspecified => Paint::Warn,
    }
}

fn detail(group: &[&v1::Blocker], now: i64, style: Style, out: &mut String) {
    let mut line = |text: String| out.push_str(&style.line(Paint::None, &format!("   {text}")));
    for blocker in group {
        let chain: Vec<String> = blocker.chain.iter().map(|r| text::reference(Some(r))).collect();
        line(format!(
            "{} waits {}: {}",
            text::reference(blocker.waiting.as_ref()),
            text::ago(now, blocker.since_unix_ms),
            chain.join(" → ")
        ));
        if !blocker.other_roots.is_empty() {
            let others: Vec<String> = blocker.other_roots.iter().map(|r| text::reference(Some(r))).collect();
            line(format!("  also waits for {}", others.join(", ")));
        }
    }
    let Some(first) = group.first() else { return };
    let held: BTreeSet<String> = group.iter().flat_map(|b| b.holds_agents.iter().map(|a| text::clean(a))).collect();
    let held: Vec<String> = held.into_iter().collect();
    line(format!(
        "holds {} ({})",
        held.join(", "),
        text::count(group.iter().map(|b| b.holds_deliverables).max().unwrap_or(0) as usize, "deliverable")
    ));
    match first.expected_clear_unix_ms {
        Some(at) if at > now => {
            line(format!("expected to clear in {}: {}", text::ago(at, now), text::clean(&first.certainty)));
        }
        Some(at) => {
            line(format!("was expected to clear {} ago: {}", text::ago(now, at), text::clean(&first.certainty)))
        }
        None => line(format!("expected to clear: {}", text::clean(&first.certainty))),
    }
    let running: BTreeSet<String> = group.iter().flat_map(|b| b.interventions.iter().map(|i| text::clean(i))).collect();
    if !running.is_empty() {
        let running: Vec<String> = running.into_iter().collect();
        line(format!("being done: {}", running.join(", ")));
    }
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn every_blocker_with_its_chain() {
        insta::assert_snapshot!(all(&samples::night().blockers, samples::NOW, Style::plain()));
    }

    #[test]
    fn nobody_waits() {
        assert_eq!(all(&[], 0, Style::plain()), "no blockers\n");
    }

    #[test]
    fn blockers_of_one_root_are_one_for_people() {
        let night = samples::night();
        assert_eq!(night.blockers.len(), 4);
        assert_eq!(roots(&night.blockers).len(), 3);
    }

    #[test]
    fn a_narrow_line_loses_the_words_before_the_impact() {
        let style = Style { width: Some(54), color: false };
        let told = section(&samples::night().blockers, samples::NOW, style);
        assert!(told.lines().all(|l| text::width(l) <= 54), "{told}");
        assert!(told.contains("holds 3 agents, critical"), "{told}");
    }
}
