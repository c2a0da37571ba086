//! `pitwall-footprint`: what the shipped sidecar costs (rows P1 to P3), how true its readings are, and the table of every
//! limit and every way in which it is undone. Each on real processes: `pitwall serve`, sidecars, agents, over mTLS.
//!
//! `crowd` are the agents, `stage` the orchestrator and sidecars, `measure`, `accuracy` and `rungs` the three tables,
//! `limit` (a program of its own) the unavoidable work. Standard output has one JSON object where `--json` asks for it.
use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use serde_json::{Value, json};

mod accuracy;
mod crowd;
mod measure;
mod meter;
mod peers;
mod rows;
mod rungs;
mod sink;
mod stage;

const EXAMPLES: &str = "\
Examples:
  cargo build --release -p pitwall --bin pitwall -p pitwall-footprint --bin pitwall-footprint
  cargo build --profile sidecar -p pitwall-sidecar --bin pitwall-sidecar -p pitwall-footprint --bin pitwall-footprint-limit
  target/release/pitwall-footprint --install-peers --json
  target/release/pitwall-footprint --accuracy
  target/release/pitwall-footprint --rungs --json

The table of limits on a kernel with cgroup v2 alone, where the machine has another one:
  tests/guest/run.sh -k 6.12 -t 1500 target/release/pitwall-footprint --rungs --json
Exit code 0: measured, whatever it is; 1: it could not be; with --rungs also where a limit was not undone as it should.";

/// What the shipped sidecar costs, how true its readings are, and how each of its limits is undone
#[derive(Debug, Parser)]
#[command(name = "pitwall-footprint", max_term_width = 110, after_help = EXAMPLES)]
struct Args {
    /// One JSON object on standard output; text for people goes to standard error
    #[arg(long)]
    json: bool,
    /// Over 10 minutes for each crowd, instead of 2
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// Over a few seconds: that it works, not what it costs
    #[arg(long)]
    quick: bool,
    /// Fetch collectd, both exporters and psutil first, into a cache; nothing is installed
    #[arg(long)]
    install_peers: bool,
    /// What readings report against what the kernel charged
    #[arg(long, conflicts_with_all = ["rungs", "install_peers"])]
    accuracy: bool,
    /// Every limit by every way in which it is undone, read from outside
    #[arg(long, conflicts_with = "install_peers")]
    rungs: bool,
    /// Of that table only what has this in its name; may be repeated
    #[arg(long, requires = "rungs", value_name = "TEXT")]
    only: Vec<String>,
    /// Where pitwall, pitwall-sidecar and pitwall-footprint-limit lie [default: the folders that cargo fills]
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// One of the processes that are measured
    #[command(hide = true)]
    Part {
        #[command(subcommand)]
        part: crowd::Part,
    },
}

fn main() -> Result<()> {
    let args = Args::parse();
    // A process of a crowd stays small: no runtime.
    if let Some(Part::Part { part }) = &args.part {
        return crowd::play(part);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let good = runtime.block_on(run(&args))?;
    std::process::exit(i32::from(!good));
}

async fn run(args: &Args) -> Result<bool> {
    let binaries = stage::Binaries::find(args.binaries.as_deref())?;
    if args.install_peers {
        peers::install()?;
    }
    let mut rows: Vec<Value> = Vec::new();
    let mut good = true;
    if args.rungs {
        let table = rungs::table(&args.only, args.quick).await?;
        good = table.good();
        eprint!("{}", table.text());
        rows.extend(table.json());
    } else if args.accuracy {
        let over = Duration::from_secs(if args.quick { 4 } else { 30 });
        for line in accuracy::lines(over).await? {
            eprintln!("{}", line.text());
            rows.push(line.json());
        }
    } else {
        let seconds = match (args.quick, args.long) {
            (true, _) => 5,
            (false, true) => 600,
            (false, false) => 120,
        };
        for row in measure::rows(&binaries, Duration::from_secs(seconds)).await? {
            eprintln!("{}", row.line());
            rows.push(row.json());
        }
    }
    if args.json {
        println!("{}", json!({ "kernel": rungs::kernel(), "rows": rows }));
    }
    Ok(good)
}
