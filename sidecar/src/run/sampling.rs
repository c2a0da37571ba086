//! Measures the agent at the plan's pace, on a thread of its own: reading `/proc` blocks. Where the loop is busy the
//! next measurement is late, and covers a longer interval; none piles up.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use pitwall_sidecar_core::io::Input;
use tokio::sync::mpsc;

use super::lines::Lines;
use crate::{probe::Processes, sample::Sampler};

/// Until a plan says otherwise.
const EVERY_DEFAULT_MS: u32 = 1_000;
const EVERY_MIN_MS: u32 = 50;

#[derive(Debug)]
pub(super) struct Sampling {
    every: SyncSender<u32>,
    lines: Arc<AtomicBool>,
}

impl Sampling {
    pub(super) fn start(mut sampler: Sampler, processes: Processes, inputs: mpsc::Sender<Input>) -> io::Result<Self> {
        let (every, paces) = sync_channel::<u32>(4);
        let lines = Arc::new(AtomicBool::new(false));
        let wanted = lines.clone();
        std::thread::Builder::new().name("sample".into()).spawn(move || {
            let mut every = pace(EVERY_DEFAULT_MS);
            let mut lines = Lines::default();
            loop {
                let next = Instant::now() + every;
                let sample = sampler.sample();
                processes.set(&sample);
                let changed = lines.look(wanted.load(Ordering::Relaxed), &sample);
                if changed.is_some_and(|lines| inputs.blocking_send(Input::CommandLines(lines)).is_err()) {
                    return;
                }
                if inputs.blocking_send(Input::Sampled(sample)).is_err() {
                    return;
                }
                match paces.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(ms) => every = pace(ms),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Self { every, lines })
    }

    /// Whether command lines are read too.
    pub(super) fn read_lines(&self, wanted: bool) {
        self.lines.store(wanted, Ordering::Relaxed);
    }

    /// From the plan; 0: the default.
    pub(super) fn every(&self, ms: u32) {
        // Full: four plans came within one measurement. The next plan sets it right, and the pace is no rule.
        let _ = self.every.try_send(ms);
    }
}

fn pace(ms: u32) -> Duration {
    Duration::from_millis(u64::from(if ms == 0 { EVERY_DEFAULT_MS } else { ms.max(EVERY_MIN_MS) }))
}
