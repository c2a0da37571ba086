use super::{Cgroup, Wanted, check, print};
use crate::plan::Mistake;

/// As it should be; every mistake is a change of one line of it.
const GOOD: &str = r#"
services:
  orchestrator:
    image: ${PITWALL_IMAGE:-pitwall}
    ports: ["127.0.0.1:7440:7440"]
    networks: [control]
  backend-pid:
    image: pitwall-sidecar
    command: [pause]
  backend:
    image: example/backend
    user: "1000:1000"
    pid: "service:backend-pid"
    cgroup_parent: /pitwall/backend
    mem_limit: 256m
    restart: unless-stopped
    networks: [agents]
    volumes: ["ws:/workspace", "inbox:/inbox:ro"]
  backend-sidecar:
    image: registry.example:5000/team/pitwall-sidecar:1
    pid: "service:backend-pid"
    networks: [control, agents]
    environment:
      PITWALL_AGENT: backend
      PITWALL_AGENT_RESTART: engine
    secrets: [backend-token]
    volumes:
      - ws:/workspace:ro
      - inbox:/inbox
      - state:/state
      - /sys/fs/cgroup/cpu/pitwall/backend:/cg/cpu:rw
secrets:
  backend-token: { file: "${PITWALL_SECRETS:-./secrets}/backend.token" }
"#;

fn mistakes(text: &str) -> Vec<Mistake> {
    check(text, "compose.yaml").list
}

fn line_of(text: &str, part: &str) -> u32 {
    let at = text.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} is not in there"));
    u32::try_from(at + 1).unwrap()
}

#[test]
fn what_is_as_it_should_be_has_no_mistake() {
    assert_eq!(mistakes(GOOD), []);
}

#[test]
fn each_mistake_is_told_with_its_line_why_and_what_instead() {
    // What is written, what stands there instead, what is said, what helps, and the line it is in.
    let table: &[(&str, &str, &str, &str, &str)] = &[
        ("    user: \"1000:1000\"\n", "", "does not say its user", "1000:1000", "  backend:"),
        ("user: \"1000:1000\"", "user: root", "runs as root", "1000:1000", "user: root"),
        ("user: \"1000:1000\"", "user: \"${AGENT_UID:-0}:0\"", "runs as root", "1000:1000", "user:"),
        (
            "\"ws:/workspace\", ",
            "\"ws:/workspace\", /var/run/docker.sock:/s, ",
            "engine's socket",
            "leave it out",
            "docker.sock",
        ),
        (
            "      - state:/state\n",
            "      - state:/state\n      - /run/docker.sock:/run/docker.sock\n",
            "backend-sidecar has the engine's socket",
            "leave it out",
            "docker.sock",
        ),
        (
            "command: [pause]",
            "command: [sleep, inf]",
            "dies with it",
            "service:backend-pid",
            "pid: \"service:backend-pid\"\n    networks",
        ),
        (
            "pid: \"service:backend-pid\"\n    cgroup",
            "pid: host\n    cgroup",
            "backend has pid: host",
            "service:backend-pid",
            "pid: host",
        ),
        (
            "pid: \"service:backend-pid\"\n    networks",
            "pid: host\n    networks",
            "backend-sidecar has pid: host",
            "service:backend-pid",
            "pid: host",
        ),
        (
            "    pid: \"service:backend-pid\"\n    networks",
            "    networks",
            "has no `pid`",
            "service:backend-pid",
            "  backend-sidecar:",
        ),
        (
            "    pid: \"service:backend-pid\"\n    cgroup",
            "    cgroup",
            "no agent shares",
            "on the agent as well",
            "PID-OF-SIDECAR",
        ),
        ("ws:/workspace:ro", "ws:/workspace", "can write the workspace", "ws:/workspace:ro", "- ws:/workspace"),
        ("inbox:/inbox:ro", "inbox:/inbox", "can write its inbox", ":ro` on the agent", "\"inbox:/inbox\""),
        (
            "/sys/fs/cgroup/cpu/pitwall/backend:/cg/cpu",
            "/sys/fs/cgroup:/cg",
            "all that is in it",
            "/cpu/pitwall/backend",
            "/sys/fs/cgroup:",
        ),
        (
            "cpu/pitwall/backend:/cg/cpu",
            "cpu:/cg/cpu",
            "all that is in it",
            "/cpu/pitwall/backend",
            "/sys/fs/cgroup/cpu:",
        ),
        (
            "cpu/pitwall/backend:/cg/cpu",
            "pitwall:/cg/cpu",
            "all that is in it",
            "cgroup/pitwall/backend",
            "/cgroup/pitwall:",
        ),
        ("cpu/pitwall/backend:/cg/cpu", "cpu/docker:/cg/cpu", "limits of others", "/cpu/pitwall/backend", "/docker:"),
        (
            "cpu/pitwall/backend:/cg/cpu",
            "cpu/pitwall/frontend:/cg/cpu",
            "limits of others",
            "/cpu/pitwall/backend",
            "/frontend:",
        ),
        (
            "cpu/pitwall/backend:/cg/cpu",
            "cpu/pitwall/backend/../../docker:/cg/cpu",
            "limits of others",
            "/cpu/pitwall/backend",
            "/docker:",
        ),
        (
            "cgroup_parent: /pitwall/backend",
            "cgroup_parent: pitwall-backend.slice",
            "limits of others",
            "pitwall-backend.slice",
            "/sys/fs/cgroup/cpu",
        ),
        (
            "    networks: [control]\n",
            "    network_mode: host\n",
            "published on every address",
            "127.0.0.1",
            "network_mode",
        ),
        (
            "    cgroup_parent: /pitwall/backend\n",
            "",
            "no `cgroup_parent`",
            "cgroup_parent: /pitwall/backend",
            "/sys/fs/cgroup/cpu",
        ),
        (
            "networks: [agents]",
            "networks: [agents, control]",
            "reaches the orchestrator",
            "[control]",
            "[agents, control]",
        ),
        (
            "    networks: [agents]\n",
            "    network_mode: host\n",
            "network_mode: host",
            "networks: [agents]",
            "network_mode",
        ),
        (
            "    networks: [agents]\n",
            "    network_mode: \"service:orchestrator\"\n",
            "reaches the orchestrator",
            "[control]",
            "  backend:",
        ),
        ("127.0.0.1:7440:7440", "7440:7440", "every address of the host", "127.0.0.1:7440:7440", "7440:7440"),
        ("127.0.0.1:7440:7440", "0.0.0.0:7440:7440", "every address of the host", "127.0.0.1:7440:7440", "7440:7440"),
        ("    mem_limit: 256m\n", "", "no memory limit", "mem_limit", "  backend:"),
        ("      - state:/state\n", "", "no volume for its state", "/state", "  backend-sidecar:"),
        ("- state:/state", "- /state", "does not outlive the container", "/state", "- /state"),
        ("\"inbox:/inbox:ro\"]", "\"inbox:/inbox:ro\", \"state:/s:ro\"]", "take its key", "alone", "state:/s:ro"),
        (
            "    networks: [agents]\n",
            "    networks: [agents]\n    secrets: [backend-token]\n",
            "join token",
            "alone",
            "secrets:",
        ),
        ("\"ws:/workspace\", ", "\"ws:/workspace\", \".:/app\", ", "sees a join token in .", "no agent's", ".:/app"),
        (
            "\"ws:/workspace\", ",
            "\"ws:/workspace\", ./secrets/backend.token:/t, ",
            "sees a join token",
            "alone",
            "backend.token:/t",
        ),
        (
            "    user: \"1000:1000\"\n",
            "    user: \"1000:1000\"\n    volumes_from: [\"backend-sidecar:ro\"]\n",
            "all the volumes of backend-sidecar",
            "name the volumes",
            "volumes_from",
        ),
        (
            "\"ws:/workspace\", ",
            "\"ws:/workspace\", /run/podman/podman.sock:/s, ",
            "engine's socket",
            "leave it out",
            "podman.sock",
        ),
        (
            "\"ws:/workspace\", ",
            "\"ws:/workspace\", /run/user/1000/:/s, ",
            "engine's socket",
            "leave it out",
            "/run/user",
        ),
        (
            "\"ws:/workspace\", ",
            "\"ws:/workspace\", /var/run/crio:/s, ",
            "engine's socket",
            "leave it out",
            "/run/crio",
        ),
        ("    restart: unless-stopped\n", "", "and it does not", "restart: unless-stopped", "  backend:"),
        (
            "    user: \"1000:1000\"\n",
            "    user: \"1000:1000\"\n    privileged: true\n",
            "backend is privileged",
            "out",
            "privileged",
        ),
        (
            "    secrets: [backend-token]\n",
            "    privileged: true\n",
            "backend-sidecar is privileged",
            "cap_drop",
            "privileged",
        ),
    ];
    for (written, instead, message, help, line) in table {
        assert!(GOOD.contains(written), "{written}");
        let text = GOOD.replacen(written, instead, 1);
        let told = mistakes(&text);
        let hit = told.iter().find(|m| m.message.contains(message));
        let Some(hit) = hit else { panic!("{written} -> {instead}: {told:#?}") };
        assert!(hit.help.contains(help), "{hit:?}");
        let line = match *line {
            "PID-OF-SIDECAR" => line_of(&text, "pid: \"service:backend-pid\""),
            "pid: \"service:backend-pid\"\n    networks" => line_of(&text, "pitwall-sidecar:1") + 1,
            "  backend:" | "  backend-sidecar:" => {
                u32::try_from(text.lines().position(|l| l == *line).unwrap() + 1).unwrap()
            }
            part => line_of(&text, part),
        };
        assert_eq!(hit.line, line, "{hit:?}");
        assert!(told.len() <= 3, "one change, and not {told:#?}");
    }
}

#[test]
fn what_holds_a_sidecars_state_or_inbox_is_not_an_agents() {
    for (state, inbox, agent, message) in [
        ("./state", "inbox", ".:/app", Some("take its key")),
        ("./state", "inbox", "./state/backend:/s:ro", Some("take its key")),
        ("/srv/pitwall/state", "inbox", "/srv/:/s:ro", Some("take its key")),
        ("state", "./inbox", "./inbox/../:/app", Some("write its inbox")),
        ("./state", "./inbox", "./app:/app", None),
        ("./state", "./inbox", "./stat:/app", None),
    ] {
        let text = GOOD
            .replacen("- state:/state", &format!("- {state}:/state"), 1)
            .replacen("- inbox:/inbox", &format!("- {inbox}:/inbox"), 1)
            .replacen("\"ws:/workspace\", ", &format!("\"ws:/workspace\", \"{agent}\", "), 1);
        let told = mistakes(&text);
        match message {
            None => assert_eq!(told, [], "{agent}"),
            Some(message) => assert!(told.iter().any(|m| m.message.contains(message)), "{agent}: {told:#?}"),
        }
    }
}

#[test]
fn a_slice_lies_in_a_folder_of_its_name() {
    for (folder, right) in [
        ("pitwall.slice/pitwall-backend.slice", true),
        ("cpu/pitwall.slice/pitwall-backend.slice/", true),
        ("pitwall.slice", false),
        ("pitwall.slice/pitwall-frontend.slice", false),
        ("pitwall.slice/pitwall-backend.slice/docker-1.scope", false),
    ] {
        let text = GOOD
            .replacen("cgroup_parent: /pitwall/backend", "cgroup_parent: pitwall-backend.slice", 1)
            .replacen("/sys/fs/cgroup/cpu/pitwall/backend:", &format!("/sys/fs/cgroup/{folder}:"), 1);
        assert_eq!(mistakes(&text).len(), usize::from(!right), "{folder}");
    }
}

#[test]
fn a_token_that_is_bound_is_one_as_well() {
    let bound = GOOD
        .replacen("    secrets: [backend-token]\n", "", 1)
        .replacen("engine\n", "engine\n      PITWALL_JOIN_TOKEN_FILE: /token\n", 1)
        .replacen("- state:/state", "- state:/state\n      - ./tokens/backend:/token:ro", 1);
    assert_eq!(mistakes(&bound), []);
    let told = mistakes(&bound.replacen("\"ws:/workspace\", ", "\"ws:/workspace\", ./tokens:/t, ", 1));
    assert!(told.len() == 1 && told[0].message.contains("sees a join token in ./tokens"), "{told:#?}");
    let again = bound.replacen("networks: [agents]\n", "networks: [agents]\n    secrets: [mine]\n", 1);
    assert_eq!(mistakes(&again), []);
    let told = mistakes(&again.replacen("secrets:\n  ", "secrets:\n  mine: { file: tokens/backend }\n  ", 1));
    assert!(told.iter().any(|m| m.message.contains("has the join token")), "{told:#?}");
}

#[test]
fn other_ways_of_writing_the_same_are_understood() {
    let text = r#"
x-agent: &agent
  user: "0:0"
  deploy: { resources: { limits: { memory: 1g } } }
services:
  one:
    <<: *agent
    pid: "service:one-pid"
    networks: { agents: { aliases: [x] } }
    volumes:
      - { type: volume, source: ws, target: /workspace }
  one-pid: { image: x, entrypoint: ["/pitwall-sidecar"], command: "pause" }
  watcher:
    entrypoint: /usr/local/bin/pitwall-sidecar
    pid: "service:one-pid"
    environment: [PITWALL_AGENT=one, PITWALL_STATE=/var/lib/pitwall]
    networks: { agents: , control: }
    volumes:
      - { type: volume, source: ws, target: /workspace, read_only: true }
      - { type: volume, source: st, target: /var/lib }
  center:
    entrypoint: [pitwall, serve]
    networks: [control]
    ports: [ { target: 7440, published: 7440, host_ip: 127.0.0.1 } ]
"#;
    let told = mistakes(text);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(told[0].message.contains("one runs as root"), "{told:#?}");
}

#[test]
fn what_is_no_compose_file_is_told_and_nothing_panics() {
    for (text, message) in [
        ("", "no services"),
        ("services: 3", "no services"),
        ("services: {}", "nobody is watched"),
        ("services: { a: , 7: [x], b: text }", "nobody is watched"),
        ("services:\n  a: [", ""),
        ("services: { a: { environment: { PITWALL_AGENT: } } }", "no `pid`"),
        (
            "services: { a: { environment: [PITWALL_AGENT], volumes: [3, {}, \"\", \":\"], pid: 4, networks: 5 } }",
            "state",
        ),
    ] {
        let told = mistakes(text);
        assert!(told.iter().any(|m| m.message.contains(message)), "{text}: {told:#?}");
    }
}

#[test]
fn what_is_printed_beside_a_sound_service_has_no_mistake() {
    let theirs = "
services:
  orchestrator: { image: pitwall, networks: [control] }
  backend:
    image: example/backend
    networks: [agents]
";
    for (cgroup, gpu) in [(None, false), (Some(Cgroup::V1), false), (Some(Cgroup::V2), true)] {
        let wanted = Wanted { network: "agents".into(), cgroup, gpu, ..Wanted::of("backend") };
        let printed = print(&wanted);
        // As the engine's tool would merge the two files.
        let merged = printed.replacen(
            "  backend:  ",
            "  orchestrator: { image: pitwall, networks: [control] }\n  backend:  ",
            1,
        );
        let merged =
            merged.replacen("    user: \"1000:1000\"  ", "    networks: [agents]\n    user: \"1000:1000\"  ", 1);
        assert_eq!(mistakes(&merged), [], "{merged}");
        assert_eq!(printed.contains("cgroup_parent"), cgroup.is_some());
        assert_eq!(printed.matches("driver: nvidia").count(), if gpu { 2 } else { 0 });
        assert!(!mistakes(theirs).is_empty());
    }
    let other = Wanted { workspace: "./repo".into(), workspace_at: "/app".into(), ..Wanted::of("web") };
    let printed = print(&other);
    assert!(printed.contains("- ./repo:/app:ro") && !printed.contains("./repo:\n"), "{printed}");
    assert!(printed.contains("PITWALL_WORKSPACE: /app"), "{printed}");
}
