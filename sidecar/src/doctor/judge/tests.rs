use super::*;

fn folder(path: &str, writable: bool) -> Folder {
    Folder { path: path.into(), there: true, writable, own_mount: true }
}

fn good() -> Seen {
    let capability = |name: &str, available| v1::Capability {
        name: name.into(),
        available,
        reason: if available { String::new() } else { format!("no {name}") },
        enabled_by: if available { String::new() } else { "a line".into() },
    };
    Seen {
        beside: true,
        starts: false,
        started: Ok(()),
        neighbourhood: Neighbourhood {
            processes: 2,
            holding: 0,
            root: Some("node (pid 12)".into()),
            root_uid: Some(1000),
            root_io: Some(true),
            leaf: Some("/cg/cpu/ab".into()),
            memory_limit: Some(Some(1 << 28)),
        },
        capabilities: vec![
            capability("throttle.cpu.cgroup2", false),
            capability("throttle.cpu.cgroup1", true),
            capability("kill", true),
            capability("directive", true),
        ],
        means: vec![Means { what: "measures cpu", how: Ok("the use of cgroup v2".into()), change: String::new() }],
        effective: (1 << CAP_SYS_PTRACE) | (1 << CAP_DAC_READ_SEARCH) | (1 << CAP_KILL),
        uid: 0,
        workspace: folder("/workspace", false),
        inbox: folder("/inbox", true),
        state: folder("/state", true),
        orchestrator: Ok(()),
        orchestrator_url: "https://orchestrator:7440".into(),
        token: Some(Ok(())),
        joined: true,
    }
}

#[test]
fn a_place_that_is_as_it_should_be_has_nothing_to_change() {
    let found = judge(&good());
    assert!(found.iter().all(|f| matches!(f.level, Level::Works | Level::Spare)), "{}", told(&found));
    assert!(told(&found).ends_with("ok, 0 lacking, 0 broken\n"));
}

#[test]
fn what_is_wrong_is_told_with_the_line_that_changes_it() {
    type Break = fn(&mut Seen);
    let table: [(Break, Level, &str, &str); 16] = [
        (|s| s.started = Err("no pause".into()), Level::Broken, "agent", "service:AGENT-pid"),
        (|s| s.neighbourhood.root = None, Level::Lacks, "agent", "start its container"),
        (|s| s.neighbourhood.root_uid = Some(0), Level::Broken, "agent's user", "1000:1000"),
        (|s| s.effective &= !(1 << CAP_KILL), Level::Lacks, "capabilities", "[KILL]"),
        (|s| s.effective |= 1 << 21, Level::Lacks, "capabilities", "cap_drop"),
        (|s| s.uid = 1000, Level::Broken, "sidecar's user", "0:0"),
        (|s| s.workspace.writable = true, Level::Lacks, "workspace", ":ro"),
        (|s| s.workspace.there = false, Level::Lacks, "workspace", "/workspace"),
        (|s| s.state.own_mount = false, Level::Broken, "state", "AGENT-state:/state"),
        (|s| s.state.writable = false, Level::Broken, "state", "AGENT-state:/state"),
        (|s| s.inbox.own_mount = false, Level::Broken, "inbox", "AGENT-inbox"),
        (|s| s.neighbourhood.memory_limit = Some(None), Level::Lacks, "cgroup", "mem_limit"),
        (|s| s.orchestrator = Err("refused".into()), Level::Broken, "orchestrator", "control"),
        (|s| (s.joined, s.token) = (false, None), Level::Broken, "identity", "secrets"),
        (|s| (s.joined, s.token) = (false, Some(Err("x".into()))), Level::Broken, "identity", "secrets"),
        (|s| s.capabilities[1].available = false, Level::Lacks, "throttle.cpu.cgroup2", "a line"),
    ];
    for (breaks, level, what, change) in table {
        let mut seen = good();
        breaks(&mut seen);
        let found = judge(&seen);
        let hit = found.iter().find(|f| f.what == what && f.level == level);
        assert!(hit.is_some_and(|f| f.change.contains(change)), "{what}: {}", told(&found));
    }
}

#[test]
fn without_containers_no_compose_file_is_named() {
    let alone = || Seen { beside: false, starts: true, ..good() };
    let found = judge(&Seen { neighbourhood: Neighbourhood::default(), ..alone() });
    assert!(found.iter().all(|f| !f.severe()) && told(&found).contains("this sidecar starts it"), "{}", told(&found));
    let mut seen = alone();
    (seen.orchestrator, seen.token, seen.joined) = (Err("refused".into()), None, false);
    (seen.workspace.there, seen.state.writable, seen.neighbourhood.memory_limit) = (false, false, Some(None));
    let found = judge(&seen);
    let text = told(&found);
    assert_eq!(found.iter().filter(|f| !f.change.is_empty()).count(), 6, "{text}");
    for word in ["volumes:", "networks:", "secrets:", "mem_limit", "pid:"] {
        assert!(!text.contains(word), "{word}: {text}");
    }
}

#[test]
fn each_rung_is_told_and_only_a_resource_without_any_is_lacking() {
    let mut seen = good();
    for (name, available) in [
        ("throttle.memory.cgroup1", false),
        ("throttle.weight.cgroup1", true),
        ("throttle.weight.nice", false),
        ("throttle.gpu-power.nvml", false),
        ("throttle.process.cgroup1", true),
        ("gpu", false),
    ] {
        let [reason, enabled_by] = if available { [""; 2] } else { ["why not", "what would change it"] };
        let (reason, enabled_by) = (reason.into(), enabled_by.into());
        seen.capabilities.push(v1::Capability { name: name.into(), available, reason, enabled_by });
    }
    let found = judge(&seen);
    let level = |what: &str| found.iter().find(|f| f.what == what).map(|f| f.level);
    for (what, meant) in [
        ("throttle.cpu.cgroup1", Level::Works),
        ("throttle.cpu.cgroup2", Level::Spare),
        ("throttle.memory.cgroup1", Level::Lacks),
        ("throttle.weight.nice", Level::Spare),
        ("throttle.gpu-power.nvml", Level::Spare),
        ("throttle.process.cgroup1", Level::Works),
    ] {
        assert_eq!(level(what), Some(meant), "{what}: {}", told(&found));
    }
    let text = told(&found);
    assert!(text.contains("other ") && text.contains("what would change it"), "{text}");
}

#[test]
fn what_is_measured_is_told_with_how_and_the_rest_with_why_not() {
    let mut seen = good();
    let change = "bind it".into();
    seen.means.push(Means { what: "measures I/O", how: Err("it has no cgroup of its own".into()), change });
    let told = told(&judge(&seen));
    assert!(told.contains("measures cpu") && told.contains("the use of cgroup v2"), "{told}");
    assert!(told.contains("lacks   measures I/O") && told.contains("change: bind it"), "{told}");
    seen.neighbourhood.root = None;
    assert!(!judge(&seen).iter().any(|f| f.what.starts_with("measures")));
}

#[test]
fn one_that_is_held_is_no_fault() {
    let mut seen = good();
    (seen.neighbourhood.root, seen.neighbourhood.holding) = (None, 1);
    assert!(judge(&seen).iter().any(|f| f.what == "agent" && f.detail.contains("held") && !f.severe()));
}
