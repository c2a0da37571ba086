//! What an agent must not be able to do, tried from inside its container; each beside something that it can do, so that a
//! refusal is not a mistake of the test.
use pitwall_tests::client;

use crate::{
    engine::{Compose, docker, have, proven},
    stack::{SOON, Stack},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_reaches_neither_the_orchestrator_nor_what_its_sidecar_keeps() {
    const TEST: &str = "an_agent_reaches_neither_the_orchestrator_nor_what_its_sidecar_keeps";
    if !have(TEST, Compose::Two) {
        return;
    }
    let stack = Stack::up(Compose::Two, &[]).await;
    stack.until("backend was seen", SOON, |s| client::agent(s, "backend").incarnation == 1).await;

    let address = |network: &str| {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{}_{network}\").IPAddress}}}}", stack.project);
        stack.inspect("orchestrator", &format)
    };
    let gateway = |network: &str| {
        docker(&[
            "network",
            "inspect",
            "-f",
            "{{(index .IPAM.Config 0).Gateway}}",
            &format!("{}_{network}", stack.project),
        ])
    };
    let connects = |to: &str, port: u16| stack.exec("frontend", &format!("nc -w 2 {to} {port} </dev/null"));
    assert!(connects("backend", 3000).0, "an agent reaches another agent");
    for (what, to, port) in [
        ("service name", "orchestrator".to_owned(), 7440),
        ("container address", address("control"), 7440),
        ("its network's gateway", gateway("agents"), stack.port),
        ("the other network's gateway", gateway("control"), stack.port),
    ] {
        assert!(!to.is_empty(), "{what}");
        let (reached, said) = connects(&to, port);
        assert!(!reached, "{what} {to}:{port}: {said}");
        proven("an agent cannot reach the orchestrator", TEST, &format!("{what}: nc {to} {port}: {said}"));
    }

    // Its sidecar is there, in the same namespace.
    let (_, list) = stack.exec("backend", "grep -lx pitwall-sidecar /proc/[0-9]*/comm");
    let inner = list.lines().filter_map(|l| l.split('/').nth(2)?.parse::<i32>().ok()).find(|pid| *pid > 1);
    let inner = inner.unwrap_or_else(|| panic!("the agent sees its sidecar's process: {list}"));
    assert_eq!(stack.host_pid("backend", inner), Some(stack.pid("backend-sidecar")));
    for file in
        ["environ", "root/state/identity.json", "root/run/secrets/backend-token", "cwd/state", "mem", "maps", "fd/"]
    {
        let (read, said) = stack.exec("backend", &format!("cat /proc/{inner}/{file}"));
        assert!(!read && said.contains("Permission denied"), "{file}: {said}");
        proven("an agent cannot read key, token or state of its sidecar", TEST, &said);
    }
    for file in ["/state/identity.json", "/run/secrets/backend-token"] {
        assert!(!stack.exec("backend", &format!("cat {file}")).0, "{file}");
    }
    let sidecar = stack.life("backend-sidecar");
    for signal in ["TERM", "KILL", "STOP"] {
        let (sent, said) = stack.exec("backend", &format!("kill -{signal} {inner}"));
        assert!(!sent && said.contains("not permitted"), "{signal}: {said}");
        proven("an agent cannot signal its sidecar", TEST, &format!("kill -{signal} {inner}: {said}"));
    }
    let (ended, said) = stack.exec("backend", "kill -KILL 1");
    assert!(!ended && said.contains("not permitted"), "{said}");
    assert_eq!(stack.life("backend-sidecar"), sidecar);
    let (own, _) = stack.exec("backend", "sleep 60 & kill -TERM $!");
    assert!(own, "it can signal its own");

    // And the orchestrator is nobody's root.
    let facts = stack.inspect(
        "orchestrator",
        "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.State.Health.Status}}",
    );
    assert_eq!(facts, "65532:65532 true [ALL] healthy");
    proven("orchestrator: non-root, read-only, healthy by its own binary", TEST, &facts);
}
