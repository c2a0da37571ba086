//! Either side stopped in the middle, for longer than anybody waits for it, and back: a limit ends in the kernel at its own
//! time whoever is there, nothing is doubled, and what happened meanwhile is told.
use std::time::{Duration, Instant};

use pitwall_proto::v1::{self, FindingKind, SidecarStatus};
use pitwall_tests::{
    audit::Journal,
    cgroup, client,
    linked::{self, Linked, is_undone},
    plans, wait,
};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(3);
const TTL: Duration = Duration::from_secs(3);

/// Of the sidecar, once: the lease's end as the journal has it.
fn told_of_lease(journal: &Journal, command: &str) -> Vec<v1::LeaseState> {
    journal.leases(command).into_iter().filter(|state| *state != v1::LeaseState::Active).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orchestrator_stopped_for_longer_than_a_lease_lives_finds_it_lapsed_and_nothing_doubled() {
    let test = "an_orchestrator_stopped_for_longer_than_a_lease_lives_finds_it_lapsed_and_nothing_doubled";
    let mut linked = Linked::of(&linked::plan(plans::WINDOWS), "while :; do :; done").await;
    linked.work(0).await;
    linked.has_converged(0).await;
    let Some((held, pid)) = linked.limited(test, 600_000, 3_000).await else { return };

    linked.server.process.signal(Signal::STOP);
    let stopped = Instant::now();
    linked.change(1);
    is_undone(pid, TTL).await;
    println!("undone {:.1?} after the stop", stopped.elapsed());
    // For longer than either side is waited for.
    wait::until("it stood still for long", TTL * 3, || async { (stopped.elapsed() > TTL * 2).then_some(()) }).await;
    linked.server.process.signal(Signal::CONT);
    client::until(&linked.client, "the lapse is told", SOON * 2, |s| {
        client::finding(s, FindingKind::LeaseLapsed, "writer").is_some() && client::agent(s, "writer").leases.is_empty()
    })
    .await;
    linked.work(2).await;
    linked.has_converged(2).await;
    assert_eq!(cgroup::cpu_limit(pid), Ok(None), "it was not applied again");
    let journal = linked.audit().await;
    assert_eq!(told_of_lease(&journal, &held.id), [v1::LeaseState::Lapsed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_stopped_is_late_lost_and_back_and_meets_the_end_of_its_lease_at_once() {
    let test = "a_sidecar_that_is_stopped_is_late_lost_and_back_and_meets_the_end_of_its_lease_at_once";
    let mut linked = Linked::of(&linked::plan(plans::WINDOWS), "while :; do :; done").await;
    linked.work(0).await;
    linked.has_converged(0).await;
    let began = Instant::now();
    let for_ms = 16_000;
    let Some((held, pid)) = linked.limited(test, for_ms, 60_000).await else { return };

    linked.sidecar.signal(Signal::STOP);
    linked.is(SidecarStatus::Late, SOON).await;
    linked.is(SidecarStatus::Lost, SOON).await;
    let orphaned = |s: &v1::Situation| {
        let finding = client::finding(s, FindingKind::LeaseOrphaned, "writer");
        finding.is_some_and(|f| f.message.contains(&held.id)) && client::agent(s, "writer").leases[0].orphaned
    };
    client::until(&linked.client, "the lease is said to be orphaned", SOON, orphaned).await;
    // Asked for, of somebody who is not there.
    linked.work(1).await;
    let end = Duration::from_millis(for_ms.into());
    wait::until("the lease's end has passed", end, || async { (began.elapsed() > end).then_some(()) }).await;
    assert_eq!(cgroup::cpu_limit(pid), Ok(Some(0.3)), "nobody was there to undo it");
    linked.sidecar.signal(Signal::CONT);
    is_undone(pid, Duration::from_secs(1)).await;
    linked.is_live().await;
    linked.work(2).await;
    linked.has_converged(2).await;
    client::until(&linked.client, "no lease is shown", SOON, |s| {
        client::agent(s, "writer").leases.is_empty()
            && client::finding(s, FindingKind::LeaseOrphaned, "writer").is_none()
    })
    .await;
    assert_eq!(cgroup::cpu_limit(pid), Ok(None));
    let journal = linked.audit().await;
    // A stream that was given up meanwhile is followed by one whose hello says it too.
    let mut told = told_of_lease(&journal, &held.id);
    told.dedup();
    assert_eq!(told, [v1::LeaseState::Ended]);
}
