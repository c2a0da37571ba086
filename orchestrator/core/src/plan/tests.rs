//! One mistake, one place, one message; and many at once.
use proptest::prelude::*;

use super::*;

const EXAMPLE: &str = r#"
project: talent-platform
defaults:
  expected_within: 2m
  stall_after: 5m
  misdirected_after: 10m
  quota: { cpu: 2, memory: 2GiB, pids: 512 }
agents:
  backend:
    inbox: /inbox            # where directives are put for it
    deliverables:
      talents-api:
        title: GET /api/talents
        estimate: 20m
        weight: 3
        checks:
          - file: { path: app/api/talents/route.ts, contains: "export async function GET", forbids: [TODO] }
          - http: { url: "http://backend:3000/api/talents", status: 200, json: { /talents/0/id: present } }
  frontend:
    deliverables:
      talent-list:
        needs: [backend/talents-api]
        checks: [ { file: { path: app/talents/page.tsx } } ]
  design:
    expected_within: 10m
    deliverables:
      tokens: { checks: [ { directory: { path: design-system, min_files: 3 } } ] }
"#;

#[test]
fn the_example_of_the_design_is_understood() {
    let parsed = parse(EXAMPLE, "plan.yaml").unwrap_or_else(|m| panic!("{}", m.render(false)));
    let plan = parsed.plan;
    assert_eq!(plan.project, "talent-platform");
    let api = plan.deliverable(&DeliverableId::new("backend", "talents-api")).unwrap();
    assert_eq!((api.weight, api.estimate_ms, api.checks.len()), (3.0, Some(1_200_000), 2));
    let Rule::File { contains, forbids, .. } = &api.checks[0].rule else { panic!("no file check") };
    assert_eq!((contains.len(), forbids[0].as_str()), (1, "TODO"));
    let Rule::Http { json, status, .. } = &api.checks[1].rule else { panic!("no http check") };
    assert_eq!((json.get("/talents/0/id"), *status), (Some(&None), 200));
    assert_eq!(plan.agents["design"].windows.expected_within_ms, 600_000);
    assert_eq!(plan.agents["frontend"].quotas.len(), 3);
    assert_eq!(plan.agents["frontend"].quotas[1].limit, 2.0 * 1024.0 * 1024.0 * 1024.0);
    let list = plan.deliverable(&DeliverableId::new("frontend", "talent-list")).unwrap();
    assert_eq!(list.needs, [DeliverableId::new("backend", "talents-api")]);
    assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
}

/// A plan of one agent, with this inside its deliverable.
fn with(deliverable: &str) -> String {
    format!("project: p\nagents:\n  a:\n    deliverables:\n      d:\n{deliverable}")
}

#[test]
fn one_mistake_one_place_one_message() {
    let table: [(&str, u32, u32, &str, &str); 30] = [
        ("agents: { a: { deliverables: { d: { checks: [ file: x ] } } } }", 1, 1, "no `project`", "add a line"),
        ("project: p\n", 1, 1, "no agents", "at least one"),
        ("project: p\nagents:\n  a: { deliverables: {} }", 3, 3, "agent a has no deliverables", "what it owes"),
        (
            "projekt: p\nproject: p\nagents: { a: { deliverables: { d: { checks: [ file: x ] } } } }",
            1,
            1,
            "unknown key `projekt`",
            "did you mean `project`?",
        ),
        (
            &with("        chekcs: [ file: x ]\n        checks: [ file: x ]"),
            6,
            9,
            "unknown key `chekcs`",
            "did you mean `checks`?",
        ),
        (&with("        title: x"), 5, 7, "a/d has no checks", "proves it"),
        (&with("        checks: [ file: /etc/passwd ]"), 6, 25, "absolute", "relative to the workspace"),
        (&with("        checks: [ file: ../x ]"), 6, 25, "leaves the workspace", "relative"),
        (&with("        checks: [ file: .pitwall/claim.json ]"), 6, 25, "a claim, and no proof", "deliver"),
        (
            &with("        checks: [ file: { path: x, contians: y } ]"),
            6,
            36,
            "unknown key `contians`",
            "did you mean `contains`?",
        ),
        (&with("        checks: [ file: { contains: y } ]"), 6, 19, "needs `path`", "add `path:`"),
        (&with("        checks: [ { weight: 2 } ]"), 6, 19, "no rule", "exactly one of"),
        (&with("        checks: [ { file: x, tcp: \"db:1\" } ]"), 6, 19, "2 rules: file, tcp", "exactly one of"),
        (&with("        checks: [ tcp: db ]"), 6, 24, "no host:port", "qdrant:6333"),
        (&with("        checks: [ http: ftp://x ]"), 6, 25, "no URL", "http://backend"),
        (
            &with("        checks: [ http: { url: \"http://x/\", status: 99 } ]"),
            6,
            53,
            "99 is no HTTP status",
            "100 to 599",
        ),
        (&with("        checks: [ file: x ]\n        estimate: 20"), 7, 19, "20 has no unit", "90s"),
        (&with("        checks: [ file: x ]\n        estimate: 3 weeks"), 7, 19, "no span of time", "1h30m"),
        (&with("        checks: [ file: x ]\n        weight: 0"), 7, 17, "a number above 0", "0.5"),
        (
            &with("        checks: [ file: x ]\n        title: [x]"),
            7,
            16,
            "expected a text, found a list",
            "for example",
        ),
        (&with("        checks: [ file: x ]\n        title: 5"), 7, 16, "expected a text, found a number", "quotes"),
        (&with("        checks: [ file: x ]\n        needs: [b/d]"), 7, 17, "nobody owes `b/d`", "did you mean `a/d`?"),
        (&with("        checks: [ file: x ]\n        needs: a/d"), 7, 16, "a/d needs itself", "remove"),
        (
            &with("        checks: [ file: x ]\n        checks: [ file: y ]"),
            7,
            9,
            "a second time, first in line 6",
            "keep one",
        ),
        (
            &with("        checks: [ { file: x, every: 10s, fresh_for: 5s } ]"),
            6,
            53,
            "stale before it is renewed",
            "twice",
        ),
        (&with("        checks: [ nonsense ]"), 6, 19, "is no check", "file: app/page.tsx"),
        (
            "project: p q\nagents: { a: { deliverables: { d: { checks: [ file: x ] } } } }",
            1,
            10,
            "no name for a project",
            "letters",
        ),
        (
            "project: p\nagents: { \"a/b\": { deliverables: { d: { checks: [ file: x ] } } } }",
            2,
            11,
            "no name for a agent",
            "letters",
        ),
        (
            "project: p\nagents: { a: { quota: { memory: many }, deliverables: { d: { checks: [ file: x ] } } } }",
            2,
            33,
            "amount of memory",
            "512MiB",
        ),
        ("just a text", 1, 1, "expected a table", "key: value"),
    ];
    for (text, line, column, message, help) in table {
        let mistakes = parse(text, "plan.yaml").expect_err(text);
        let told: Vec<_> =
            mistakes.list.iter().map(|m| (m.line, m.column, m.message.as_str(), m.help.as_str())).collect();
        let [(l, c, m, h)] = told[..] else { panic!("{text}\n{told:?}") };
        assert!(m.contains(message) && h.contains(help), "{text}\n{told:?}");
        assert_eq!((l, c), (line, column), "{text}\n{told:?}");
    }
}

#[test]
fn what_is_no_yaml_is_one_mistake_with_its_line() {
    let mistakes = parse("project: p\nagents: [\n", "plan.yaml").expect_err("broken");
    assert_eq!(mistakes.list.len(), 1);
    assert!(mistakes.list[0].line >= 2, "{:?}", mistakes.list);
}

#[test]
fn many_mistakes_are_told_at_once_with_their_lines() {
    let text = "\
project: night
default: { stall_after: 5m }
windows: { heartbeat_every: 5 }
agents:
  backend:
    expected_withn: 2m
    quota: { cpu: -1 }
    deliverables:
      api:
        needs: [frontend/page]
        estimate: soon
        checks: [ file: /abs, htp: x ]
  frontend:
    deliverables:
      page:
        needs: [backend/api, backend/apy]
        checks: [ file: { path: x, forbid: [TODO] } ]
  empty: {}
";
    let mistakes = parse(text, "night.yaml").expect_err("many mistakes");
    insta::assert_snapshot!(mistakes.render(false));
}

#[test]
fn a_quota_may_say_for_how_long() {
    let text = EXAMPLE.replace("pids: 512 }", "pids: 512, for: 3s }");
    let parsed = parse(&text, "plan.yaml").unwrap_or_else(|m| panic!("{:?}", m.list));
    assert!(parsed.plan.agents["backend"].quotas.iter().all(|q| q.for_ms == 3_000));
}

#[test]
fn events_are_kept_for_a_week_or_as_long_as_is_said_but_never_for_less_than_an_hour() {
    let keep = |windows: &str| {
        let text = format!("{}windows: {{ {windows} }}\n", with("        checks: [ file: x ]\n"));
        parse(&text, "plan.yaml").map(|parsed| parsed.plan.windows.keep_ms)
    };
    assert_eq!(keep("heartbeat_every: 5s").unwrap(), KEEP_DEFAULT_MS);
    assert_eq!(keep("keep: 1h").unwrap(), KEEP_MIN_MS);
    let mistakes = keep("keep: 59m").unwrap_err();
    assert_eq!((mistakes.list.len(), mistakes.list[0].line), (1, 7), "{:?}", mistakes.list);
    assert!(mistakes.list[0].help.contains("at least 1h"), "{:?}", mistakes.list);
    // A plan in a journal that was written before there was such a window.
    let parsed = parse(EXAMPLE, "plan.yaml").unwrap();
    let mut json = serde_json::to_value(&parsed.plan).unwrap();
    json["windows"].as_object_mut().unwrap().remove("keep_ms");
    json["windows"].as_object_mut().unwrap().remove("host_pressure_after_ms");
    assert_eq!(serde_json::from_value::<Plan>(json).unwrap(), parsed.plan);
}

#[test]
fn a_check_may_be_short() {
    let text = with(
        "        checks:\n          - file: app/x.ts\n          - \"tcp: db:5432\"\n          - http: http://h:1/x\n          - file: app/x.ts",
    );
    let plan = parse(&text, "p").unwrap().plan;
    let ids: Vec<_> = plan.agents["a"].deliverables["d"].checks.iter().map(|c| c.id.clone()).collect();
    assert_eq!(ids, ["file:app/x.ts", "tcp:db:5432", "http:http://h:1/x", "file:app/x.ts#2"]);
}

#[test]
fn the_digest_is_of_the_rule_alone() {
    let digest =
        |text: &str| parse(&with(text), "p").unwrap().plan.agents["a"].deliverables["d"].checks[0].digest.clone();
    let plain = digest("        checks: [ file: x ]");
    assert_eq!(plain, digest("        checks: [ { file: { path: x }, weight: 2, every: 1s, required: false } ]"));
    assert_ne!(plain, digest("        checks: [ file: { path: x, contains: y } ]"));
}

#[test]
fn differences_are_told_and_none_where_nothing_changed() {
    let plan = |text: &str| parse(text, "p").unwrap().plan;
    let old = plan(EXAMPLE);
    assert!(diff(&old, &old).is_empty());
    let new =
        plan(&EXAMPLE.replace("status: 200", "status: 201").replace("  design:", "  designer:").replace("20m", "30m"));
    let lines = diff(&old, &new);
    assert_eq!(
        lines,
        [
            "agent design removed",
            "backend/talents-api: check http:http://backend:3000/api/talents changed, its evidence is unknown until it is made again",
            "backend/talents-api: estimate changed",
            "agent designer added, owing tokens",
        ]
    );
}

#[test]
fn a_sidecar_gets_its_part_with_every_default() {
    let plan = parse(EXAMPLE, "p").unwrap().plan;
    let part = agent_part(&plan, "backend", 7).unwrap();
    assert_eq!((part.generation, part.deliverables.len(), part.quotas.len()), (7, 1, 3));
    assert_eq!(part.needed_by, ["frontend/talent-list"]);
    assert_eq!(part.deliverables[0].checks[0].every_ms, 10_000);
    assert!(agent_part(&plan, "nobody", 7).is_none());
}

#[test]
fn the_schema_knows_every_key_that_is_read() {
    let schema = schema().to_string();
    for key in ["misdirected_after", "fresh_for", "min_files", "heartbeat_every", "needs", "pids", "for"] {
        assert!(schema.contains(&format!("\"{key}\"")), "{key}");
    }
}

#[test]
fn sizes_are_limited() {
    let mut text = String::from("project: p\nagents:\n");
    for n in 0..1_001 {
        text.push_str(&format!("  a{n}: {{ deliverables: {{ d: {{ checks: [ file: x ] }} }} }}\n"));
    }
    assert!(parse(&text, "p").expect_err("too many").list[0].message.contains("1001 agents"));
    let long = format!("project: {}\n", "x".repeat(TEXT_MAX));
    assert!(parse(&long, "p").expect_err("too long").list[0].message.contains("bytes"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-c:{}\\[\\]\\-\n \"&*<!|>0-9.]{0,120}") {
        if let Err(mistakes) = parse(&text, "p") {
            let _ = mistakes.render(false);
        }
    }

    #[test]
    fn no_value_in_a_plan_makes_it_panic(value in ".{0,40}", key in "[a-z_]{1,12}") {
        let text = EXAMPLE.replace("20m", &value).replace("weight", &key);
        if let Err(mistakes) = parse(&text, "p") {
            let _ = mistakes.render(true);
        }
    }
}

/// On a stack as small as a server's threads have.
#[test]
fn a_text_that_is_nested_without_end_is_a_mistake_and_ends_nobody() {
    for (opens, closes) in [("[", "]"), ("{a: ", "}"), ("{", "}"), ("- ", ""), ("? ", ""), ("&a [", "]"), ("!x ", "")] {
        for depth in [60, 200_000] {
            let alone = format!("{}{}", opens.repeat(depth), closes.repeat(depth));
            for text in [format!("project: p\nagents: {alone}"), alone] {
                let parse = move || parse(&text, "p").err().map(|mistakes| mistakes.render(false));
                let parsed = std::thread::Builder::new().stack_size(2 * 1024 * 1024).spawn(parse);
                let told = parsed.unwrap().join().unwrap().expect(opens);
                assert!(told.len() < 2_000, "{opens:?} {depth}: {} bytes", told.len());
            }
        }
    }
    let told = parse(&format!("project: p\nagents: {}{}", "[".repeat(60), "]".repeat(60)), "p").err().unwrap();
    assert_eq!(told.list[0].message, "it is nested too deeply");
}
