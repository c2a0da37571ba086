//! Waiting for a state. Deadlines are those that the product sets, times one shared slack for noisy machines.
use std::{
    future::Future,
    time::{Duration, Instant},
};

/// How much longer than the product promises a test waits.
pub const SLACK: u32 = 5;

/// Between two looks at a state.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until `seen` gives a value; fails with `what` after `promised` times [`SLACK`].
pub async fn until<T, F, Fut>(what: &str, promised: Duration, mut seen: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(value) = seen().await {
            return value;
        }
        assert!(begin.elapsed() < promised * SLACK, "{what}: not within {:?}", promised * SLACK);
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The same for what is seen without waiting for anything.
pub fn until_sync<T>(what: &str, promised: Duration, mut seen: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(value) = seen() {
            return value;
        }
        assert!(begin.elapsed() < promised * SLACK, "{what}: not within {:?}", promised * SLACK);
        std::thread::sleep(LOOK_EVERY);
    }
}
