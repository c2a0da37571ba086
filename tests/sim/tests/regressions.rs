//! Seeds that once failed, by what was wrong. A change of the simulator makes other runs of them: that each fix is still
//! needed is shown by `tests/sim/mutants.sh`, where it can be taken back.
use pitwall_sim::run::{Faults, run};

fn holds(seed: u64) {
    let outcome = run(seed, &Faults::Drawn, false);
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 7, 4242] {
        let (one, two) = (run(seed, &Faults::Drawn, false), run(seed, &Faults::Drawn, false));
        assert_eq!((one.steps, one.hash), (two.steps, two.hash));
    }
    assert_ne!(run(1, &Faults::Drawn, false).hash, run(2, &Faults::Drawn, false).hash);
}

#[test]
fn without_faults_everything_comes_to_rest_at_what_is_true() {
    for seed in 1..=20 {
        let outcome = run(seed, &Faults::None, false);
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    }
}

/// A deliverable whose evidence had grown stale turned green for its hysteresis when a try failed.
#[test]
fn a_failing_try_does_not_make_stale_evidence_green() {
    [42, 44, 25].into_iter().for_each(holds);
}

/// What was queued in a backup may have been carried out since: it was called expired, or sent once more.
#[test]
fn a_restored_ledger_doubts_what_was_unfinished() {
    [4, 17, 54, 101, 162].into_iter().for_each(holds);
}

/// Results that only the lost history had acknowledged stayed unknown for ever.
#[test]
fn another_history_is_told_every_result() {
    [11, 51, 67, 96, 115].into_iter().for_each(holds);
}

/// Facts of a state that was set back got numbers that were in the journal already, and were dropped as known.
#[test]
fn a_state_that_was_set_back_numbers_its_facts_anew() {
    [25, 104, 136].into_iter().for_each(holds);
}

/// A state that was set back has a life number that another process had: its commands were sent once more.
#[test]
fn a_life_number_of_another_process_is_recognised() {
    [2475, 2361].into_iter().for_each(holds);
}

/// A sidecar without memory did not say that there is no agent: it was shown as running for ever.
#[test]
fn a_sidecar_without_memory_says_that_no_agent_is_there() {
    [3, 5, 7, 18, 28].into_iter().for_each(holds);
}

/// An exit that waited was told to a new history before the beginning that it ends.
#[test]
fn another_history_hears_of_beginnings_before_their_ends() {
    [4, 157, 285, 459, 477].into_iter().for_each(holds);
}

/// With a full disk the limit of a lease that had ended was held until there was room.
#[test]
fn a_full_disk_does_not_hold_an_agent() {
    [264, 795].into_iter().for_each(holds);
}

/// A directive that a crash had kept from the inbox was put there whenever the sidecar came back.
#[test]
fn a_directive_is_not_delivered_after_its_expiry() {
    [105, 166, 271].into_iter().for_each(holds);
}

/// An older verdict was shown green by what had been confirmed of a newer one.
#[test]
fn an_older_verdict_is_not_fresh_by_a_newer_ones_confirmation() {
    [664, 455].into_iter().for_each(holds);
}

/// Of a sidecar that came back without its state, the lease was shown as in effect for ever.
#[test]
fn a_lease_that_its_sidecar_does_not_have_any_more_has_ended() {
    [24, 54, 56, 67, 71].into_iter().for_each(holds);
}

/// A limit that an older copy of the state did not know to have been told ended without a word.
#[test]
fn the_end_of_a_lease_is_told_by_an_older_state_too() {
    [5260, 5786].into_iter().for_each(holds);
}

/// What was seen before an agent came (back) into the plan counted as seen when it came.
#[test]
fn evidence_of_before_the_plan_is_as_old_as_it_is() {
    [142, 205].into_iter().for_each(holds);
}

/// Across a reboot and a set clock old evidence passed for new.
#[test]
fn a_guessed_age_makes_no_evidence_fresh() {
    holds(857);
}

/// Heartbeats of a state that was not the newest confirmed what a newer one had told.
#[test]
fn a_state_that_is_not_the_newest_tells_all_anew() {
    [1595, 1846, 1179].into_iter().for_each(holds);
}

/// What holds by itself (a workspace, a quota that is kept) was never said by a state that had not said the opposite.
#[test]
fn an_older_state_gives_the_all_clear() {
    [91, 123, 47, 67].into_iter().for_each(holds);
}

/// While most were silent none was lost, so that who came back as another instance was refused for ever.
#[test]
fn a_mass_loss_makes_room_for_those_that_come_back() {
    holds(762);
}

/// Damage was cut off at the start, and forgotten if that start was the last thing that happened.
#[test]
fn damage_stays_until_the_file_is_written_anew() {
    [8, 1013, 1069].into_iter().for_each(holds);
}

/// A file that was written anew brought verdicts back whose rule had left the plan.
#[test]
fn verdicts_of_old_rules_stay_away() {
    holds(2610);
}

/// Facts were sent under numbers that were on no disk yet.
#[test]
fn new_numbers_are_told_once_they_are_durable() {
    [4716, 3208].into_iter().for_each(holds);
}

/// An orchestrator stood still until evidence was stale; the news that it fails came before it had noticed.
#[test]
fn news_after_a_pause_makes_nothing_green() {
    holds(9213);
}

/// Damage took the name of the history that had acknowledged a result; the next history was never told.
#[test]
fn results_in_a_damaged_file_are_told_to_another_history() {
    holds(9734);
}

/// The sidecar's state and the journal were both set back: nobody knew of the launch, and it was made once more.
#[test]
fn nothing_of_another_history_is_gone_on_with() {
    holds(22225);
}

/// Most of them found faults of the model; they stay, as each is made of many things at once.
#[test]
fn seeds_that_were_hard_once() {
    [402, 992, 1395, 1909, 3081, 4599, 4778, 5092, 6077, 7240, 7249, 7474, 7922, 9314, 16237, 17216, 18154, 28987]
        .into_iter()
        .for_each(holds);
}

/// A run is told as a story with its hash, and telling it does not change it.
#[test]
fn a_story_is_told_and_ends_with_the_hash_of_its_run() {
    let told = std::process::Command::new(env!("CARGO_BIN_EXE_pitwall-sim")).args(["--seed", "7", "--trace"]).output();
    let told = String::from_utf8(told.expect("the simulator runs").stdout).expect("it tells text");
    let hash = format!("trace hash {:016x}", run(7, &Faults::Drawn, false).hash);
    assert!(told.contains(&hash), "{hash} is not in what was told");
    for part in ["sidecar starts", "connects", "welcome", "appends batch", "*** "] {
        assert!(told.contains(part), "the story of seed 7 has no {part:?}");
    }
}

/// A build that did not ask for deliberate bugs has none of them: this binary links both cores. Those of the shells are
/// looked into by `tests/sim/mutants.sh`.
#[test]
fn no_deliberate_bug_is_in_a_plain_build() {
    let binary = std::fs::read(env!("CARGO_BIN_EXE_pitwall-sim")).expect("the binary is built with its tests");
    // Put together here, so that this test does not find itself.
    for name in [["act", "before", "persist"], ["kill", "without", "identity"], ["stale", "shown", "green"]] {
        let name = name.join("-");
        let there = binary.windows(name.len()).any(|w| w == name.as_bytes());
        assert!(!there, "{name} is in a plain build");
    }
}
