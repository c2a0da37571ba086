//! What ends a server from outside, and the deadline that holds even when nothing else does.
use std::{io, thread, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

/// The last resort: a drain bounds itself below this.
pub const EXIT_WITHIN: Duration = Duration::from_secs(10);

/// Completes with the reason to end. Installed when called, so that a signal before the first poll counts too.
pub fn end_asked(until_stdin_eof: bool) -> io::Result<impl Future<Output = &'static str>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let (tell_eof, eof) = oneshot::channel();
    if until_stdin_eof {
        // A thread that nobody waits for: a read of standard input cannot be cancelled.
        thread::Builder::new().name("stdin".into()).spawn(move || {
            let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
            let _ = tell_eof.send(());
        })?;
    } else {
        // Kept, so that it never tells.
        std::mem::forget(tell_eof);
    }
    Ok(async move {
        tokio::select! {
            _ = term.recv() => "terminated",
            _ = int.recv() => "interrupted",
            _ = eof => "standard input ended",
        }
    })
}

/// From now on the process ends within [`EXIT_WITHIN`], whatever hangs.
pub fn arm_deadline() {
    let armed = thread::Builder::new().name("deadline".into()).spawn(|| {
        thread::sleep(EXIT_WITHIN);
        eprintln!("pitwall: the shutdown did not end within {} s; leaving", EXIT_WITHIN.as_secs());
        std::process::exit(70);
    });
    if let Err(error) = armed {
        tracing::warn!(%error, "no deadline for the shutdown");
    }
}
