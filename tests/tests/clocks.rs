//! The wall clock of either side jumps: nothing that the product promises goes by it. Leases end by the time since the
//! boot, nobody is called lost, the journal's time never runs backwards; and a certificate that does not count any more by
//! somebody's clock is refused in words that say so, until that clock is right again.
use std::time::{Duration, Instant};

use pitwall_proto::v1::SidecarStatus;
use pitwall_tests::{
    audit::Journal,
    cgroup,
    faked::WallClock,
    linked::{self, Linked, is_undone},
    plans, wait,
};

const HOUR: i64 = 3_600;
/// Longer than a certificate counts.
const LONG: i64 = 25 * HOUR;
const SOON: Duration = Duration::from_secs(3);
const LEASE: Duration = Duration::from_secs(16);
const BUSY: &str = "while :; do :; done";

/// Jumps to and fro while a lease runs: it ends when it was to end.
async fn jumps(linked: &mut Linked, clock: &WallClock, test: &str) {
    linked.work(0).await;
    linked.has_converged(0).await;
    let began = Instant::now();
    let for_ms = u32::try_from(LEASE.as_millis()).expect("short");
    let limited = linked.limited(test, for_ms, 60_000).await;
    for (n, ahead) in [(1, HOUR), (2, -HOUR), (3, 0)] {
        clock.set(ahead);
        linked.work(n).await;
        linked.has_converged(n).await;
        if let Some((_, pid)) = &limited
            && began.elapsed() < LEASE - SOON
        {
            assert_eq!(cgroup::cpu_limit(*pid), Ok(Some(0.3)), "{:?} after it began", began.elapsed());
        }
    }
    if let Some((_, pid)) = limited {
        clock.set(-HOUR);
        is_undone(pid, LEASE).await;
        clock.set(0);
    }
}

fn lost(journal: &Journal) -> usize {
    journal.liveness("writer").into_iter().filter(|status| *status == SidecarStatus::Lost).count()
}

async fn is_said(linked: &Linked, words: &str) {
    wait::until(&format!("the sidecar says {words:?}"), Duration::from_secs(10), || async {
        (linked.said(words) > 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_orchestrators_wall_clock_jumps_and_only_certificates_notice() {
    let test = "the_orchestrators_wall_clock_jumps_and_only_certificates_notice";
    let folder = tempfile::tempdir().expect("a folder");
    let Some(clock) = WallClock::new(test, &folder.path().join("clock")) else { return };
    let mut linked = Linked::by_clocks(&linked::plan(plans::WINDOWS), BUSY, Some(&clock), None).await;
    jumps(&mut linked, &clock, test).await;

    // Another process, which begins an hour before what its journal has.
    clock.set(-HOUR);
    linked.serve_again(Some(&clock)).await;
    linked.work(4).await;
    linked.has_converged(4).await;
    clock.set(0);

    clock.set(LONG);
    is_said(&linked, "expired").await;
    clock.set(0);
    linked.is_live().await;
    linked.work(5).await;
    linked.has_converged(5).await;
    let journal = linked.audit().await;
    assert!(lost(&journal) <= 1, "while it was refused, and by no jump");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecars_wall_clock_jumps_and_only_certificates_notice() {
    let test = "a_sidecars_wall_clock_jumps_and_only_certificates_notice";
    let folder = tempfile::tempdir().expect("a folder");
    let Some(clock) = WallClock::new(test, &folder.path().join("clock")) else { return };
    let mut linked = Linked::by_clocks(&linked::plan(plans::WINDOWS), BUSY, None, Some(&clock)).await;
    jumps(&mut linked, &clock, test).await;

    // Lives by whose clock the orchestrator's certificate does not count yet, and no more.
    for (n, ahead, said) in [(4, -HOUR, "is the clock behind?"), (5, 400 * 24 * HOUR, "is the clock ahead?")] {
        clock.set(ahead);
        linked.live_again(Some(&clock));
        is_said(&linked, said).await;
        linked.is(SidecarStatus::Lost, SOON).await;
        assert_eq!(linked.said(said), 1, "once, not at every try");
        clock.set(0);
        linked.is_live().await;
        linked.work(n).await;
        linked.has_converged(n).await;
    }
    let journal = linked.audit().await;
    assert_eq!(lost(&journal), 2, "with each of those lives, and by no jump");
    for (at, made) in journal.claim_times() {
        assert!((at - made).abs() < 60_000, "made at {made}, taken in at {at}");
    }
}
