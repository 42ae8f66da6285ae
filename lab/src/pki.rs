//! The certificates of a cluster: one authority, and what each component shows to the others.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

use crate::{
    error::{Error, Result},
    files,
};

/// Who a certificate speaks for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subject<'a> {
    /// The user's name in Kubernetes, or the server's.
    pub name: &'a str,
    /// The user's group in Kubernetes.
    pub group: Option<&'a str>,
    /// Names and addresses under which it serves.
    pub serves: &'a [&'a str],
}

/// A certificate with its key, as files.
#[derive(Debug, Clone)]
pub(crate) struct KeyAndCertificate {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// The cluster's own certificate authority. Its key lives as long as the `up` that made it.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: PathBuf,
}

impl Authority {
    /// Makes an authority and writes it as `ca.crt` and `ca.key` into a folder.
    pub(crate) fn create(folder: &Path) -> Result<Self> {
        let subject = "tcp-close-tuning-lab-ca";
        let failed = |source| Error::Certificate { subject: subject.to_owned(), source };
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = distinguished(subject, None);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pair = KeyPair::generate().map_err(failed)?;
        let certificate = parameters.self_signed(&pair).map_err(failed)?;
        let files = write(folder, "ca", &certificate.pem(), &pair)?;
        Ok(Self { issuer: Issuer::new(parameters, pair), certificate: files.certificate })
    }

    /// The authority's certificate.
    pub(crate) fn certificate(&self) -> &Path {
        &self.certificate
    }

    /// Issues a certificate into a folder, as `<file>.crt` and `<file>.key`.
    pub(crate) fn issue(
        &self,
        folder: &Path,
        file: &str,
        subject: &Subject<'_>,
    ) -> Result<KeyAndCertificate> {
        let failed = |source| Error::Certificate { subject: subject.name.to_owned(), source };
        let serves: Vec<_> = subject.serves.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(serves).map_err(failed)?;
        parameters.distinguished_name = distinguished(subject.name, subject.group);
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let pair = KeyPair::generate().map_err(failed)?;
        let certificate = parameters.signed_by(&pair, &self.issuer).map_err(failed)?;
        write(folder, file, &certificate.pem(), &pair)
    }

    /// A kubeconfig for a client of the API server.
    pub(crate) fn kubeconfig(&self, file: &Path, server: &str, client: &Subject<'_>) -> Result<()> {
        let folder = file.parent().unwrap_or(Path::new("/"));
        let stem = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let pair = self.issue(folder, &stem, client)?;
        let text = include_str!("kubeconfig.yaml")
            .replace("@SERVER@", server)
            .replace("@CA@", &base64(files::read(&self.certificate)?.as_bytes()))
            .replace("@CERTIFICATE@", &base64(files::read(&pair.certificate)?.as_bytes()))
            .replace("@KEY@", &base64(files::read(&pair.key)?.as_bytes()));
        // One file that can be copied anywhere; its parts are not needed beside it.
        files::remove(&pair.certificate)?;
        files::remove(&pair.key)?;
        files::write(file, text)
    }
}

/// A key pair without a certificate, as `<file>.key` and `<file>.pub`: service account tokens are signed with it.
pub(crate) fn bare_key(folder: &Path, file: &str) -> Result<()> {
    let pair =
        KeyPair::generate().map_err(|source| Error::Certificate { subject: file.to_owned(), source })?;
    files::write(&folder.join(format!("{file}.key")), pair.serialize_pem())?;
    files::write(&folder.join(format!("{file}.pub")), pair.public_key_pem())
}

fn distinguished(name: &str, group: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(group) = group {
        distinguished.push(DnType::OrganizationName, group);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn write(folder: &Path, file: &str, certificate: &str, pair: &KeyPair) -> Result<KeyAndCertificate> {
    let files = KeyAndCertificate {
        certificate: folder.join(format!("{file}.crt")),
        key: folder.join(format!("{file}.key")),
    };
    files::write(&files.certificate, certificate)?;
    files::write(&files.key, pair.serialize_pem())?;
    Ok(files)
}

/// Base64 as RFC 4648 section 4 has it: ten lines, against one more dependency.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let sextet = |bits: u32, place: usize| char::from(ALPHABET[(bits >> (18 - 6 * place) & 0x3f) as usize]);
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().enumerate().fold(0, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        text.extend((0..4).map(|place| if place <= chunk.len() { sextet(bits, place) } else { '=' }));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_the_vectors_of_rfc_4648() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in vectors {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
