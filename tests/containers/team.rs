//! The example team: verified over the shared volume and across containers, blocked and cleared, told, activated, limited,
//! one process killed.
use std::{fs, time::Duration};

use pitwall_proto::v1::{self, AgentStatus, DeliverableStatus};
use pitwall_tests::{binaries, client, identities, wait};

use crate::{
    engine::{self, Compose, docker, have, have_cgroup1, proven},
    stack::{SOON, Stack},
};

fn command_line(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.trim_end_matches('\0').replace('\0', " ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_team_is_verified_unblocked_by_a_note_and_design_is_activated() {
    const TEST: &str = "the_team_is_verified_unblocked_by_a_note_and_design_is_activated";
    if !have(TEST, Compose::One) {
        return;
    }
    let stack = Stack::up(Compose::One, &[]).await;

    let seen = stack
        .until("frontend's layout is verified", SOON, |s| {
            client::deliverable(s, "frontend", "layout").status() == DeliverableStatus::Verified
        })
        .await;
    let evidence = client::deliverable(&seen, "frontend", "layout").checks[0].evidence.clone().expect("it passed");
    let (_, bytes) = stack.exec("frontend", "wc -c < /workspace/app/layout.tsx");
    assert_eq!(evidence.size_bytes.map(|n| n.to_string()), Some(bytes.trim().to_owned()));
    proven("verified progress over the shared volume", TEST, &format!("wc -c in the agent: {}", bytes.trim()));

    let held = stack.pid("design");
    assert!(command_line(held).starts_with("/inbox/hold -- "), "{}", command_line(held));
    let design = client::agent(&seen, "design");
    assert_eq!((design.status(), design.incarnation), (AgentStatus::Expected, 0), "{design:?}");
    let before = command_line(held);

    let blocked = stack
        .until("frontend is blocked by backend", SOON * 2, |s| {
            client::status(s, "frontend") == AgentStatus::Blocked
                && s.blockers.iter().any(|b| b.root.as_ref().is_some_and(|r| r.deliverable == "talents-api"))
        })
        .await;
    assert_eq!(client::agent(&blocked, "backend").verified, 0.0, "a claim is no evidence");
    let (_, unanswered) = stack.exec("frontend", "wget -q -O - http://backend:3000/api/talents 2>&1");
    assert!(unanswered.contains("404"), "{unanswered}");

    stack.pitwall(&["tell", "backend", "--about", "talents-api", "--priority", "urgent", "write api/talents first"]);
    let (_, note) = stack.exec("backend", "cat /inbox/URGENT-*.md");
    assert!(note.contains("write api/talents first") && note.contains("talents-api"), "{note}");
    let (wrote, _) = stack.exec("backend", "touch /inbox/mine");
    assert!(!wrote, "the inbox is the sidecar's to write");
    proven(
        "directive into the inbox",
        TEST,
        &format!("ls /inbox in the agent: {}", stack.exec("backend", "ls /inbox").1),
    );

    // Frontend may see the answer before backend's sidecar looks again.
    let cleared = stack
        .until("the blocker is cleared, and by the note", SOON * 2, |s| {
            let effective = s.interventions.iter().any(|i| i.outcome() == v1::InterventionOutcome::Effective);
            s.blockers.is_empty() && client::status(s, "frontend") == AgentStatus::Done && effective
        })
        .await;
    let (_, answer) = stack.exec("frontend", "wget -q -O - http://backend:3000/api/talents");
    assert!(answer.contains("talents-1"), "{answer}");
    let http = &client::deliverable(&cleared, "backend", "talents-api").checks;
    assert!(http.iter().all(|c| c.outcome() == v1::Outcome::Passed), "{http:?}");
    proven("HTTP check across containers", TEST, &format!("GET from another container: {answer}"));
    proven("blocker found and cleared", TEST, &format!("before: {unanswered}, after: {answer}"));

    stack.pitwall(&["activate", "design"]);
    stack.until("design was seen", SOON, |s| client::agent(s, "design").incarnation == 1).await;
    assert_eq!(stack.pid("design"), held, "the very process became the agent");
    proven("activation of a held agent", TEST, &format!("pid {held}: {before} -> {}", command_line(held)));
    stack.until("design is done", SOON, |s| client::status(s, "design") == AgentStatus::Done).await;
    let activate = v1::command_spec::Kind::Activate(v1::Activate::default());
    let mut client = stack.client.clone();
    let again = client::issue(&mut client, "design", activate).await.expect_err("it is there");
    assert_eq!(identities::reason(&again), "AGENT_SEEN", "{again:?}");
}

/// `quota/period` of a service's leaf.
fn quota(stack: &Stack, service: &str) -> String {
    let leaf = stack.cgroup(service, "cpu");
    let read = |file: &str| fs::read_to_string(leaf.join(file)).unwrap_or_default().trim().to_owned();
    format!("{}/{}", read("cpu.cfs_quota_us"), read("cpu.cfs_period_us"))
}

fn counter(stack: &Stack, service: &str, controller: &str, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(stack.cgroup(service, controller).join(file)).expect("the leaf is there");
    let line =
        if key.is_empty() { text.trim() } else { text.lines().find_map(|l| l.strip_prefix(key)).expect(key).trim() };
    line.parse().expect("a number")
}

/// Cores that its leaf used over two seconds.
async fn cores(stack: &Stack, service: &str) -> f64 {
    let (before, began) = (counter(stack, service, "cpuacct", "cpuacct.usage", ""), std::time::Instant::now());
    // A measurement takes a time; nothing is waited for.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = counter(stack, service, "cpuacct", "cpuacct.usage", "") - before;
    used as f64 / 1e9 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_throttle_holds_in_the_kernels_numbers_follows_a_restart_and_is_undone() {
    const TEST: &str = "a_throttle_holds_in_the_kernels_numbers_follows_a_restart_and_is_undone";
    if !have(TEST, Compose::One) || !have_cgroup1(TEST) {
        return;
    }
    let stack = Stack::up(Compose::One, &["deploy/compose.cgroup1.yaml"]).await;
    stack.until("backend was seen", SOON, |s| client::agent(s, "backend").incarnation == 1).await;
    // A value of somebody else's, to be brought back as it was.
    docker(&["update", "--cpus", "1.5", &stack.container("backend")]);
    let owner = quota(&stack, "backend");
    assert_eq!(owner, "150000/100000");
    let busy = || docker(&["exec", "-d", &stack.container("backend"), "sh", "-c", "while :; do :; done"]);
    busy();
    stack
        .until("it is seen to be busy", SOON, |s| {
            let usage = client::agent(s, "backend").readout.as_ref().and_then(|r| r.agent.as_ref()?.cpu_cores);
            usage.is_some_and(|cores| cores > 0.5)
        })
        .await;

    let said = stack.pitwall(&["throttle", "backend", "--cpu", "0.2", "--for", "60s"]);
    assert_eq!(quota(&stack, "backend"), "4000/20000", "{said}");
    let throttled = counter(&stack, "backend", "cpu", "cpu.stat", "nr_throttled ");
    let used = cores(&stack, "backend").await;
    let more = counter(&stack, "backend", "cpu", "cpu.stat", "nr_throttled ") - throttled;
    assert!(more > 10 && used < 0.25, "nr_throttled +{more}, {used} cores");
    proven(
        "throttle in the kernel's numbers, on a busy agent",
        TEST,
        &format!("cfs_quota_us/period {owner} -> 4000/20000, nr_throttled +{more} in 2 s, cpuacct {used:.3} cores"),
    );

    // Another life has another leaf, which begins with the owner's value.
    let life = stack.life("backend");
    stack.pitwall(&["restart", "backend", "--grace", "1s"]);
    stack.until("the new life is seen", SOON, |s| client::agent(s, "backend").incarnation == 2).await;
    stack.another_life("backend", &life);
    wait::until("the limit is applied again", SOON, || async {
        (quota(&stack, "backend") == "4000/20000").then_some(())
    })
    .await;
    proven(
        "throttle applied again after a restart",
        TEST,
        &format!("new leaf {}: 4000/20000", stack.cgroup("backend", "cpu").display()),
    );

    stack.pitwall(&["unthrottle", "backend"]);
    assert_eq!(quota(&stack, "backend"), owner, "the recorded value is back");
    busy();
    let free =
        wait::until("it is free again", SOON, || async { Some(cores(&stack, "backend").await).filter(|c| *c > 0.5) })
            .await;
    proven(
        "throttle undone",
        TEST,
        &format!("cfs_quota_us/period {}, cpuacct {free:.2} cores", quota(&stack, "backend")),
    );
    drop(stack);
    engine::remove_cgroup_folders();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_is_killed_and_the_agent_lives_on() {
    const TEST: &str = "one_process_is_killed_and_the_agent_lives_on";
    if !have(TEST, Compose::Two) {
        return;
    }
    let stack = Stack::up(Compose::Two, &[]).await;
    stack.until("backend was seen", SOON, |s| client::agent(s, "backend").incarnation == 1).await;
    let life = stack.life("backend");
    // No cgroup of it is bound here: refused, with the lines that would change it.
    let refused = binaries::pitwall(&stack.url(), &["throttle", "backend", "--cpu", "0.5", "--for", "10s"]).output();
    let refused = refused.expect("it can be started");
    let said = identities::told(&refused);
    let lines = ["cgroup_parent: /pitwall/backend", "/sys/fs/cgroup/"];
    assert!(refused.status.code() == Some(3) && lines.iter().all(|line| said.contains(line)), "{said}");
    let doctor = stack.pitwall(&["doctor", "backend"]);
    assert!(doctor.contains("lacks  throttle.cpu.") && lines.iter().all(|line| doctor.contains(line)), "{doctor}");
    let (_, inside) =
        engine::tried(&["exec", &stack.container("backend-sidecar"), "/usr/local/bin/pitwall-sidecar", "doctor"]);
    assert!(inside.contains(" 0 broken") && lines.iter().all(|line| inside.contains(line)), "{inside}");
    let line = inside.lines().find(|l| l.contains("throttle.cpu")).unwrap_or_default();
    proven("doctor names what would change it", TEST, line);

    docker(&["exec", "-d", &stack.container("backend"), "sh", "-c", "while :; do :; done"]);
    let top = |s: &v1::Situation| {
        let readout = client::agent(s, "backend").readout.clone()?;
        readout.top.into_iter().find(|p| p.cpu_cores.is_some_and(|c| c > 0.5))?.identity
    };
    let situation = stack.until("the runaway is named", SOON, |s| top(s).is_some()).await;
    let runaway = top(&situation).expect("just seen");
    let host = stack.host_pid("backend", runaway.pid).expect("the host sees it");
    assert!(command_line(host).contains("while"), "{}", command_line(host));
    stack.pitwall(&["kill", "backend", "--pid", &runaway.pid.to_string()]);
    assert!(!fs::exists(format!("/proc/{host}")).unwrap_or(true), "{}", command_line(host));
    assert_eq!(stack.life("backend"), life);
    let agent = stack.agent("backend").await;
    assert_eq!((agent.incarnation, agent.status()), (1, AgentStatus::Active), "{agent:?}");
    proven(
        "kill of one process",
        TEST,
        &format!("/proc/{host} (pid {} inside) is gone, the container is the same", runaway.pid),
    );
}
