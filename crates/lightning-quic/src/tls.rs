//! TLS 1.3 without a public-key infrastructure.
//!
//! The peers authenticate each other by other means (a signature over the certificate's
//! fingerprint, or a fingerprint learnt from an authenticated channel). The signature of the TLS
//! handshake is verified in every case, so whoever shows a certificate holds its key.

use std::{fmt, sync::Arc};

use quinn::{
    ClientConfig, Connection, ServerConfig, TransportConfig,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};

use crate::error::QuicError;

/// A fresh key and its self-signed certificate.
pub struct SelfSigned {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl SelfSigned {
    /// Makes an ECDSA P-256 key and a certificate for `name`.
    pub fn generate(name: &str) -> Result<Self, QuicError> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()])?;
        Ok(Self {
            certificate: made.cert.der().clone(),
            key: PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()),
        })
    }

    /// Returns the certificate in DER.
    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }
}

impl fmt::Debug for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelfSigned").finish_non_exhaustive()
    }
}

/// Builds a server's configuration. `alpn` is in order of preference.
pub fn server_config(
    identity: &SelfSigned,
    alpn: &[&[u8]],
    transport: TransportConfig,
) -> Result<ServerConfig, QuicError> {
    let mut tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(
            vec![identity.certificate.clone()],
            PrivateKeyDer::Pkcs8(identity.key.clone_key()),
        )?;
    tls.alpn_protocols = owned(alpn);
    // A resumed session would show no certificate to sign for; there is nothing to resume.
    tls.send_tls13_tickets = 0;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Builds a client's configuration that takes any certificate.
///
/// Only for protocols that authenticate the server over the connection, bound to
/// [`peer_certificate`].
pub fn any_certificate(
    alpn: &[&[u8]],
    transport: TransportConfig,
) -> Result<ClientConfig, QuicError> {
    client_config(None, alpn, transport)
}

/// Builds a client's configuration that takes this certificate and no other.
pub fn pinned_certificate(
    certificate_der: &[u8],
    alpn: &[&[u8]],
    transport: TransportConfig,
) -> Result<ClientConfig, QuicError> {
    client_config(
        Some(CertificateDer::from(certificate_der.to_vec())),
        alpn,
        transport,
    )
}

/// Returns the certificate that the server showed on this connection, in DER.
pub fn peer_certificate(connection: &Connection) -> Option<Vec<u8>> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    chain.first().map(|certificate| certificate.to_vec())
}

/// Returns the ALPN name that both sides agreed on.
pub fn negotiated_alpn(connection: &Connection) -> Option<Vec<u8>> {
    let data = connection
        .handshake_data()?
        .downcast::<quinn::crypto::rustls::HandshakeData>()
        .ok()?;
    data.protocol
}

fn client_config(
    pinned: Option<CertificateDer<'static>>,
    alpn: &[&[u8]],
    transport: TransportConfig,
) -> Result<ClientConfig, QuicError> {
    let verifier = Verifier {
        pinned,
        provider: provider(),
    };
    let mut tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    tls.alpn_protocols = owned(alpn);
    tls.resumption = rustls::client::Resumption::disabled();
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn owned(alpn: &[&[u8]]) -> Vec<Vec<u8>> {
    alpn.iter().map(|name| name.to_vec()).collect()
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes any certificate, or exactly one.
#[derive(Debug)]
struct Verifier {
    pinned: Option<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match &self.pinned {
            Some(pinned) if pinned.as_ref() != certificate.as_ref() => {
                Err(rustls::CertificateError::ApplicationVerificationFailure.into())
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        // QUIC has TLS 1.3 only.
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
