//! Authentication between the processes of one cluster: every request on a peer listener carries an HMAC.
//!
//! A signature covers method, path and body, each with its length in front, so that no two requests have the same
//! signed bytes. It does not cover time: a request that is sent again is told apart by what it says (epochs, offsets,
//! the receiver's id), because the network may repeat requests in any case. Bodies are readable on the wire.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt::Write;

/// The header that carries the signature, as lower-case hexadecimal digits.
pub const PEER_AUTH_HEADER: &str = "x-pubsub-auth";

/// The header's value where the cluster has no secret: pages in a browser can't send it, so that they can't reach a
/// peer listener on loopback.
pub const UNSIGNED: &str = "unsigned";

/// Fewest bytes of a cluster secret: below it, guessing becomes thinkable.
pub const SECRET_BYTES_MIN: usize = 16;

/// The secret that all processes of one cluster share. It is never printed.
#[derive(Clone)]
pub struct PeerSecret {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for PeerSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PeerSecret(redacted)")
    }
}

/// Why a text can't be a cluster secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a cluster secret needs at least {SECRET_BYTES_MIN} bytes, this one has {given_bytes}")]
pub struct SecretTooShort {
    /// Bytes of the refused text.
    pub given_bytes: usize,
}

impl PeerSecret {
    /// Makes a secret of a text, usually the value of `PUBSUB_CLUSTER_SECRET`; white space around it is not part of it.
    ///
    /// # Errors
    /// [`SecretTooShort`] when fewer than [`SECRET_BYTES_MIN`] bytes are left.
    pub fn new(text: &str) -> Result<Self, SecretTooShort> {
        let text = text.trim();
        if text.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort { given_bytes: text.len() });
        }
        let keyed = Hmac::new_from_slice(text.as_bytes()).expect("HMAC takes keys of any length");
        Ok(Self { keyed })
    }

    /// Returns the value of [`PEER_AUTH_HEADER`] for a request. `path` is path and query as they are sent.
    pub fn sign(&self, method: &str, path: &str, body: &[u8]) -> String {
        let mut text = String::with_capacity(64);
        for byte in self.fed(method, path, body).finalize().into_bytes() {
            write!(text, "{byte:02x}").expect("writing to a string can't fail");
        }
        text
    }

    /// Returns whether `header` is the signature of the request; how long it takes tells nothing about the right one.
    pub fn verify(&self, method: &str, path: &str, body: &[u8], header: &str) -> bool {
        let Some(tag) = unhex(header.trim()) else { return false };
        self.fed(method, path, body).verify_slice(&tag).is_ok()
    }

    fn fed(&self, method: &str, path: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        for part in [method.as_bytes(), path.as_bytes(), body] {
            let length = u64::try_from(part.len()).expect("lengths fit 64 bits");
            mac.update(&length.to_be_bytes());
            mac.update(part);
        }
        mac
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "correct horse battery staple";

    #[test]
    fn a_signed_request_is_accepted_and_any_changed_part_is_not() {
        let secret = PeerSecret::new(TEXT).unwrap();
        let header = secret.sign("POST", "/internal/messages", b"body");
        assert!(secret.verify("POST", "/internal/messages", b"body", &header));
        assert!(!secret.verify("PUT", "/internal/messages", b"body", &header));
        assert!(!secret.verify("POST", "/internal/message", b"body", &header));
        assert!(!secret.verify("POST", "/internal/messages", b"Body", &header));
    }

    #[test]
    fn bytes_moved_from_one_part_to_the_next_change_the_signature() {
        let secret = PeerSecret::new(TEXT).unwrap();
        assert_ne!(secret.sign("POST", "/ab", b"c"), secret.sign("POST", "/a", b"bc"));
        assert_ne!(secret.sign("POST", "/a", b""), secret.sign("POS", "T/a", b""));
    }

    #[test]
    fn another_secret_does_not_verify() {
        let header = PeerSecret::new(TEXT).unwrap().sign("GET", "/", b"");
        assert!(!PeerSecret::new("another secret, also long").unwrap().verify("GET", "/", b"", &header));
    }

    #[test]
    fn headers_that_are_no_signature_are_refused() {
        let secret = PeerSecret::new(TEXT).unwrap();
        let good = secret.sign("GET", "/", b"");
        let longer = format!("{good}00");
        for bad in ["", "zz", &good[..62], longer.as_str(), "ä".repeat(32).as_str()] {
            assert!(!secret.verify("GET", "/", b"", bad), "{bad:?} was taken");
        }
    }

    #[test]
    fn the_signature_is_the_published_construction() {
        // Fixed on purpose: processes of two releases must agree on it.
        let secret = PeerSecret::new("0123456789abcdef").unwrap();
        assert_eq!(
            secret.sign("POST", "/internal/messages", b"{}"),
            "029934a3af309cb5b51d25beac8069c7a2da5f5c8bc6250b6aef3921437206b0"
        );
    }

    #[test]
    fn short_secrets_are_refused_and_long_ones_are_not_printed() {
        assert_eq!(PeerSecret::new(" 123456789012345 ").unwrap_err(), SecretTooShort { given_bytes: 15 });
        let shown = format!("{:?}", PeerSecret::new(TEXT).unwrap());
        assert_eq!(shown, "PeerSecret(redacted)");
    }
}
