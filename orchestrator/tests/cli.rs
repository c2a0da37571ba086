//! The real binary, as scripts and people use it: names, help, exit codes, messages, JSON, and a server that runs.
#[path = "cli_parts/home.rs"]
mod home;
#[path = "cli_parts/schema.rs"]
mod schema;

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
    time::Duration,
};

use clap::CommandFactory as _;
use home::{EXAMPLE, Guard, Home, PLAN};
use pitwall::cli::args::Cli;

/// What the README shows of a plan by which sidecars act themselves.
const GUARDED: &str = include_str!("../../deploy/plans/guarded.yaml");
/// What scripts rely on.
const COMMANDS: [&str; 22] = [
    "serve",
    "plan",
    "compose",
    "doctor",
    "health",
    "status",
    "blockers",
    "agents",
    "hosts",
    "findings",
    "commands",
    "events",
    "watch",
    "why",
    "tell",
    "throttle",
    "unthrottle",
    "kill",
    "restart",
    "activate",
    "cancel",
    "adopt",
];

/// Clear from their names and options alone.
const SELF_EVIDENT: [&str; 9] =
    ["status", "blockers", "agents", "hosts", "unthrottle", "restart", "activate", "cancel", "plan"];

#[test]
fn every_command_has_help_with_an_example_or_is_self_evident() {
    let command = Cli::command();
    let known: Vec<&str> = command.get_subcommands().map(|c| c.get_name()).collect();
    for name in COMMANDS {
        assert!(known.contains(&name), "{name} is part of the contract");
    }
    let home = Home::new();
    for sub in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        let name = sub.get_name();
        let told = home.run(&[name, "--help"]);
        assert_eq!(told.code, 0, "{name}");
        assert!(told.stdout.contains(&format!("Usage: pitwall {name}")), "{}", told.stdout);
        let shown = told.stdout.contains("Example") || SELF_EVIDENT.contains(&name) || name == "demo";
        assert!(shown, "{name} has no example:\n{}", told.stdout);
    }
    for name in ["print", "check"] {
        let told = home.run(&["compose", name, "--help"]);
        assert!(told.code == 0 && told.stdout.contains(&format!("Usage: pitwall compose {name}")), "{}", told.stdout);
    }
    for name in ["check", "schema", "apply"] {
        let told = home.run(&["plan", name, "--help"]);
        assert!(told.code == 0 && told.stdout.contains(&format!("Usage: pitwall plan {name}")), "{}", told.stdout);
    }
    let all = home.run(&["--help"]);
    for part in ["Exit codes:", " 64  bad input", "130  interrupted", "GetSituationResponse", "Examples:"] {
        assert!(all.stdout.contains(part), "{part} is missing in\n{}", all.stdout);
    }
}

#[test]
fn wrong_use_and_unreachable_orchestrators_exit_by_documented_codes() {
    let home = Home::new();
    let table: [(&[&str], i32, &str, &str); 17] = [
        (&["frobnicate"], 2, "unrecognized subcommand", ""),
        (&["throttle", "a", "--cpu", "0.01", "--for", "1m"], 2, "never held below 10 % of a core", ""),
        (&["throttle", "a", "--for", "1m"], 2, "--cpu", "--memory"),
        (&["throttle", "a", "--memory", "lots", "--for", "1m"], 2, "512MiB", ""),
        (&["kill", "a"], 2, "PROCESS", ""),
        (&["unthrottle", "a", "--resource", "disk"], 2, "gpu-clock", ""),
        (&["status"], 69, "no orchestrator runs on this machine", "pitwall serve --plan FILE"),
        (&["tell", "a", "x"], 69, "no orchestrator runs on this machine", "--orchestrator URL"),
        (&["status", "--orchestrator", "http://127.0.0.1:1", "--insecure"], 69, "no orchestrator answers", "running"),
        (&["status", "--orchestrator", "http://127.0.0.1:1"], 2, "plaintext", "--insecure"),
        (&["watch", "--orchestrator", "http://10.0.0.1:1", "--insecure"], 2, "on loopback only", "https://"),
        (&["kill", "a", "--pid", "2", "--orchestrator", "https://[::1]:1"], 2, "needs an identity", "--identity DIR"),
        (
            &["status", "--orchestrator", "https://[::1]:1", "--identity", "/nowhere"],
            64,
            "cannot find /nowhere",
            "key.pem",
        ),
        (&["status", "--context", "night"], 64, "no context is named \"night\"", "pitwall context list"),
        (&["plan", "check", "/nowhere/plan.yaml"], 64, "cannot read /nowhere/plan.yaml: No such file", ""),
        (&["plan", "apply", "/nowhere/plan.yaml"], 64, "cannot read /nowhere/plan.yaml", ""),
        (&["tell", "a", "--file", "/nowhere/note.md"], 64, "cannot read /nowhere/note.md", ""),
    ];
    for (args, code, error, hint) in table {
        let told = home.run(args);
        assert_eq!(told.code, code, "{args:?}: {}", told.stderr);
        assert!(told.stdout.is_empty(), "{args:?} wrote {}", told.stdout);
        assert!(told.stderr.contains(error) && told.stderr.contains(hint), "{args:?}: {}", told.stderr);
    }
    let told = home.run(&["status", "--output", "json"]);
    let error: serde_json::Value = serde_json::from_str(&told.stderr).expect("one JSON document");
    assert_eq!(error["error"]["exit"], 69);
    assert_eq!(error["error"]["reason"], "UNREACHABLE");
}

const MISTAKES: &str = "\
project: night
agnets: {}
agents:
  backend:
    expected_within: soon
    deliverables:
      api:
        needs: [frontend/page, backend/nothing]
        checks: [ file: /etc/passwd ]
  frontend:
    deliverables:
      page:
        needs: [backend/api]
        checks: [ { fiel: app/page.tsx } ]
";

#[test]
fn a_plan_with_many_mistakes_is_told_all_at_once() {
    let home = Home::new();
    home.write("plan.yaml", MISTAKES);
    let told = home.run(&["plan", "check", "plan.yaml"]);
    assert_eq!((told.code, told.stdout.as_str()), (64, ""));
    insta::assert_snapshot!("mistakes", told.stderr);

    let told = home.run(&["plan", "check", "plan.yaml", "--output", "json"]);
    assert_eq!((told.code, told.stderr.as_str()), (64, ""));
    let answer: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert_eq!(answer["valid"], false);
    let mistakes = answer["mistakes"].as_array().expect("a list");
    assert!(mistakes.len() >= 5, "{mistakes:?}");
    assert!(mistakes.iter().all(|m| m["line"].as_u64() > Some(0) && m["message"].as_str() > Some("")));

    // Applying it is refused here, before any orchestrator is looked for.
    assert_eq!(home.run(&["plan", "apply", "plan.yaml"]).code, 64);
}

#[test]
fn a_compose_file_is_printed_and_checked() {
    let home = Home::new();
    let printed = home.run(&["compose", "print", "--service", "web", "--workspace", "./repo:/app", "--cgroup", "v2"]);
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    assert!(
        printed.stdout.contains("- ./repo:/app:ro") && printed.stdout.contains("/sys/fs/cgroup/pitwall/web:/cg:rw")
    );
    let file = "web.yaml";
    home.write(file, &printed.stdout);
    let checked = home.run(&["compose", "check", file]);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    home.write(file, &printed.stdout.replace("user: \"1000:1000\"", "user: root"));
    let checked = home.run(&["compose", "check", file]);
    assert_eq!(checked.code, 64);
    assert!(
        checked.stderr.contains("web runs as root") && checked.stderr.contains("web.yaml:4:"),
        "{}",
        checked.stderr
    );
    let checked = home.run(&["compose", "check", file, "--output", "json"]);
    let told: serde_json::Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!((checked.code, &told["valid"], &told["mistakes"][0]["line"]), (64, &false.into(), &4.into()));
    for wrong in [["--workspace", "repo"], ["--cgroup", "v3"]] {
        assert_ne!(home.run(&[&["compose", "print", "--service", "web"][..], &wrong[..]].concat()).code, 0);
    }
    let unhealthy = home.run(&["health"]);
    assert_eq!(unhealthy.code, 69, "{}", unhealthy.stderr);
}

#[test]
fn a_usable_plan_is_summed_up_and_read_from_standard_input() {
    let home = Home::new();
    home.write("plan.yaml", EXAMPLE);
    let told = home.run(&["plan", "check", "plan.yaml"]);
    let expected = "plan.yaml: usable: project talent-platform, 3 agents, 3 deliverables, 4 checks\n";
    assert_eq!((told.code, told.stdout.as_str()), (0, expected), "{}", told.stderr);
    let told = home.run_with(&["plan", "check", "-"], EXAMPLE);
    assert_eq!(told.code, 0);
    assert!(told.stdout.starts_with("standard input: usable"), "{}", told.stdout);
}

#[test]
fn the_schema_accepts_the_example_and_refuses_what_is_wrong() {
    let told = Home::new().run(&["plan", "schema"]);
    assert_eq!(told.code, 0);
    let schema: serde_json::Value = serde_json::from_str(&told.stdout).expect("JSON");
    assert!(schema["$schema"].as_str().is_some_and(|s| s.contains("json-schema.org")));
    let read = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).expect("YAML");
    assert_eq!(schema::violations(&schema, &read(EXAMPLE)), Vec::<String>::new());
    assert_eq!(schema::violations(&schema, &read(PLAN)), Vec::<String>::new());
    assert_eq!(schema::violations(&schema, &read(GUARDED)), Vec::<String>::new());
    let told = Home::new().run_with(&["plan", "check", "-"], GUARDED);
    assert_eq!(told.code, 0, "{}", told.stderr);
    for (from, to) in [("kill_process", "kill"), ("hard: 2, ", ""), ("on: failure", "on: crash"), ("tcp", "udp")] {
        let wrong = GUARDED.replace(from, to);
        assert!(wrong == GUARDED || !schema::violations(&schema, &read(&wrong)).is_empty(), "{from} {to}");
    }
    for wrong in [
        EXAMPLE.replace("stall_after", "stal_after"),
        EXAMPLE.replace("min_files: 3", "min_files: three"),
        EXAMPLE.replace("project: talent-platform", ""),
        EXAMPLE.replace("file: { path: app/talents/page.tsx }", "fiel: { path: app/talents/page.tsx }"),
    ] {
        assert_ne!(wrong, EXAMPLE);
        assert!(!schema::violations(&schema, &read(&wrong)).is_empty(), "{wrong}");
    }
}

#[test]
fn completions_are_printed_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let told = home.run(&["completions", shell]);
        assert!(told.code == 0 && told.stdout.contains("unthrottle"), "{shell}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let home = Home::new();
    let mut child = home.command(&["completions", "bash"]).stdout(Stdio::piped()).spawn().expect("started");
    drop(child.stdout.take());
    assert_eq!(child.wait().expect("ended").code(), Some(0));
}

#[test]
fn a_server_is_found_and_read() {
    let home = Home::new();
    let server = home.serve(PLAN);
    // By itself; by its address, as an option; and from the environment.
    let status = home.run(&["status"]);
    assert_eq!(status.code, 0, "{}", status.stderr);
    assert!(status.stdout.starts_with("night  ") && status.stdout.contains("2 agents"), "{}", status.stdout);
    assert!(status.stdout.contains("\nAGENT      STATUS    VERIFIED  CLAIMED   CPU   MEM  NEXT\n"));
    let named = home.run(&["status", "--orchestrator", &server.url, "--insecure"]);
    assert_eq!(named.code, 0, "{}", named.stderr);
    let mut command = home.command(&["status"]);
    command.env("PITWALL_ORCHESTRATOR", &server.url).env("PITWALL_INSECURE", "1");
    assert!(command.output().expect("started").status.success());

    for args in [&["blockers"][..], &["agents"], &["hosts"], &["findings", "--all"], &["commands"], &["events"]] {
        let told = home.run(args);
        assert!(told.code == 0 && !told.stdout.is_empty() && told.stderr.is_empty(), "{args:?}: {}", told.stderr);
        assert!(home.json(args).is_object(), "{args:?}");
    }
    let situation = &home.json(&["status"])["situation"];
    assert_eq!(situation["project"], "night");
    assert_eq!(situation["agents"][0]["sidecar"], "SIDECAR_STATUS_NEVER_CONNECTED");
    assert!(situation["agents"][0].get("claimed").is_none(), "what nobody said is absent");

    let why = home.run(&["why", "frontend/page"]);
    assert!(why.code == 0 && why.stdout.contains("waits for backend/api"), "{}", why.stdout);
    for (args, reason) in [
        (&["why", "bakend"][..], "AGENT_UNKNOWN"),
        (&["why", "backend/apis"], "DELIVERABLE_UNKNOWN"),
        (&["tell", "bakend", "x"], "AGENT_UNKNOWN"),
        (&["kill", "backend", "--pid", "4242"], "PROCESS_UNKNOWN"),
        (&["status", "--project", "day"], "PROJECT_UNKNOWN"),
        (&["cancel", "c99"], "COMMAND_UNKNOWN"),
    ] {
        let told = home.run(args);
        assert_eq!(told.code, 64, "{args:?}: {}", told.stderr);
        assert!(told.stderr.contains(reason), "{args:?}: {}", told.stderr);
    }
}

#[test]
fn commands_exit_by_their_outcome_and_show_receipts() {
    let home = Home::new();
    let _server = home.serve(PLAN);
    // Nobody is there to take them: rejected unsent, or waiting until they expire.
    let rejected = home.run(&["activate", "backend"]);
    assert_eq!(rejected.code, 3, "{}", rejected.stderr);
    assert!(rejected.stdout.contains("REJECTED: no sidecar of backend ever connected"), "{}", rejected.stdout);
    assert!(rejected.stderr.contains("QUEUED"), "{}", rejected.stderr);
    let expired = home.run(&["tell", "backend", "hello", "--start-within", "300ms"]);
    assert_eq!(expired.code, 4, "{}{}", expired.stdout, expired.stderr);
    let json = home.run(&["tell", "backend", "hello", "--start-within", "300ms", "--output", "json"]);
    assert_eq!((json.code, json.stderr.as_str()), (4, ""));
    let ended: serde_json::Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(ended["command"]["state"], "COMMAND_STATE_EXPIRED");

    home.write("note.md", "from a file");
    let args = ["tell", "backend", "--file", "note.md", "--about", "api", "--priority", "urgent", "--no-wait"];
    let queued = home.run(&args);
    assert_eq!((queued.code, queued.stdout.lines().count()), (0, 1), "{}", queued.stderr);
    let id = queued.stdout.trim();
    let told = home.run(&["commands", id]);
    for part in ["urgent directive about api", "QUEUED", "text: from a file", "promised: backend/api verified"] {
        assert!(told.stdout.contains(part), "{part} is missing in {}", told.stdout);
    }
    let cancelled = home.run(&["cancel", id]);
    assert_eq!(cancelled.code, 0, "{}", cancelled.stderr);
    assert!(cancelled.stdout.contains("CANCELLED"), "{}", cancelled.stdout);
    assert_eq!(home.run(&["cancel", id]).code, 3, "it has ended");
    assert_eq!(home.run(&["commands", "c99"]).code, 64);
    let all = home.json(&["commands", "--agent", "backend"]);
    assert_eq!(all["commands"].as_array().map(Vec::len), Some(4));
}

#[test]
fn a_plan_is_applied_while_the_server_runs() {
    let home = Home::new();
    let _server = home.serve(PLAN);
    home.write("next.yaml", &PLAN.replace("estimate: 10m", "estimate: 5m"));
    let told = home.run(&["plan", "apply", "next.yaml"]);
    assert_eq!((told.code, told.stdout.as_str()), (0, "generation 2\n  backend/api: estimate changed\n"));
    let again = home.run(&["plan", "apply", "next.yaml"]);
    assert_eq!(again.stdout, "nothing changed: generation 2 stays\n");
}

#[test]
fn a_watch_begins_with_a_snapshot_and_goes_on_after_a_restart() {
    let home = Home::new();
    let server = home.serve(PLAN);
    let mut command = home.command(&["watch", "--output", "json"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("started");
    let mut watch = Guard::new(child);
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("a line").expect("UTF-8");
        serde_json::from_str(&line).expect("one document a line")
    };
    assert_eq!(next()["snapshot"]["project"], "night");
    drop(server);
    let _server = home.serve_again();
    assert_eq!(home.run(&["tell", "backend", "hello", "--no-wait"]).code, 0);
    let issued = |event: &serde_json::Value| event["kind"] == "command_issued";
    let told =
        |message: serde_json::Value| message["change"]["events"].as_array().is_some_and(|e| e.iter().any(issued));
    // It goes on where it stopped, so this is told whether it reconnects before or after.
    assert!((0..50).any(|_| told(next())));
    home::interrupt(&watch);
    assert_eq!(home::ended(&mut watch, Duration::from_secs(5)), Some(130));
}

#[test]
fn a_wait_survives_the_orchestrator_and_names_its_command_when_interrupted() {
    let home = Home::new();
    let server = home.serve(PLAN);
    let (mut waiting, _rest) = home.waiting(&["tell", "backend", "hello", "--start-within", "3s"]);
    drop(server);
    let _server = home.serve_again();
    assert_eq!(home::ended(&mut waiting, Duration::from_secs(15)), Some(4));

    let (mut waiting, told) = home.waiting(&["tell", "backend", "hello"]);
    home::interrupt(&waiting);
    assert_eq!(home::ended(&mut waiting, Duration::from_secs(5)), Some(130));
    let last = told.map_while(Result::ok).last().unwrap_or_default();
    assert!(last.contains("interrupted; c") && last.contains("pitwall cancel c"), "{last}");
}

#[test]
fn with_two_servers_one_has_to_be_named() {
    let home = Home::new();
    let _one = home.serve(PLAN);
    let other = home.serve_in("other", PLAN);
    let told = home.run(&["status"]);
    assert_eq!(told.code, 2, "{}", told.stderr);
    assert!(told.stderr.contains("2 orchestrators run") && told.stderr.contains(&other.url), "{}", told.stderr);
    assert_eq!(home.run(&["status", "--orchestrator", &other.url, "--insecure"]).code, 0);
}

/// Plaintext on this machine was asked for once, for example in a shell's profile; a name that is given now means more.
#[test]
fn a_context_that_is_named_is_the_one_though_plaintext_is_permitted() {
    let home = Home::new();
    home.write(
        "contexts.json",
        r#"{ "used": "a", "contexts": { "a": { "orchestrator": "https://127.0.0.1:1", "identity": "/none" } } }"#,
    );
    let told = |args: &[&str]| {
        let mut command = home.command(args);
        let output = command.env("PITWALL_CONFIG", ".").env("PITWALL_INSECURE", "1").output().expect("started");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let named = told(&["status", "--context", "a"]);
    assert!(named.contains("/none"), "{named}");
    let unknown = told(&["status", "--context", "b"]);
    assert!(unknown.contains("no context is named \"b\""), "{unknown}");
    let unnamed = told(&["status"]);
    assert!(!unnamed.contains("/none"), "{unnamed}");
}
