//! A reading in lines: what an agent uses, of what it may, how it was measured, what of it uses most, and what watching it
//! costs. What was not measured is not there.
use pitwall_proto::v1;

use super::text;

/// Processes that are shown of an agent; `pitwall hosts` has the largest of all.
const SHOWN: usize = 5;
/// Less of a stall is no trouble.
const STALLED_FROM: f64 = 0.05;
/// Less of the CPU that came and went is within what two clocks differ by.
const SHORT_LIVED_FROM: f64 = 0.01;
/// A file system with less than this share left is worth a line of its own.
const FREE_BELOW: f64 = 0.10;

pub fn lines(readout: &v1::Readout) -> Vec<String> {
    let mut lines = Vec::new();
    let none = v1::Meter::default();
    let meter = readout.meter.as_ref().unwrap_or(&none);
    if let Some(usage) = &readout.agent {
        let parts = [of_cpu(usage), of_memory(usage), of_tasks(usage), of_bytes(usage)].concat();
        let how = if meter.source.is_empty() { String::new() } else { format!(", by {}", text::clean(&meter.source)) };
        lines.push(format!("uses {} ({} ago{how})", parts.join(", "), text::duration(readout.age_ms.into())));
    }
    let parts = [of_stalls(meter), of_events(meter), of_filesystem(meter)].concat();
    if !parts.is_empty() {
        lines.push(format!("  {}", parts.join(", ")));
    }
    lines.extend(readout.top.iter().take(SHOWN).filter_map(of_process).map(|line| format!("  {line}")));
    lines.extend(of_others(readout, meter).map(|line| format!("  {line}")));
    lines.extend(of_sidecar(readout, meter));
    lines
}

fn of_cpu(usage: &v1::Usage) -> Vec<String> {
    let mut parts = Vec::new();
    if let Some(cores) = usage.cpu_cores {
        let limit = usage.cpu_limit_cores.filter(|limit| *limit > 0.0);
        let share = limit.map(|l| format!(" of {:.2} ({})", l, text::percent((cores / l).clamp(0.0, 1.0))));
        parts.push(format!("cpu {}{}", text::cores(cores), share.unwrap_or_default()));
    }
    parts.extend(usage.throttled_share.filter(|s| *s > 0.0).map(|s| format!("throttled {}", text::percent(s))));
    parts
}

fn of_memory(usage: &v1::Usage) -> Vec<String> {
    let Some(bytes) = usage.memory_bytes else { return Vec::new() };
    let limit = usage.memory_limit_bytes.map(|l| format!(" of {}", text::bytes(l))).unwrap_or_default();
    let peak = usage.memory_peak_bytes.map(|p| format!(", at most {}", text::bytes(p))).unwrap_or_default();
    let swap = usage.swap_bytes.filter(|s| *s > 0).map(|s| format!(", swap {}", text::bytes(s))).unwrap_or_default();
    vec![format!("memory {}{limit}{peak}{swap}", text::bytes(bytes))]
}

fn of_tasks(usage: &v1::Usage) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(usage.processes.map(|n| text::count(n as usize, "process").replace("processs", "processes")));
    let limit = usage.tasks_limit.map(|l| format!(" of {l}")).unwrap_or_default();
    parts.extend(usage.threads.map(|n| match limit.as_str() {
        "" => text::count(n as usize, "thread"),
        of => format!("{n}{of} threads"),
    }));
    parts
}

fn of_bytes(usage: &v1::Usage) -> Vec<String> {
    let pair = |what: &str, a: Option<f64>, b: Option<f64>, to: &str| {
        let (a, b) = a.zip(b)?;
        (a > 0.0 || b > 0.0).then(|| format!("{what} {}/s{to}{}/s", size(a), size(b)))
    };
    let disk = pair("reads", usage.read_bytes_per_s, usage.write_bytes_per_s, " writes ");
    let network = pair("receives", usage.received_bytes_per_s, usage.sent_bytes_per_s, " sends ");
    [disk, network].into_iter().flatten().collect()
}

fn size(bytes: f64) -> String {
    text::bytes(bytes.max(0.0) as u64)
}

fn of_stalls(meter: &v1::Meter) -> Vec<String> {
    let of = |what: &str, share: Option<f64>| {
        share.filter(|s| *s >= STALLED_FROM).map(|s| format!("waits for {what} {}", text::percent(s)))
    };
    let all = [of("cpu", meter.cpu_stalled), of("memory", meter.memory_stalled), of("i/o", meter.io_stalled)];
    all.into_iter().flatten().collect()
}

fn of_events(meter: &v1::Meter) -> Vec<String> {
    let of = |n: Option<u64>, what: &str| n.filter(|n| *n > 0).map(|n| format!("{n} {what}"));
    [of(meter.memory_oom_kill, "killed out of memory"), of(meter.memory_max, "times at its memory limit")]
        .into_iter()
        .flatten()
        .collect()
}

fn of_filesystem(meter: &v1::Meter) -> Vec<String> {
    let Some(disk) = &meter.workspace else { return Vec::new() };
    let short = |free: Option<u64>, all: Option<u64>| {
        free.zip(all).filter(|(free, all)| (*free as f64) < *all as f64 * FREE_BELOW)
    };
    let mut parts = Vec::new();
    parts.extend(
        short(disk.free_bytes, disk.total_bytes)
            .map(|(free, all)| format!("workspace: {} of {} free", text::bytes(free), text::bytes(all))),
    );
    parts.extend(
        short(disk.free_inodes, disk.total_inodes).map(|(free, all)| format!("workspace: {free} of {all} inodes free")),
    );
    parts
}

fn of_process(process: &v1::ProcessUsage) -> Option<String> {
    let identity = process.identity.as_ref()?;
    let mut line = text::process(identity);
    line.extend(process.cpu_cores.map(|c| format!(" {}", text::cores(c))));
    line.extend(process.memory_bytes.map(|b| format!(" {}", text::bytes(b))));
    line.extend(process.descriptors.map(|n| format!(" {n} fds")));
    if !process.command.is_empty() {
        line.push_str(&format!("  {}", text::clean(&process.command)));
    }
    Some(line)
}

fn of_others(readout: &v1::Readout, meter: &v1::Meter) -> Option<String> {
    let mut parts = Vec::new();
    let hidden = readout.top.len().saturating_sub(SHOWN);
    let rest: Vec<&v1::ProcessUsage> = readout.top.iter().skip(SHOWN).collect();
    let other = readout.other.as_ref();
    let count = hidden + other.and_then(|o| o.processes).unwrap_or(0) as usize;
    if count > 0 {
        let known = rest.iter().filter_map(|p| p.cpu_cores).chain(other.and_then(|o| o.cpu_cores)).reduce(|a, b| a + b);
        let cpu = known.map(|c| format!(" {}", text::cores(c))).unwrap_or_default();
        parts.push(format!("{count} other{}{cpu}", if count == 1 { "" } else { "s" }));
    }
    let short = meter.short_lived_cores.filter(|c| *c >= SHORT_LIVED_FROM);
    parts.extend(short.map(|c| format!("short-lived ones {c:.2}c")));
    if meter.source == "processes" && !readout.top.is_empty() {
        parts.push("short-lived ones unattributed: no cgroup of its own".into());
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn of_sidecar(readout: &v1::Readout, meter: &v1::Meter) -> Option<String> {
    let own = readout.sidecar.as_ref()?;
    let mut parts = Vec::new();
    parts.extend(own.cpu_cores.map(|c| format!("{:.2} % of a core", c * 100.0)));
    parts.extend(own.memory_bytes.map(|b| format!("memory {}", text::bytes(b))));
    if parts.is_empty() {
        return None;
    }
    let seconds = f64::from(meter.every_ms) / 1_000.0;
    if meter.over_cpu_budget {
        let budget = meter.cpu_budget.map(|b| format!(" of {:.2} %", b * 100.0)).unwrap_or_default();
        parts.push(format!("sampled every {seconds} s, over its CPU budget{budget}"));
    } else if meter.every_ms > 0 {
        parts.push(format!("sampled every {seconds} s"));
    }
    Some(format!("pitwall itself: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readout() -> v1::Readout {
        let process = |pid, name: &str, cpu| v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid, start_ticks: 1, name: name.into() }),
            cpu_cores: Some(cpu),
            memory_bytes: Some(64 << 20),
            ..Default::default()
        };
        let mut top: Vec<_> = (0..7).map(|n| process(100 + n, "worker", 0.1)).collect();
        top.insert(0, process(42, "next-server", 0.8));
        top[0].descriptors = Some(31);
        top[0].command = "next-server start --token ***".into();
        v1::Readout {
            age_ms: 400,
            interval_ms: 1_000,
            agent: Some(v1::Usage {
                cpu_cores: Some(1.2),
                cpu_limit_cores: Some(1.5),
                throttled_share: Some(0.25),
                memory_bytes: Some(900 << 20),
                memory_limit_bytes: Some(1 << 30),
                memory_peak_bytes: Some(1_000 << 20),
                swap_bytes: Some(0),
                processes: Some(12),
                threads: Some(40),
                tasks_limit: Some(512),
                read_bytes_per_s: Some(0.0),
                write_bytes_per_s: Some(3.0 * 1_048_576.0),
                ..Default::default()
            }),
            top,
            other: Some(v1::Usage { cpu_cores: Some(0.05), processes: Some(4), ..Default::default() }),
            sidecar: Some(v1::Usage { cpu_cores: Some(0.0031), memory_bytes: Some(4 << 20), ..Default::default() }),
            meter: Some(v1::Meter {
                source: "cgroup v2".into(),
                short_lived_cores: Some(0.12),
                cpu_stalled: Some(0.61),
                memory_stalled: Some(0.01),
                memory_oom_kill: Some(2),
                workspace: Some(v1::Filesystem {
                    free_bytes: Some(1 << 30),
                    total_bytes: Some(20 << 30),
                    free_inodes: Some(900),
                    total_inodes: Some(1_000),
                }),
                every_ms: 4_000,
                cpu_budget: Some(0.002),
                over_cpu_budget: true,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn everything_that_was_measured_is_told_with_what_it_may_be() {
        insta::assert_snapshot!(lines(&readout()).join("\n"), @"
        uses cpu 1.2c of 1.50 (80 %), throttled 25 %, memory 900M of 1.0G, at most 1.0G, 12 processes, 40 of 512 threads, reads 0K/s writes 3M/s (400ms ago, by cgroup v2)
          waits for cpu 61 %, 2 killed out of memory, workspace: 1.0G of 20.0G free
          next-server (pid 42) 0.8c 64M 31 fds  next-server start --token ***
          worker (pid 100) 0.1c 64M
          worker (pid 101) 0.1c 64M
          worker (pid 102) 0.1c 64M
          worker (pid 103) 0.1c 64M
          7 others 0.4c, short-lived ones 0.12c
        pitwall itself: 0.31 % of a core, memory 4M, sampled every 4 s, over its CPU budget of 0.20 %
        ");
    }

    #[test]
    fn what_was_not_measured_is_left_out_and_without_a_cgroup_what_comes_and_goes_is_unattributed() {
        let mut readout = readout();
        readout.agent = Some(v1::Usage { cpu_cores: Some(0.5), ..Default::default() });
        readout.other = None;
        readout.top.truncate(1);
        readout.top[0] =
            v1::ProcessUsage { cpu_cores: None, identity: readout.top[0].identity.clone(), ..Default::default() };
        readout.meter = Some(v1::Meter { source: "processes".into(), ..Default::default() });
        readout.sidecar = Some(v1::Usage::default());
        let told = "uses cpu 0.5c (400ms ago, by processes)\n  next-server (pid 42)\n  \
                    short-lived ones unattributed: no cgroup of its own";
        assert_eq!(lines(&readout).join("\n"), told);
        assert!(lines(&v1::Readout::default()).is_empty());
    }

    #[test]
    fn a_hostile_command_line_does_not_reach_the_terminal() {
        let mut readout = readout();
        readout.top[0].command = "x\x1b]0;pwned\x07\n".into();
        assert!(!lines(&readout).concat().contains(char::is_control));
    }
}
