//! Framing of the state file. Pure functions, so that a test can tear a file, and flip it, at every byte.
//!
//! A frame is its length, how many facts it holds, a checksum of these two, a checksum of its payload, the payload. (Of
//! version 1, which is still read: length, its checksum, the payload's checksum, the payload.)
//!
//! A file that ends in the middle of a frame was torn by a crash while it was appended: nothing of that frame was ever
//! relied on. Anything else that does not fit is damage to what *was* relied on. What is whole behind it is read all the
//! same: by the length of the damaged frame, where its header is whole; else by looking for the next frame whose two
//! checksums fit. Of what cannot be read the header says how many facts are lost; where that is gone too, nobody knows.

use pitwall_proto::mutant;

const HEADER: usize = 16;
const HEADER_1: usize = 12;
/// No frame is larger: a length above it is damage, whatever its checksum says.
pub const PAYLOAD_MAX: usize = 64 * 1024 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Nothing,
    /// A frame that was never whole.
    TornTail {
        bytes: usize,
    },
    /// Frames that were whole once.
    Damaged {
        bytes: usize,
    },
}

/// What stands in the file, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    Whole {
        payload: &'a [u8],
        facts: Option<u32>,
    },
    /// Something that was whole once, with its facts where that is known.
    Damaged {
        bytes: usize,
        facts: Option<u32>,
    },
}

#[derive(Debug, PartialEq)]
pub struct Recovered<'a> {
    pub parts: Vec<Part<'a>>,
    /// Where appends go on: behind the last whole frame, or behind everything where something is damaged, as the file is to
    /// be written anew then.
    pub valid: usize,
    pub lost: Lost,
}

pub fn encode(payload: &[u8], facts: u32, out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut head = [0; 8];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..].copy_from_slice(&facts.to_le_bytes());
    out.extend(head);
    out.extend(crc32fast::hash(&head).to_le_bytes());
    out.extend(crc32fast::hash(payload).to_le_bytes());
    out.extend(payload);
}

/// As version 1 has it: what it knows of is left alone by a sidecar of that version too.
pub fn encode_1(payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    out.extend(length);
    out.extend(crc32fast::hash(&length).to_le_bytes());
    out.extend(crc32fast::hash(payload).to_le_bytes());
    out.extend(payload);
}

struct Header {
    size: usize,
    length: usize,
    facts: Option<u32>,
    payload_sum: u32,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn header(rest: &[u8]) -> Option<Header> {
    let length = word(rest, 0)? as usize;
    if length > PAYLOAD_MAX {
        return None;
    }
    if crc32fast::hash(&rest[..4]) == word(rest, 4)? {
        return Some(Header { size: HEADER_1, length, facts: None, payload_sum: word(rest, 8)? });
    }
    if crc32fast::hash(rest.get(..8)?) == word(rest, 8)? {
        return Some(Header { size: HEADER, length, facts: word(rest, 4), payload_sum: word(rest, 12)? });
    }
    None
}

/// The frame that begins here, if it is whole, and its size.
fn whole(rest: &[u8]) -> Option<(Part<'_>, usize)> {
    let header = header(rest)?;
    let payload = rest.get(header.size..header.size + header.length)?;
    let part = Part::Whole { payload, facts: header.facts };
    (crc32fast::hash(payload) == header.payload_sum || mutant!("bit-rot-accepted"))
        .then_some((part, header.size + header.length))
}

/// Behind a header that cannot be read: its payload is whole if the checksum that stands there says so.
fn behind_broken_header(frame: &[u8]) -> Option<Part<'_>> {
    [(HEADER, 12), (HEADER_1, 8)].into_iter().find_map(|(size, sum_at)| {
        let payload = frame.get(size..)?;
        (crc32fast::hash(payload) == word(frame, sum_at)?).then_some(Part::Whole { payload, facts: None })
    })
}

pub fn recover(bytes: &[u8]) -> Recovered<'_> {
    let mut parts = Vec::new();
    let (mut at, mut damaged) = (0, 0);
    let torn = loop {
        let rest = &bytes[at..];
        if rest.is_empty() {
            break 0;
        }
        if let Some((part, size)) = whole(rest) {
            parts.push(part);
            at += size;
            continue;
        }
        // Too short for a header, or a file system made the file longer before the bytes came.
        if rest.len() < HEADER_1 || rest.iter().all(|b| *b == 0) {
            break rest.len();
        }
        let size = match header(rest) {
            Some(header) if header.size + header.length > rest.len() => break rest.len(),
            Some(header) => {
                let size = header.size + header.length;
                parts.push(Part::Damaged { bytes: size, facts: header.facts });
                size
            }
            None if rest.len() < HEADER && is_cut_header(rest) => break rest.len(),
            None => {
                let size = (1..rest.len()).find(|k| whole(&rest[*k..]).is_some()).unwrap_or(rest.len());
                let found = behind_broken_header(&rest[..size]);
                parts.push(found.unwrap_or(Part::Damaged { bytes: size, facts: None }));
                size
            }
        };
        damaged += size;
        at += size;
    };
    let lost = match (damaged, torn) {
        (0, 0) => Lost::Nothing,
        (0, bytes) => Lost::TornTail { bytes },
        (bytes, _) => Lost::Damaged { bytes },
    };
    let valid = if damaged > 0 { bytes.len() } else { at };
    Recovered { parts, valid, lost }
}

/// The beginning of a header whose end was never written. (With its own checksum it would be one already.)
fn is_cut_header(rest: &[u8]) -> bool {
    rest.get(..8).is_some_and(|head| word(rest, 8) == Some(crc32fast::hash(head)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOADS: [&[u8]; 4] = [b"first", b"", b"a longer third frame", b"end"];

    fn facts(n: usize) -> u32 {
        n as u32 + 1
    }

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        for (n, payload) in PAYLOADS.iter().enumerate() {
            encode(payload, facts(n), &mut file);
        }
        file
    }

    fn payloads<'a>(found: &Recovered<'a>) -> Vec<&'a [u8]> {
        let whole = |part: &Part<'a>| match part {
            Part::Whole { payload, .. } => Some(*payload),
            Part::Damaged { .. } => None,
        };
        found.parts.iter().filter_map(whole).collect()
    }

    #[test]
    fn torn_at_every_byte_it_recovers_all_frames_before() {
        let file = file();
        for cut in 0..=file.len() {
            let found = recover(&file[..cut]);
            let whole = (0..=PAYLOADS.len()).rev().find(|n| {
                let size: usize = PAYLOADS[..*n].iter().map(|p| HEADER + p.len()).sum();
                size <= cut
            });
            assert_eq!(payloads(&found), PAYLOADS[..whole.expect("0 always fits")], "cut at {cut}");
            let left = cut - found.valid;
            let lost = if left == 0 { Lost::Nothing } else { Lost::TornTail { bytes: left } };
            assert_eq!(found.lost, lost, "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_loses_at_most_its_own_frame_which_says_how_much_is_lost() {
        let file = file();
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut rotten = file.clone();
                rotten[at] ^= 1 << bit;
                let found = recover(&rotten);
                assert!(matches!(found.lost, Lost::Damaged { .. }), "byte {at} bit {bit}: {:?}", found.lost);
                assert_eq!((found.parts.len(), found.valid), (PAYLOADS.len(), file.len()), "byte {at} bit {bit}");
                for (n, part) in found.parts.iter().enumerate() {
                    match part {
                        Part::Whole { payload, .. } => assert_eq!(*payload, PAYLOADS[n], "never a wrong payload"),
                        Part::Damaged { facts: lost, .. } => assert_eq!(*lost, Some(facts(n)), "byte {at} bit {bit}"),
                    }
                }
            }
        }
    }

    #[test]
    fn what_stands_behind_a_destroyed_part_is_found_again() {
        let file = file();
        for from in 0..file.len() {
            for to in from + 1..=file.len() {
                let mut rotten = file.clone();
                rotten[from..to].iter_mut().for_each(|b| *b = !*b);
                let found = recover(&rotten);
                let mut end = 0;
                for (n, payload) in PAYLOADS.iter().enumerate() {
                    let begin = end;
                    end += HEADER + payload.len();
                    if to <= begin || from >= end {
                        assert!(payloads(&found).contains(payload), "{from}..{to}: frame {n} is whole");
                    }
                }
                assert!(matches!(found.lost, Lost::Damaged { .. } | Lost::TornTail { .. }));
            }
        }
    }

    #[test]
    fn frames_of_version_1_are_read() {
        let mut file = Vec::new();
        PAYLOADS.iter().for_each(|payload| encode_1(payload, &mut file));
        encode(b"newer", 2, &mut file);
        let found = recover(&file);
        assert_eq!((payloads(&found).len(), found.lost), (5, Lost::Nothing));
        for at in 0..file.len() {
            let mut rotten = file.clone();
            rotten[at] ^= 4;
            assert!(payloads(&recover(&rotten)).len() >= 4, "byte {at}");
        }
    }

    #[test]
    fn zeros_after_the_last_frame_are_a_torn_tail() {
        let mut file = file();
        let whole = file.len();
        file.extend([0; 40]);
        let found = recover(&file);
        assert_eq!((found.valid, found.lost), (whole, Lost::TornTail { bytes: 40 }));
    }

    #[test]
    fn an_absurd_length_is_damage() {
        let mut head = u32::MAX.to_le_bytes().to_vec();
        head.extend(1u32.to_le_bytes());
        let sum = crc32fast::hash(&head).to_le_bytes();
        head.extend(sum);
        head.extend([1; 8]);
        assert_eq!(recover(&head).lost, Lost::Damaged { bytes: 20 });
    }
}
