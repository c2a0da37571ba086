//! A join token as text: both sides read and write it here. It holds the token's id, its secret, and the fingerprint
//! of the authority that made it, so that whoever joins knows whom it may trust before it sends the secret.
use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

const PREFIX: &str = "pw1.";
pub const ID_BYTES: usize = 8;
pub const SECRET_BYTES: usize = 32;
pub const FINGERPRINT_BYTES: usize = 32;
const BYTES: usize = ID_BYTES + SECRET_BYTES + FINGERPRINT_BYTES;

/// Debug shows no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub id: [u8; ID_BYTES],
    pub secret: [u8; SECRET_BYTES],
    /// SHA-256 of the authority's certificate, DER.
    pub authority: [u8; FINGERPRINT_BYTES],
}

/// Why a text is no token. It never holds the text: that may be a secret with one letter missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAToken {
    Prefix,
    Encoding,
    Length,
}

impl fmt::Display for NotAToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prefix => "a join token begins with pw1.",
            Self::Encoding => "the join token holds characters that no token has",
            Self::Length => "the join token is not whole: copy all of its one line",
        })
    }
}

impl std::error::Error for NotAToken {}

impl FromStr for JoinToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(NotAToken::Prefix)?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| NotAToken::Encoding)?;
        let (id, rest) = bytes.split_first_chunk().ok_or(NotAToken::Length)?;
        let (secret, rest) = rest.split_first_chunk().ok_or(NotAToken::Length)?;
        let authority = rest.try_into().map_err(|_| NotAToken::Length)?;
        Ok(Self { id: *id, secret: *secret, authority })
    }
}

/// The text that is handed out, secret included.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.secret);
        bytes.extend_from_slice(&self.authority);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", hex(&self.id))
    }
}

/// Lower case, as ids and fingerprints are shown.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_hides_its_secret() {
        let token = JoinToken { id: [1; ID_BYTES], secret: [2; SECRET_BYTES], authority: [3; FINGERPRINT_BYTES] };
        let text = token.to_string();
        assert_eq!(format!("  {text}\n").parse(), Ok(token.clone()));
        assert_eq!(format!("{token:?}"), "JoinToken(0101010101010101)");
        let table = [
            ("", NotAToken::Prefix),
            ("pw2.AAAA", NotAToken::Prefix),
            ("pw1.", NotAToken::Length),
            ("pw1.AA=A", NotAToken::Encoding),
            (&text[..text.len() - 4], NotAToken::Length),
            (&format!("{text}AAAA"), NotAToken::Length),
        ];
        for (text, why) in table {
            assert_eq!(text.parse::<JoinToken>(), Err(why), "{text}");
        }
    }
}
