//! Numbers and moments as people read them.
use pitwall_proto::{journal, throttle, v1};

use crate::{io::Millis, state::Exit};

/// `1500` becomes `1.5s`, `840000` `14m`, `5400000` `1h30m`, from two days on `2d06h`, from ten on `10d`.
pub fn duration(ms: i64) -> String {
    let ms = ms.max(0);
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 if ms % 1_000 < 100 => format!("{}s", ms / 1_000),
        1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 if ms % 60_000 < 1_000 || ms >= 600_000 => format!("{}m", ms / 60_000),
        60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
        864_000_000.. => format!("{}d", ms / 86_400_000),
        172_800_000.. if ms % 86_400_000 < 3_600_000 => format!("{}d", ms / 86_400_000),
        172_800_000.. => format!("{}d{:02}h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
        _ if ms % 3_600_000 < 60_000 => format!("{}h", ms / 3_600_000),
        _ => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
    }
}

pub fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).floor())
}

/// With the unit of the resource, by its number in the journal.
pub fn amount(resource: i32, value: f64) -> String {
    throttle::shown(v1::Resource::try_from(resource).unwrap_or_default(), value)
}

/// What a limit was seen to do: `asked 0.50, measured 0.49 over 5000 ms`, or that it was read back.
pub fn effect(effect: &journal::EffectMeasured) -> String {
    let resource = match v1::Resource::try_from(effect.resource) {
        Ok(v1::Resource::Unspecified) | Err(_) => v1::Resource::Cpu,
        Ok(resource) => resource,
    };
    let asked = throttle::brief(resource, effect.asked);
    // Older journals do not tell a measured 0 from none, but over which time.
    match effect.measured.or((effect.over_ms > 0).then_some(0.0)) {
        Some(measured) => {
            format!("asked {asked}, measured {} over {} ms", throttle::brief(resource, measured), effect.over_ms)
        }
        None => format!("asked {asked}, read back"),
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

/// The word of a quota in the plan, by the resource's number in the journal.
pub fn resource(resource: i32) -> &'static str {
    match resource {
        1 => "cpu",
        2 => "memory",
        9 => "disk",
        10 => "gpu_memory",
        _ => "pids",
    }
}

/// What a sidecar did by itself about a use above a quota, or why it did not.
pub fn acted(acted: &journal::QuotaActed) -> String {
    let victim = acted.process.as_ref().map(|p| format!("{} (pid {})", p.name, p.pid)).unwrap_or_default();
    let action = v1::OnExceed::try_from(acted.action).unwrap_or_default();
    if !acted.done {
        let what = match action {
            v1::OnExceed::Throttle => "throttled",
            v1::OnExceed::KillProcess => "killed",
            v1::OnExceed::Restart => "restarted",
            v1::OnExceed::Freeze => "frozen",
            v1::OnExceed::Warn | v1::OnExceed::Unspecified => "acted on",
        };
        return format!("not {what}: {}", acted.detail);
    }
    match action {
        v1::OnExceed::Throttle => format!("held at {}", amount(acted.resource, acted.limit)),
        v1::OnExceed::KillProcess => format!("killed {victim}"),
        v1::OnExceed::Restart => format!("restarted ({})", acted.detail),
        v1::OnExceed::Freeze => "frozen for a moment".into(),
        v1::OnExceed::Warn | v1::OnExceed::Unspecified => acted.detail.clone(),
    }
}

/// How a restart by the sidecar itself goes.
pub fn restart(restart: &journal::Restart) -> String {
    let state = v1::RestartState::try_from(restart.state).unwrap_or_default();
    let (cause, detail) = (restart.cause.trim_end(), &restart.detail);
    match state {
        v1::RestartState::Waiting => format!("{cause} It will be started again: {detail}"),
        v1::RestartState::Done => {
            format!("{cause} It was started again as incarnation {}: {detail}", restart.incarnation)
        }
        v1::RestartState::Failed => format!("{cause} It could not be started again: {detail}"),
        v1::RestartState::GaveUp => format!("{cause} The sidecar gave up: {detail}"),
        v1::RestartState::Reset => format!("the count of restarts begins anew: {detail}"),
        v1::RestartState::Unspecified => detail.clone(),
    }
}

pub fn out_of_memory(oom: &journal::OutOfMemory) -> String {
    let had = oom.memory_bytes.map(|b| format!(", which had {}", bytes(b as f64))).unwrap_or_default();
    let who = match (&oom.process, oom.kills) {
        (Some(p), 1) => format!("the kernel killed {} (pid {}){had}", p.name, p.pid),
        (Some(p), n) => format!("the kernel killed {n} times, the largest {} (pid {}){had}", p.name, p.pid),
        (None, n) => format!("the kernel killed {}, which no sample had seen", count(n as usize, "process")),
    };
    let agent = oom.agent_bytes.map(|b| format!("; the agent had {}", bytes(b as f64))).unwrap_or_default();
    format!("out of memory: {who}{agent}")
}

/// `, code 1` or `, signal 9` or nothing.
pub fn exit(exit: &Exit) -> String {
    ending(exit.code, exit.signal)
}

pub fn ending(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!(", code {code}"),
        (None, Some(signal)) => format!(", signal {signal}"),
        (None, None) => String::new(),
    }
}

/// How long ago, as of `now`.
pub fn ago(now: Millis, then: Millis) -> String {
    if now - then < 1_000 { "0s".into() } else { duration(now - then) }
}

/// `1 agent`, `2 agents`.
pub fn count(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

/// The name of a protobuf enum's value without its prefix.
fn word(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

pub fn agent_word(status: v1::AgentStatus) -> &'static str {
    word(status.as_str_name(), "AGENT_STATUS_")
}

pub fn sidecar_word(status: v1::SidecarStatus) -> &'static str {
    word(status.as_str_name(), "SIDECAR_STATUS_")
}

pub fn deliverable_word(status: v1::DeliverableStatus) -> &'static str {
    word(status.as_str_name(), "DELIVERABLE_STATUS_")
}

pub fn state_word(state: v1::CommandState) -> &'static str {
    word(state.as_str_name(), "COMMAND_STATE_")
}

pub fn finding_word(kind: v1::FindingKind) -> &'static str {
    word(kind.as_str_name(), "FINDING_KIND_")
}

pub fn outcome_word(outcome: v1::InterventionOutcome) -> &'static str {
    word(outcome.as_str_name(), "INTERVENTION_OUTCOME_")
}

pub fn cause_word(cause: v1::Cause) -> String {
    word(cause.as_str_name(), "CAUSE_").to_lowercase().replace('_', " ")
}

/// Letters of the name of a sidecar's process that are shown; enough to tell two apart.
const PROCESS_SHOWN: usize = 8;

pub fn process(name: &str) -> &str {
    name.get(..PROCESS_SHOWN).unwrap_or(name)
}

/// One of two sidecars that have one state.
pub fn twin(twin: &journal::Twin) -> String {
    format!("{} (life {} on {})", process(&twin.process), twin.life, twin.hostname)
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
            (169_200_000, "47h"),
            (172_800_000, "2d"),
            (194_400_000, "2d06h"),
            (7_775_999_000, "89d"),
        ];
        for (ms, text) in table {
            assert_eq!(duration(ms), text);
        }
    }
}
