//! Any sequence of throttles of several resources, targets, rungs and origins, with ends and restarts in between: what
//! stands at each place is always what the strictest lease of its slot asks for, and in the end what stood there first.
use std::collections::BTreeMap;

use pitwall_proto::{
    state::{self, LeaseOrigin, Record, record::Body},
    v1::{self, Resource, command_spec::Kind as Spec},
};
use proptest::{prelude::*, test_runner::RngSeed};

use super::{
    scripts::begun,
    world::{FREE, OLD, World, limit, renewal},
};
use crate::{
    clock, kept,
    slot::{SlotKey, amount_of},
};

const WORKER: (i32, u64) = (101, 8);
const RESOURCES: [Resource; 4] = [Resource::Cpu, Resource::Memory, Resource::Pids, Resource::CpuWeight];

#[derive(Clone, Debug)]
enum Op {
    /// Which resource, how low, of the worker alone, by the other rung, for so many seconds.
    Throttle(usize, u32, bool, bool, u32),
    /// Of one resource, or of all.
    Unthrottle(Option<usize>),
    /// The own quota policy wants something too: it is in the file of the next life.
    Quota(usize, u32, bool, u32),
    Restart,
    Wait(u32),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        5 => (0..4usize, 1..5u32, any::<bool>(), any::<bool>(), 3..40u32)
            .prop_map(|(r, low, one, other, s)| Op::Throttle(r, low, one, other, s)),
        1 => proptest::option::of(0..4usize).prop_map(Op::Unthrottle),
        2 => (0..4usize, 1..5u32, any::<bool>(), 3..40u32).prop_map(|(r, low, one, s)| Op::Quota(r, low, one, s)),
        1 => Just(Op::Restart),
        2 => (1..8u32).prop_map(Op::Wait),
    ];
    proptest::collection::vec(op, 1..14)
}

fn amount(resource: Resource, low: u32) -> f64 {
    let low = f64::from(low);
    if resource == Resource::Cpu { low / 10.0 } else { low * 10.0 }
}

fn quota_lease(world: &World, id: String, resource: Resource, low: u32, one: bool, seconds: u32) -> Record {
    let started = Some(clock::moment(world.now(), &world.boot_id));
    let process = state::Process { pid: WORKER.0, start_ticks: WORKER.1, name: "agent".into() };
    let lease = state::Lease {
        command: id,
        origin: LeaseOrigin::Quota as i32,
        renewed: started.clone(),
        started,
        for_ms: seconds * 1_000,
        ttl_ms: seconds * 1_000,
        resource: resource as i32,
        amount: amount(resource, low),
        process: one.then_some(process),
        ..Default::default()
    };
    Record { body: Some(Body::Lease(lease)) }
}

fn play(world: &mut World, op: &Op, n: usize) {
    match *op {
        Op::Throttle(r, low, one, other, seconds) => {
            let resource = RESOURCES[r];
            let of = one.then_some(WORKER);
            let Spec::Throttle(mut throttle) = limit(resource, amount(resource, low), of, seconds * 1_000, 600_000)
            else {
                unreachable!("it is one")
            };
            if other && resource == Resource::Cpu {
                throttle.via = "affinity".into();
            }
            world.issue(Spec::Throttle(throttle), 5_000);
        }
        Op::Unthrottle(which) => {
            let resource = which.map_or(Resource::Unspecified, |r| RESOURCES[r]);
            world.issue(Spec::Unthrottle(v1::Unthrottle { resource: resource as i32 }), 5_000);
        }
        Op::Quota(r, low, one, seconds) => {
            world.crash(usize::MAX);
            let record = quota_lease(world, format!("quota-{n}"), RESOURCES[r], low, one, seconds);
            kept::encode(vec![record], &mut world.file);
            world.start();
        }
        Op::Restart => {
            world.crash(0);
            world.boot_ms += 300;
            world.start();
        }
        Op::Wait(seconds) => world.run(u64::from(seconds) * 1_000),
    }
    // Long enough for what failed a first time to be tried again.
    world.run(3_000);
    let all: Vec<String> = world.orchestrator.states.keys().cloned().collect();
    let ids: Vec<&str> = all.iter().map(String::as_str).collect();
    world.say(renewal(&ids));
    world.run(200);
}

/// By slot: what is wanted, by the leases that are in the file.
fn strictest(world: &World) -> BTreeMap<SlotKey, f64> {
    let mut wanted: BTreeMap<SlotKey, f64> = BTreeMap::new();
    for lease in world.durable.leases.values() {
        let now = wanted.entry(SlotKey::of_lease(lease)).or_insert(f64::INFINITY);
        *now = now.min(amount_of(lease));
    }
    wanted
}

fn in_effect(world: &World) -> BTreeMap<SlotKey, f64> {
    let mut held = BTreeMap::new();
    let mut add = |key: SlotKey, amount: f64| {
        assert!(held.insert(key, amount).is_none(), "{key:?} is held by two rungs at once: {:?}", world.others);
    };
    if let Some(quota) = world.value.split(' ').next().and_then(|quota| quota.parse::<f64>().ok()) {
        add(SlotKey { resource: Resource::Cpu as i32, target: None }, quota / 20_000.0);
    }
    for ((key, rung), value) in world.others.iter().filter(|(_, value)| *value != FREE) {
        let quota = value.split(' ').next().unwrap_or_default();
        let whole_cpu = key.resource() == Resource::Cpu && key.target.is_none() && rung == "affinity";
        let value: f64 = quota.parse().expect("a number");
        add(*key, if whole_cpu { value / 20_000.0 } else { value });
    }
    held
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..Default::default() })]

    #[test]
    fn the_strictest_lease_of_each_slot_holds_and_what_remains_comes_back(ops in ops()) {
        let mut world = begun();
        world.processes.push(WORKER);
        world.cpu = 0.0;
        for (n, op) in ops.iter().enumerate() {
            play(&mut world, op, n);
            let (wanted, held) = (strictest(&world), in_effect(&world));
            let same = wanted.len() == held.len()
                && wanted.iter().all(|(key, amount)| held.get(key).is_some_and(|h| (h - amount).abs() < 1e-9));
            prop_assert!(same, "after {n} {op:?}: wanted {wanted:?}, held {held:?}");
        }
        world.run(45_000);
        prop_assert!(world.is_free(), "{} {:?}", world.value, world.others);
        prop_assert!(world.durable.leases.is_empty() && world.durable.limits.is_empty());
    }
}

/// As version 2 wrote it: one limit, of the CPU, and leases that name cores.
#[test]
fn a_limit_in_a_file_of_an_older_version_is_adopted_and_undone_as_the_cpus() {
    let mut world = begun();
    world.crash(0);
    let started = Some(clock::moment(world.now(), &world.boot_id));
    let lease = state::Lease {
        command: "c1".into(),
        origin: LeaseOrigin::Orchestrator as i32,
        cpu_cores: 0.2,
        started: started.clone(),
        for_ms: 10_000,
        ttl_ms: 10_000,
        renewed: started,
        told: true,
        ..Default::default()
    };
    let hold = state::Hold {
        rung: "cgroup2".into(),
        place: "/cg".into(),
        inode: 1,
        boot_id: world.boot_id.clone(),
        old: OLD.into(),
        new: "4000 20000".into(),
        amount: 0.2,
        ..Default::default()
    };
    world.value = "4000 20000".into();
    let limit = state::Limit { hold: Some(hold), confirmed: true, before: None };
    let bodies = [Body::Lease(lease), Body::Limit(limit)];
    kept::encode(bodies.map(|body| Record { body: Some(body) }).into(), &mut world.file);
    world.start();
    world.run(3_000);
    assert_eq!(world.leases(), [v1::LeaseState::Adopted]);
    assert_eq!((world.value.as_str(), world.durable.limits.len()), ("4000 20000", 1));
    world.run(10_000);
    assert_eq!(world.value, OLD);
    assert!(world.durable.limits.is_empty() && world.durable.leases.is_empty());
}
