//! Plans of the simulated project, and what is true of it by the agents' files alone.

/// The others than the first come and go: another rule, another deliverable, an agent less.
pub const PLANS: usize = 3;
pub const WITHOUT_B: usize = 3;
/// The first, without what would go on for ever: holds while everything comes to rest.
pub const RESTING: usize = 4;
/// More than half of so many can vanish at once (rule 8).
pub const CROWD: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
pub const PAIR: [&str; 2] = ["a", "b"];

pub const FRESH_FOR_MS: u64 = 15_000;
pub const HYSTERESIS_MS: u64 = 1_000;
/// What an agent may use.
pub const QUOTA_CORES: f64 = 1.0;
pub const HEARTBEAT_MS: u64 = 3_000;

pub fn text(variant: usize, agents: &[&str]) -> String {
    let two = match variant {
        1 => "      two: { checks: [ { file: a-other.txt }, { file: a-more.txt } ] }\n",
        2 => "      two: { checks: [ { file: a-two.txt } ] }\n      three: { checks: [ { file: a-one.txt } ] }\n",
        _ => "      two: { checks: [ { file: a-two.txt }, { file: a-more.txt } ] }\n",
    };
    let mut text = String::from(
        "project: sim\n\
         windows: { heartbeat_every: 3s, start_grace: 10s, command_expiry: 20s, result_grace: 20s, effect_within: 30s }\n\
         defaults: { expected_within: 20s, stall_after: 40s, activity_every: 5s, sample_every: 2s, quota: { cpu: { hard: 1, on_exceed: KILLS, cooldown: 10s }, for: 3s },\n  \
         checks: { every: 5s, fresh_for: 15s, hysteresis: 1s } }\n\
         agents:\n  a:\n    deliverables:\n      one: { checks: [ { file: a-one.txt } ] }\n",
    );
    text = text.replace("KILLS", if variant == RESTING { "warn" } else { "kill_process" });
    text += two;
    for agent in &agents[1..] {
        let needs = match *agent {
            "b" if variant == WITHOUT_B => continue,
            "b" => "needs: [a/one], ",
            _ => "",
        };
        text += &format!(
            "  {agent}:\n    deliverables:\n      page: {{ estimate: 1m, {needs}checks: [ {{ file: {agent}-page.txt }} ] }}\n"
        );
    }
    text
}

/// Files that the checks of any plan look for.
pub fn files_of(agent: &str) -> Vec<String> {
    match agent {
        "a" => ["a-one.txt", "a-two.txt", "a-more.txt", "a-other.txt"].map(String::from).to_vec(),
        other => vec![format!("{other}-page.txt")],
    }
}

/// Deliverables of the first plan, and what proves them.
pub fn truth(agent: &str) -> Vec<(&'static str, Vec<String>)> {
    match agent {
        "a" => vec![("one", vec!["a-one.txt".into()]), ("two", vec!["a-two.txt".into(), "a-more.txt".into()])],
        other => vec![("page", vec![format!("{other}-page.txt")])],
    }
}
