//! A state directory that was lost or set back is recognised by what it does not know.
use pitwall_proto::v1::{self, CommandState as S, fact};

use crate::support::World;

const PLAN: &str = "project: p\nagents:\n  a: { deliverables: { d: { checks: [ file: x ] } } }\n";

/// A sidecar that has received a command and told how far it came, and a fact.
fn world_with(told: &[S]) -> (World, String) {
    let mut world = World::new(PLAN);
    world.connect("a");
    let id = world.tell("a", "", "look").id;
    for state in told {
        world.update("a", &id, *state, "");
    }
    world.fact("a", fact::Kind::Activity(v1::ActivityFact { unattributed: 1, ..Default::default() }));
    world.cut("a");
    (world, id)
}

#[test]
fn an_older_state_is_told_so_and_what_was_sent_to_it_ends_unknown() {
    type Change = fn(&mut v1::Hello, &str);
    let table: [(&str, Change, bool); 9] = [
        ("as it should be", |_, _| {}, false),
        ("the next life", |h, _| h.life = 2, false),
        ("as far as was told", |h, id| hold(h, id, S::Accepted), false),
        ("further than was told", |h, id| hold(h, id, S::Succeeded), false),
        ("a command that had come further", |h, id| hold(h, id, S::Received), true),
        ("a number of its last fact that it does not say", |h, _| h.resume.as_mut().unwrap().last_fact = 0, false),
        ("an older cursor", |h, _| h.resume.as_mut().unwrap().command_cursor = Some(0), true),
        ("no cursor, which is not 0", |h, _| h.resume.as_mut().unwrap().command_cursor = None, true),
        ("a life that another process had", |h, _| h.process = "other".into(), true),
    ];
    for (name, change, outdated) in table {
        let (mut world, id) = world_with(&[S::Received, S::Accepted]);
        let welcome = world.hello("a", 90, |h| change(h, &id)).unwrap();
        assert_eq!(!welcome.outdated.is_empty(), outdated, "{name}: {}", welcome.outdated);
        let expected = if outdated { S::Unknown } else { S::Accepted };
        assert_eq!(world.command(&id).state(), expected, "{name}");
        world.check_replay();
    }
}

/// It and this journal were both set back, and this one knows of nothing that the sidecar did.
#[test]
fn a_state_of_another_history_is_never_the_newest() {
    let mut world = World::new(PLAN);
    let welcome = world.hello("a", 90, |h| h.resume.as_mut().unwrap().lineage = "another".into()).unwrap();
    assert_eq!(welcome.outdated, "it comes from another history");
    let welcome = world.hello("a", 91, |h| h.resume.as_mut().unwrap().lineage = String::new()).unwrap();
    assert_eq!(welcome.outdated, "", "it was never welcomed anywhere");
    world.check_replay();
}

fn hold(hello: &mut v1::Hello, id: &str, state: S) {
    hello.resume.as_mut().unwrap().held = vec![v1::HeldCommand { id: id.into(), state: state as i32 }];
}

#[test]
fn a_state_that_does_not_know_a_fact_that_it_told_is_older() {
    let (mut world, _) = world_with(&[S::Received]);
    for _ in 0..3 {
        world.fact("a", fact::Kind::Activity(v1::ActivityFact { unattributed: 1, ..Default::default() }));
    }
    world.connect("a");
    let known = world.sidecars["a"].told_facts();
    for (session, last_fact, outdated) in [(90, known, false), (91, known + 5, false), (92, known - 1, true)] {
        let welcome = world.hello("a", session, |h| h.resume.as_mut().unwrap().last_fact = last_fact).unwrap();
        assert_eq!(!welcome.outdated.is_empty(), outdated, "it knows {last_fact} of {known}: {}", welcome.outdated);
    }
}

#[test]
fn an_end_that_only_this_side_decided_says_nothing_of_a_sidecars_state() {
    let (mut world, id) = world_with(&[S::Received]);
    world.advance(3_600_000);
    assert_eq!(world.command(&id).state(), S::Unknown);
    let welcome = world.hello("a", 90, |h| hold(h, &id, S::Received)).unwrap();
    assert_eq!(welcome.outdated, "");
}

#[test]
fn a_sidecar_with_lost_or_older_state_is_sent_nothing_that_was_sent_before() {
    let (mut world, id) = world_with(&[]);
    assert_eq!(world.command(&id).state(), S::Sent);
    let sidecar = world.sidecar("a");
    (sidecar.instance, sidecar.life, sidecar.cursor) = ("fresh".into(), 1, None);
    world.advance(60_000);
    world.sidecar("a").received.clear();
    let later = world.tell("a", "", "never sent before").id;
    world.connect("a");
    let received: Vec<String> = world.sidecars["a"].received.iter().map(|d| d.id.clone()).collect();
    assert_eq!((received, world.command(&id).state()), (vec![later], S::Unknown));
    world.check_replay();
}
