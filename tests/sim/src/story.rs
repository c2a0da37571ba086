//! What happened, as a hash over everything and, where somebody reads it, as lines.

/// FNV-1a, 64 bits: the same on every machine and of every compiler.
#[derive(Debug)]
pub struct Story {
    hash: u64,
    /// Events of the world: inputs, actions, frames, effects, writes.
    pub steps: u64,
    tell: bool,
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0100_0000_01b3;

impl Story {
    pub fn new(tell: bool) -> Self {
        Self { hash: OFFSET, steps: 0, tell }
    }

    pub fn note(&mut self, at: u64, who: &str, what: &str, bytes: &[u8]) {
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let text = who.bytes().chain(what.bytes()).map(u64::from);
        for word in std::iter::once(at).chain(text).chain(words) {
            self.hash = (self.hash ^ word).wrapping_mul(PRIME);
        }
    }

    /// A line for people.
    pub fn tell(&self, at: u64, who: &str, line: impl FnOnce() -> String) {
        if self.tell {
            println!("{:>9.3}  {who:<14} {}", at as f64 / 1_000.0, line());
        }
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }
}
