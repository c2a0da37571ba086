//! The connection to an orchestrator: its address, whether plaintext is permitted there, and calls that always end.
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use pitwall_proto::v1::{control_service_client::ControlServiceClient, identity_service_client::IdentityServiceClient};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use super::{
    args::Connect,
    contexts,
    exit::{self, CliError, Exit, Result},
};
use crate::{discovery, identity::credentials::Credentials};

const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// An answer that takes longer is none.
const CALL_WITHIN: Duration = Duration::from_secs(20);
/// A silent connection is asked for a sign of life so often, and given up after so long without one.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_WITHIN: Duration = Duration::from_secs(10);
/// A situation of a large project is the largest answer, a plan the largest request.
const ANSWER_MAX: usize = 32 * 1024 * 1024;
const REQUEST_MAX: usize = 4 * 1024 * 1024;

#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
    project: String,
    pub url: String,
}

impl Client {
    pub async fn connect(connect: &Connect) -> Result<Self> {
        let target = target(connect)?;
        let Target { url, identity, found } = &target;
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(|error| CliError::new(Exit::Usage, format!("{url:?} is no address of an orchestrator: {error}")))?
            .user_agent(concat!("pitwall/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| CliError::internal(error.to_string()))?
            .connect_timeout(CONNECT_WITHIN)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_WITHIN)
            .keep_alive_while_idle(true);
        if let Some(directory) = identity {
            endpoint = with_tls(endpoint, &credentials(directory)?)?;
        }
        let channel = endpoint.connect().await.map_err(|error| {
            let cause = exit::innermost(&error);
            let hint = match (cause.contains("certificate"), found) {
                (false, _) if cause.contains("InvalidContentType") => {
                    "it does not speak TLS: was it started with --insecure? Then write http://, with --insecure"
                }
                (true, _) => "is --name of `pitwall serve` this address, and is the identity one of that orchestrator?",
                (false, false) => "is `pitwall serve` running, and is --orchestrator its address?",
                (false, true) => "it announced itself on this machine: is it ending, or hanging?",
            };
            CliError::new(Exit::Unreachable, format!("no orchestrator answers at {url}: {cause}")).hint(hint)
        })?;
        Ok(Self { channel, project: connect.project.clone(), url: url.clone() })
    }

    pub fn api(&self) -> ControlServiceClient<Channel> {
        ControlServiceClient::new(self.channel.clone())
            .max_decoding_message_size(ANSWER_MAX)
            .max_encoding_message_size(REQUEST_MAX)
    }

    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn identities(&self) -> IdentityServiceClient<Channel> {
        IdentityServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// For requests; empty where the orchestrator has one only.
    pub fn project(&self) -> String {
        self.project.clone()
    }
}

/// The answer, or an error that says what to do; never later than the limit.
pub async fn within<T>(
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(CALL_WITHIN, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(exit::of_status(&status)),
        Err(_) => {
            let message = format!("the orchestrator did not answer within {} s", CALL_WITHIN.as_secs());
            Err(CliError::new(Exit::Unreachable, message).hint("is it overloaded, or its disk? See its log"))
        }
    }
}

/// Where to connect, and as whom.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    url: String,
    /// `None`: plaintext.
    identity: Option<PathBuf>,
    /// By discovery.
    found: bool,
}

/// In this order: the address that was given, the context that was given, the context in use, the one on this machine.
fn target(connect: &Connect) -> Result<Target> {
    if let Some(url) = &connect.orchestrator {
        let tls = permitted(url, connect.insecure)?;
        let identity = if tls { Some(identity_for(url, connect.identity.as_deref())?) } else { None };
        return Ok(Target { url: url.clone(), identity, found: false });
    }
    // Plaintext was asked for instead of the one in use, but not instead of one that was named.
    if (!connect.insecure || connect.context.is_some())
        && let Some((name, context)) = contexts::chosen(connect.context.as_deref())?
    {
        let tls = permitted(&context.orchestrator, false)?;
        let identity = connect.identity.clone().or(context.identity).filter(|_| tls);
        if tls && identity.is_none() {
            let message = format!("the context {name} has no identity");
            return Err(CliError::new(Exit::Usage, message).hint("add it again with --identity DIR"));
        }
        return Ok(Target { url: context.orchestrator, identity, found: false });
    }
    let server = discovery::find()?;
    // It announced plaintext by itself, in a directory of this user; that it is on loopback is checked still.
    let tls = permitted(&server.url, true)?;
    let identity = connect.identity.clone().or(server.operator).filter(|_| tls);
    Ok(Target { url: server.url, identity, found: true })
}

/// What was given, or the credential that a server of this address announced on this machine.
fn identity_for(url: &str, given: Option<&Path>) -> Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let announced = discovery::list().unwrap_or_default();
    let operator = announced.into_iter().find(|server| server.url == url).and_then(|server| server.operator);
    operator.ok_or_else(|| {
        CliError::new(Exit::Usage, format!("{url} needs an identity, and none was given"))
            .hint("give --identity DIR; an admin makes one with `pitwall identity create NAME --role ROLE --out DIR`")
    })
}

/// As a person named it, so what is missing in it is theirs to put right.
pub fn credentials(directory: &Path) -> Result<Credentials> {
    Credentials::load(directory).map_err(|error| CliError::bad_input(error.to_string()))
}

/// The authority that is trusted, and the certificate that is shown.
pub fn with_tls(endpoint: Endpoint, credentials: &Credentials) -> Result<Endpoint> {
    let host = endpoint.uri().host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let tls = ClientTlsConfig::new()
        .domain_name(host)
        .ca_certificate(Certificate::from_pem(&credentials.authority_pem))
        .identity(Identity::from_pem(&credentials.certificate_pem, &credentials.key_pem));
    endpoint
        .tls_config(tls)
        .map_err(|error| CliError::bad_input(format!("the identity cannot be used: {}", exit::innermost(&error))))
}

/// Whether this address may be spoken to; `true`: by TLS.
fn permitted(url: &str, insecure: bool) -> Result<bool> {
    let refuse = |message: String, hint: &str| Err(CliError::new(Exit::Usage, message).hint(hint));
    let uri: Option<Uri> = url.parse().ok();
    let Some((scheme, host)) = uri.as_ref().and_then(|u| Some((u.scheme_str()?, u.host()?))) else {
        return refuse(format!("{url:?} is no address of an orchestrator"), "write it as https://127.0.0.1:7440");
    };
    match scheme {
        "http" if !is_loopback(host) => refuse(
            format!(
                "plaintext is permitted on loopback only, and {host} is not: anybody on the way could give commands"
            ),
            "write https://, with --identity DIR",
        ),
        "http" if !insecure => refuse(
            format!("{url} is plaintext, without any identity"),
            "if that is meant, say --insecure (or PITWALL_INSECURE=1); else write https://",
        ),
        "http" => Ok(false),
        "https" => Ok(true),
        other => refuse(format!("{other:?} is no way to reach an orchestrator"), "write it as https://127.0.0.1:7440"),
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => bare.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintext_is_for_loopback_only_and_only_when_asked() {
        let table = [
            ("http://127.0.0.1:7440", true, None),
            ("http://127.9.9.9:1", true, None),
            ("http://localhost:7440", true, None),
            ("http://[::1]:7440", true, None),
            ("http://127.0.0.1:7440", false, Some("plaintext, without any identity")),
            ("http://10.0.0.7:7440", true, Some("on loopback only, and 10.0.0.7 is not")),
            ("http://0.0.0.0:7440", true, Some("on loopback only")),
            ("http://localhost.example.com:7440", true, Some("on loopback only")),
            ("http://127.0.0.1.example.com:7440", true, Some("on loopback only")),
            ("http://127.0.0.1@example.com:7440", true, Some("on loopback only")),
            ("http://[::2]:7440", true, Some("on loopback only")),
            ("https://127.0.0.1:7440", true, None),
            ("https://pitwall.example:7440", false, None),
            ("unix:///run/pitwall", true, Some("no")),
            ("127.0.0.1:7440", true, Some("no address")),
            ("nonsense", true, Some("no address")),
            ("", true, Some("no address")),
        ];
        for (url, insecure, refused) in table {
            let told = permitted(url, insecure).err();
            match refused {
                None => assert!(told.is_none(), "{url}: {told:?}"),
                Some(part) => {
                    let error = told.unwrap_or_else(|| panic!("{url} was permitted"));
                    assert!(error.message.contains(part), "{url}: {}", error.message);
                    assert!(error.exit == Exit::Usage && error.hint.is_some());
                }
            }
        }
    }
}
