//! Words, numbers and moments for a terminal: cleaned, measured in columns, cut to fit.
use pitwall_core::text as core_text;
use pitwall_proto::{throttle, v1};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Remote text without what could move the cursor, change colours or reorder a line. Newlines and tabs become spaces.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => cleaned.push(' '),
            // Marks, embeddings, overrides and isolates of text direction, and line separators: not control characters
            // to Unicode, yet they change how a line is shown.
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' => {}
            c if c.is_control() => {}
            c => cleaned.push(c),
        }
    }
    cleaned
}

/// Columns it takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// At most so many columns, cut with `…`.
pub fn fit(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > columns {
            break;
        }
        cut.push(c);
        used += wide;
    }
    if columns > 0 {
        cut.push('…');
    }
    cut
}

/// `04:01:07Z`: the time of day, UTC.
pub fn clock(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1_000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}Z", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

/// `14m`, `2h05m`: how long ago, as of `now`, without fractions of a second.
pub fn ago(now: i64, then: i64) -> String {
    let ms = (now - then).max(0);
    let whole = if ms < 1_000 { 0 } else { ms - ms % 1_000 };
    if whole == 0 { "0s".into() } else { core_text::duration(whole) }
}

pub fn duration(ms: i64) -> String {
    core_text::duration(ms)
}

pub fn percent(share: f64) -> String {
    core_text::percent(share)
}

/// `0.6c`.
pub fn cores(cores: f64) -> String {
    format!("{cores:.1}c")
}

/// `0.9G`, `512M`: a column's worth of bytes.
pub fn bytes(bytes: u64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    let mib = bytes as f64 / MIB;
    if mib >= 921.6 {
        format!("{:.1}G", mib / 1024.0)
    } else if mib >= 1.0 {
        format!("{mib:.0}M")
    } else {
        format!("{}K", bytes / 1024)
    }
}

/// `agent/deliverable`, or `-` where there is none.
pub fn reference(reference: Option<&v1::DeliverableRef>) -> String {
    reference.map_or_else(|| "-".into(), |r| clean(&format!("{}/{}", r.agent, r.deliverable)))
}

/// `1 agent`, `3 agents`.
pub fn count(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// `missing deliverable`.
pub fn finding(kind: v1::FindingKind) -> String {
    core_text::finding_word(kind).to_lowercase().replace('_', " ")
}

/// `next-server (pid 4242)`.
pub fn process(process: &v1::ProcessIdentity) -> String {
    let name = if process.name.is_empty() { "a process".into() } else { clean(&process.name) };
    format!("{name} (pid {})", process.pid)
}

/// What a command is, in a few words.
pub fn command(spec: Option<&v1::CommandSpec>) -> String {
    use v1::command_spec::Kind;
    match spec.and_then(|s| s.kind.as_ref()) {
        Some(Kind::Directive(d)) => {
            let urgent = if d.priority() == v1::Priority::Urgent { "urgent " } else { "" };
            let about = if d.about.is_empty() { String::new() } else { format!(" about {}", clean(&d.about)) };
            format!("{urgent}directive{about}")
        }
        Some(Kind::Throttle(t)) => {
            let via = if t.via.is_empty() { String::new() } else { format!(" via {}", clean(&t.via)) };
            let what = clean(&throttle::of_whom(t));
            format!("throttle to {what}{via} for {}", core_text::duration(t.for_ms.into()))
        }
        Some(Kind::Unthrottle(u)) if u.resource == 0 => "unthrottle".into(),
        Some(Kind::Unthrottle(u)) => format!("unthrottle {}", throttle::word(u.resource())),
        Some(Kind::Kill(k)) => {
            let tree = if k.tree { " and its descendants" } else { "" };
            format!("kill {}{tree}", k.process.as_ref().map_or_else(|| "a process".into(), process))
        }
        Some(Kind::Restart(_)) => "restart".into(),
        Some(Kind::Activate(_)) => "activate".into(),
        None => "a command of a newer version".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remote_text_cannot_drive_the_terminal() {
        let table = [
            ("plain", "plain"),
            ("\x1b[2J\x1b]0;owned\x07gone", "[2J]0;ownedgone"),
            ("two\nlines\tand a tab", "two lines and a tab"),
            ("c1 \u{9b}31m", "c1 31m"),
            ("right\u{202e}left", "rightleft"),
            ("back\u{8}space\r", "backspace"),
            ("ünï — 日本", "ünï — 日本"),
        ];
        for (dirty, expected) in table {
            assert_eq!(clean(dirty), expected, "{dirty:?}");
        }
    }

    #[test]
    fn text_is_cut_by_columns_not_by_bytes() {
        let table = [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ];
        for (text, columns, expected) in table {
            assert_eq!(fit(text, columns), expected, "{text} in {columns}");
            assert!(width(&fit(text, columns)) <= columns);
        }
    }

    #[test]
    fn moments_and_amounts() {
        assert_eq!(clock(4 * 3_600_000 + 67_000), "04:01:07Z");
        assert_eq!(clock(-1), "23:59:59Z");
        assert_eq!([ago(5_999, 0), ago(0, 5), ago(840_999, 0)], ["5s", "0s", "14m"]);
        assert_eq!([bytes(0), bytes(512 << 20), bytes(966_367_642), bytes(13 << 30)], ["0K", "512M", "0.9G", "13.0G"]);
        assert_eq!([count(1, "agent"), count(0, "agent")], ["1 agent", "0 agents"]);
    }
}
