//! Whom to follow: the epoch first, whatever the lineage.
use pitwall_proto::{mutant, state, v1};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Follow,
    /// Another history than before: it knows nothing of what was acknowledged.
    Resync,
    Refuse(String),
}

pub(super) fn judge(held: &state::Cursor, welcome: &v1::Welcome) -> Verdict {
    if welcome.epoch < held.epoch && !mutant!("epoch-not-checked") {
        let why = format!(
            "the orchestrator has epoch {}, this sidecar has seen {}: another one took over",
            welcome.epoch, held.epoch
        );
        return Verdict::Refuse(why);
    }
    let other = !mutant!("lineage-ignored") && !held.lineage.is_empty() && held.lineage != welcome.lineage;
    match (other, welcome.epoch > held.epoch) {
        (true, false) => Verdict::Refuse(format!(
            "the orchestrator has another history ({} and not {}) at the same epoch {}",
            welcome.lineage, held.lineage, held.epoch
        )),
        (true, true) => Verdict::Resync,
        (false, _) => Verdict::Follow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_compared_first_whatever_the_lineage() {
        let held = |lineage: &str, epoch| state::Cursor { lineage: lineage.into(), epoch, ..Default::default() };
        let says = |lineage: &str, epoch| v1::Welcome { lineage: lineage.into(), epoch, ..Default::default() };
        assert_eq!(judge(&held("", 0), &says("a", 5)), Verdict::Follow);
        assert_eq!(judge(&held("a", 5), &says("a", 5)), Verdict::Follow);
        assert_eq!(judge(&held("a", 5), &says("a", 6)), Verdict::Follow);
        assert_eq!(judge(&held("a", 5), &says("b", 6)), Verdict::Resync);
        for refused in [says("a", 4), says("b", 4), says("b", 5)] {
            assert!(matches!(judge(&held("a", 5), &refused), Verdict::Refuse(_)), "{refused:?}");
        }
    }
}
