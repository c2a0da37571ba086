//! A clock for derivations: it answers "has this moment come?" and remembers the next one that has not.
//! So a rule cannot look at time without its deadline being known.
use std::cell::RefCell;

use crate::io::Millis;

#[derive(Debug)]
pub struct Clock {
    now: Millis,
    next: RefCell<Option<(Millis, String)>>,
}

impl Clock {
    pub fn at(now: Millis) -> Self {
        Self { now, next: RefCell::new(None) }
    }

    pub fn now(&self) -> Millis {
        self.now
    }

    /// Whether `moment` has come. If not, it is a deadline for the reason that `why` tells.
    pub fn reached(&self, moment: Millis, why: impl FnOnce() -> String) -> bool {
        if moment <= self.now {
            return true;
        }
        let mut next = self.next.borrow_mut();
        if next.as_ref().is_none_or(|(earliest, _)| moment < *earliest) {
            *next = Some((moment, why()));
        }
        false
    }

    /// The earliest moment that was asked for and has not come.
    pub fn next_deadline(&self) -> Option<(Millis, String)> {
        self.next.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembers_the_earliest_future_moment_only() {
        let clock = Clock::at(100);
        assert!(clock.reached(100, || "now".into()));
        assert!(!clock.reached(300, || "later".into()));
        assert!(!clock.reached(200, || "soon".into()));
        assert!(!clock.reached(250, || "between".into()));
        assert_eq!(clock.next_deadline(), Some((200, "soon".into())));
    }
}
