//! Who this sidecar is to the orchestrator. It makes its own key, joins once with a token, and keeps its certificate
//! renewed on the connection that it has; all of it lies in one file of the state directory ([`kept`]). No rule of the
//! stream is here: a connection that cannot be made is told with its reason, and the core tries again.
//!
//! Bounded: each call to the orchestrator and each wait between two renewals; the file.
mod kept;
mod tls;

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use pitwall_proto::{
    join::JoinToken,
    v1::{self, identity_service_client::IdentityServiceClient},
};
use pitwall_sidecar_core::renewal;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use self::kept::{Certificate, Kept};
use crate::{
    clock, log,
    stream::{Ended, innermost, told},
};

/// A call about identity that takes longer has failed.
const CALL: Duration = Duration::from_secs(15);
/// A token file is one line.
const TOKEN_MAX: u64 = 4_096;

/// How the orchestrator is reached.
#[derive(Clone)]
pub enum Door {
    /// `--insecure`, on loopback.
    Plaintext {
        url: Arc<str>,
    },
    Identity(Arc<Identity>),
}

pub struct Identity {
    url: Arc<str>,
    agent: Arc<str>,
    token_file: Option<PathBuf>,
    file: PathBuf,
    kept: Mutex<Kept>,
    /// The last attempt failed for who we are: a new token, where there is one, is worth a try.
    rejected: Mutex<bool>,
}

/// Why there is nothing to show to the orchestrator.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("{url} needs an identity, and {} holds none: add --join-token-file FILE (`pitwall token create --agent {agent}` makes one)", file.display())]
    NoToken { url: String, file: PathBuf, agent: String },
    #[error(transparent)]
    Kept(#[from] kept::KeptError),
}

impl Door {
    /// `state` is locked by this process.
    pub fn open(url: &str, agent: &str, state: &Path, token_file: Option<PathBuf>) -> Result<Self, Unusable> {
        if url.starts_with("http://") {
            return Ok(Self::Plaintext { url: url.into() });
        }
        let file = state.join(kept::FILE);
        let kept = Kept::load_or_make(&file)?;
        if kept.certificate.is_none() && token_file.is_none() {
            return Err(Unusable::NoToken { url: url.into(), file, agent: agent.into() });
        }
        let (kept, rejected) = (Mutex::new(kept), Mutex::new(false));
        let (url, agent) = (url.into(), agent.into());
        Ok(Self::Identity(Arc::new(Identity { url, agent, token_file, file, kept, rejected })))
    }

    pub fn url(&self) -> &str {
        match self {
            Self::Plaintext { url } => url,
            Self::Identity(identity) => &identity.url,
        }
    }

    pub async fn channel(&self, endpoint: Endpoint) -> Result<Channel, Ended> {
        match self {
            Self::Plaintext { url } => {
                endpoint.connect().await.map_err(|e| (format!("cannot connect to {url}: {}", innermost(&e)), None))
            }
            Self::Identity(identity) => identity.channel(endpoint).await,
        }
    }

    /// Renews the certificate when it is time, on this connection; never returns.
    pub async fn keep_renewed(&self, channel: Channel) {
        match self {
            Self::Plaintext { .. } => std::future::pending().await,
            Self::Identity(identity) => identity.keep_renewed(channel).await,
        }
    }

    /// The orchestrator took us for who we are.
    pub fn welcomed(&self) {
        if let Self::Identity(identity) = self {
            identity.set_rejected(false);
        }
    }

    /// What the orchestrator said to the stream, as far as it is about who we are.
    pub fn heard(&self, refusal: Option<&str>) {
        if let (Self::Identity(identity), Some(reason)) = (self, refusal)
            && (reason.starts_with("CERTIFICATE_") || reason == "AGENT_FOREIGN")
        {
            identity.set_rejected(true);
        }
    }
}

impl Identity {
    fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_rejected(&self, rejected: bool) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = rejected;
    }

    async fn channel(&self, endpoint: Endpoint) -> Result<Channel, Ended> {
        let kept = self.kept();
        let rejected = *self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        let certificate = match kept.certificate.clone().filter(|held| held.left_ms() > 0 && !rejected) {
            Some(held) => held,
            None => self.join(&endpoint, &kept).await?,
        };
        let config = tls::with_certificate(&certificate, &kept.key_pem).map_err(|why| (why, None))?;
        match tls::connect(&self.url, endpoint, config).await {
            Ok(channel) => Ok(channel),
            Err(why) => {
                // Of another authority than the one that we know, it may be: a new token would tell.
                if why.contains("certificate") {
                    self.set_rejected(true);
                }
                Err((why, None))
            }
        }
    }

    /// A certificate for our key, by a token that was not used yet or was used by us. Where that gives none, what is held
    /// may be good still: what it was refused for may have been the orchestrator's own mistake, and mended.
    async fn join(&self, endpoint: &Endpoint, kept: &Kept) -> Result<Certificate, Ended> {
        let held = kept.certificate.clone().filter(|held| held.left_ms() > 0);
        let token = match self.token() {
            Ok(token) => token,
            // What we have was refused, and there is nothing newer: it is refused again, with the reason.
            Err(why) => return held.ok_or((why, None)),
        };
        let used = kept.certificate.as_ref().is_some_and(|c| c.token == pitwall_proto::join::hex(&token.id));
        match held {
            Some(held) if used => Ok(held),
            None => self.enrol(endpoint, kept, &token).await,
            Some(held) => Ok(self.enrol(endpoint, kept, &token).await.unwrap_or_else(|(why, _)| {
                log::say(true, &format!("{why}; going on with the certificate that is held"));
                held
            })),
        }
    }

    async fn enrol(&self, endpoint: &Endpoint, kept: &Kept, token: &JoinToken) -> Result<Certificate, Ended> {
        let config = tls::pinned(token.authority);
        let channel = tls::connect(&self.url, endpoint.clone(), config).await.map_err(|why| (why, None))?;
        let signing_request = kept.request(&self.agent).map_err(|why| (why, None))?;
        let request = v1::EnrolRequest { token: token.to_string(), signing_request };
        let answer = match timeout(CALL, IdentityServiceClient::new(channel).enrol(request)).await {
            Ok(Ok(answer)) => answer.into_inner(),
            Ok(Err(status)) => {
                let (why, refusal) = told(&status);
                return Err((format!("cannot join: {why}"), refusal));
            }
            Err(_) => return Err((format!("cannot join: no answer in {} s", CALL.as_secs()), None)),
        };
        let made = Certificate::of(answer.certificate, token).map_err(|why| (why, None))?;
        log::say(false, &format!("joined as {}", made.subject));
        self.keep(made.clone()).await;
        self.set_rejected(false);
        Ok(made)
    }

    fn token(&self) -> Result<JoinToken, String> {
        let Some(file) = &self.token_file else {
            return Err("the certificate counts no more: add --join-token-file FILE with a new token".into());
        };
        let mut text = String::new();
        fs::File::open(file)
            .and_then(|file| file.take(TOKEN_MAX).read_to_string(&mut text))
            .map_err(|error| format!("cannot read the join token {}: {error}", file.display()))?;
        text.parse().map_err(|error| format!("{}: {error}", file.display()))
    }

    /// In memory at once; a disk that fails costs a renewal after the next start.
    async fn keep(&self, certificate: Certificate) {
        let kept = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.certificate = Some(certificate);
            kept.clone()
        };
        let file = self.file.clone();
        match tokio::task::spawn_blocking(move || kept.save(&file)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::say(true, &format!("the certificate is not kept: {error}")),
            Err(_) => log::say(true, "the certificate is not kept"),
        }
    }

    async fn keep_renewed(&self, channel: Channel) {
        let mut failed = 0;
        loop {
            let kept = self.kept();
            let Some(held) = kept.certificate.clone() else { return std::future::pending().await };
            let wait = match failed {
                0 => renewal::due_in(held.life_ms, held.left_ms(), random()),
                n => renewal::retry_in(n, held.left_ms(), random()),
            };
            // Never at once again and again, whatever is said about lives.
            clock::until(Some(clock::boot_ms() + wait.max(100))).await;
            let Ok(signing_request) = kept.request(&self.agent) else { return std::future::pending().await };
            let mut client = IdentityServiceClient::new(channel.clone());
            let answer = timeout(CALL, client.renew(v1::RenewRequest { signing_request })).await;
            let renewed = match answer {
                Ok(Ok(answer)) => Certificate::renewed(answer.into_inner().certificate, &held),
                Ok(Err(status)) => Err(told(&status).0),
                Err(_) => Err(format!("no answer in {} s", CALL.as_secs())),
            };
            match renewed {
                Ok(renewed) => {
                    failed = 0;
                    self.keep(renewed).await;
                }
                Err(why) => {
                    failed += 1;
                    log::say(failed > 3, &format!("the certificate was not renewed: {why}"));
                }
            }
        }
    }
}

/// From 0 to 1, for spreading only.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_token_that_gives_nothing_does_not_take_what_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let held = serde_json::json!({
            "certificate_pem": "c", "authority_pem": "a", "subject": "s", "token": "earlier",
            "life_ms": 3_600_000, "expires_wall_ms": clock::wall_ms() + 3_600_000,
        });
        let mut kept = Kept::load_or_make(&dir.path().join(kept::FILE)).unwrap();
        kept.certificate = Some(serde_json::from_value(held).unwrap());
        kept.save(&dir.path().join(kept::FILE)).unwrap();
        let token = JoinToken { id: [1; _], secret: [2; _], authority: [3; _] };
        let file = dir.path().join("token");
        fs::write(&file, token.to_string()).unwrap();
        // Nobody is there, so the token gives nothing.
        let door = Door::open("https://127.0.0.1:1", "a", dir.path(), Some(file)).unwrap();
        let Door::Identity(identity) = &door else { panic!() };
        let endpoint = Endpoint::from_static("http://127.0.0.1:1");
        let joined = identity.join(&endpoint, &identity.kept()).await.unwrap();
        assert_eq!(joined.token, "earlier");
        // Where nothing is held, that it gives nothing is the error.
        let nothing = Kept { certificate: None, ..identity.kept() };
        let (why, _) = identity.join(&endpoint, &nothing).await.err().unwrap();
        assert!(why.contains("cannot connect"), "{why}");
        // What was held against us is forgotten when we are welcome.
        let rejected = || *identity.rejected.lock().unwrap();
        door.heard(Some("CERTIFICATE_EXPIRED"));
        assert!(rejected());
        door.welcomed();
        assert!(!rejected());
    }
}
