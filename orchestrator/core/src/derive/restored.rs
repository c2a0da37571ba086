//! The finding that a restore opens: what may be lost, and who has not told again what he still has. It stays until every
//! sidecar that the backup knows has done so or is lost itself, and at least as long as any happening is shown.
use pitwall_proto::v1::{FindingKind, SidecarStatus};

use super::finding::{FindingView, shown};
use crate::{
    clock::Clock,
    state::{RestoredState, State},
    text,
};

/// Names in one message.
const NAMED_MAX: usize = 8;

pub(super) fn finding(state: &State, clock: &Clock) -> Option<FindingView> {
    let RestoredState { restored, at, waiting } = state.restored.as_ref()?;
    let is_lost = |name: &&String| state.agents.get(*name).is_none_or(|a| a.sidecar_status() == SidecarStatus::Lost);
    let (lost, due): (Vec<&String>, Vec<&String>) = waiting.iter().partition(is_lost);
    // Asked in any case, so that the moment is known.
    let fresh = shown(*at, clock);
    if due.is_empty() && !fresh {
        return None;
    }
    let (last, before) = (restored.backup_sequence, text::duration(at - restored.backup_at_ms));
    let what = match restored.found_by.as_str() {
        "" => format!("the journal was restored from a backup that ends with event {last}, {before} before"),
        agent => format!(
            "an older copy took the journal's place, which the sidecar of {agent} knows: it ended with event {last}, {before} before"
        ),
    };
    let mut message = format!("{what}: what came later is lost, but for what sidecars still have; ");
    message.push_str(&match due.as_slice() {
        [] if lost.is_empty() => "all of them have told it again".into(),
        [] => "the others have told it again".into(),
        due => format!("not told again yet by {}", names(due)),
    });
    if !lost.is_empty() {
        message.push_str(&format!("; lost, and told when it returns: {}", names(&lost)));
    }
    let next =
        "pitwall commands: what is UNKNOWN there may have taken effect, what you issued or planned since is gone";
    Some(FindingView::new(FindingKind::JournalRestored, &state.project, message, next.into(), *at))
}

fn names(all: &[&String]) -> String {
    let mut told = all.iter().take(NAMED_MAX).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    if all.len() > NAMED_MAX {
        told.push_str(&format!(" and {} more", all.len() - NAMED_MAX));
    }
    told
}
