//! Statuses, roots and causes of random teams and histories, against a slow restatement of the rules (`restated`) that
//! shares nothing with the product: it looks at every second, recurses without memory, and keeps only what was told.
mod restated;

use std::collections::BTreeSet;

use pitwall_proto::v1;
use proptest::{prelude::*, test_runner::RngSeed};

use crate::support::{
    World,
    random::{Op, Team, history, team},
    render::word,
};
use restated::Restated;

fn compare(world: &World, restated: &Restated, after: &str) -> Result<(), TestCaseError> {
    let derived = world.project.derived();
    for (id, view) in &derived.deliverables {
        let told = restated.deliverable(&id.to_string());
        let status = word(view.status.as_str_name(), "DELIVERABLE_STATUS_");
        prop_assert_eq!(
            (&status, view.workable, view.started),
            (&told.status, told.workable, told.started),
            "{} after {}",
            id,
            after
        );
        prop_assert!(
            (view.verified - told.verified).abs() < 1e-9,
            "{} verified {} or {}",
            id,
            view.verified,
            told.verified
        );
        let root = derived.roots.get(id).map(|r| r.id().to_string());
        prop_assert_eq!(&root, &told.root, "root of {} after {}", id, after);
        let cause = derived.causes.get(id).map(|c| c.cause as i32);
        prop_assert_eq!(cause, told.cause, "cause of {} after {}", id, after);
    }
    for (name, view) in &derived.agents {
        let status = word(view.status.as_str_name(), "AGENT_STATUS_");
        prop_assert_eq!(&status, &restated.agent(name), "{} after {}: {}", name, after, view.reason);
    }
    let blocked: BTreeSet<String> = derived
        .blockers
        .iter()
        .filter(|b| derived.is_status(&b.waiting.agent, v1::AgentStatus::Blocked))
        .map(|b| format!("{} by {}", b.waiting, b.root.id()))
        .collect();
    prop_assert_eq!(blocked, restated.blocked(), "blockers after {}", after);
    let missing: BTreeSet<String> =
        world.findings().iter().filter_map(|f| f.strip_prefix("missing_deliverable ")).map(String::from).collect();
    prop_assert_eq!(missing, restated.missing(), "missing deliverables after {}", after);
    Ok(())
}

fn follow(team: &Team, ops: &[Op]) -> Result<(), TestCaseError> {
    let mut world = World::new(&team.yaml());
    let mut restated = Restated::new(team);
    for op in ops.iter().filter_map(|op| op.within(team)) {
        // A second at a time: every moment is compared, not only the last.
        let steps = match &op {
            Op::Advance(seconds) => vec![Op::Advance(1); *seconds as usize],
            other => vec![other.clone()],
        };
        for step in steps {
            step.play(&mut world);
            restated.play(&step);
            compare(&world, &restated, &format!("{op:?} at {} s", restated.seconds()))?;
        }
    }
    world.check_replay();
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, rng_seed: RngSeed::Fixed(1), max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn statuses_and_causes_are_as_the_rules_restate_them(team in team(), ops in history(28)) {
        follow(&team, &ops)?;
    }
}
