//! The GPUs of an agent's host in lines, with what the agent's own processes use of them. What a device does not tell is
//! not there; a process that nobody knows is shown by the driver's number.
use pitwall_proto::v1;

use super::{situation, text};

/// Processes that are shown of one device.
const SHOWN: usize = 5;

/// Of an agent that is measured; without a GPU: nothing.
pub fn lines(agent: &v1::Agent) -> Vec<String> {
    let Some(readout) = situation::readout(agent) else { return Vec::new() };
    readout.gpus.iter().flat_map(device).collect()
}

fn device(gpu: &v1::GpuUsage) -> Vec<String> {
    let mut parts = Vec::new();
    parts.extend(gpu.utilization.map(text::percent));
    parts.extend(gpu.memory_used_bytes.map(|used| {
        let total = gpu.memory_total_bytes.map(|total| format!(" of {}", text::bytes(total))).unwrap_or_default();
        format!("memory {}{total}", text::bytes(used))
    }));
    parts.extend(gpu.power_watts.map(|watts| {
        let limit = gpu.power_limit_watts.map(|limit| format!(" of {limit:.0}")).unwrap_or_default();
        format!("{watts:.0}{limit} W")
    }));
    parts.extend(gpu.temperature_celsius.map(|celsius| format!("{celsius:.0} °C")));
    parts.extend(gpu.graphics_mhz.map(|mhz| format!("{mhz} MHz")));
    if !gpu.throttled_by.is_empty() {
        let why: Vec<String> = gpu.throttled_by.iter().map(|why| text::clean(why)).collect();
        parts.push(format!("held down by {}", why.join(" and ")));
    }
    if gpu.mig == Some(true) {
        parts.push("cut into instances".into());
    }
    if !gpu.missing.is_empty() {
        parts.push(format!("tells nothing: {}", text::clean(&gpu.missing)));
    }
    let words = [format!("gpu {}", gpu.index), text::clean(&gpu.name), parts.join(", ")];
    let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let mut lines = vec![words.join("  ")];
    lines.extend(gpu.processes.iter().take(SHOWN).map(process));
    let rest = gpu.processes.len().saturating_sub(SHOWN);
    if rest > 0 {
        lines.push(format!("  and {rest} more"));
    }
    lines
}

fn process(process: &v1::GpuProcess) -> String {
    let who = match &process.identity {
        Some(identity) => text::process(identity),
        None => format!("not known to be the agent's (driver's pid {})", process.driver_pid),
    };
    let share = process.utilization.map(|share| format!(" {}", text::percent(share))).unwrap_or_default();
    let memory = process.memory_bytes.map(|bytes| format!(" {}", text::bytes(bytes))).unwrap_or_default();
    format!("  {who}{share}{memory}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(gpus: Vec<v1::GpuUsage>) -> Vec<String> {
        let readout = v1::Readout { gpus, ..Default::default() };
        let sidecar = v1::SidecarStatus::Live as i32;
        lines(&v1::Agent { readout: Some(readout), sidecar, ..Default::default() })
    }

    #[test]
    fn a_device_says_what_it_knows_and_whose_processes_it_has() {
        let identity = v1::ProcessIdentity { pid: 812, start_ticks: 7, name: "python".into() };
        let busy = v1::GpuUsage {
            name: "First GPU".into(),
            utilization: Some(0.42),
            memory_used_bytes: Some(12 << 30),
            memory_total_bytes: Some(80 << 30),
            power_watts: Some(290.4),
            power_limit_watts: Some(300.0),
            temperature_celsius: Some(81.0),
            graphics_mhz: Some(1_410),
            throttled_by: vec!["power cap".into(), "heat".into()],
            processes: vec![
                v1::GpuProcess {
                    identity: Some(identity),
                    driver_pid: 4_711,
                    utilization: Some(0.4),
                    memory_bytes: Some(8 << 30),
                },
                v1::GpuProcess { driver_pid: 99, ..Default::default() },
            ],
            ..Default::default()
        };
        let silent = v1::GpuUsage { index: 1, name: "Second GPU".into(), ..Default::default() };
        let lost = v1::GpuUsage { index: 2, missing: "the driver is gone".into(), ..Default::default() };
        assert_eq!(
            shown(vec![busy, silent, lost]),
            [
                "gpu 0  First GPU  42 %, memory 12.0G of 80.0G, 290 of 300 W, 81 °C, 1410 MHz, held down by power cap and heat",
                "  python (pid 812) 40 % 8.0G",
                "  not known to be the agent's (driver's pid 99)",
                "gpu 1  Second GPU",
                "gpu 2  tells nothing: the driver is gone",
            ]
        );
        assert!(shown(Vec::new()).is_empty());
    }
}
