//! A state file: what is durable, and the one write that is not yet.

#[derive(Clone, Debug)]
pub enum Write {
    Append(Vec<u8>),
    /// Written beside it and renamed: the old one or the new one.
    Replace(Vec<u8>),
}

#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub bytes: Vec<u8>,
    pub unsynced: Option<(u64, Write)>,
    pub full_until: u64,
}

impl Disk {
    /// What the kernel was given reaches the disk.
    pub fn sync(&mut self) {
        match self.unsynced.take() {
            Some((_, Write::Append(bytes))) => self.bytes.extend(bytes),
            Some((_, Write::Replace(bytes))) => self.bytes = bytes,
            None => {}
        }
    }

    /// The power failed; `part` bytes of an append had reached it.
    pub fn lose_unsynced(&mut self, part: usize) {
        if let Some((_, Write::Append(bytes))) = self.unsynced.take() {
            self.bytes.extend(&bytes[..part.min(bytes.len().saturating_sub(1))]);
        }
    }
}
