//! Measures the agent at the plan's pace, on a thread of its own: reading `/proc` blocks. Where the loop is busy the
//! next measurement is late, and covers a longer interval; none piles up. Where the sidecar uses more than its CPU
//! budget (`pitwall_sidecar_core::budget`) the pace is slower than the plan's, and each sample says so.
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use pitwall_sidecar_core::{
    budget::Budget,
    io::{Input, Sample},
};
use tokio::sync::mpsc;

use super::lines::Lines;
use crate::{clock, log, probe::Processes, resident::Resident, sample::Sampler};

/// Until a plan says otherwise.
const EVERY_DEFAULT_MS: u32 = 1_000;
const EVERY_MIN_MS: u32 = 50;

#[derive(Debug)]
pub(super) struct Sampling {
    every: SyncSender<u32>,
    lines: Arc<AtomicBool>,
}

impl Sampling {
    pub(super) fn start(
        mut sampler: Sampler,
        mut budget: Budget,
        processes: Processes,
        inputs: mpsc::Sender<Input>,
    ) -> io::Result<Self> {
        let (every, paces) = sync_channel::<u32>(4);
        let lines = Arc::new(AtomicBool::new(false));
        let wanted = lines.clone();
        std::thread::Builder::new().name("sample".into()).spawn(move || {
            let mut plan_ms = EVERY_DEFAULT_MS;
            let mut lines = Lines::default();
            let mut resident = Resident::new(Instant::now());
            loop {
                let began = Instant::now();
                let mut sample = sampler.sample();
                keep(&mut budget, plan_ms, &mut sample);
                processes.set(&sample);
                resident.look(began);
                let changed = lines.look(wanted.load(Ordering::Relaxed), &sample);
                if changed.is_some_and(|lines| inputs.blocking_send(Input::CommandLines(lines)).is_err()) {
                    return;
                }
                if inputs.blocking_send(Input::Sampled(sample)).is_err() {
                    return;
                }
                let next = began + Duration::from_millis(budget.every_ms(plan_ms).into());
                match paces.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(ms) => plan_ms = pace(ms),
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

/// Holds the sidecar to its budget, and tells the pace with the sample.
fn keep(budget: &mut Budget, plan_ms: u32, sample: &mut Sample) {
    let interval = u64::from(sample.interval_ms);
    if let Some(change) = budget.sampled(clock::boot_ms(), interval, sample.sidecar.cpu_cores, plan_ms) {
        log::say(false, &change.told(budget.is_over()));
    }
    sample.meter.every_ms = budget.every_ms(plan_ms);
    sample.meter.cpu_budget = budget.cores();
    sample.meter.over_cpu_budget = budget.is_over();
}

fn pace(ms: u32) -> u32 {
    if ms == 0 { EVERY_DEFAULT_MS } else { ms.max(EVERY_MIN_MS) }
}
