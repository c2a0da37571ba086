//! Numbers and moments as people read them.
use crate::{io::Millis, state::Exit};

/// `1500` becomes `1.5s`, `840000` `14m`, `5400000` `1h30m`.
pub fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 if ms % 1_000 < 100 => format!("{}s", ms / 1_000),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 if ms % 60_000 < 1_000 || ms >= 600_000 => format!("{}m", ms / 60_000),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
        _ if ms % 3_600_000 < 60_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

pub fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).floor())
}

/// Cores or bytes or processes, by the resource's number in the journal.
pub fn amount(resource: i32, value: f64) -> String {
    match resource {
        1 => format!("{value:.2} cores"),
        2 => bytes(value),
        _ => format!("{value:.0} processes"),
    }
}

pub fn bytes(value: f64) -> String {
    const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
    const MIB: f64 = 1024.0 * 1024.0;
    if value >= GIB {
        format!("{:.1} GiB", value / GIB)
    } else if value >= MIB {
        format!("{:.0} MiB", value / MIB)
    } else {
        format!("{:.0} KiB", value / 1024.0)
    }
}

/// `, code 1` or `, signal 9` or nothing.
pub fn exit(exit: &Exit) -> String {
    match (exit.code, exit.signal) {
        (Some(code), _) => format!(", code {code}"),
        (None, Some(signal)) => format!(", signal {signal}"),
        (None, None) => String::new(),
    }
}

/// How long ago, as of `now`.
pub fn ago(now: Millis, then: Millis) -> String {
    duration(now - then)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_like_a_person_would_say_them() {
        let table = [
            (0, "0ms"),
            (999, "999ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (60_000, "1m"),
            (90_000, "1m30s"),
            (840_000, "14m"),
            (5_400_000, "1h30m"),
            (7_200_000, "2h"),
        ];
        for (ms, text) in table {
            assert_eq!(duration(ms), text);
        }
    }
}
