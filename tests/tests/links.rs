//! The link between the two is hurt in every way that a network knows, and is well again: then every fact is in the
//! journal, every command has ended, and each has happened as often as it says.
use std::time::Duration;

use pitwall_proto::v1::SidecarStatus;
use pitwall_tests::{
    linked::{self, Linked},
    plans,
    proxy::{Fault, Way},
    wait,
};

const SOON: Duration = Duration::from_secs(3);
/// What is promised of a link over which nothing comes.
const NOTICED_WITHIN: Duration = Duration::from_secs(50);
/// Into the handshake, the hello, and what follows.
const CUTS: [u64; 16] = [0, 1, 4, 5, 200, 517, 900, 1_500, 2_200, 2_800, 3_300, 3_700, 4_200, 5_000, 7_000, 11_000];

async fn cut(at: &[u64]) {
    let mut linked = Linked::start().await;
    for (n, bytes) in at.iter().copied().enumerate() {
        linked.proxy.set(Fault::CutAfter(bytes));
        linked.proxy.cut();
        linked.work(n).await;
        let link = &linked.proxy;
        wait::until(&format!("the cut after {bytes} bytes"), Duration::from_secs(10), || async {
            (link.fault() == Fault::None).then_some(())
        })
        .await;
        linked.has_converged(n).await;
    }
    linked.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_at_any_byte_loses_nothing_and_doubles_nothing() {
    let (early, late) = CUTS.split_at(CUTS.len() / 2);
    tokio::join!(cut(early), cut(late));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_slow_link_everything_arrives_while_it_is_slow() {
    // Silence is four heartbeats: longer here than the largest message takes.
    let slow = plans::WINDOWS
        .replace("heartbeat_every: 500ms", "heartbeat_every: 2s")
        .replace("fresh_for: 3s", "fresh_for: 10s");
    let mut linked = Linked::with(&linked::plan(&slow)).await;
    for (n, fault) in [Fault::Delay(Duration::from_millis(300)), Fault::Trickle(3_000)].into_iter().enumerate() {
        linked.proxy.set(fault);
        // A new session over the slow link as well.
        linked.proxy.cut();
        linked.work(n).await;
        linked.has_converged(n).await;
        assert_eq!(linked.proxy.fault(), fault);
    }
    linked.proxy.set(Fault::None);
    linked.work(2).await;
    linked.has_converged(2).await;
    linked.audit().await;
}

/// Until both sides have noticed, and then until all is well.
async fn hurt(fault: Fault) {
    let mut linked = Linked::start().await;
    linked.work(0).await;
    linked.has_converged(0).await;
    let said = linked.said("no session with the orchestrator");
    linked.proxy.set(fault);
    linked.work(1).await;
    if fault != Fault::Only(Way::Up) {
        linked.is(SidecarStatus::Lost, SOON).await;
    }
    wait::until("the sidecar notices", NOTICED_WITHIN, || async {
        (linked.said("no session with the orchestrator") > said).then_some(())
    })
    .await;
    linked.change(2);
    linked.proxy.set(Fault::None);
    linked.is_live().await;
    linked.work(3).await;
    linked.has_converged(3).await;
    linked.audit().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_black_hole_or_a_link_of_one_way_all_is_as_if_it_had_never_been() {
    tokio::join!(hurt(Fault::BlackHole), hurt(Fault::Only(Way::Up)), hurt(Fault::Only(Way::Down)));
}

/// With the plan's own heartbeat, and nothing to tell: no answer is owed to anybody.
async fn noticed(fault: Fault) {
    let linked = Linked::with(&linked::plan("project: e2e\n")).await;
    let said = linked.said("no session with the orchestrator");
    linked.proxy.set(fault);
    let began = std::time::Instant::now();
    let by_sidecar = async {
        wait::until("the sidecar notices", NOTICED_WITHIN, || async {
            (linked.said("no session with the orchestrator") > said).then_some(())
        })
        .await;
        began.elapsed()
    };
    let by_orchestrator = async {
        // It hears the sidecar all the time where only its own word is lost; its stream has ended all the same.
        if fault == Fault::Only(Way::Up) {
            return began.elapsed();
        }
        linked.is(SidecarStatus::Lost, NOTICED_WITHIN).await;
        began.elapsed()
    };
    let (sidecar, orchestrator) = tokio::join!(by_sidecar, by_orchestrator);
    println!("{fault:?}: noticed by the sidecar after {sidecar:.1?}, by the orchestrator after {orchestrator:.1?}");
    linked.proxy.set(Fault::None);
    linked.is_live().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_or_black_holed_link_is_noticed_by_both_sides_within_50_s() {
    tokio::join!(noticed(Fault::BlackHole), noticed(Fault::Only(Way::Up)), noticed(Fault::Only(Way::Down)));
}
