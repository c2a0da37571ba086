//! GPUs as a driver shows them, with a stand-in for its library; and the real one, where there is one.
#![allow(clippy::unwrap_used, reason = "a test says by it what must be there")]
use std::path::{Path, PathBuf};
use std::process::Command;

use pitwall_proto::v1;
use pitwall_sidecar::sample::gpu::Gpus;

/// The stand-in for the driver's library, built anew: a fake, and it says so.
fn stand_in(here: &Path) -> PathBuf {
    let library = here.join("libnvidia-ml.so.1");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml.c");
    let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", source, "-o"]).arg(&library).status().unwrap();
    assert!(status.success());
    library
}

fn nobody() -> Vec<v1::ProcessIdentity> {
    Vec::new()
}

#[test]
fn what_a_device_does_not_tell_is_absent_and_never_0() {
    let here = tempfile::tempdir().unwrap();
    let library = stand_in(here.path());
    let mut gpus = Gpus::load(Some(library.as_os_str()));
    assert_eq!(gpus.capability(), v1::Capability { name: "gpu".into(), available: true, ..v1::Capability::default() });
    let first = v1::GpuUsage {
        index: 0,
        name: "First GPU".into(),
        utilization: Some(0.42),
        memory_used_bytes: Some(250),
        memory_total_bytes: Some(1000),
        power_watts: Some(71.5),
        temperature_celsius: Some(55.0),
        ..v1::GpuUsage::default()
    };
    let second = v1::GpuUsage { index: 1, name: "Second GPU".into(), ..v1::GpuUsage::default() };
    assert_eq!(gpus.look(nobody), [first, second]);
}

/// This test again, with a script for the stand-in: variables belong to a whole process.
#[test]
fn devices_change_fail_and_are_lost_and_each_is_told() {
    const SCRIPT: &str = "PITWALL_NVML_STAND_IN";
    let Some(script) = std::env::var_os(SCRIPT).map(PathBuf::from) else {
        let here = tempfile::tempdir().unwrap();
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", "devices_change_fail_and_are_lost_and_each_is_told", "--nocapture"]);
        let output = again.env(SCRIPT, here.path().join("script")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    };
    let library = stand_in(script.parent().unwrap());
    let me = std::process::id();
    let says = |text: &str| std::fs::write(&script, text).unwrap();
    says(&format!(
        "devices 3\n0.gpu 42\n0.used 250\n0.total 1000\n0.power 290000\n0.power_limit 300000\n0.temperature 81\n\
         0.graphics 1410\n0.memory_clock 1593\n0.reasons 36\n0.process {me} 200\n0.process 1 50\n\
         0.sample {me} 10 30\n0.sample {me} 20 40\n1.error 15\n2.used 5\n2.total 10\n2.mig 1\n2.process {me} 5\n\
         2.sample {me} 10 90\n"
    ));
    let identity = || v1::ProcessIdentity { pid: me as i32, start_ticks: 1, name: "test".into() };
    let mut gpus = Gpus::load(Some(library.as_os_str()));
    let all = gpus.look(|| vec![identity()]);
    let [first, second, third] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((first.power_watts, first.power_limit_watts), (Some(290.0), Some(300.0)));
    assert_eq!((first.graphics_mhz, first.memory_mhz, first.uuid.as_str()), (Some(1410), Some(1593), "GPU-fake-0"));
    assert_eq!(first.throttled_by, ["power cap", "heat"]);
    // On the host its own pid is the driver's; anywhere else it is not known whose it is.
    let mine = |gpu: &v1::GpuUsage| gpu.processes.iter().find(|p| p.driver_pid == me).unwrap().clone();
    let on_host = std::fs::read_link("/proc/self/ns/pid").unwrap().to_string_lossy() == "pid:[4026531836]";
    assert_eq!(mine(first).identity, on_host.then(identity));
    assert_eq!((mine(first).memory_bytes, mine(first).utilization), (Some(200), Some(0.4)));
    let other = first.processes.iter().find(|p| p.driver_pid == 1).unwrap();
    assert!(other.identity.is_none() && other.utilization.is_none(), "{other:?}");
    assert!(second.missing.contains("lost") && second.memory_used_bytes.is_none(), "{second:?}");
    assert_eq!((third.mig, third.memory_used_bytes, mine(third).utilization), (Some(true), Some(5), None));

    // Idle: nothing new was sampled, which is not 0.
    assert_eq!(mine(&gpus.look(|| vec![identity()])[0]).utilization, None);

    // The driver goes, and comes back.
    says("gone 9\n");
    let lost = gpus.look(nobody);
    assert!(lost.len() == 3 && lost.iter().all(|gpu| gpu.missing.contains("the driver is gone")), "{lost:?}");
    assert_eq!((lost[0].name.as_str(), lost[0].utilization), ("First GPU", None));
    assert!(!gpus.capability().available && gpus.capability().reason.contains("the driver is gone"));
    says("devices 1\n0.gpu 7\n");
    assert_eq!(gpus.look(nobody)[0].utilization, None, "it is not looked for at each reading");
    gpus.try_again();
    assert_eq!(gpus.look(nobody)[0].utilization, Some(0.07));
    assert!(gpus.capability().available);
}

#[test]
fn a_real_device_is_measured_where_there_is_one() {
    let mut gpus = Gpus::load(None);
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
    let devices = gpus.look(nobody);
    assert!(!devices.is_empty() && devices.iter().all(|d| !d.name.is_empty()), "{devices:?}");
    println!("{devices:?}");
}
