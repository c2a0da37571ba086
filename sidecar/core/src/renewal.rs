//! When a certificate is renewed: at half of its life, each sidecar a little apart from the others, and again with
//! growing pauses while that fails, so that many attempts fit into what is left.

/// The half-life varies by this share of it, both ways.
const JITTER: f64 = 0.1;
const RETRY_FIRST_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 300_000;

/// How long to wait before the first attempt, of a certificate that counts for `left_ms` more of its `life_ms`.
/// `random` is from 0 to 1.
#[must_use]
pub fn due_in(life_ms: u64, left_ms: u64, random: f64) -> u64 {
    let share = 0.5 + (random.clamp(0.0, 1.0) * 2.0 - 1.0) * JITTER * 0.5;
    let at = (life_ms as f64 * share) as u64;
    let spent = life_ms.saturating_sub(left_ms);
    at.saturating_sub(spent)
}

/// How long to wait after the attempt number `failed` (from 1) has failed: full jitter below a cap that doubles, and
/// never more than a quarter of what is left.
#[must_use]
pub fn retry_in(failed: u32, left_ms: u64, random: f64) -> u64 {
    let cap = RETRY_FIRST_MS.saturating_mul(1 << failed.min(16)).min(RETRY_MAX_MS).min(left_ms / 4);
    (cap as f64 * (0.5 + random.clamp(0.0, 1.0) / 2.0)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_renewed_around_its_half_life() {
        let day = 86_400_000;
        let table = [
            (day, day, 0.5, day / 2),
            (day, day, 0.0, day * 45 / 100),
            (day, day, 1.0, day * 55 / 100),
            (day, day * 3 / 4, 0.5, day / 4),
            (day, day / 2, 0.5, 0),
            (day, 0, 0.5, 0),
            (0, 0, 0.5, 0),
            (1_000, 2_000, 0.5, 500), // told to live longer than it does: as if new
        ];
        for (life, left, random, expected) in table {
            assert!(due_in(life, left, random).abs_diff(expected) <= 1, "{life} {left} {random}");
        }
    }

    #[test]
    fn a_failed_renewal_is_tried_again_well_before_the_end() {
        for failed in 1..40 {
            for left in [0, 1_000, 60_000, 86_400_000_u64] {
                for random in [0.0, 0.5, 1.0] {
                    let wait = retry_in(failed, left, random);
                    assert!(wait <= left / 4 && wait <= RETRY_MAX_MS, "{failed} {left} {random}: {wait}");
                }
            }
        }
        assert_eq!(retry_in(1, 86_400_000, 1.0), 2_000);
        assert_eq!(retry_in(30, 86_400_000, 1.0), RETRY_MAX_MS);
    }
}
