//! Limits of GPUs, by a stand-in for NVIDIA's library that remembers what it was told.
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use pitwall_proto::v1::Resource;
use pitwall_sidecar::act::Actor;
use pitwall_sidecar_core::io::{Effect, HoldState};

use crate::bench::{
    Bench, Swept, capability, clean_up, examine_slot, hold, launched, next_life, release, slot, verify, why,
};

struct Driver {
    library: PathBuf,
}

impl Driver {
    fn new(bench: &Bench) -> Self {
        let library = bench.path("libnvidia-ml.so.1");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nvml_limits.c");
        let mut cc = Command::new("cc");
        let status = cc.args(["-shared", "-fPIC", "-O1", source, "-o"]).arg(&library).arg("-ldl").status().unwrap();
        assert!(status.success());
        Self { library }
    }

    fn state(&self) -> PathBuf {
        let mut name = OsString::from(&self.library);
        name.push(".state");
        name.into()
    }

    fn tell(&self, lines: &str) {
        std::fs::write(self.state(), lines).unwrap();
    }

    fn told(&self, key: &str, device: u32) -> Option<String> {
        let text = std::fs::read_to_string(self.state()).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix(&format!("{key} {device} "))).map(str::to_owned)
    }

    fn give(&self, actor: &mut Actor) {
        actor.use_gpu_library(self.library.clone().into());
    }
}

#[tokio::test]
async fn power_and_clock_of_the_agents_own_device_are_held_and_undone() {
    let bench = Bench::shell("exec sleep 1000");
    let driver = Driver::new(&bench);
    let (mut actor, _exits) = bench.life();
    driver.give(&mut actor);
    let _swept = Swept(&actor);
    for name in ["throttle.gpu-power.nvml", "throttle.gpu-clock.nvml"] {
        assert_eq!(capability(&actor, name), Ok(()));
    }
    let root = launched(&actor).await;
    driver.tell(&format!("user 1 {}\n", root.pid));
    for (resource, amount, key, during, after) in
        [(Resource::GpuPower, 200.0, "power", "200000", "300000"), (Resource::GpuClock, 1200.0, "clock", "1200", "0")]
    {
        let held = examine_slot(&actor, slot(resource, None, ""), amount).await.unwrap();
        assert_eq!((held.rung.as_str(), held.place.as_str()), ("nvml", "GPU-1"));
        assert_eq!(driver.told(key, 1).as_deref().unwrap_or(after), after, "examining changes nothing");
        hold(&actor, &held).await;
        assert_eq!((driver.told(key, 1).as_deref(), driver.told(key, 0)), (Some(during), None));
        assert_eq!(verify(&actor, &held).await, HoldState::Ours);
        let mut next = next_life(&bench).await;
        driver.give(&mut next);
        assert_eq!(verify(&next, &held).await, HoldState::Ours);
        assert_eq!(release(&next, &held).await, HoldState::Ours);
        assert_eq!(driver.told(key, 1).as_deref(), Some(after));
        std::mem::forget(next);
    }
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_device_of_others_is_refused_and_so_is_what_the_driver_does_not_permit() {
    let bench = Bench::shell("exec sleep 1000");
    let driver = Driver::new(&bench);
    let (mut actor, _exits) = bench.life();
    driver.tell("error 0 4\n");
    driver.give(&mut actor);
    let _swept = Swept(&actor);
    let reason = capability(&actor, "throttle.gpu-power.nvml").unwrap_err();
    assert!(reason.contains("root alone"), "{reason}");
    let root = launched(&actor).await;
    let power = || slot(Resource::GpuPower, None, "");
    for (lines, amount, word) in [
        (String::new(), 200.0, "uses no GPU"),
        (format!("user 0 {}\nuser 0 1\n", root.pid), 200.0, "also used by pid 1"),
        (format!("user 0 {}\n", root.pid), 50.0, "100 to 350 W"),
    ] {
        driver.tell(&lines);
        let refusal = examine_slot(&actor, power(), amount).await.unwrap_err();
        assert!(refusal.contains(word), "{refusal}");
    }
    let held = examine_slot(&actor, power(), 200.0).await.unwrap();
    driver.tell(&format!("user 0 {}\nerror 0 4\n", root.pid));
    assert!(why(actor.carry_out(Effect::Hold(held.clone())).await).contains("root alone"));
    // Another writer is left alone.
    driver.tell(&format!("user 0 {}\npower 0 250000\n", root.pid));
    assert_eq!(verify(&actor, &held).await, HoldState::Foreign("250000".into()));
    assert!(why(actor.carry_out(Effect::Hold(held.clone())).await).contains("left alone"));
    assert_eq!(release(&actor, &held).await, HoldState::Foreign("250000".into()));
    assert_eq!(driver.told("power", 0).as_deref(), Some("250000"));
    clean_up(&actor).await;
}
