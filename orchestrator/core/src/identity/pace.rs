//! How often somebody may do something: so many at once, then one in so long. What is known of each is one moment, and
//! who has rested long enough is forgotten, so that it is no longer than there are identities that hurry.
use std::collections::BTreeMap;

use crate::io::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// At once, after a rest.
    pub burst: u32,
    /// Then one in so long.
    pub every_ms: u32,
}

impl Pace {
    fn whole_burst(self) -> Millis {
        Millis::from(self.burst) * Millis::from(self.every_ms)
    }
}

/// More are not told apart at the same time: whoever then comes anew waits. There are fewer certificates than that.
const KNOWN_MAX: usize = 16_384;

#[derive(Clone, Debug)]
pub struct Paces {
    pace: Pace,
    /// When each will have rested completely.
    rested_at: BTreeMap<String, Millis>,
}

impl Paces {
    #[must_use]
    pub fn new(pace: Pace) -> Self {
        Self { pace, rested_at: BTreeMap::new() }
    }

    /// One more of this one's; `Err`: too soon, by so many milliseconds.
    pub fn take(&mut self, who: &str, now: Millis) -> Result<(), Millis> {
        let known = self.rested_at.get(who).copied();
        if known.is_none() && self.rested_at.len() >= KNOWN_MAX {
            self.rested_at.retain(|_, at| *at > now);
            if self.rested_at.len() >= KNOWN_MAX {
                return Err(Millis::from(self.pace.every_ms));
            }
        }
        let then = known.unwrap_or(now).max(now) + Millis::from(self.pace.every_ms);
        let too_soon = then - now - self.pace.whole_burst();
        if too_soon > 0 {
            return Err(too_soon);
        }
        self.rested_at.insert(who.to_owned(), then);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_at_a_time_and_everybody_for_himself() {
        let mut paces = Paces::new(Pace { burst: 3, every_ms: 1_000 });
        let mut took = |who: &str, now| paces.take(who, now);
        assert_eq!([0, 0, 0, 0].map(|now| took("a", now)), [Ok(()), Ok(()), Ok(()), Err(1_000)]);
        assert_eq!(took("b", 0), Ok(()));
        assert_eq!([999, 1_000, 1_000].map(|now| took("a", now)), [Err(1), Ok(()), Err(1_000)]);
        // Rested, and not for longer than that.
        assert_eq!([60_000; 4].map(|now| took("a", now)), [Ok(()), Ok(()), Ok(()), Err(1_000)]);
    }

    #[test]
    fn who_has_rested_is_forgotten_when_there_are_many() {
        let mut paces = Paces::new(Pace { burst: 2, every_ms: 10 });
        for n in 0..KNOWN_MAX {
            paces.take(&n.to_string(), 0).unwrap();
        }
        assert_eq!(paces.take("one more", 9), Err(10));
        assert_eq!(paces.take("0", 9), Ok(()));
        assert_eq!(paces.take("one more", 10), Ok(()));
        assert_eq!(paces.rested_at.len(), 2);
    }
}
