//! The one file with this sidecar's key and certificate: readable by its owner only, replaced as a whole, durable. The key
//! is made once, before anything is asked for, so that a join whose answer was lost is repeated with the same key.
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use pitwall_proto::{
    join::{JoinToken, hex},
    v1,
};
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde::{Deserialize, Serialize};

use crate::clock;

pub const FILE: &str = "identity.json";
const SIZE_MAX: u64 = 256 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("cannot {what} {}: {why}", path.display())]
    File { what: &'static str, path: PathBuf, why: String },
    #[error("cannot make a key: {0}")]
    Key(String),
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    pub key_pem: String,
    pub certificate: Option<Certificate>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    pub certificate_pem: String,
    pub authority_pem: String,
    pub subject: String,
    /// The token that it came by.
    pub token: String,
    /// How long it counted when it was made.
    pub life_ms: u64,
    /// Unix milliseconds, by this machine's clock: for the next process.
    expires_wall_ms: i64,
    /// Boot time, for this one.
    #[serde(skip)]
    expires_boot_ms: u64,
}

impl Certificate {
    /// As the orchestrator answered to a token. The authority must be the one that the token names.
    pub fn of(answered: Option<v1::Certificate>, token: &JoinToken) -> Result<Self, String> {
        let answered = answered.ok_or("the orchestrator answered without a certificate")?;
        if super::tls::fingerprint(&answered.authority_pem)? != token.authority {
            return Err("the authority that the orchestrator told is not the one that the join token names".into());
        }
        Ok(Self::new(answered, hex(&token.id)))
    }

    /// As the orchestrator answered to a renewal. The authority stays the one that was joined.
    pub fn renewed(answered: Option<v1::Certificate>, held: &Self) -> Result<Self, String> {
        let answered = answered.ok_or("the orchestrator answered without a certificate")?;
        Ok(Self { authority_pem: held.authority_pem.clone(), ..Self::new(answered, held.token.clone()) })
    }

    fn new(answered: v1::Certificate, token: String) -> Self {
        Self {
            certificate_pem: answered.certificate_pem,
            authority_pem: answered.authority_pem,
            subject: answered.subject,
            token,
            life_ms: answered.valid_for_ms,
            expires_wall_ms: clock::wall_ms().saturating_add_unsigned(answered.valid_for_ms),
            expires_boot_ms: clock::boot_ms().saturating_add(answered.valid_for_ms),
        }
    }

    pub fn left_ms(&self) -> u64 {
        self.expires_boot_ms.saturating_sub(clock::boot_ms())
    }
}

impl Kept {
    pub fn load_or_make(path: &Path) -> Result<Self, KeptError> {
        let failed = |what, why: String| KeptError::File { what, path: path.into(), why };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate().map_err(|error| KeptError::Key(error.to_string()))?;
                let made = Self { key_pem: key.serialize_pem(), certificate: None };
                made.save(path)?;
                return Ok(made);
            }
            Err(error) => return Err(failed("read", error.to_string())),
        };
        let mut text = String::new();
        file.take(SIZE_MAX).read_to_string(&mut text).map_err(|error| failed("read", error.to_string()))?;
        let mut kept: Self = serde_json::from_str(&text)
            .map_err(|error| failed("understand", format!("{error}; move it away to join again")))?;
        if let Some(held) = &mut kept.certificate {
            let left = u64::try_from(held.expires_wall_ms.saturating_sub(clock::wall_ms())).unwrap_or(0);
            // A clock that was set back must not make it live longer.
            held.expires_boot_ms = clock::boot_ms().saturating_add(left.min(held.life_ms));
        }
        Ok(kept)
    }

    pub fn save(&self, path: &Path) -> Result<(), KeptError> {
        let failed = |why: String| KeptError::File { what: "write", path: path.into(), why };
        let text = serde_json::to_vec(self).map_err(|error| failed(error.to_string()))?;
        let beside = path.with_extension("new");
        let write = || -> io::Result<()> {
            match fs::remove_file(&beside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, path)?;
            File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|error| failed(error.to_string()))
    }

    /// A signing request for our key, DER. It asks for the name of our agent, so that a token for another one is refused
    /// before it is spent.
    pub fn request(&self, agent: &str) -> Result<Vec<u8>, String> {
        let unusable = |error: rcgen::Error| format!("the key in the state directory cannot be used: {error}");
        let key = KeyPair::from_pem(&self.key_pem).map_err(unusable)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, agent);
        Ok(params.serialize_request(&key).map_err(unusable)?.der().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn certificate(valid_for_ms: u64) -> Certificate {
        Certificate::new(v1::Certificate { valid_for_ms, ..Default::default() }, "t".into())
    }

    #[test]
    fn the_key_is_made_once_and_only_the_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let made = Kept::load_or_make(&path).unwrap();
        assert_eq!(Kept::load_or_make(&path).unwrap().key_pem, made.key_pem);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(made.request("a").unwrap(), [] as [u8; 0]);
    }

    #[test]
    fn a_certificate_counts_as_long_after_a_restart_and_never_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut kept = Kept::load_or_make(&path).unwrap();
        for (life, expires_in, most) in
            [(60_000, 60_000, 60_000), (60_000, 10_000, 10_000), (60_000, 9_000_000, 60_000)]
        {
            let mut held = certificate(life);
            held.expires_wall_ms = clock::wall_ms() + expires_in;
            kept.certificate = Some(held);
            kept.save(&path).unwrap();
            let left = Kept::load_or_make(&path).unwrap().certificate.unwrap().left_ms();
            assert!(left <= most && left + 5_000 > most, "{left} of {most}");
        }
        kept.certificate = Some(Certificate { expires_wall_ms: 0, ..certificate(1) });
        kept.save(&path).unwrap();
        assert_eq!(Kept::load_or_make(&path).unwrap().certificate.unwrap().left_ms(), 0);
    }

    #[test]
    fn a_file_that_is_not_ours_is_told_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        fs::write(&path, "{").unwrap();
        assert!(Kept::load_or_make(&path).err().unwrap().to_string().contains("move it away"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "{");
    }
}
