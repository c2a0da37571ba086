//! Random plans and random histories. All moments are whole seconds, so that a restatement may look at each second.
use std::fmt::Write as _;

use pitwall_proto::v1::Outcome;
use proptest::prelude::*;

use super::World;

pub const WINDOWS: &str = "defaults: { expected_within: 1m, stall_after: 2m, misdirected_after: 3m, waiting_for: 4m, \
                           checks: { every: 10s, fresh_for: 30s, hysteresis: 5s } }\n\
                           windows: { heartbeat_every: 10s, start_grace: 30s }\n";

#[derive(Clone, Debug)]
pub struct Team {
    /// Of each agent, its deliverables.
    pub agents: Vec<Vec<Owed>>,
}

#[derive(Clone, Debug)]
pub struct Owed {
    pub estimate_m: Option<u8>,
    /// Weight and whether it is required.
    pub checks: Vec<(u8, bool)>,
    /// Agent and deliverable by position.
    pub needs: Vec<(usize, usize)>,
    pub weight: u8,
}

impl Team {
    pub fn yaml(&self) -> String {
        let mut out = format!("project: p\n{WINDOWS}agents:\n");
        for (a, owed) in self.agents.iter().enumerate() {
            writeln!(out, "  a{a}:\n    deliverables:").unwrap();
            for (d, one) in owed.iter().enumerate() {
                let needs: Vec<String> = one.needs.iter().map(|(a, d)| format!("a{a}/d{d}")).collect();
                let checks =
                    one.checks.iter().enumerate().map(|(c, (weight, required))| {
                        format!("{{ file: c{c}, weight: {weight}, required: {required} }}")
                    });
                let checks: Vec<String> = checks.collect();
                let estimate = one.estimate_m.map(|m| format!("estimate: {m}m, ")).unwrap_or_default();
                writeln!(
                    out,
                    "      d{d}: {{ {estimate}weight: {}, needs: [{}], checks: [{}] }}",
                    one.weight,
                    needs.join(", "),
                    checks.join(", ")
                )
                .unwrap();
            }
        }
        out
    }
}

#[derive(Clone, Debug)]
pub enum Op {
    Advance(i64),
    Connect(usize),
    Cut(usize),
    Seen(usize),
    Exit(usize),
    Verdict { a: usize, d: usize, c: usize, outcome: Outcome, failing: bool },
    Claim { a: usize, d: usize, tenths: u8, waits: bool },
    Activity { a: usize, d: Option<usize>, unattributed: u32 },
    Quiet(usize, bool),
    Looping(usize, bool),
    Pressure(usize, bool),
}

fn owed() -> impl Strategy<Value = (Owed, u8, u8)> {
    let check = (1u8..4, prop::bool::weighted(0.8));
    let estimate = prop::option::weighted(0.7, 1u8..9);
    // A rank, and which of the lower ranks are needed.
    (estimate, prop::collection::vec(check, 1..3), 1u8..4, any::<u8>(), any::<u8>()).prop_map(
        |(estimate_m, checks, weight, rank, mask)| (Owed { estimate_m, checks, needs: vec![], weight }, rank, mask),
    )
}

pub fn team() -> impl Strategy<Value = Team> {
    prop::collection::vec(prop::collection::vec(owed(), 1..4), 2..5).prop_map(|drawn| {
        let mut places: Vec<(u8, usize, usize)> = Vec::new();
        for (a, owed) in drawn.iter().enumerate() {
            places.extend(owed.iter().enumerate().map(|(d, (_, rank, _))| (*rank, a, d)));
        }
        places.sort_unstable();
        let agents = drawn.iter().enumerate().map(|(a, owed)| {
            let owed = owed.iter().enumerate().map(|(d, (one, rank, mask))| {
                let lower = places.iter().take_while(|p| **p < (*rank, a, d)).enumerate();
                let chosen = lower.filter(|(n, _)| mask >> (n % 8) & 1 == 1 && n % 3 != 0).take(3);
                Owed { needs: chosen.map(|(_, (_, a, d))| (*a, *d)).collect(), ..one.clone() }
            });
            owed.collect()
        });
        Team { agents: agents.collect() }
    })
}

pub fn op() -> impl Strategy<Value = Op> {
    let (a, d) = (0usize..4, 0usize..3);
    let outcome = prop_oneof![5 => Just(Outcome::Passed), 3 => Just(Outcome::Failed), 1 => Just(Outcome::Unknown)];
    prop_oneof![
        6 => prop_oneof![Just(1), Just(5), 10i64..70, Just(60), Just(120), Just(185)].prop_map(Op::Advance),
        4 => a.clone().prop_map(Op::Connect),
        1 => a.clone().prop_map(Op::Cut),
        3 => a.clone().prop_map(Op::Seen),
        1 => a.clone().prop_map(Op::Exit),
        10 => (a.clone(), d.clone(), 0usize..2, outcome, prop::bool::weighted(0.3))
            .prop_map(|(a, d, c, outcome, failing)| Op::Verdict { a, d, c, outcome, failing }),
        2 => (a.clone(), d.clone(), 0u8..11, prop::bool::weighted(0.3))
            .prop_map(|(a, d, tenths, waits)| Op::Claim { a, d, tenths, waits }),
        5 => (a.clone(), prop::option::of(d), 0u32..3)
            .prop_map(|(a, d, unattributed)| Op::Activity { a, d, unattributed }),
        1 => (a.clone(), any::<bool>()).prop_map(|(a, on)| Op::Quiet(a, on)),
        1 => (a.clone(), any::<bool>()).prop_map(|(a, on)| Op::Looping(a, on)),
        1 => (a, any::<bool>()).prop_map(|(a, on)| Op::Pressure(a, on)),
    ]
}

/// A few things in a row, so that what takes several of them is reached too.
fn step() -> impl Strategy<Value = Vec<Op>> {
    let place = (0usize..4, 0usize..3);
    let all = |a, d, outcome| (0..2).map(move |c| Op::Verdict { a, d, c, outcome, failing: false });
    prop_oneof![
        12 => op().prop_map(|op| vec![op]),
        2 => place.clone().prop_map(move |(a, d)| all(a, d, Outcome::Passed).collect()),
        1 => place.prop_map(move |(a, d)| {
            let passed = all(a, d, Outcome::Passed).chain([Op::Advance(5)]);
            passed.chain(all(a, d, Outcome::Failed).take(1)).collect()
        }),
        2 => (0usize..4).prop_map(|a| {
            // Beyond the end of a window that began before, with something to see at that very second.
            vec![Op::Advance(120), Op::Activity { a, d: None, unattributed: 2 }, Op::Advance(65)]
        }),
    ]
}

/// Most things happen to agents that are up and looked at: begin there more often than not.
pub fn history(len: usize) -> impl Strategy<Value = Vec<Op>> {
    (prop::bool::weighted(0.7), prop::collection::vec(step(), 1..len)).prop_map(|(begun, steps)| {
        let up = (0..4).flat_map(|a| [Op::Connect(a), Op::Seen(a)]);
        let failed =
            (0..24).map(|n| Op::Verdict { a: n / 6, d: n / 2 % 3, c: n % 2, outcome: Outcome::Failed, failing: false });
        up.chain(failed).filter(|_| begun).chain(steps.into_iter().flatten()).collect()
    })
}

impl Op {
    /// The same with positions that this team has; `None` where it has none such.
    pub fn within(&self, team: &Team) -> Option<Op> {
        let has = |a: &usize| *a < team.agents.len();
        let owes = |a: &usize, d: &usize| team.agents.get(*a).is_some_and(|owed| *d < owed.len());
        let fits = match self {
            Op::Advance(_) => true,
            Op::Connect(a) | Op::Cut(a) | Op::Seen(a) | Op::Exit(a) => has(a),
            Op::Quiet(a, _) | Op::Looping(a, _) | Op::Pressure(a, _) => has(a),
            Op::Verdict { a, d, c, .. } => owes(a, d) && *c < team.agents[*a][*d].checks.len(),
            Op::Claim { a, d, .. } | Op::Activity { a, d: Some(d), .. } => owes(a, d),
            Op::Activity { a, d: None, .. } => has(a),
        };
        fits.then(|| self.clone())
    }

    pub fn play(&self, world: &mut World) {
        let name = |a: &usize| format!("a{a}");
        match self {
            Op::Advance(seconds) => world.advance(seconds * 1_000),
            Op::Connect(a) => world.connect(&name(a)),
            Op::Cut(a) => world.cut(&name(a)),
            Op::Seen(a) => world.seen(&name(a), 100, "agent"),
            Op::Exit(a) => world.exits(&name(a), Some(1)),
            Op::Verdict { a, d, c, outcome, failing } => {
                world.verdict(&format!("a{a}/d{d}"), &format!("file:c{c}"), *outcome, *failing, "");
            }
            Op::Claim { a, d, tenths, waits } => {
                let share = f64::from(*tenths) / 10.0;
                world.claim(&name(a), share, &[(&format!("d{d}"), share)], if *waits { "a person" } else { "" });
            }
            Op::Activity { a, d, unattributed } => {
                let own = d.map(|d| format!("d{d}"));
                let own: Vec<(&str, u32)> = own.iter().map(|d| (d.as_str(), 1)).collect();
                world.changes(&name(a), &own, *unattributed);
            }
            Op::Quiet(a, on) => world.quiet(&name(a), *on),
            Op::Looping(a, on) => world.looping(&name(a), *on),
            Op::Pressure(a, on) => world.pressure(&name(a), *on, "throttled", None),
        }
    }
}
