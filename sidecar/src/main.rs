//! `pitwall-sidecar`: one small process beside each agent.
use std::{ffi::OsString, process::ExitCode};

use clap::Parser as _;
use pitwall_sidecar::{act, args::Args, doctor, log, pause, run};

/// What could not be started, or ended against its will.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if let Some(code) = act::hidden(&words) {
        return ExitCode::from(code);
    }
    match words.first().and_then(|word| word.to_str()) {
        Some(pause::NAME) => {
            let Err(error) = pause::run();
            eprintln!("pitwall-sidecar pause: {error:#}");
            return ExitCode::from(FAILED);
        }
        Some(doctor::NAME) => return ExitCode::from(doctor::run(doctor::Args::parse_from(&words))),
        _ => {}
    }
    let args = Args::parse();
    log::start(format!("pitwall-sidecar {}", args.agent));
    let code = match run::run(args) {
        Ok(code) => code,
        Err(error) => {
            log::say(true, &format!("{error:#}"));
            FAILED
        }
    };
    log::flush();
    ExitCode::from(code)
}
