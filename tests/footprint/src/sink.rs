//! Where the limit program sends to: a server with mTLS that takes every message and answers none.
use std::{fs, path::Path, pin::Pin};

use anyhow::Result;
use pitwall_proto::v1::{
    self,
    sidecar_service_server::{SidecarService, SidecarServiceServer},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpListener;
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Certificate, Identity, Server, ServerTlsConfig},
};

struct Sink;

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ConnectResponse, Status>> + Send>>;

#[tonic::async_trait]
impl SidecarService for Sink {
    type ConnectStream = Answers;

    async fn connect(&self, request: Request<Streaming<v1::ConnectRequest>>) -> Result<Response<Answers>, Status> {
        let mut messages = request.into_inner();
        tokio::spawn(async move { while let Ok(Some(_)) = messages.message().await {} });
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

/// Listens until this process ends; a client's identity lies in `dir` afterwards.
pub async fn listen(dir: &Path) -> Result<String> {
    let authority_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the footprint's authority");
    let authority = params.self_signed(&authority_key)?.pem();
    let issuer = Issuer::new(params, authority_key);
    let signed = |name: &str| -> Result<(String, String)> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec![name.to_owned()])?;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let (server, server_key) = signed("127.0.0.1")?;
    let (client, client_key) = signed("localhost")?;
    fs::create_dir_all(dir)?;
    for (name, text) in [("authority.pem", &authority), ("certificate.pem", &client), ("key.pem", &client_key)] {
        fs::write(dir.join(name), text)?;
    }
    let tls = ServerTlsConfig::new()
        .identity(Identity::from_pem(server, server_key))
        .client_ca_root(Certificate::from_pem(&authority));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let served = Server::builder().tls_config(tls)?.add_service(SidecarServiceServer::new(Sink));
    tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(format!("https://{address}"))
}
