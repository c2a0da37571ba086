//! Amounts as an operator types them: durations (`90s`, `10m`, `1h30m`), CPU (`0.5`, `50%`), targets (`agent/deliverable`).
//! Pure; a mistake is a sentence that says what would be right.
use pitwall_proto::{
    throttle,
    v1::{self, Resource},
};

/// A duration in milliseconds, from 1 ms to what fits the wire (about 49 days).
pub fn duration_ms(text: &str) -> Result<u32, String> {
    u32::try_from(long_duration_ms(text)?).map_err(|_| format!("{text:?} is too long: at most 49d"))
}

/// The same where years fit.
pub fn long_duration_ms(text: &str) -> Result<u64, String> {
    const MAX: f64 = 36_500.0 * 86_400_000.0;
    let wrong = || format!("{text:?} is no duration: write it as 500ms, 90s, 10m, 1h30m or 2d");
    let mut total: f64 = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            _ => return Err(wrong()),
        };
        total += number * factor;
        rest = tail;
    }
    if total < 1.0 {
        return Err(format!("{text:?} is too short: at least 1ms"));
    }
    if total > MAX {
        return Err(format!("{text:?} is too long"));
    }
    // In range, as checked just above.
    Ok(total.round() as u64)
}

/// Cores: `0.5`, or `50%` of one.
pub fn cores(text: &str) -> Result<f64, String> {
    let trimmed = text.trim();
    let (number, factor) = match trimmed.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 0.01),
        None => (trimmed, 1.0),
    };
    let value: f64 = number
        .parse()
        .map_err(|_| format!("{text:?} is no amount of CPU: write cores as 0.5, or a share of one core as 50%"))?;
    let value = value * factor;
    if !value.is_finite() || value <= 0.0 {
        return Err(format!("{text:?}: the amount of CPU must be above 0"));
    }
    if value < 0.1 - 1e-9 {
        return Err(format!("{text:?}: an agent is never held below 10 % of a core"));
    }
    Ok(value)
}

/// A host name or an address, as a certificate may be for it.
pub fn host(text: &str) -> Result<String, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if bare.parse::<std::net::IpAddr>().is_ok() || crate::identity::authority::is_host_name(bare) {
        return Ok(bare.to_owned());
    }
    Err("write a host name or an address, without a port, for example pitwall.example".into())
}

/// An amount of memory, `512MiB`, `1GiB`, `800MB` or plain bytes.
pub fn bytes(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no amount of memory: write it as 512MiB, 1GiB, 800MB or plain bytes");
    let value = size(text).ok_or_else(wrong)?;
    throttle::amount_of(Resource::Memory, value).map(|()| value)
}

/// Bytes per second, `20MB/s`.
pub fn rate(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no rate: write it as 20MB/s, 512KiB/s or plain bytes per second");
    let value = size(text.trim().trim_end_matches("/s")).ok_or_else(wrong)?;
    throttle::amount_of(Resource::Io, value).map(|()| value)
}

fn size(text: &str) -> Option<f64> {
    const KIB: f64 = 1024.0;
    let (number, unit) = with_unit(text)?;
    let factor = match unit {
        "" | "B" => 1.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "KiB" => KIB,
        "MiB" => KIB * KIB,
        "GiB" => KIB * KIB * KIB,
        "TiB" => KIB * KIB * KIB * KIB,
        _ => return None,
    };
    Some((number * factor).floor())
}

fn with_unit(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, text[digits..].trim()))
}

/// Processes and threads.
pub fn pids(text: &str) -> Result<f64, String> {
    whole(Resource::Pids, text)
}

/// Share of the CPU against others.
pub fn weight(text: &str) -> Result<f64, String> {
    whole(Resource::CpuWeight, text)
}

fn whole(resource: Resource, text: &str) -> Result<f64, String> {
    let value: f64 = text.trim().parse::<u32>().map_err(|_| format!("{text:?} is no whole number"))?.into();
    throttle::amount_of(resource, value).map(|()| value)
}

/// `200W` or `200`.
pub fn watts(text: &str) -> Result<f64, String> {
    of_unit(Resource::GpuPower, text, &["", "W"], "power: write it as 200W")
}

/// `900MHz`, `1.2GHz` or `900`.
pub fn megahertz(text: &str) -> Result<f64, String> {
    match text.trim().strip_suffix("GHz") {
        Some(number) => of_unit(Resource::GpuClock, number, &[""], "clock: write it as 900MHz").map(|ghz| ghz * 1e3),
        None => of_unit(Resource::GpuClock, text, &["", "MHz"], "clock: write it as 900MHz"),
    }
}

fn of_unit(resource: Resource, text: &str, units: &[&str], of_what: &str) -> Result<f64, String> {
    let value = with_unit(text).filter(|(_, unit)| units.contains(unit)).map(|(number, _)| number);
    let value = value.ok_or_else(|| format!("{text:?} is no {of_what}"))?;
    throttle::amount_of(resource, value).map(|()| value)
}

/// A process by its pid, or by its name where it is no number.
pub fn process(text: &str) -> Result<v1::ProcessIdentity, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("name a process by its pid or its name".into());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(v1::ProcessIdentity { pid: pid(text)?, ..Default::default() });
    }
    Ok(v1::ProcessIdentity { name: text.into(), ..Default::default() })
}

/// A process id.
pub fn pid(text: &str) -> Result<i32, String> {
    match text.parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(format!("{text:?} is no process id: `pitwall hosts` and `pitwall agents` show them")),
    }
}

/// `AGENT` or `AGENT/DELIVERABLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub agent: String,
    /// Empty: all of the agent.
    pub deliverable: String,
}

pub fn target(text: &str) -> Result<Target, String> {
    let (agent, deliverable) = text.split_once('/').unwrap_or((text, ""));
    let wrong = agent.is_empty() || deliverable.contains('/') || (deliverable.is_empty() && text.contains('/'));
    if wrong {
        return Err(format!("{text:?}: write AGENT or AGENT/DELIVERABLE"));
    }
    Ok(Target { agent: agent.to_owned(), deliverable: deliverable.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_people_write_them() {
        let table: [(&str, Option<u32>); 16] = [
            ("500ms", Some(500)),
            ("90s", Some(90_000)),
            ("10m", Some(600_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("2d", Some(172_800_000)),
            ("1min", Some(60_000)),
            (" 3s ", Some(3_000)),
            ("", None),
            ("10", None),
            ("m", None),
            ("0s", None),
            ("-5s", None),
            ("10x", None),
            ("1..5s", None),
            ("1000d", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration_ms(text).ok(), expected, "{text:?}: {:?}", duration_ms(text));
        }
        assert_eq!(long_duration_ms("90d"), Ok(7_776_000_000));
        assert!(long_duration_ms("99999999d").is_err());
    }

    #[test]
    fn cores_as_people_write_them() {
        let table = [
            ("0.5", Some(0.5)),
            ("50%", Some(0.5)),
            ("2", Some(2.0)),
            ("0.1", Some(0.1)),
            ("10 %", Some(0.1)),
            ("0", None),
            ("0.05", None),
            ("-1", None),
            ("nan", None),
            ("inf", None),
            ("half", None),
        ];
        for (text, expected) in table {
            assert_eq!(cores(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn amounts_with_their_units() {
        type Parse = fn(&str) -> Result<f64, String>;
        let table: [(Parse, &str, Option<f64>); 24] = [
            (bytes, "1GiB", Some(1_073_741_824.0)),
            (bytes, "800MB", Some(8e8)),
            (bytes, "1.5 KiB", Some(1_536.0)),
            (bytes, "4096", Some(4_096.0)),
            (bytes, "0", None),
            (bytes, "1G", None),
            (bytes, "-1GiB", None),
            (bytes, "20MB/s", None),
            (rate, "20MB/s", Some(2e7)),
            (rate, "512KiB/s", Some(524_288.0)),
            (rate, "100", Some(100.0)),
            (rate, "fast", None),
            (pids, "200", Some(200.0)),
            (pids, "0", None),
            (pids, "1.5", None),
            (weight, "10", Some(10.0)),
            (weight, "10001", None),
            (watts, "200W", Some(200.0)),
            (watts, "0W", None),
            (watts, "200MHz", None),
            (megahertz, "900MHz", Some(900.0)),
            (megahertz, "1.2GHz", Some(1_200.0)),
            (megahertz, "900", Some(900.0)),
            (megahertz, "", None),
        ];
        for (parse, text, expected) in table {
            assert_eq!(parse(text).ok(), expected, "{text:?}: {:?}", parse(text));
        }
        let named = |text| process(text).map(|p| (p.pid, p.name)).ok();
        assert_eq!(named("4242"), Some((4242, String::new())));
        assert_eq!(named("next-server"), Some((0, "next-server".into())));
        assert_eq!((named(""), named("0")), (None, None));
    }

    #[test]
    fn targets() {
        let both = Target { agent: "backend".into(), deliverable: "talents-api".into() };
        assert_eq!(target("backend/talents-api"), Ok(both));
        assert_eq!(target("backend").map(|t| t.deliverable), Ok(String::new()));
        for wrong in ["", "/x", "backend/", "a/b/c"] {
            assert!(target(wrong).is_err(), "{wrong:?}");
        }
        assert!(pid("0").is_err() && pid("-1").is_err() && pid("x").is_err());
        assert_eq!(pid("4242"), Ok(4242));
    }
}
