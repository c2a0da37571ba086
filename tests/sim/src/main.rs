//! `pitwall-sim --seeds 10000`, or one of them as a story: `pitwall-sim --seed 7 --trace`.
use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use clap::Parser;
use pitwall_sim::run::{Faults, many, run};

/// From so many seeds on, an empty cell of the matrix is a fault of the simulator.
const FULL_FROM: u64 = 10_000;

/// Runs the cores of both sides over a simulated network, disks and clocks. Exits 1 when an invariant does not hold.
#[derive(Debug, Parser)]
#[command(name = "pitwall-sim", version)]
struct Args {
    /// How many seeds, from --first on
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// This one only
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Tell it as a story
    #[arg(long, requires = "seed")]
    trace: bool,
    /// Nothing goes wrong
    #[arg(long)]
    calm: bool,
    /// Stop at the first violation
    #[arg(long)]
    until_first: bool,
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// No table of steps and faults
    #[arg(long)]
    no_matrix: bool,
    /// Only what was caught, for scripts
    #[arg(long)]
    brief: bool,
    /// Switch on this deliberate bug of the cores
    #[cfg(pitwall_mutants)]
    #[arg(long)]
    mutant: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    #[cfg(pitwall_mutants)]
    if let Some(name) = &args.mutant {
        pitwall_proto::mutant::switch_on(name);
    }
    let faults = if args.calm { Faults::None } else { Faults::Drawn };
    if let Some(seed) = args.seed {
        let outcome = run(seed, &faults, args.trace);
        println!("seed {seed}: {} steps, trace hash {:016x}", outcome.steps, outcome.hash);
        for violation in &outcome.violations {
            println!("VIOLATION {:?} at {} ms: {}", violation.invariant, violation.at, violation.text);
        }
        return if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    }
    let began = Instant::now();
    let summary = many(args.first, args.seeds, args.jobs, &faults, args.until_first);
    if args.brief {
        for outcome in &summary.failed {
            println!("caught by {:?} seed {}", outcome.violations[0].invariant, outcome.seed);
        }
        return if summary.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) };
    }
    if !args.no_matrix && !args.calm {
        println!("{}", summary.matrix.render());
        println!("{}", summary.flows.render());
        println!("{}", summary.tally.render());
    }
    let mut by_name: BTreeMap<String, Vec<&pitwall_sim::Outcome>> = BTreeMap::new();
    for outcome in &summary.failed {
        by_name.entry(format!("{:?}", outcome.violations[0].invariant)).or_default().push(outcome);
    }
    for (invariant, outcomes) in &by_name {
        println!("VIOLATION {invariant}: {} seeds", outcomes.len());
        for outcome in outcomes.iter().take(5) {
            let first = &outcome.violations[0];
            println!("  seed {} at {} ms: {}", outcome.seed, first.at, first.text);
        }
    }
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} seeds, {} steps, {} violations, {took:.1} s ({:.1} seeds/s)",
        summary.seeds,
        summary.steps,
        summary.failed.len(),
        summary.seeds as f64 / took
    );
    let empty = summary.matrix.empty_cells();
    let (absent, unjudged, wide) = (summary.flows.absent(), summary.tally.never_judged(), summary.tally.too_wide());
    let full = empty.is_empty() && absent.is_empty() && unjudged.is_empty() && wide.is_empty();
    let incomplete = args.seeds >= FULL_FROM && !args.calm && !full;
    if incomplete {
        println!("cells that nothing fell into: {empty:?}");
        println!("flows that never happened: {absent:?}; invariants that were never judged: {unjudged:?}");
        println!("exemptions that hide too much: {wide:?}");
    }
    if summary.failed.is_empty() && !incomplete { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
