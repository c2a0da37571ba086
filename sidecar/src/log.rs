//! What the operator reads on stderr. Written by a thread of its own through a bounded queue: a stderr that nobody
//! empties must not stop the sidecar. Lines that find no room are counted, and the count is told later.
use std::{
    io::Write as _,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

/// Lines that may wait for stderr.
const QUEUE: usize = 256;
/// A line is cut here: a message of the other side must not flood a terminal.
const LINE_MAX: usize = 2_000;
/// How long `flush` waits at the end of the process.
const FLUSH: Duration = Duration::from_millis(500);

static LINES: OnceLock<SyncSender<Line>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Line {
    Text(String),
    Flush(SyncSender<()>),
}

/// `who` stands before every line, for example "pitwall-sidecar backend".
pub fn start(who: String) {
    let (sender, lines) = sync_channel(QUEUE);
    if LINES.set(sender).is_err() {
        return;
    }
    let writer = move || {
        while let Ok(line) = lines.recv() {
            match line {
                Line::Text(text) => {
                    let mut stderr = std::io::stderr().lock();
                    let dropped = DROPPED.swap(0, Ordering::Relaxed);
                    if dropped > 0 {
                        let _ = writeln!(stderr, "{who}: {dropped} lines were dropped, stderr was not read");
                    }
                    let _ = writeln!(stderr, "{who}: {text}");
                }
                Line::Flush(done) => {
                    let _ = done.try_send(());
                }
            }
        }
    };
    // Without the thread the queue fills and lines are counted as dropped: silence, no stop.
    let _ = std::thread::Builder::new().name("log".into()).spawn(writer);
}

/// One line. `severe`: the operator has to do something.
pub fn say(severe: bool, text: &str) {
    let Some(lines) = LINES.get() else { return };
    let mut line = String::with_capacity(text.len().min(LINE_MAX) + 9);
    if severe {
        line.push_str("warning: ");
    }
    line.extend(text.chars().take(LINE_MAX).map(|c| if c.is_control() { ' ' } else { c }));
    if lines.try_send(Line::Text(line)).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for a moment until what was said is written.
pub fn flush() {
    let Some(lines) = LINES.get() else { return };
    let (sender, done) = sync_channel(1);
    if lines.try_send(Line::Flush(sender)).is_ok() {
        let _ = done.recv_timeout(FLUSH);
    }
}
