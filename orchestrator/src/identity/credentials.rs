//! What a client needs to connect, as a directory: `authority.pem`, `certificate.pem`, `key.pem`. The same three files
//! serve grpcurl (`-cacert`, `-cert`, `-key`) and every other gRPC client.
use std::path::Path;

use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{
    IdentityError, Result,
    certificate::{self, Seen},
    files,
};

pub const AUTHORITY: &str = "authority.pem";
pub const CERTIFICATE: &str = "certificate.pem";
pub const KEY: &str = "key.pem";

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub authority_pem: String,
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("certificate_pem", &self.certificate_pem).finish_non_exhaustive()
    }
}

impl Credentials {
    pub fn load(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            files::read_text(&path)?.ok_or_else(|| IdentityError::File {
                doing: "find",
                path,
                why: "an identity is a directory with authority.pem, certificate.pem and key.pem".into(),
            })
        };
        Ok(Self { authority_pem: read(AUTHORITY)?, certificate_pem: read(CERTIFICATE)?, key_pem: read(KEY)? })
    }

    /// The certificate last: a directory with a new key and an old certificate would be of no use.
    pub fn save(&self, directory: &Path) -> Result<()> {
        files::make_private_dir(directory)?;
        files::write(&directory.join(AUTHORITY), self.authority_pem.as_bytes(), files::PUBLIC)?;
        files::write(&directory.join(KEY), self.key_pem.as_bytes(), files::SECRET)?;
        files::write(&directory.join(CERTIFICATE), self.certificate_pem.as_bytes(), files::PUBLIC)
    }

    /// What its certificate says.
    pub fn seen(&self) -> Result<Seen> {
        let unreadable = |why: String| IdentityError::Crypto { doing: "read the certificate", why };
        let der = CertificateDer::from_pem_slice(self.certificate_pem.as_bytes())
            .map_err(|error| unreadable(error.to_string()))?;
        Ok(certificate::client(&der)?)
    }
}
