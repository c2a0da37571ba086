//! Each rung that is a file of a cgroup: before, during and after; another life, another writer, another place; and that
//! the kernel does by it what was meant.
use std::time::{Duration, Instant};

use pitwall_proto::v1::Resource;
use pitwall_sidecar::act::Actor;
use pitwall_sidecar_core::io::{Effect, Hold, HoldState};

use crate::bench::{
    Bench, Swept, capability, clean_up, examine_slot, hold, launched, living, next_life, raw, release, skip, slot,
    until, verify, why, without,
};

/// What the raw files are, and what another writer would put there.
struct Row {
    resource: Resource,
    word: &'static str,
    rung: &'static str,
    amount: f64,
    /// Each with what stands there during the hold; `{device}` is one that the agent uses.
    files: &'static [(&'static str, &'static str)],
    foreign: &'static str,
}

const ROWS: [Row; 10] = [
    Row {
        resource: Resource::CpuWeight,
        word: "weight",
        rung: "cgroup2",
        amount: 20.0,
        files: &[("cpu.weight", "20")],
        foreign: "30",
    },
    Row {
        resource: Resource::CpuWeight,
        word: "weight",
        rung: "cgroup1",
        amount: 25.0,
        files: &[("cpu.shares", "256")],
        foreign: "300",
    },
    Row {
        resource: Resource::Pids,
        word: "pids",
        rung: "cgroup2",
        amount: 40.0,
        files: &[("pids.max", "40")],
        foreign: "41",
    },
    Row {
        resource: Resource::Pids,
        word: "pids",
        rung: "cgroup1",
        amount: 40.0,
        files: &[("pids.max", "40")],
        foreign: "41",
    },
    Row {
        resource: Resource::Memory,
        word: "memory",
        rung: "cgroup2",
        amount: 268_435_456.0,
        files: &[("memory.max", "268435456")],
        foreign: "536870912",
    },
    Row {
        resource: Resource::Memory,
        word: "memory",
        rung: "cgroup1",
        amount: 268_435_456.0,
        files: &[("memory.limit_in_bytes", "268435456")],
        foreign: "536870912",
    },
    Row {
        resource: Resource::Io,
        word: "io",
        rung: "cgroup2",
        amount: 2e6,
        files: &[("io.max", "{device} rbps=2000000 wbps=2000000 riops=max wiops=max")],
        foreign: "{device} rbps=7000000",
    },
    Row {
        resource: Resource::Io,
        word: "io",
        rung: "cgroup1",
        amount: 2e6,
        files: &[
            ("blkio.throttle.read_bps_device", "{device} 2000000"),
            ("blkio.throttle.write_bps_device", "{device} 2000000"),
        ],
        foreign: "{device} 7000000",
    },
    Row {
        resource: Resource::Freeze,
        word: "freeze",
        rung: "cgroup2",
        amount: 1.0,
        files: &[("cgroup.freeze", "1")],
        foreign: "",
    },
    Row {
        resource: Resource::Freeze,
        word: "freeze",
        rung: "cgroup1",
        amount: 1.0,
        files: &[("freezer.self_freezing", "1")],
        foreign: "",
    },
];

fn values(hold: &Hold, row: &Row) -> Vec<String> {
    row.files.iter().map(|(file, _)| raw(&hold.place, file)).collect()
}

/// `$disk`: what can be read past every cache here, a whole disk or a file of the workspace. A little of it is read, so
/// that there is a device that the agent uses.
const DISK: &str = "disk=/dev/vda; r() { dd if=$disk of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null; }; r || { \
                    disk=file; dd if=/dev/zero of=file bs=65536 count=48 oflag=direct 2>/dev/null; r; } || touch failed;";

fn reads() -> Bench {
    Bench::shell(&format!("{DISK} touch ready; exec sleep 1000"))
}

async fn is_ready(bench: &Bench) {
    until("the agent has read", || bench.path("work/ready").exists().then_some(())).await;
}

async fn before_during_and_after(bench: &Bench, actor: &Actor, row: &Row) {
    let name = format!("{} {}", row.word, row.rung);
    let asked = slot(row.resource, None, row.rung);
    let held = examine_slot(actor, asked.clone(), row.amount).await.unwrap();
    assert_eq!((held.rung.as_str(), held.amount), (row.rung, row.amount), "{name}");
    let device = held.new.split(' ').next().unwrap_or_default().to_owned();
    let expected: Vec<String> = row.files.iter().map(|(_, v)| v.replace("{device}", &device)).collect();
    let before = values(&held, row);
    assert_ne!(before, expected, "{name}");
    let detail = hold(actor, &held).await;
    assert!(detail.contains(&held.place) && detail.contains("->"), "{detail}");
    assert_eq!(values(&held, row), expected, "{name}");
    assert_eq!(verify(actor, &held).await, HoldState::Ours, "{name}");
    // Asked again it is still known what stood there at first.
    assert_eq!(examine_slot(actor, asked.clone(), row.amount).await.unwrap(), held, "{name}");

    // The next life finds it in the state file, and undoes it.
    let next = next_life(bench).await;
    assert_eq!(verify(&next, &held).await, HoldState::Ours, "{name}");
    assert_eq!(release(&next, &held).await, HoldState::Ours, "{name}");
    assert_eq!(values(&held, row), before, "{name}");
    // Nothing of ours is there any more: told as what was there before.
    assert_eq!(verify(&next, &held).await, HoldState::Foreign(held.old.clone()), "{name}");
    std::mem::forget(next);

    // Another writer is left alone, by a later hold too.
    if !row.foreign.is_empty() {
        hold(actor, &held).await;
        let foreign = row.foreign.replace("{device}", &device);
        std::fs::write(std::path::Path::new(&held.place).join(row.files[0].0), foreign).unwrap();
        let theirs = values(&held, row);
        assert!(matches!(verify(actor, &held).await, HoldState::Foreign(_)), "{name}");
        assert!(why(actor.carry_out(Effect::Hold(held.clone())).await).contains("left alone"), "{name}");
        assert!(matches!(release(actor, &held).await, HoldState::Foreign(_)), "{name}");
        assert_eq!(values(&held, row), theirs, "{name}");
    }
    for other in [Hold { inode: held.inode + 1, ..held.clone() }, Hold { boot_id: "another".into(), ..held.clone() }] {
        assert_eq!(verify(actor, &other).await, HoldState::Gone, "{name}");
        assert_eq!(release(actor, &other).await, HoldState::Gone, "{name}");
    }
}

#[tokio::test]
async fn each_rung_of_a_cgroup_holds_and_is_undone_exactly() {
    let mut none = true;
    for row in &ROWS {
        let bench = reads();
        let (actor, _exits) = bench.life();
        let _swept = Swept(&actor);
        let name = format!("throttle.{}.{}", row.word, row.rung);
        if let Err(reason) = capability(&actor, &name) {
            without(&format!("each_rung_of_a_cgroup_holds_and_is_undone_exactly: {name}"), &reason);
            continue;
        }
        none = false;
        launched(&actor).await;
        is_ready(&bench).await;
        before_during_and_after(&bench, &actor, row).await;
        clean_up(&actor).await;
    }
    if none {
        skip("each_rung_of_a_cgroup_holds_and_is_undone_exactly", "no cgroup of the agent's own");
    }
}

#[tokio::test]
async fn several_limits_stand_in_one_place_and_each_ends_by_itself() {
    let bench = reads();
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    launched(&actor).await;
    let mut holds = Vec::new();
    for (resource, word, amount) in
        [(Resource::Cpu, "cpu", 0.5), (Resource::CpuWeight, "weight", 30.0), (Resource::Pids, "pids", 50.0)]
    {
        let available = ["cgroup2", "cgroup1"]
            .into_iter()
            .any(|rung| capability(&actor, &format!("throttle.{word}.{rung}")).is_ok());
        if !available {
            return skip("several_limits_stand_in_one_place_and_each_ends_by_itself", word);
        }
        let held = examine_slot(&actor, slot(resource, None, ""), amount).await.unwrap();
        hold(&actor, &held).await;
        holds.push(held);
    }
    for at in 0..holds.len() {
        for held in &holds[at..] {
            assert_eq!(verify(&actor, held).await, HoldState::Ours, "{held:?}");
        }
        assert_eq!(release(&actor, &holds[at]).await, HoldState::Ours);
        assert_eq!(verify(&actor, &holds[at]).await, HoldState::Foreign(holds[at].old.clone()));
    }
    // Two who ask for the same by different ways: the strictest holds, and what remains comes back.
    let loose = examine_slot(&actor, slot(Resource::Pids, None, ""), 60.0).await.unwrap();
    hold(&actor, &loose).await;
    let strict = examine_slot(&actor, slot(Resource::Pids, None, &loose.rung), 20.0).await.unwrap();
    assert_eq!(strict.old, loose.old);
    hold(&actor, &strict).await;
    assert_eq!((raw(&strict.place, "pids.max").as_str(), verify(&actor, &loose).await), ("20", HoldState::Ours));
    let looser = examine_slot(&actor, slot(Resource::Pids, None, ""), 70.0).await.unwrap();
    assert_eq!(looser.new, "20", "never looser than what another holds");
    assert_eq!(release(&actor, &strict).await, HoldState::Ours);
    assert_eq!(raw(&strict.place, "pids.max"), "60");
    assert_eq!(release(&actor, &loose).await, HoldState::Ours);
    assert_eq!(raw(&strict.place, "pids.max"), loose.old);
    clean_up(&actor).await;
}

#[tokio::test]
async fn memory_below_its_use_is_refused_with_the_figures() {
    // What it wrote counts as its use; with the margin that is more than what is asked for.
    let bench = Bench::shell("dd if=/dev/zero of=big bs=1048576 count=12 2>/dev/null; touch ready; exec sleep 1000");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if ["cgroup2", "cgroup1"].iter().all(|r| capability(&actor, &format!("throttle.memory.{r}")).is_err()) {
        return skip("memory_below_its_use_is_refused_with_the_figures", "no memory controller here");
    }
    launched(&actor).await;
    is_ready(&bench).await;
    let refusal = examine_slot(&actor, slot(Resource::Memory, None, ""), 20e6).await.unwrap_err();
    assert!(refusal.contains("below what is used") && refusal.contains("MiB"), "{refusal}");
    // It grows between the look and the write.
    let held = examine_slot(&actor, slot(Resource::Memory, None, ""), 512e6).await.unwrap();
    let late = Hold { new: "20971520".into(), ..held.clone() };
    let refusal = why(actor.carry_out(Effect::Hold(late)).await);
    assert!(refusal.contains("below what is used"), "{refusal}");
    assert_eq!(verify(&actor, &held).await, HoldState::Foreign(held.old.clone()), "nothing was written");
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_limit_of_processes_stops_a_forker_and_io_is_slowed() {
    let script = "touch ready; while [ ! -e go ]; do sleep 0.1; done; \
                  dd if=$disk of=/dev/null bs=65536 count=48 iflag=direct 2>/dev/null || touch failed; touch read; \
                  while :; do sleep 1 & sleep 0.2; done";
    let bench = Bench::shell(&format!("{DISK} {script}"));
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    let has =
        |word: &str| ["cgroup2", "cgroup1"].iter().any(|r| capability(&actor, &format!("throttle.{word}.{r}")).is_ok());
    if !has("io") || !has("pids") {
        return skip(
            "a_limit_of_processes_stops_a_forker_and_io_is_slowed",
            "no controller of I/O or of processes here",
        );
    }
    launched(&actor).await;
    is_ready(&bench).await;
    if bench.path("work/failed").exists() {
        return skip("a_limit_of_processes_stops_a_forker_and_io_is_slowed", "no disk can be read past the cache");
    }
    let io = examine_slot(&actor, slot(Resource::Io, None, ""), 1_048_576.0).await.unwrap();
    hold(&actor, &io).await;
    let began = Instant::now();
    std::fs::write(bench.path("work/go"), "").unwrap();
    until("3 MiB were read", || bench.path("work/read").exists().then_some(())).await;
    assert!(!bench.path("work/failed").exists(), "the disk could be read a moment ago");
    // 3 s at the limit; its first burst is free.
    assert!(began.elapsed() > Duration::from_millis(1_500), "{:?} for 3 MiB at 1 MiB/s", began.elapsed());
    assert_eq!(release(&actor, &io).await, HoldState::Ours);

    let now = living(&actor).len();
    let pids = examine_slot(&actor, slot(Resource::Pids, None, ""), now as f64).await.unwrap();
    hold(&actor, &pids).await;
    let place = std::path::Path::new(&pids.place);
    let refused = || {
        let text = std::fs::read_to_string(place.join("pids.events")).ok()?;
        text.lines().find_map(|l| l.strip_prefix("max ")).and_then(|n| n.parse::<u64>().ok()).filter(|n| *n > 0)
    };
    until("a fork was refused", refused).await;
    assert_eq!(release(&actor, &pids).await, HoldState::Ours);
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_write_of_several_steps_that_was_cut_short_is_brought_to_its_end() {
    let bench = reads();
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    if let Err(reason) = capability(&actor, "throttle.io.cgroup1") {
        return without("a_write_of_several_steps_that_was_cut_short_is_brought_to_its_end", &reason);
    }
    launched(&actor).await;
    is_ready(&bench).await;
    let held = examine_slot(&actor, slot(Resource::Io, None, "cgroup1"), 3e6).await.unwrap();
    let device = held.new.split(' ').next().unwrap();
    let file = std::path::Path::new(&held.place).join("blkio.throttle.read_bps_device");
    std::fs::write(file, format!("{device} 3000000")).unwrap();
    let next = next_life(&bench).await;
    assert_eq!(verify(&next, &held).await, HoldState::Ours);
    assert_eq!(raw(&held.place, "blkio.throttle.write_bps_device"), format!("{device} 3000000"));
    assert_eq!(release(&next, &held).await, HoldState::Ours);
    assert_eq!(raw(&held.place, "blkio.throttle.write_bps_device"), "");
    std::mem::forget(next);
    clean_up(&actor).await;
}

#[tokio::test]
async fn a_rung_that_is_unknown_or_not_there_is_refused_with_what_there_is() {
    let bench = Bench::shell("exec sleep 1000");
    let (actor, _exits) = bench.life();
    let _swept = Swept(&actor);
    launched(&actor).await;
    let refusal = examine_slot(&actor, slot(Resource::Cpu, None, "magic"), 0.5).await.unwrap_err();
    assert!(refusal.contains("\"magic\"") && refusal.contains("cgroup2, cgroup1, duty-cycle, affinity"), "{refusal}");
    let refusal = examine_slot(&actor, slot(Resource::Disk, None, ""), 0.5).await.unwrap_err();
    assert!(refusal.contains("does not limit"), "{refusal}");
    for rung in ["cgroup2", "cgroup1"] {
        if let Err(reason) = capability(&actor, &format!("throttle.cpu.{rung}")) {
            let refusal = examine_slot(&actor, slot(Resource::Cpu, None, rung), 0.5).await.unwrap_err();
            assert!(refusal.contains(&reason) && refusal.contains("available: "), "{refusal}");
        }
    }
    let unknown =
        Hold { rung: "magic".into(), ..examine_slot(&actor, slot(Resource::Cpu, None, ""), 0.5).await.unwrap() };
    assert!(why(actor.carry_out(Effect::Hold(unknown)).await).contains("knows no limit"));
    clean_up(&actor).await;
}
