//! Peers that show what they cannot prove.

use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::*;

/// Returns the certificate of one identity with the key of another.
fn stolen() -> Arc<SingleCertAndKey> {
    let stolen = tls::Credentials::new(identity(1)).unwrap().certificate();
    let own = PrivatePkcs8KeyDer::from(identity(2).rsa_pkcs8_der().to_vec());
    let key = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(own)).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(vec![stolen], key)))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server(config: rustls::ServerConfig) -> (Endpoint, SocketAddr) {
    let mut config = config;
    config.alpn_protocols = vec![b"dfs/1".to_vec()];
    let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = Endpoint::server(config, loopback()).unwrap();
    let addr = endpoint.local_addr().unwrap();
    (endpoint, addr)
}

fn server_builder() -> rustls::ConfigBuilder<rustls::ServerConfig, rustls::server::WantsServerCert>
{
    rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
}

async fn dial(addr: SocketAddr, endpoint: &Endpoint) -> TransportError {
    let one = quic(0);
    let (refused, _) = soon(async {
        tokio::join!(one.connect(addr), async {
            let _ = endpoint.accept().await.unwrap().await;
        })
    })
    .await;
    refused.err().unwrap()
}

#[tokio::test]
async fn a_server_with_a_stolen_certificate_is_refused() {
    let (endpoint, addr) = server(server_builder().with_cert_resolver(stolen()));
    let refused = dial(addr, &endpoint).await;
    assert!(
        matches!(refused, TransportError::BadPeer { .. }),
        "{refused}"
    );
}

#[tokio::test]
async fn a_server_with_a_key_that_is_not_rsa_is_refused() {
    let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let certificate = CertificateParams::default().self_signed(&pair).unwrap();
    let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    let config = server_builder()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let (endpoint, addr) = server(config);
    let refused = dial(addr, &endpoint).await;
    assert!(
        matches!(refused, TransportError::BadPeer { .. }),
        "{refused}"
    );
}

/// Dials a good peer with this client, and checks that the peer never sees a connection.
async fn is_refused(mut config: rustls::ClientConfig) {
    config.alpn_protocols = vec![b"dfs/1".to_vec()];
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let two = quic(1);
    let mut endpoint = Endpoint::client(loopback()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    let connecting = endpoint.connect(two.local_addr(), SERVER_NAME).unwrap();
    // The dialler is done with the handshake before its certificate is looked at.
    if let Ok(connection) = soon(connecting).await {
        let why = soon(connection.closed()).await;
        assert!(matches!(why, ConnectionError::ConnectionClosed(_)), "{why}");
    }
    // The next that is accepted is a good one.
    let three = quic(2);
    let (_ours, theirs) = join(&three, &two).await;
    assert_eq!(theirs.peer(), identity(2).id());
}

fn client_builder() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert>
{
    rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(tls::Credentials::new(identity(0)).unwrap().verifier())
}

#[tokio::test]
async fn a_client_with_a_stolen_certificate_is_refused() {
    is_refused(client_builder().with_client_cert_resolver(stolen())).await;
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    is_refused(client_builder().with_no_client_auth()).await;
}

#[tokio::test]
async fn a_peer_of_another_protocol_is_refused() {
    let credentials = tls::Credentials::new(identity(1)).unwrap();
    let key = PrivatePkcs8KeyDer::from(identity(1).rsa_pkcs8_der().to_vec());
    let certificate: CertificateDer<'static> = credentials.certificate();
    let mut config = server_builder()
        .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    config.alpn_protocols = vec![b"h3".to_vec()];
    let config = quinn::crypto::rustls::QuicServerConfig::try_from(config).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(config));
    let endpoint = Endpoint::server(config, loopback()).unwrap();
    let refused = dial(endpoint.local_addr().unwrap(), &endpoint).await;
    assert!(
        matches!(refused, TransportError::BadPeer { .. }),
        "{refused}"
    );
}
