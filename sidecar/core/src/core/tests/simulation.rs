//! Crashes between any two actions (persist, send, act, record), torn writes, cut connections, in random order by seed.
//! Afterwards, and all along: a command took effect at most once, every fact that was ever durable arrived exactly once,
//! and no limit was written or stood past the end of its lease while a sidecar ran.
use std::collections::BTreeMap;

use pitwall_proto::v1::{self, CommandState as S, Resource, command_spec::Kind as Spec, fact};
use proptest::{prelude::*, test_runner::RngSeed};

use super::world::{World, kill, limit, renewal, tell, throttle};
use crate::{clock::Jitter, io::Input};

const STEPS: usize = 400;

struct Simulation {
    world: World,
    dice: Jitter,
    /// Every fact that was ever durable.
    durable: BTreeMap<u64, fact::Kind>,
    /// The last moment at which any lease may hold.
    held_until: u64,
    crashes: u32,
}

impl Simulation {
    fn chance(&mut self, one_in: u64) -> bool {
        self.dice.up_to(one_in - 1) == 0
    }

    fn note_durable(&mut self) {
        let spool = &self.world.durable.spool;
        let facts = spool.batch((spool.acked, spool.last_seq), (usize::MAX, usize::MAX), self.world.now(), "boot");
        for fact in facts {
            let kind = fact.kind.expect("a kind");
            let before = self.durable.insert(fact.seq, kind.clone());
            assert!(before.is_none_or(|b| b == kind), "number {} was used twice", fact.seq);
        }
    }

    fn issue(&mut self) {
        let n = self.world.orchestrator.commands.len() as i32;
        let spec = match self.dice.up_to(6) {
            0 | 1 => tell("look"),
            2 => {
                let target = (500 + n, 3);
                self.world.processes.push(target);
                kill(target.0, target.1)
            }
            3 | 4 => {
                let (for_ms, ttl_ms) = (5_000 + self.dice.up_to(20_000) as u32, 4_000);
                // From its receipt, which is not before now and not after its time to start.
                self.held_until = self.held_until.max(self.world.boot_ms + 20_000 + u64::from(for_ms));
                self.throttle(for_ms, ttl_ms)
            }
            5 => {
                let resource = [Resource::Unspecified, Resource::Cpu, Resource::Memory][self.dice.up_to(2) as usize];
                Spec::Unthrottle(v1::Unthrottle { resource: resource as i32 })
            }
            _ => {
                let told = self.world.orchestrator.facts.values().filter_map(|f| match f {
                    fact::Kind::AgentSeen(seen) => Some(seen.incarnation),
                    _ => None,
                });
                let incarnation = told.max().unwrap_or(0);
                Spec::Restart(v1::Restart { incarnation, grace_ms: 0 })
            }
        };
        self.world.issue(spec, 20_000);
    }

    /// Of any resource, of the agent or of one process, by any rung.
    fn throttle(&mut self, for_ms: u32, ttl_ms: u32) -> Spec {
        let low = self.dice.up_to(3) as f64;
        let some = self.world.processes.last().copied().filter(|_| self.dice.up_to(2) == 0);
        match self.dice.up_to(5) {
            0 | 1 => throttle(0.1 + low / 10.0, for_ms, ttl_ms),
            2 => {
                let via = "affinity".into();
                Spec::Throttle(v1::Throttle { cpu_cores: 0.2 + low, via, for_ms, ttl_ms, ..Default::default() })
            }
            3 => limit(Resource::Memory, 1e6 + low, some, for_ms, ttl_ms),
            4 => limit(Resource::Cpu, 0.1 + low / 10.0, some, for_ms, ttl_ms),
            _ => limit(Resource::Pids, 10.0 + low, None, for_ms, ttl_ms),
        }
    }

    fn step(&mut self) {
        if self.world.core.is_none() {
            self.world.boot_ms += self.dice.up_to(3_000);
            self.world.start();
        }
        if self.chance(40) && self.world.orchestrator.commands.len() < 12 {
            self.issue();
        }
        if self.chance(25) {
            self.crashes += 1;
            let torn = self.dice.up_to(400) as usize;
            self.world.crash(torn);
            self.note_durable();
            return;
        }
        if self.chance(40) {
            self.world.lose_connection();
        }
        if self.chance(12) {
            self.world.boot_ms += 500 + self.dice.up_to(1_000);
            let sample = self.world.sample();
            self.world.inputs.push_back(Input::Sampled(sample));
        }
        if self.chance(20) {
            let paths = vec![format!("f{}", self.dice.up_to(5))];
            self.world.inputs.push_back(Input::FilesChanged { paths, more: 0 });
        }
        if self.chance(15) {
            let all: Vec<String> = self.world.orchestrator.states.keys().cloned().collect();
            let ids: Vec<&str> = all.iter().map(String::as_str).collect();
            self.world.say(renewal(&ids));
        }
        if !self.world.step() {
            self.world.boot_ms += 100;
            self.world.inputs.push_back(Input::Tick);
        }
        self.note_durable();
    }

    fn judge(&mut self) {
        self.world.run(90_000);
        self.note_durable();
        let world = &self.world;
        // Invariant 2: nothing that was durable is lost.
        for (seq, kind) in &self.durable {
            assert_eq!(world.orchestrator.facts.get(seq), Some(kind), "fact {seq} never arrived");
        }
        // Invariant 4.
        assert!(world.is_free(), "a limit outlived its lease: {} {:?}", world.value, world.others);
        assert!(world.holds.iter().all(|at| *at <= self.held_until), "a limit was written past the end of its lease");
        // Invariant 3.
        let mut restarts = 0;
        for delivery in world.orchestrator.commands.values() {
            let id = &delivery.id;
            let result =
                world.result(id).unwrap_or_else(|| panic!("{id} never ended: {:?}", world.orchestrator.states));
            match delivery.spec.as_ref().and_then(|s| s.kind.as_ref()) {
                Some(Spec::Directive(_)) => {
                    let there = world.inbox.contains_key(&format!("NOTE-{id}.md"));
                    // Its sidecar came back after its time to start: it may or may not be there.
                    let unknown = result == S::Unknown;
                    assert!(unknown || there == (result == S::Succeeded), "{id} {result:?}");
                }
                Some(Spec::Kill(kill)) => {
                    let target = kill.process.as_ref().map(|p| (p.pid, p.start_ticks)).expect("a process");
                    let times = world.killed.iter().filter(|k| **k == target).count();
                    assert!(times <= 1);
                    if matches!(result, S::Expired | S::Rejected | S::Cancelled) {
                        assert_eq!(times, 0, "{id} {result:?}");
                    }
                    if result == S::Succeeded {
                        assert!(!world.processes.contains(&target));
                    }
                }
                Some(Spec::Restart(_)) if !matches!(result, S::Rejected | S::Expired) => restarts += 1,
                _ => {}
            }
        }
        assert!(world.launches <= restarts, "{} launches by {restarts} restarts", world.launches);
        assert!(world.ended <= restarts);
    }
}

fn simulate(seed: u64) -> u32 {
    let mut simulation = Simulation {
        world: World::new(),
        dice: Jitter::new(seed),
        durable: BTreeMap::new(),
        held_until: 0,
        crashes: 0,
    };
    for _ in 0..STEPS {
        simulation.step();
    }
    if simulation.world.core.is_none() {
        simulation.world.start();
    }
    simulation.judge();
    simulation.crashes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 0, failure_persistence: None, rng_seed: RngSeed::Fixed(1), ..Default::default() })]

    #[test]
    fn invariants_2_3_and_4_hold_whatever_crashes_between_any_two_steps(seed in any::<u64>()) {
        simulate(seed);
    }
}

/// One command of each kind, and a crash after every single step of it.
#[test]
fn invariant_3_a_crash_at_every_step_of_a_command_lets_it_act_at_most_once() {
    let specs: [fn() -> Spec; 6] = [
        || tell("look"),
        || kill(101, 8),
        || throttle(0.2, 15_000, 15_000),
        || limit(Resource::Memory, 1e9, None, 15_000, 15_000),
        || limit(Resource::Cpu, 0.2, Some((101, 8)), 15_000, 15_000),
        || Spec::Restart(v1::Restart { incarnation: 1, grace_ms: 0 }),
    ];
    for spec in specs {
        for crash_after in 0..40 {
            for torn in [0, 30, usize::MAX] {
                let mut world = World::new();
                world.processes.push((101, 8));
                world.run(3_000);
                let id = world.issue(spec(), 20_000);
                for _ in 0..crash_after {
                    world.step();
                }
                world.crash(torn);
                world.boot_ms += 500;
                world.start();
                world.run(30_000);
                let about = format!("{:?} after {crash_after}, {torn}: {:?}", spec(), world.orchestrator.states);
                assert!(world.result(&id).is_some(), "{about}");
                assert!(world.launches <= 1 && world.ended <= 1 && world.killed.len() <= 1, "{about}");
                assert!(world.is_free(), "{about}");
                if matches!(spec(), Spec::Directive(_) | Spec::Kill(_) | Spec::Throttle(_)) {
                    assert_eq!(world.result(&id), Some(S::Succeeded), "{about}");
                }
            }
        }
    }
}

/// Limits of several slots at once, each at another step, and a crash after every single one: each ends by itself, and
/// brings back what stood there first.
#[test]
fn invariant_4_a_crash_at_every_step_of_several_limits_leaves_none_behind() {
    for crash_after in 0..60 {
        for torn in [0, 60, usize::MAX] {
            let mut world = World::new();
            world.processes.push((101, 8));
            world.run(3_000);
            let ids = [
                throttle(0.2, 15_000, 15_000),
                limit(Resource::Memory, 1e9, None, 12_000, 15_000),
                limit(Resource::Pids, 50.0, None, 15_000, 15_000),
                limit(Resource::Cpu, 0.1, Some((101, 8)), 14_000, 15_000),
                // In the place of the first.
                throttle(0.3, 9_000, 15_000),
            ]
            .map(|spec| world.issue(spec, 20_000));
            for _ in 0..crash_after {
                world.step();
            }
            world.crash(torn);
            world.boot_ms += 500;
            world.start();
            world.run(6_000);
            let about = format!("after {crash_after}, {torn}: {:?}", world.orchestrator.states);
            assert_eq!(world.value, "6000 20000", "{about}");
            assert_eq!(world.stands_for(Resource::Memory), "1000000000", "{about}");
            world.run(14_000);
            assert!(world.is_free(), "{about}: {} {:?}", world.value, world.others);
            let results = ids.map(|id| world.result(&id));
            let succeeded = Some(S::Succeeded);
            assert_eq!(results, [Some(S::Superseded), succeeded, succeeded, succeeded, succeeded], "{about}");
            assert!(world.durable.limits.is_empty() && world.durable.leases.is_empty(), "{about}");
        }
    }
}
