//! One sample as the orchestrator is shown it: the largest processes by name, all others together.
use pitwall_proto::v1;

use crate::io::Sample;

/// Processes that are named.
const TOP_MAX: usize = 20;

/// The sum of what is known; `None` where nothing is.
fn sum<T: std::ops::Add<Output = T>>(values: impl Iterator<Item = Option<T>>) -> Option<T> {
    values.flatten().reduce(|a, b| a + b)
}

pub fn of(sample: &Sample) -> v1::Readings {
    let (top, rest) = sample.processes.split_at(sample.processes.len().min(TOP_MAX));
    let other = (!rest.is_empty()).then(|| v1::Usage {
        cpu_cores: sum(rest.iter().map(|p| p.cpu_cores)),
        memory_bytes: sum(rest.iter().map(|p| p.memory_bytes)),
        processes: u32::try_from(rest.len()).ok(),
        threads: sum(rest.iter().map(|p| p.threads)),
        read_bytes_per_s: sum(rest.iter().map(|p| p.read_bytes_per_s)),
        write_bytes_per_s: sum(rest.iter().map(|p| p.write_bytes_per_s)),
        throttled_share: None,
    });
    v1::Readings {
        interval_ms: sample.interval_ms,
        agent: Some(sample.agent),
        top: top.to_vec(),
        other,
        host: Some(sample.host.clone()),
        gpus: sample.gpus.clone(),
        sidecar: Some(sample.sidecar),
        // Only who knows the plan can tell.
        named: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_are_named_and_the_rest_is_summed_up() {
        let process = |n: i32| v1::ProcessUsage {
            identity: Some(v1::ProcessIdentity { pid: n, ..Default::default() }),
            cpu_cores: (n % 2 == 0).then_some(0.5),
            memory_bytes: Some(10),
            ..Default::default()
        };
        let sample = Sample { processes: (0..24).map(process).collect(), ..Default::default() };
        let readings = of(&sample);
        assert_eq!(readings.top.len(), TOP_MAX);
        let other = readings.other.expect("four are left");
        assert_eq!((other.cpu_cores, other.memory_bytes, other.processes), (Some(1.0), Some(40), Some(4)));
        // Not measured stays so.
        assert_eq!(other.threads, None);
        assert_eq!(of(&Sample::default()).other, None);
    }
}
