//! What goes out when: in parts that fit the stream's queue, and in the order of the classes.
use pitwall_proto::v1::{self, CommandState as C, Priority, command_spec::Kind};

use crate::support::World;

const PLAN: &str = r#"
project: p
agents:
  a: { deliverables: { d: { checks: [ file: x ] } } }
"#;

fn away() -> World {
    let mut world = World::new(PLAN);
    world.start("a");
    world.cut("a");
    world
}

fn directive(world: &mut World, text: &str, priority: Priority) -> String {
    let directive = v1::Directive { text: text.into(), priority: priority as i32, ..Default::default() };
    world.issue("a", Kind::Directive(directive)).unwrap().id
}

fn arrived(world: &World) -> Vec<String> {
    world.sidecars["a"].received.iter().map(|d| d.id.clone()).collect()
}

fn rise(world: &World) {
    let sent: Vec<u64> = world.sidecars["a"].received.iter().map(|d| d.cursor).collect();
    assert!(sent.is_sorted_by(|a, b| a < b), "a lower one that comes later would be one that was forgotten: {sent:?}");
}

#[test]
fn what_acts_goes_before_directives_and_urgent_ones_before_others() {
    let mut world = away();
    let note = directive(&mut world, "look here", Priority::Normal);
    let other = directive(&mut world, "and there", Priority::Unspecified);
    let urgent = directive(&mut world, "now", Priority::Urgent);
    let throttle = world.throttle("a", 0.5, 60_000).id;
    let kill = world.kill("a", 100).unwrap().id;
    world.connect("a");
    assert_eq!(arrived(&world), [throttle, kill, urgent, note, other]);
    rise(&world);
    world.check_replay();
}

/// Its stream broke: whatever may have arrived goes first, as it was sent, and what is new behind it.
#[test]
fn what_was_sent_before_goes_first_and_keeps_its_number() {
    let mut world = away();
    let note = directive(&mut world, "look here", Priority::Normal);
    world.connect("a");
    let first = world.sidecars["a"].received[0].clone();
    world.cut("a");
    let other = directive(&mut world, "and there", Priority::Normal);
    let kill = world.kill("a", 100).unwrap().id;
    world.restart_from_snapshot(0.8);
    world.connect("a");
    assert_eq!(arrived(&world), [note.clone(), note, kill, other]);
    assert_eq!(world.sidecars["a"].received[1].cursor, first.cursor);
    world.sidecar("a").received.remove(0);
    rise(&world);
    world.check_replay();
}

/// Messages that one stream is owed at once must fit the queue before it, and leave room for what acts.
#[test]
fn a_long_ledger_is_delivered_in_parts_and_a_kill_behind_it_arrives_at_once() {
    let mut world = away();
    let waiting: Vec<String> =
        (0..300).map(|n| directive(&mut world, &format!("message {n}"), Priority::Normal)).collect();
    world.connect("a");
    assert_eq!(arrived(&world), waiting[..48], "none of them is answered");
    let kill = world.kill("a", 100).unwrap().id;
    assert_eq!(arrived(&world).last(), Some(&kill));
    // A process goes on from a snapshot: what was overtaken is known to be.
    world.restart_from_snapshot(0.9);
    world.connect("a");
    let again = world.sidecar("a").received.split_off(49);
    assert_eq!(again, world.sidecars["a"].received, "another stream is owed what was not answered, and no more of it");
    let mut taken = 0;
    while taken < waiting.len() + 1 {
        let id = world.sidecars["a"].received[taken].id.clone();
        world.update("a", &id, C::Received, "");
        taken += 1;
        let under_way = world.sidecars["a"].received.len() - taken;
        assert!(under_way <= 64, "{under_way} under way");
    }
    let mut all = waiting;
    all.insert(48, kill);
    assert_eq!(arrived(&world), all);
    rise(&world);
    let after = directive(&mut world, "and this", Priority::Normal);
    assert_eq!(arrived(&world).last(), Some(&after));
    rise(&world);
    world.check_replay();
}

#[test]
fn cancellations_of_a_long_ledger_go_in_parts_too() {
    let mut world = World::new(PLAN);
    world.start("a");
    let ids: Vec<String> = (0..300)
        .map(|n| {
            let id = world.tell("a", "", &format!("message {n}")).id;
            world.update("a", &id, C::Received, "");
            id
        })
        .collect();
    world.cut("a");
    ids.iter().for_each(|id| drop(world.cancel(id).unwrap()));
    world.connect("a");
    assert_eq!(world.sidecars["a"].cancelled.len(), 64);
    let mut answered = 0;
    while answered < ids.len() {
        let id = world.sidecars["a"].cancelled[answered].clone();
        world.update("a", &id, C::Cancelled, "");
        answered += 1;
        assert!(world.sidecars["a"].cancelled.len() - answered <= 64);
    }
    assert_eq!(world.sidecars["a"].cancelled, ids);
    world.check_replay();
}
