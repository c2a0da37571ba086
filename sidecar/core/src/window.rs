//! The mean of a rate over the last so many milliseconds, from samples of uneven length, in a bounded number of buckets.
use std::collections::VecDeque;

const BUCKETS: u64 = 64;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Of the first sample in it.
    from: u64,
    until: u64,
    /// Rate times milliseconds, and the milliseconds that were measured.
    sum: f64,
    measured: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Window {
    buckets: VecDeque<Bucket>,
}

impl Window {
    pub fn clear(&mut self) {
        self.buckets.clear();
    }

    /// A rate that held for the `interval` before `now`; only the last `span` is of interest.
    pub fn add(&mut self, now: u64, interval: u64, rate: f64, span: u64) {
        if interval == 0 || !rate.is_finite() {
            return;
        }
        let from = now.saturating_sub(interval);
        let width = (span / BUCKETS).max(1);
        match self.buckets.back_mut() {
            Some(last) if now.saturating_sub(last.from) <= width => {
                last.until = now;
                last.sum += rate * interval as f64;
                last.measured += interval;
            }
            _ => self.buckets.push_back(Bucket { from, until: now, sum: rate * interval as f64, measured: interval }),
        }
        let begin = now.saturating_sub(span);
        while self.buckets.front().is_some_and(|b| b.until <= begin) {
            self.buckets.pop_front();
        }
    }

    /// The mean over `[from, until]`; `None` where less than `share` of that time was measured.
    pub fn mean(&self, from: u64, until: u64, share: f64) -> Option<f64> {
        let (mut sum, mut measured) = (0.0, 0.0);
        for bucket in self.buckets.iter().filter(|b| b.until > from && b.from < until) {
            // A bucket that reaches out of it counts by the part that lies inside.
            let length = bucket.until.saturating_sub(bucket.from).max(1) as f64;
            let inside = bucket.until.min(until).saturating_sub(bucket.from.max(from)) as f64;
            let part = (inside / length).min(1.0);
            sum += bucket.sum * part;
            measured += bucket.measured as f64 * part;
        }
        let wanted = until.saturating_sub(from).max(1) as f64;
        (measured > 0.0 && measured >= share * wanted).then(|| sum / measured)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_is_of_the_window_alone() {
        let mut window = Window::default();
        for second in 1..=20 {
            window.add(second * 1_000, 1_000, if second <= 10 { 1.0 } else { 0.0 }, 10_000);
        }
        assert_eq!(window.mean(10_000, 20_000, 0.9), Some(0.0));
        let half = window.mean(14_000, 20_000, 0.9).expect("measured");
        assert!(half < 0.01, "{half}");
    }

    #[test]
    fn what_was_hardly_measured_has_no_mean() {
        let mut window = Window::default();
        window.add(1_000, 1_000, 0.5, 10_000);
        assert_eq!(window.mean(0, 10_000, 0.9), None);
        assert_eq!(window.mean(0, 1_000, 0.9), Some(0.5));
        assert_eq!(Window::default().mean(0, 10, 0.0), None);
    }

    #[test]
    fn memory_is_bounded_whatever_the_pace() {
        let mut window = Window::default();
        for ms in 1..100_000 {
            window.add(ms * 10, 10, 0.3, 600_000);
        }
        assert!(window.buckets.len() as u64 <= BUCKETS + 2, "{}", window.buckets.len());
        let mean = window.mean(400_000, 1_000_000, 0.9).expect("measured");
        assert!((mean - 0.3).abs() < 1e-6);
    }
}
