//! Plans with short windows, so that tests wait for seconds; no clock is scaled.

/// The windows; agents are added below.
pub const WINDOWS: &str = "
project: e2e
windows: { heartbeat_every: 500ms, start_grace: 3s, command_expiry: 10s, result_grace: 2s, effect_within: 10s }
defaults:
  expected_within: 20s
  stall_after: 60s
  misdirected_after: 60s
  activity_every: 500ms
  sample_every: 500ms
  rescan_every: 500ms
  checks: { every: 500ms, fresh_for: 3s, hysteresis: 500ms, timeout: 1s }
";

/// A plan with these agents, as YAML below `agents:`.
pub fn with(agents: &str) -> String {
    format!("{WINDOWS}agents:\n{agents}")
}

/// One agent that owes one file with a text in it.
pub fn writer() -> String {
    with(
        "  writer:
    deliverables:
      page:
        checks:
          - file: { path: app/page.tsx, contains: \"export default\", forbids: [TODO] }
",
    )
}
