//! Encryption at rest: each batch is sealed once with AES-256-GCM before it reaches the writer.
//!
//! The stored bytes are `nonce (12) · ciphertext · tag (16)`. The ciphertext is bound to its place: topic id, partition,
//! base offset, count and key id are authenticated beside it, so a batch moved to another place does not open.
//! Every start of a broker derives an own key (HMAC-SHA-256 of a random salt) and counts nonces under it, so a nonce is
//! never used twice, not even on a copied volume; random nonces would have to be rotated after 2^32 batches.

use super::OpenError;
use aes_gcm::aead::{Aead, AeadInOut, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use hmac::{Hmac, Mac};
use pubsub_core::ids::TopicPartition;
use pubsub_core::record::Batch;
use rusqlite::{Connection, params};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const CHECK_TEXT: &[u8] = b"pubsub storage key check";

/// First bytes of the SHA-256 of a storage key; shown as 16 hexadecimal digits. Says nothing about the key itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key that a broker's records are sealed with. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct StorageKey([u8; 32]);

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageKey({})", self.id())
    }
}

/// Why a text is not a storage key. Holds nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a storage key is 32 bytes in base64 (standard or URL-safe), as `openssl rand -base64 32` prints")]
pub struct InvalidKey;

impl TryFrom<&str> for StorageKey {
    type Error = InvalidKey;
    fn try_from(text: &str) -> Result<Self, InvalidKey> {
        let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
        let standard = text.trim().replace('-', "+").replace('_', "/");
        let bytes = engine.decode(standard).map_err(|_| InvalidKey)?;
        Ok(Self(bytes.try_into().map_err(|_| InvalidKey)?))
    }
}

impl StorageKey {
    /// Returns the key's public name.
    pub fn id(&self) -> KeyId {
        let digest = Sha256::digest(self.0);
        KeyId(digest[..8].try_into().expect("a digest of 32 bytes"))
    }

    /// Returns the key of one process start, and the value that proves it without telling it.
    fn session(&self, salt: &[u8]) -> ([u8; 32], [u8; 32]) {
        let mac = |key: &[u8], text: &[u8]| -> [u8; 32] {
            let mut mac =
                <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(text);
            mac.finalize().into_bytes().into()
        };
        let key = mac(&self.0, salt);
        (key, mac(&key, CHECK_TEXT))
    }
}

/// One derived key.
struct Session {
    key_id: KeyId,
    cipher: Aes256Gcm,
}

/// Seals new batches, opens stored ones. Shared by all threads.
pub(crate) struct Sealer {
    sessions: BTreeMap<i64, Session>,
    /// Row of `key` under which this process seals; `None`: it stores plaintext.
    active: Option<i64>,
    nonces: AtomicU64,
}

/// Why a stored batch could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unopened;

impl Sealer {
    /// Checks the given keys against those that the file was written with, and starts a new session under `active`.
    ///
    /// # Errors
    /// [`OpenError::KeyUnknown`] when some of the file's batches need a key that is not given.
    pub(crate) fn open(
        connection: &Connection,
        path: &Path,
        active: Option<&StorageKey>,
        older: &[StorageKey],
    ) -> Result<Self, OpenError> {
        let keys: Vec<&StorageKey> = active.into_iter().chain(older).collect();
        let mut sealer = Self { sessions: BTreeMap::new(), active: None, nonces: AtomicU64::new(0) };
        for (seal, key_id, salt, check) in
            stored_sessions(connection).map_err(|s| OpenError::sqlite(path, s))?
        {
            let known =
                keys.iter().find(|key| key.id().to_string() == key_id).map(|key| (key, key.session(&salt)));
            match known {
                Some((key, (session, expected))) if expected[..] == check[..] => {
                    sealer.add(seal, key.id(), &session)
                }
                _ if in_use(connection, seal).map_err(|s| OpenError::sqlite(path, s))? => {
                    let given = keys.iter().map(|key| key.id()).collect();
                    return Err(OpenError::KeyUnknown {
                        path: path.to_owned(),
                        found: key_id,
                        given: KeyIds(given),
                    });
                }
                _ => {}
            }
        }
        if let Some(key) = active {
            let salt: [u8; 32] = rand::random();
            let (session, check) = key.session(&salt);
            connection
                .execute(
                    "INSERT INTO key(key_id, salt, check_value) VALUES (?1, ?2, ?3)",
                    params![key.id().to_string(), &salt[..], &check[..]],
                )
                .map_err(|source| OpenError::sqlite(path, source))?;
            let seal = connection.last_insert_rowid();
            sealer.add(seal, key.id(), &session);
            sealer.active = Some(seal);
        }
        Ok(sealer)
    }

    fn add(&mut self, seal: i64, key_id: KeyId, key: &[u8; 32]) {
        let cipher = Aes256Gcm::new_from_slice(key).expect("a key of 32 bytes");
        self.sessions.insert(seal, Session { key_id, cipher });
    }

    /// Returns whether new batches are sealed.
    pub(crate) fn is_sealing(&self) -> bool {
        self.active.is_some()
    }

    /// Returns what is stored of a batch, and the `key` row it is sealed under.
    pub(crate) fn seal(&self, partition: TopicPartition, batch: &Batch) -> (Bytes, Option<i64>) {
        let Some(seal) = self.active else {
            return (batch.bytes().clone(), None);
        };
        let session = &self.sessions[&seal];
        let mut nonce = [0; NONCE_BYTES];
        nonce[4..].copy_from_slice(&self.nonces.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        let mut stored = Vec::with_capacity(NONCE_BYTES + batch.bytes().len() + TAG_BYTES);
        stored.extend_from_slice(&nonce);
        stored.extend_from_slice(batch.bytes());
        let bound = bound_to(partition, batch.base_offset(), batch.count(), session.key_id);
        let tag = session
            .cipher
            .encrypt_inout_detached(&Nonce::from(nonce), &bound, (&mut stored[NONCE_BYTES..]).into())
            .expect("a batch is far below the 64 GiB that AES-GCM takes");
        stored.extend_from_slice(&tag);
        (stored.into(), Some(seal))
    }

    /// Returns the bytes of the batch that [`Sealer::seal`] made `stored` of.
    pub(crate) fn open_batch(
        &self,
        partition: TopicPartition,
        base_offset: u64,
        count: u32,
        seal: i64,
        stored: &[u8],
    ) -> Result<Bytes, Unopened> {
        let session = self.sessions.get(&seal).ok_or(Unopened)?;
        let (nonce, msg) = stored.split_at_checked(NONCE_BYTES).ok_or(Unopened)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().expect("split there");
        let aad = &bound_to(partition, base_offset, count, session.key_id)[..];
        let opened =
            session.cipher.decrypt(&Nonce::from(nonce), Payload { msg, aad }).map_err(|_| Unopened)?;
        Ok(opened.into())
    }
}

/// Key ids as a sentence needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyIds(pub Vec<KeyId>);

impl fmt::Display for KeyIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let ids: Vec<String> = self.0.iter().map(KeyId::to_string).collect();
        f.write_str(&ids.join(", "))
    }
}

fn bound_to(partition: TopicPartition, base_offset: u64, count: u32, key_id: KeyId) -> Vec<u8> {
    let mut bound = Vec::with_capacity(40);
    bound.extend_from_slice(partition.topic.0.as_bytes());
    bound.extend_from_slice(&partition.partition.to_le_bytes());
    bound.extend_from_slice(&base_offset.to_le_bytes());
    bound.extend_from_slice(&count.to_le_bytes());
    bound.extend_from_slice(&key_id.0);
    bound
}

type StoredSession = (i64, String, Vec<u8>, Vec<u8>);

fn stored_sessions(connection: &Connection) -> rusqlite::Result<Vec<StoredSession>> {
    let mut statement =
        connection.prepare("SELECT seal, key_id, salt, check_value FROM key ORDER BY seal")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    rows.collect()
}

/// Looks through all batches: only done for a key that is missing, so that a retired key need not be kept for ever.
fn in_use(connection: &Connection, seal: i64) -> rusqlite::Result<bool> {
    connection.query_row("SELECT EXISTS(SELECT 1 FROM batch WHERE seal = ?1)", [seal], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn keys_are_taken_in_both_alphabets_and_never_printed() {
        let standard = "+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/+/8=";
        let urlsafe = "-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_-_8";
        let key = StorageKey::try_from(standard).unwrap();
        assert_eq!(key, StorageKey::try_from(urlsafe).unwrap());
        assert_eq!(format!("{key:?}"), format!("StorageKey({})", key.id()));
        for bad in ["", "c2hvcnQ=", "not base64 at all!", &standard[4..]] {
            assert_eq!(StorageKey::try_from(bad), Err(InvalidKey));
        }
    }
}
