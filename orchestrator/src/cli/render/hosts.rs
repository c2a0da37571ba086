//! The machines, and what uses them most across agents.
use pitwall_proto::v1;

use super::{
    Paint, Style,
    table::{Cell, Column, or_dash, table},
    text,
};

const TOP: [Column; 8] = [
    Column::left("", 1),
    Column::left("PROCESS", 0),
    Column::right("PID", 0),
    Column::left("AGENT", 0),
    Column::right("CPU", 4),
    Column::right("MEM", 4),
    Column::right("THREADS", 0),
    Column::left("COMMAND", 0),
];

/// `pitwall hosts`.
pub fn all(hosts: &[v1::Host], style: Style) -> String {
    if hosts.is_empty() {
        return "no hosts: no sidecar has connected yet\n".into();
    }
    hosts.iter().map(|host| one(host, style)).collect()
}

fn one(host: &v1::Host, style: Style) -> String {
    let none = v1::HostUsage::default();
    let usage = host.usage.as_ref().unwrap_or(&none);
    let name = if usage.hostname.is_empty() { "a host without a name" } else { &usage.hostname };
    let boot = text::fit(&text::clean(&usage.boot_id), 9);
    let boot = if boot.is_empty() { boot } else { format!(" ({boot})") };
    let mut parts = vec![format!("{}{boot}", text::clean(name))];
    parts.push(match (usage.cpu_cores, usage.cpus) {
        (Some(used), Some(all)) => format!("cpu {used:.1} of {all} cores"),
        (Some(used), None) => format!("cpu {used:.1} cores"),
        (None, _) => "cpu not measured".into(),
    });
    parts.push(match (usage.memory_used_bytes, usage.memory_total_bytes) {
        (Some(used), Some(all)) => format!("memory {} of {}", text::bytes(used), text::bytes(all)),
        (Some(used), None) => format!("memory {}", text::bytes(used)),
        (None, _) => "memory not measured".into(),
    });
    if let Some(load) = usage.load_1m {
        parts.push(format!("load {load:.1}"));
    }
    let mut out = style.line(Paint::Bold, &parts.join("   "));
    let agents: Vec<String> = host.agents.iter().map(|a| text::clean(a)).collect();
    out.push_str(&style.line(Paint::None, &format!("  agents: {}", agents.join(", "))));
    if !host.top.is_empty() {
        let rows: Vec<Vec<Cell>> = host.top.iter().map(consumer).collect();
        out.push_str(&table(&TOP, &rows, style));
    }
    out
}

fn consumer(consumer: &v1::HostConsumer) -> Vec<Cell> {
    let process = consumer.process.as_ref();
    let identity = process.and_then(|p| p.identity.as_ref());
    vec![
        Cell::new(""),
        Cell::new(identity.map(|i| text::clean(&i.name)).unwrap_or_default()),
        or_dash(identity.map(|i| i.pid.to_string())),
        Cell::new(text::clean(&consumer.agent)),
        or_dash(process.and_then(|p| p.cpu_cores).map(text::cores)),
        or_dash(process.and_then(|p| p.memory_bytes).map(text::bytes)),
        or_dash(process.and_then(|p| p.threads).map(|t| t.to_string())),
        or_dash(process.map(|p| text::clean(&p.command)).filter(|c| !c.is_empty())),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::samples, *};

    #[test]
    fn a_host_with_its_top_consumers() {
        insta::assert_snapshot!(all(&[samples::host(), v1::Host::default()], Style::plain()));
        assert_eq!(all(&[], Style::plain()), "no hosts: no sidecar has connected yet\n");
    }
}
