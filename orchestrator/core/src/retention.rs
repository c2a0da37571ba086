//! When a journal is compacted, and up to where. The events between two snapshots are all that a start has to read, so its
//! time does not grow with the journal's age; two snapshots are kept, so that one that a disk spoilt costs nothing but
//! time; and no event goes that the older of the two does not hold.
use crate::io::Millis;

/// A start replays at most about twice as many: what comes while one is made, and the older one where the newer is bad.
pub const SNAPSHOT_EVERY: u64 = 10_000;
/// Of what is kept: a project in which little happens has its old events compacted too.
const SNAPSHOTS_PER_KEEP: i64 = 8;
/// Events that go in one piece: appends wait for no longer than that takes.
pub const FORGET_AT_ONCE: u64 = 1_000;

/// An event's place in a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    pub sequence: u64,
    pub at: Millis,
}

/// What a journal holds of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The oldest event that is there; `None`: there is none.
    pub first: Option<Place>,
    /// The last event that ever was; 0: none was.
    pub last: u64,
    /// Newest first.
    pub snapshots: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a snapshot of what the history up to its last event adds up to.
    Snapshot,
    /// Events up to this one may go, those that are at least as old as `before`.
    Forget { up_to: u64, before: Millis },
}

/// What is to be done now, if anything; asked again after each step.
pub fn next_step(now: Millis, keep_ms: u64, kept: &Kept) -> Option<Step> {
    let first = kept.first?;
    let keep = Millis::try_from(keep_ms).unwrap_or(Millis::MAX);
    let newest = kept.snapshots.first();
    let since = kept.last.saturating_sub(newest.map_or(first.sequence.saturating_sub(1), |s| s.sequence));
    // From the last snapshot, or from the first event, where there is none.
    let age = now.saturating_sub(newest.map_or(first.at, |s| s.at));
    if since >= SNAPSHOT_EVERY || (since > 0 && age >= keep / SNAPSHOTS_PER_KEEP) {
        return Some(Step::Snapshot);
    }
    let [_, older, ..] = kept.snapshots.as_slice() else { return None };
    let before = now.saturating_sub(keep);
    let up_to = older.sequence.min(first.sequence.saturating_add(FORGET_AT_ONCE - 1));
    (first.at < before && first.sequence <= up_to).then_some(Step::Forget { up_to, before })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Millis = 3_600_000;
    const KEEP: u64 = 8 * 3_600_000;

    fn place(sequence: u64, at: Millis) -> Place {
        Place { sequence, at }
    }

    fn step(now: Millis, first: Option<Place>, last: u64, snapshots: &[Place]) -> Option<Step> {
        next_step(now, KEEP, &Kept { first, last, snapshots: snapshots.to_vec() })
    }

    #[test]
    fn a_snapshot_is_due_after_many_events_or_a_part_of_what_is_kept() {
        let first = Some(place(1, 0));
        assert_eq!(step(0, None, 0, &[]), None, "nothing is there");
        assert_eq!(step(HOUR - 1, first, 5, &[]), None);
        assert_eq!(step(HOUR, first, 5, &[]), Some(Step::Snapshot));
        assert_eq!(step(HOUR, first, 5, &[place(5, 0)]), None, "nothing came since");
        assert_eq!(step(HOUR, first, 6, &[place(5, 1)]), None);
        assert_eq!(step(HOUR + 1, first, 6, &[place(5, 1)]), Some(Step::Snapshot));
        assert_eq!(step(0, first, SNAPSHOT_EVERY - 1, &[]), None);
        assert_eq!(step(0, first, SNAPSHOT_EVERY, &[]), Some(Step::Snapshot));
        assert_eq!(step(0, first, SNAPSHOT_EVERY + 4, &[place(5, 0)]), None);
        assert_eq!(step(0, first, SNAPSHOT_EVERY + 5, &[place(5, 0)]), Some(Step::Snapshot));
        assert_eq!(step(-HOUR, first, 5, &[]), None, "a clock that was set back");
    }

    #[test]
    fn old_events_go_in_pieces_and_never_beyond_the_older_snapshot() {
        let now = 10 * HOUR;
        let snapshots = [place(5_000, now), place(4_000, now)];
        let forget = |up_to| Some(Step::Forget { up_to, before: 2 * HOUR });
        assert_eq!(step(now, Some(place(1, 0)), 5_000, &snapshots), forget(1_000));
        assert_eq!(step(now, Some(place(3_500, 0)), 5_000, &snapshots), forget(4_000));
        assert_eq!(step(now, Some(place(4_001, 0)), 5_000, &snapshots), None, "only the newer one holds it");
        assert_eq!(step(now, Some(place(1, 2 * HOUR)), 5_000, &snapshots), None, "young enough");
        assert_eq!(step(now, Some(place(1, 0)), 5_000, &snapshots[..1]), None, "one snapshot is none to lose");
        assert_eq!(next_step(now, u64::MAX, &Kept { first: Some(place(1, 0)), last: 9, snapshots: vec![] }), None);
    }
}
