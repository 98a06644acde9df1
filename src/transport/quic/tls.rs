//! Mutual TLS 1.3 with the RSA identities.
//!
//! A peer is its key: there is no authority to ask, no name to match and no date to check. Each
//! side shows a self-signed certificate, signs the handshake with its RSA key, and the other side
//! verifies that signature. So the SHA-256 of the certificate's public key is a proven [`PeerId`].
//!
//! Departures from what TLS libraries do by themselves, each on purpose:
//!
//! 1. Nothing but the public key of a certificate is looked at: its own signature, names and dates
//!    prove nothing that the handshake does not.
//! 2. RSA-PSS alone is accepted, with the key sizes of the provider (2,048 to 8,192 bits).
//! 3. Sessions are never resumed and nothing is sent before the handshake is done (no 0-RTT), so
//!    each connection proves both identities afresh and nothing can be replayed.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rcgen::{CertificateParams, KeyPair, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, ParsedCertificate};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use crate::base::PeerId;
use crate::crypto::{Identity, peer_id_of_spki};
use crate::transport::TransportError;

/// The protocol's name in the handshake; peers of another are refused there.
const ALPN: &[u8] = b"dfs/1";

/// Largest certificate that is parsed. One with an 8,192-bit key has about 2,300 bytes.
const CERTIFICATE_MAX_BYTES: usize = 8 << 10;

/// The certificate and key that this peer shows.
pub(super) struct Credentials {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    /// Makes a certificate for the identity.
    pub(super) fn new(identity: &Identity) -> Result<Self, TransportError> {
        let key = PrivatePkcs8KeyDer::from(identity.rsa_pkcs8_der().to_vec());
        let pair =
            KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_RSA_SHA256).map_err(bad_identity)?;
        let certificate = CertificateParams::default()
            .self_signed(&pair)
            .map_err(bad_identity)?;
        Ok(Self {
            certificate: certificate.der().clone(),
            key,
            provider: Arc::new(ring::default_provider()),
        })
    }

    /// Returns the configuration of the side that is dialled.
    pub(super) fn server(&self) -> Result<Arc<QuicServerConfig>, TransportError> {
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad_identity)?
            .with_client_cert_verifier(self.verifier())
            .with_single_cert(vec![self.certificate.clone()], self.private_key())
            .map_err(bad_identity)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let config = QuicServerConfig::try_from(config).map_err(bad_identity)?;
        Ok(Arc::new(config))
    }

    /// Returns the configuration of the side that dials.
    pub(super) fn client(&self) -> Result<Arc<QuicClientConfig>, TransportError> {
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(bad_identity)?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier())
            .with_client_auth_cert(vec![self.certificate.clone()], self.private_key())
            .map_err(bad_identity)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        let config = QuicClientConfig::try_from(config).map_err(bad_identity)?;
        Ok(Arc::new(config))
    }

    pub(super) fn verifier(&self) -> Arc<KeyVerifier> {
        Arc::new(KeyVerifier {
            provider: Arc::clone(&self.provider),
        })
    }

    /// Returns the certificate that this peer shows.
    #[cfg(test)]
    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone_key())
    }
}

fn bad_identity(error: impl std::fmt::Display) -> TransportError {
    TransportError::BadIdentity {
        why: error.to_string(),
    }
}

/// Returns the public key (SPKI, DER) of a certificate and the peer that it names.
pub(super) fn peer_of(
    certificate: &CertificateDer<'_>,
) -> Result<(Vec<u8>, PeerId), rustls::Error> {
    if certificate.len() > CERTIFICATE_MAX_BYTES {
        return Err(CertificateError::BadEncoding.into());
    }
    let spki = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    let id = peer_id_of_spki(&spki);
    Ok((spki.to_vec(), id))
}

/// Lets in whoever proves possession of the RSA key in the certificate.
#[derive(Debug)]
pub(super) struct KeyVerifier {
    provider: Arc<CryptoProvider>,
}

impl KeyVerifier {
    /// Checks the shape of a certificate. What is in it counts for nothing until the signature.
    fn check(
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), rustls::Error> {
        if !intermediates.is_empty() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        peer_of(certificate).map(|_| ())
    }

    fn verify(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        if !SCHEMES.contains(&signature.scheme) {
            return Err(rustls::PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
        }
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }
}

/// What a peer may sign the handshake with.
const SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

fn no_tls12() -> rustls::Error {
    rustls::PeerIncompatible::Tls13RequiredForQuic.into()
}

impl ServerCertVerifier for KeyVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Self::check(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for KeyVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Self::check(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}
