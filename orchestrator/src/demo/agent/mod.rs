//! The agents of the night: real processes that write real files, burn real CPU and serve real sockets. They know
//! their workspace and their inbox and nothing else of this crate. One that cannot do its work ends with an error.
mod backend;
mod files;
mod frontend;
mod http;
mod others;
pub mod part;
mod runaway;

use std::{
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

pub use http::get;
use part::{Part, Work};

/// How often an agent looks whether something is due.
const STEP: Duration = Duration::from_millis(25);

/// Runs one agent until it is ended from outside.
pub fn run(part: &Path) -> io::Result<()> {
    let part = Part::load(part)?;
    if let Some(lifeline) = &part.lifeline {
        hold_on_to(lifeline)?;
    }
    match part.work.clone() {
        Work::Backend(work) => backend::run(&part, &work),
        Work::Frontend(work) => frontend::run(&part, &work),
        Work::Devops(work) => others::devops(&part, &work),
        Work::Search(work) => others::search(&part, &work),
        Work::Patient => others::patient(&part),
        Work::Author { files, every_ms } => others::author(&part, &files, every_ms),
        Work::Runaway(work) => runaway::run(&part, &work),
    }
}

/// Ends this process when the demo's end of the FIFO is gone. Sidecars end their agents, and an agent outlives a
/// killed sidecar: without this, killing the demo and its sidecars together would leave agents behind.
fn hold_on_to(lifeline: &Path) -> io::Result<()> {
    let path = lifeline.to_owned();
    // Opening blocks until the other end is open, which it is while the demo lives.
    thread::Builder::new().name("lifeline".into()).spawn(move || {
        let mut byte = [0_u8; 1];
        if let Ok(mut fifo) = std::fs::File::open(&path) {
            while matches!(io::Read::read(&mut fifo, &mut byte), Ok(1..)) {}
        }
        std::process::exit(0);
    })?;
    Ok(())
}

/// Time since this agent began.
#[derive(Clone, Copy, Debug)]
struct Since(Instant);

impl Since {
    fn now() -> Self {
        Self(Instant::now())
    }

    fn ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Comes due again and again; what was missed on a slow machine is not made up for.
#[derive(Clone, Copy, Debug)]
struct Every {
    ms: u64,
    next: u64,
}

impl Every {
    fn new(ms: u64) -> Self {
        Self { ms, next: ms }
    }

    fn due(&mut self, now_ms: u64) -> bool {
        if now_ms < self.next {
            return false;
        }
        self.next = now_ms + self.ms;
        true
    }
}

/// Items that each come due once, in order.
#[derive(Clone, Debug)]
struct Agenda<T> {
    left: std::collections::VecDeque<(u64, T)>,
}

impl<T> Agenda<T> {
    fn new(mut items: Vec<(u64, T)>) -> Self {
        items.sort_by_key(|(at, _)| *at);
        Self { left: items.into() }
    }

    fn due(&mut self, now_ms: u64) -> Option<T> {
        if self.left.front()?.0 > now_ms {
            return None;
        }
        self.left.pop_front().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agenda_is_worked_off_in_order() {
        let mut agenda = Agenda::new(vec![(20, "b"), (10, "a")]);
        assert_eq!(agenda.due(5), None);
        assert_eq!((agenda.due(30), agenda.due(30), agenda.due(30)), (Some("a"), Some("b"), None));
    }

    #[test]
    fn what_comes_again_and_again_does_not_make_up_for_what_was_missed() {
        let mut every = Every::new(10);
        assert!(!every.due(9));
        assert!(every.due(100));
        assert!(!every.due(109));
        assert!(every.due(110));
    }
}
