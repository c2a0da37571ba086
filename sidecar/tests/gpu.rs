//! GPUs as a driver shows them, with a stand-in for its library; and the real one, where there is one.
#![allow(clippy::unwrap_used, reason = "a test says by it what must be there")]
use std::process::Command;

use pitwall_proto::v1;
use pitwall_sidecar::sample::gpu::Gpus;

#[test]
fn what_a_device_does_not_tell_is_absent_and_never_0() {
    let here = tempfile::tempdir().unwrap();
    let library = here.path().join("libnvidia-ml.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml.c");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-o"]).arg(&library).status().unwrap();
    assert!(status.success());
    let gpus = Gpus::load(Some(library.as_os_str()));
    assert_eq!(gpus.capability(), v1::Capability { name: "gpu".into(), available: true, ..v1::Capability::default() });
    let first = v1::GpuUsage {
        index: 0,
        name: "First GPU".into(),
        utilization: Some(0.42),
        memory_used_bytes: Some(250),
        memory_total_bytes: Some(1000),
        power_watts: Some(71.5),
        temperature_celsius: Some(55.0),
    };
    let second = v1::GpuUsage { index: 1, name: "Second GPU".into(), ..v1::GpuUsage::default() };
    assert_eq!(gpus.look(), [first, second]);
}

#[test]
fn a_real_device_is_measured_where_there_is_one() {
    let gpus = Gpus::load(None);
    let capability = gpus.capability();
    if !capability.available {
        assert!(!capability.reason.is_empty() && !capability.enabled_by.is_empty());
        let required = std::env::var("PITWALL_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|r| r == "gpu"), "{}", capability.reason);
        if let Some(file) = std::env::var_os("PITWALL_SKIPS") {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(file).unwrap();
            writeln!(file, "a_real_device_is_measured_where_there_is_one: {}", capability.reason).unwrap();
        }
        return;
    }
    let devices = gpus.look();
    assert!(!devices.is_empty() && devices.iter().all(|d| !d.name.is_empty()), "{devices:?}");
    println!("{devices:?}");
}
