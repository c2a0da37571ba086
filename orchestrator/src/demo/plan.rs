//! The night's plan, as an operator would write it. The product knows the night by this text alone.
use std::fmt::Write as _;

use super::{
    cast::{Cast, Role},
    pace::Pace,
};

/// Cores and bytes of the agent whose server runs away.
pub const CPU_LIMIT: f64 = 0.5;
pub const MEMORY_LIMIT_MIB: u64 = 160;

/// Where backend's API and devops' database answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub api: u16,
    pub database: u16,
    /// Each agent in a container of its own, reached by its name; else all on loopback.
    pub by_name: bool,
}

impl Ports {
    /// Where this agent's servers are reached.
    pub fn host_of<'a>(&self, agent: &'a str) -> &'a str {
        if self.by_name { agent } else { "127.0.0.1" }
    }
}

pub fn yaml(cast: &Cast, pace: &Pace, ports: Ports) -> String {
    let mut text = head(cast, pace);
    for part in
        [backend(cast, ports), frontend(cast), search(cast), devops(cast, ports), later(cast), absent(cast, pace)]
    {
        text.push_str(&part.replace("{estimate}", &ms(pace.windows.estimate_ms)));
    }
    text
}

/// A span of time as plans have it.
fn ms(ms: u64) -> String {
    if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{ms}ms") }
}

fn head(cast: &Cast, pace: &Pace) -> String {
    let w = &pace.windows;
    let mut text = format!("project: {}\ndefaults:\n", cast.project);
    let windows = [
        ("expected_within", w.expected_within_others_ms),
        ("stall_after", w.stall_after_ms),
        ("misdirected_after", w.misdirected_after_ms),
        ("activity_every", w.activity_every_ms),
        ("rescan_every", w.rescan_every_ms),
    ];
    for (name, window) in windows {
        // Writing to a string cannot fail.
        writeln!(text, "  {name}: {}", ms(window)).ok();
    }
    write!(
        text,
        "  quota: {{ cpu: 2, memory: 2GiB, for: {} }}\n  checks: {{ every: {}, fresh_for: {}, hysteresis: {}, timeout: 1s }}\n\
         windows:\n  heartbeat_every: {}\n  start_grace: {}\n  effect_within: {}\n  command_expiry: 60s\nagents:\n",
        ms(w.quota_for_ms),
        ms(w.check_every_ms),
        ms(w.fresh_for_ms),
        ms(w.hysteresis_ms),
        ms(w.heartbeat_every_ms),
        ms(w.start_grace_ms),
        ms(w.effect_within_ms),
    )
    .ok();
    text
}

fn backend(cast: &Cast, ports: Ports) -> String {
    let (name, api, resource, source, side) =
        (cast.name(Role::Backend), cast.api(), &cast.resource, &cast.source, &cast.side);
    format!(
        r#"  {name}:
    inbox: inbox
    deliverables:
      auth-api:
        title: Sessions
        estimate: {{estimate}}
        checks:
          - directory: {{ path: {source}/api/auth, min_files: 3 }}
      {api}:
        title: GET /api/{resource}
        estimate: {{estimate}}
        weight: 3
        checks:
          - file: {{ path: {route}, contains: "export async function GET", forbids: [TODO] }}
          - http: {{ url: "http://{host}:{port}/api/{resource}", status: 200, json: {{ /{resource}/0/id: present }} }}
      {side}:
        estimate: {{estimate}}
        checks: [ {{ directory: {{ path: {side}, min_files: 400 }} }} ]
"#,
        route = cast.route_path(),
        host = ports.host_of(name),
        port = ports.api,
    )
}

fn frontend(cast: &Cast) -> String {
    let (name, backend, api, source) = (cast.name(Role::Frontend), cast.name(Role::Backend), cast.api(), &cast.source);
    format!(
        r#"  {name}:
    inbox: inbox
    quota: {{ cpu: {CPU_LIMIT}, memory: {MEMORY_LIMIT_MIB}MiB }}
    deliverables:
      layout:
        estimate: {{estimate}}
        checks: [ {{ file: {{ path: {source}/layout.tsx }} }} ]
      login-page:
        estimate: {{estimate}}
        needs: [{backend}/auth-api]
        checks: [ {{ file: {{ path: {source}/login/page.tsx }} }} ]
      {list}:
        estimate: {{estimate}}
        weight: 2
        needs: [{backend}/{api}]
        checks:
          - file: {{ path: {page}, forbids: [TODO] }}
          - directory: {{ path: {dir}, min_files: 4 }}
"#,
        list = cast.list(),
        page = cast.page_path(),
        dir = cast.page_dir(),
    )
}

fn search(cast: &Cast) -> String {
    format!(
        r#"  {name}:
    inbox: inbox
    deliverables:
      embeddings:
        estimate: {{estimate}}
        checks: [ {{ file: {{ path: embeddings/model.py }} }} ]
      search:
        estimate: {{estimate}}
        needs: [{devops}/gpu-config, {devops}/{database}]
        checks: [ {{ directory: {{ path: index, min_files: 400 }} }} ]
"#,
        name = cast.name(Role::AiMl),
        devops = cast.name(Role::Devops),
        database = cast.vector_db(),
    )
}

fn devops(cast: &Cast, ports: Ports) -> String {
    format!(
        r#"  {name}:
    inbox: inbox
    deliverables:
      gpu-config:
        title: GPU configuration
        estimate: {{estimate}}
        checks:
          - file: {{ path: infra/gpu/driver.yaml }}
          - file: {{ path: infra/gpu/devices.yaml, contains: "devices:" }}
          - directory: {{ path: infra/gpu, min_files: 3 }}
      {database}:
        title: Vector database
        estimate: {{estimate}}
        checks:
          - directory: {{ path: infra/{db}, min_files: 2 }}
          - tcp: "{host}:{port}"
"#,
        name = cast.name(Role::Devops),
        database = cast.vector_db(),
        db = cast.database,
        host = ports.host_of(cast.name(Role::Devops)),
        port = ports.database,
    )
}

/// Their turn comes when devops and ai-ml are done.
fn later(cast: &Cast) -> String {
    let (search, devops, database) = (cast.name(Role::AiMl), cast.name(Role::Devops), cast.vector_db());
    format!(
        r#"  {integration}:
    inbox: inbox
    deliverables:
      pipeline:
        estimate: {{estimate}}
        needs: [{devops}/{database}, {search}/search]
        checks: [ {{ file: {{ path: pipeline/index.yaml }} }} ]
  {testing}:
    inbox: inbox
    deliverables:
      suite:
        estimate: {{estimate}}
        needs: [{search}/search]
        checks: [ {{ directory: {{ path: tests, min_files: 5 }} }} ]
"#,
        integration = cast.name(Role::Integration),
        testing = cast.name(Role::Testing),
    )
}

fn absent(cast: &Cast, pace: &Pace) -> String {
    let within = ms(pace.windows.expected_within_ms);
    format!(
        r#"  {design}:
    inbox: inbox
    expected_within: {within}
    deliverables:
      tokens:
        estimate: {{estimate}}
        checks: [ {{ directory: {{ path: {tokens}, min_files: 3 }} }} ]
  {docs}:
    inbox: inbox
    expected_within: {within}
    deliverables:
      guide:
        estimate: {{estimate}}
        checks: [ {{ file: {{ path: guide.md }} }} ]
"#,
        design = cast.name(Role::Design),
        docs = cast.name(Role::Docs),
        tokens = cast.tokens,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::{args::Windows, cast::Dice};

    #[test]
    fn whatever_the_seed_the_plan_has_no_mistake_and_no_warning() {
        for windows in [Windows::Full, Windows::Short] {
            for seed in 0..100 {
                let (cast, pace) = (Cast::of(seed), Pace::of(windows, &mut Dice::new(seed)));
                let text = yaml(&cast, &pace, Ports { api: 4001, database: 4002, by_name: false });
                let parsed = match pitwall_core::plan::parse(&text, "night.yaml") {
                    Ok(parsed) => parsed,
                    Err(mistakes) => panic!("seed {seed}: {mistakes:?}\n{text}"),
                };
                assert!(parsed.warnings.is_empty(), "seed {seed}: {:?}", parsed.warnings);
                assert_eq!(parsed.plan.agents.len(), 8, "seed {seed}");
                assert_eq!(parsed.plan.project, cast.project);
            }
        }
    }
}
