//! What the kernel writes in the files of cgroups, of pressure and of network devices. Pure: text in, figures out. What is
//! not there, or is no number, is absent: garbage gives no figure, and never a panic.

/// v1 says "no limit" by a number that no machine has.
const LIMIT_MAX: u64 = 1 << 60;
/// Devices looked at in one file.
pub const DEVICES_MAX: usize = 64;

/// Bytes moved on one block device since the cgroup was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
    pub read: u64,
    pub written: u64,
}

/// Bytes on all network devices but the loopback.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub received: u64,
    pub sent: u64,
}

/// A limit that is known: the amount, or that there is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit<T> {
    Unlimited,
    At(T),
}

impl<T> Limit<T> {
    pub fn at(self) -> Option<T> {
        match self {
            Self::At(amount) => Some(amount),
            Self::Unlimited => None,
        }
    }
}

pub fn number(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |n, b| {
        if !b.is_ascii_digit() {
            return None;
        }
        n.checked_mul(10)?.checked_add(u64::from(b - b'0'))
    })
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| *b == b'\n')
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// `usage_usec 123` in a file of such lines.
pub fn keyed(text: &[u8], key: &str) -> Option<u64> {
    lines(text).find_map(|line| number(line.strip_prefix(key.as_bytes())?.strip_prefix(b" ")?))
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=20352108`
pub fn some_total(text: &[u8]) -> Option<u64> {
    let line = lines(text).find(|line| line.starts_with(b"some "))?;
    words(line).find_map(|word| number(word.strip_prefix(b"total=")?))
}

/// An amount, or `max`.
pub fn limit(text: &[u8]) -> Option<Limit<u64>> {
    match text.trim_ascii() {
        b"max" => Some(Limit::Unlimited),
        text => number(text).map(|n| if n < LIMIT_MAX { Limit::At(n) } else { Limit::Unlimited }),
    }
}

/// `50000 100000` or `max 100000`, in cores.
pub fn cpu_max(text: &[u8]) -> Option<Limit<f64>> {
    let mut words = words(text);
    let quota = words.next()?;
    let period = number(words.next()?)?;
    match quota {
        b"max" => Some(Limit::Unlimited),
        quota => cores(number(quota)?, period),
    }
}

/// v1's two files.
pub fn cfs(quota: &[u8], period: &[u8]) -> Option<Limit<f64>> {
    if quota.trim_ascii() == b"-1" { Some(Limit::Unlimited) } else { cores(number(quota)?, number(period)?) }
}

fn cores(quota: u64, period: u64) -> Option<Limit<f64>> {
    (period > 0 && quota > 0).then(|| Limit::At(quota as f64 / period as f64))
}

fn device(word: &[u8]) -> Option<(u32, u32)> {
    let colon = word.iter().position(|b| *b == b':')?;
    let part = |text: &[u8]| u32::try_from(number(text)?).ok();
    Some((part(&word[..colon])?, part(&word[colon + 1..])?))
}

/// v2: `259:0 rbytes=90112 wbytes=0 rios=5 wios=0 dbytes=0 dios=0`
pub fn io_stat(text: &[u8], into: &mut Vec<Device>) {
    into.clear();
    for line in lines(text) {
        let mut words = words(line);
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        let (mut read, mut written) = (None, None);
        for word in words {
            if let Some(value) = word.strip_prefix(b"rbytes=") {
                read = number(value);
            } else if let Some(value) = word.strip_prefix(b"wbytes=") {
                written = number(value);
            }
        }
        if let Some((read, written)) = read.zip(written)
            && into.len() < DEVICES_MAX
        {
            into.push(Device { major, minor, read, written });
        }
    }
}

/// v1: `259:0 Read 90112`, a line for each kind of transfer.
pub fn blkio(text: &[u8], into: &mut Vec<Device>) {
    into.clear();
    for line in lines(text) {
        let mut words = words(line);
        let Some((major, minor)) = words.next().and_then(device) else { continue };
        let (Some(kind), Some(bytes)) = (words.next(), words.next().and_then(number)) else { continue };
        if kind != b"Read" && kind != b"Write" {
            continue;
        }
        let at = into.iter().position(|d| (d.major, d.minor) == (major, minor));
        let at = match at {
            Some(at) => at,
            None if into.len() < DEVICES_MAX => {
                into.push(Device { major, minor, ..Device::default() });
                into.len() - 1
            }
            None => continue,
        };
        if kind == b"Read" { into[at].read = bytes } else { into[at].written = bytes }
    }
}

/// `/proc/PID/net/dev`: two lines of head, then a device each, its received bytes first and its sent ones ninth.
pub fn net_dev(text: &[u8]) -> Option<Traffic> {
    if !text.starts_with(b"Inter-|") {
        return None;
    }
    let mut all = Traffic::default();
    for line in lines(text).skip(2).filter(|line| !line.trim_ascii().is_empty()) {
        let colon = line.iter().position(|b| *b == b':')?;
        if line[..colon].trim_ascii() == b"lo" {
            continue;
        }
        let mut figures = words(&line[colon + 1..]);
        all.received = all.received.checked_add(number(figures.next()?)?)?;
        all.sent = all.sent.checked_add(number(figures.nth(7)?)?)?;
    }
    Some(all)
}

/// One pid a line. 0 is a process that is not visible in this pid namespace.
pub fn pids(text: &[u8], max: usize, into: &mut Vec<i32>) {
    let found = lines(text).filter_map(|line| i32::try_from(number(line)?).ok()).filter(|pid| *pid > 0);
    into.extend(found.take(max.saturating_sub(into.len())));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn limits_are_amounts_or_none_or_not_known() {
        for (text, meant) in [
            ("max\n", Some(Limit::Unlimited)),
            ("268435456\n", Some(Limit::At(268_435_456))),
            ("9223372036854771712\n", Some(Limit::Unlimited)),
            ("0\n", Some(Limit::At(0))),
            ("", None),
            ("maximum", None),
            ("-1", None),
        ] {
            assert_eq!(limit(text.as_bytes()), meant, "{text:?}");
        }
        for (text, meant) in [
            ("max 100000\n", Some(Limit::Unlimited)),
            ("150000 100000\n", Some(Limit::At(1.5))),
            ("4000 20000\n", Some(Limit::At(0.2))),
            ("4000 0\n", None),
            ("4000\n", None),
            ("max\n", None),
            ("x 100000\n", None),
        ] {
            assert_eq!(cpu_max(text.as_bytes()), meant, "{text:?}");
        }
        assert_eq!(cfs(b"-1\n", b"100000\n"), Some(Limit::Unlimited));
        assert_eq!(cfs(b"30000\n", b"100000\n"), Some(Limit::At(0.3)));
        assert_eq!(cfs(b"30000\n", b"\n"), None);
    }

    #[test]
    fn a_key_is_the_whole_word_and_its_value_the_whole_rest() {
        let text = b"oom 3\noom_kill 2\noom_group_kill x\nhigh 18446744073709551616\nmax 4 5\n";
        assert_eq!((keyed(text, "oom"), keyed(text, "oom_kill")), (Some(3), Some(2)));
        assert_eq!((keyed(text, "oom_group_kill"), keyed(text, "high"), keyed(text, "max")), (None, None, None));
        assert_eq!(some_total(b"some avg10=0.00 total=77\nfull avg10=0.00 total=1\n"), Some(77));
        assert_eq!(some_total(b"full avg10=0.00 total=1\n"), None);
        assert_eq!(some_total(b"some avg10=0.00 total=\n"), None);
    }

    #[test]
    fn devices_are_summed_up_by_their_number_in_both_versions() {
        let mut found = Vec::new();
        io_stat(
            b"259:0 rbytes=90112 wbytes=7 rios=5 wios=0\n8:16 rbytes=1\n254:1 \nx:1 rbytes=1 wbytes=1\n",
            &mut found,
        );
        assert_eq!(found, [Device { major: 259, minor: 0, read: 90_112, written: 7 }]);
        blkio(b"8:0 Read 5\n8:0 Write 6\n8:0 Sync 9\n8:0 Total 11\n8:1 Write 2\nTotal 13\n", &mut found);
        let meant = [(0, 5, 6), (1, 0, 2)].map(|(minor, read, written)| Device { major: 8, minor, read, written });
        assert_eq!(found, meant);
        // Where nothing counts, nothing is listed.
        blkio(b"Total 0\n", &mut found);
        assert!(found.is_empty());
    }

    #[test]
    fn traffic_is_that_of_all_devices_but_the_loopback() {
        let text =
            b"Inter-|   Receive   |  Transmit\n face |bytes packets\n    lo: 99 1 0 0 0 0 0 0 99 1 0 0 0 0 0 0\n  \
            eth0: 1000 5 0 0 0 0 0 0 200 4 0 0 0 0 0 0\neth1:7 1 0 0 0 0 0 0 3 1 0 0 0 0 0 0\n";
        assert_eq!(net_dev(text), Some(Traffic { received: 1_007, sent: 203 }));
        // A namespace without a device has no traffic; what cannot be read is another matter.
        assert_eq!(net_dev(b"Inter-| x\n face\n    lo: 1 0 0 0 0 0 0 0 1 0\n"), Some(Traffic::default()));
        for text in ["", "eth0: 1 2 3", "Inter-|\n face\neth0: 1 2 3\n", "Inter-|\n face\neth0 12\n"] {
            assert_eq!(net_dev(text.as_bytes()), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_gives_no_figure_and_never_a_panic(text in proptest::collection::vec(any::<u8>(), 0..400)) {
            let digits = text.iter().any(u8::is_ascii_digit);
            let mut devices = Vec::new();
            io_stat(&text, &mut devices);
            prop_assert!(digits || devices.is_empty());
            blkio(&text, &mut devices);
            prop_assert!(digits || devices.is_empty());
            let mut found = Vec::new();
            pids(&text, 10, &mut found);
            prop_assert!(found.len() <= 10 && (digits || found.is_empty()));
            for known in [keyed(&text, "usage_usec"), some_total(&text), number(&text)] {
                prop_assert!(digits || known.is_none());
            }
            prop_assert!(digits || !matches!(limit(&text), Some(Limit::At(_))));
            prop_assert!(digits || cpu_max(&text).is_none());
            let _ = (net_dev(&text), cfs(&text, &text));
        }

        /// Text that nearly fits: the words of these files in any order.
        #[test]
        fn words_in_any_order_give_only_figures_that_stand_there(
            parts in proptest::collection::vec(prop::sample::select(vec![
                "some ", "total=", "7", "\n", "8:0", " Read ", " rbytes=", " wbytes=", "max", " ", "usage_usec ", "-1", "eth0:", "Inter-|",
            ]), 0..40)
        ) {
            let text = parts.concat();
            let text = text.as_bytes();
            let written = |n: u64| text.windows(n.to_string().len()).any(|w| w == n.to_string().as_bytes());
            for known in [keyed(text, "usage_usec"), some_total(text)].into_iter().flatten() {
                prop_assert!(written(known), "{known}");
            }
            let mut devices = Vec::new();
            io_stat(text, &mut devices);
            for device in devices {
                prop_assert!(written(device.read) && written(device.written));
            }
            let _ = (net_dev(text), cpu_max(text), limit(text));
        }
    }
}
