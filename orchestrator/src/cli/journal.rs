//! `pitwall journal`: works on files, and needs no orchestrator.
use std::path::{Path, PathBuf};

use super::{
    args::JournalAction,
    exit::{CliError, Exit, Result},
    out::{Out, now},
    render::text,
};
use crate::store::{
    DataDir, JOURNAL, LockError, Problem, StoreError,
    copy::{self, Account},
};

pub fn run(out: Out, action: &JournalAction) -> Result<()> {
    match action {
        JournalAction::Verify { path } => {
            let journal = journal(path);
            let accounts = copy::verify(&there(&journal)?).map_err(failed)?;
            out.show(&accounts, |_| format!("{} is whole\n{}", journal.display(), told(&accounts)))
        }
        JournalAction::Backup { data, to } => {
            let accounts = copy::backup(&there(&journal(data))?, to).map_err(failed)?;
            out.show(&accounts, |_| format!("{} is a whole copy\n{}", to.display(), told(&accounts)))
        }
        JournalAction::Restore { from, data } => restore(out, from, data),
    }
}

fn restore(out: Out, from: &Path, data: &Path) -> Result<()> {
    let from = there(from)?;
    let data = DataDir::take(data).map_err(|error| match error {
        LockError::Held { .. } => {
            CliError::new(Exit::Rejected, error.to_string()).hint("end it first: it would go on with what it remembers")
        }
        LockError::Io { .. } => CliError::new(Exit::Failed, error.to_string()),
    })?;
    let restored = copy::restore(&from, &data, now()).map_err(failed)?;
    out.show(&restored, |_| {
        let mut lines = format!("{} was brought back\n{}", data.journal().display(), told(&restored.projects));
        if restored.doubted > 0 {
            let commands = text::count(restored.doubted, "command");
            lines.push_str(&format!("{commands} had not ended then: UNKNOWN now, see `pitwall commands`\n"));
        }
        if let Some(kept) = &restored.replaced {
            lines.push_str(&format!("what was there before is kept: {}\n", kept.display()));
        }
        lines
    })
}

fn journal(path: &Path) -> PathBuf {
    if path.is_dir() { path.join(JOURNAL) } else { path.to_owned() }
}

fn there(journal: &Path) -> Result<PathBuf> {
    if journal.is_file() {
        return Ok(journal.to_owned());
    }
    Err(CliError::bad_input(format!("there is no journal {}", journal.display()))
        .hint("give the directory that `pitwall serve --data` has, or a copy that `pitwall journal backup` made"))
}

fn told(accounts: &[Account]) -> String {
    let line = |a: &Account| {
        let events = usize::try_from(a.events).unwrap_or(usize::MAX);
        let kept = if a.kept_from > 1 { format!(", kept from {} on", a.kept_from) } else { String::new() };
        let at: Vec<String> = a.snapshots.iter().map(u64::to_string).collect();
        let snapshots = if at.is_empty() { String::new() } else { format!(", snapshots at {}", at.join(" and ")) };
        format!(
            "  {}  {}{kept}, the last at {}{snapshots}, lineage {}, epoch {}, state {}\n",
            text::clean(&a.project),
            text::count(events, "event"),
            text::clock(a.last_unix_ms),
            a.lineage,
            a.epoch,
            a.state_digest
        )
    };
    accounts.iter().map(line).collect()
}

fn failed(error: StoreError) -> Box<CliError> {
    match error.problem {
        Problem::Exists => CliError::bad_input(error.to_string()),
        _ => CliError::new(Exit::Failed, error.to_string()),
    }
}
