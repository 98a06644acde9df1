//! The secrets of a volume, by epoch, and what they seal: chunks, segments, names.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use zeroize::{Zeroize, Zeroizing};

use super::frames::{CHUNK_HEAD_BYTES, Frames};
use super::{CryptoError, Result, aead};
use crate::base::{ChunkId, Ino, Rng};

/// Length that [`VolumeKeys::seal_segment`] adds to the plaintext.
pub const SEGMENT_OVERHEAD_BYTES: usize = SEGMENT_HEADER_BYTES + aead::TAG_BYTES;

/// Most epochs of a volume: one key a removal of a member, 36 KiB of keys in all.
pub const EPOCHS_MAX: usize = 1024;

/// A chunk as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedChunk {
    /// The BLAKE3 of `bytes`.
    pub id: ChunkId,
    /// The head, then the frames: see [`Frames`].
    pub bytes: Bytes,
}

/// Returns the id of sealed bytes, which anybody can check.
pub fn chunk_id(sealed: &[u8]) -> ChunkId {
    ChunkId(blake3::hash(sealed).into())
}

/// The volume's secrets: one 32-byte secret an epoch, all of them held together.
///
/// Sealing uses the newest epoch, opening the one that the sealed bytes name. Whoever gets the keys
/// of an epoch gets those of all before it, and reads what came before; [`VolumeKeys::rotate`]
/// starts an epoch that those who are removed never learn of.
///
/// An epoch's number counts in its upper 12 bits and is random in the lower 20, so that two admins
/// who rotate at the same time start two epochs; [`VolumeKeys::adopt`] then unites them.
pub struct VolumeKeys {
    ring: RwLock<Arc<Ring>>,
}

struct Ring {
    epochs: BTreeMap<u32, EpochKeys>,
    newest: u32,
    /// Follows from the first epoch's secret, which every member holds.
    name_key: Zeroizing<[u8; 32]>,
    /// Keys the hashes of rows; follows from the same.
    row_key: Zeroizing<[u8; 32]>,
    /// Keys the hashes by which who grants locks knows files; follows from the same.
    lock_key: Zeroizing<[u8; 32]>,
    /// Keys the hashes of all rows at a record; follows from the same.
    checkpoint_key: Zeroizing<[u8; 32]>,
}

/// What is derived from an epoch's secret, one key for each use.
#[derive(Clone)]
struct EpochKeys {
    secret: [u8; 32],
    /// Keys the hash of a chunk's plaintext.
    chunk_hash: [u8; 32],
    /// Keys the hash that turns that hash into the chunk's AES key.
    chunk_seal: [u8; 32],
    /// Keys the hash that turns a segment's salt into its AES key.
    segment_seal: [u8; 32],
}

impl Drop for EpochKeys {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.chunk_hash.zeroize();
        self.chunk_seal.zeroize();
        self.segment_seal.zeroize();
    }
}

impl EpochKeys {
    fn new(secret: &[u8; 32]) -> Self {
        Self {
            secret: *secret,
            chunk_hash: blake3::derive_key("dfs/1 chunk hash", secret),
            chunk_seal: blake3::derive_key("dfs/1 chunk key", secret),
            segment_seal: blake3::derive_key("dfs/1 segment key", secret),
        }
    }
}

impl Ring {
    fn new(epochs: BTreeMap<u32, EpochKeys>) -> Option<Self> {
        let first = epochs.get(&FIRST_EPOCH)?;
        let name_key = Zeroizing::new(blake3::derive_key("dfs/1 name hash", &first.secret));
        let row_key = Zeroizing::new(blake3::derive_key("dfs/1 row hash", &first.secret));
        let lock_key = Zeroizing::new(blake3::derive_key("dfs/1 lock hash", &first.secret));
        let checkpoint_key = blake3::derive_key("dfs/1 checkpoint", &first.secret);
        let newest = *epochs.last_key_value()?.0;
        Some(Self {
            checkpoint_key: Zeroizing::new(checkpoint_key),
            epochs,
            newest,
            name_key,
            row_key,
            lock_key,
        })
    }

    fn epoch(&self, epoch: u32) -> Result<&EpochKeys> {
        self.epochs
            .get(&epoch)
            .ok_or(CryptoError::UnknownEpoch(epoch))
    }

    fn newest(&self) -> &EpochKeys {
        self.epochs
            .get(&self.newest)
            .expect("the newest epoch was read from the map that holds it")
    }
}

impl VolumeKeys {
    /// Returns the keys of a new volume: its first epoch.
    pub fn generate(rng: &Rng) -> Self {
        let secret = Zeroizing::new(rng.bytes::<32>());
        let epochs = BTreeMap::from([(FIRST_EPOCH, EpochKeys::new(&secret))]);
        Self::from_ring(Ring::new(epochs).expect("the first epoch is there"))
    }

    /// Returns all secrets in clear, to be wrapped for a member or sealed into the state folder.
    ///
    /// Layout: version u8, count u32 LE, then for each epoch its number u32 LE and secret `[32]`,
    /// ascending.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let ring = self.ring();
        // Reserved at once: growth would leave copies of the secrets behind.
        let length = 1 + 4 + ring.epochs.len() * EPOCH_BYTES;
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.push(KEYS_VERSION);
        bytes.extend_from_slice(&(ring.epochs.len() as u32).to_le_bytes());
        for (epoch, keys) in &ring.epochs {
            bytes.extend_from_slice(&epoch.to_le_bytes());
            bytes.extend_from_slice(&keys.secret);
        }
        bytes
    }

    /// Returns the keys of [`VolumeKeys::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        const MALFORMED: CryptoError = CryptoError::Malformed {
            what: "volume keys",
        };
        let (&version, rest) = bytes.split_first().ok_or(MALFORMED)?;
        check_version("volume keys", version, KEYS_VERSION)?;
        let (count, rest) = rest.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let count = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| MALFORMED)?;
        if count > EPOCHS_MAX || rest.len() != count * EPOCH_BYTES {
            return Err(MALFORMED);
        }
        let mut epochs = BTreeMap::new();
        for entry in rest.chunks_exact(EPOCH_BYTES) {
            let (epoch, secret) = entry.split_first_chunk::<4>().ok_or(MALFORMED)?;
            let secret: &[u8; 32] = secret.try_into().map_err(|_| MALFORMED)?;
            let epoch = u32::from_le_bytes(*epoch);
            if epochs
                .last_key_value()
                .is_some_and(|(last, _)| *last >= epoch)
            {
                return Err(MALFORMED);
            }
            epochs.insert(epoch, EpochKeys::new(secret));
        }
        Ring::new(epochs).map(Self::from_ring).ok_or(MALFORMED)
    }

    /// Returns the epoch that seals from now on.
    pub fn epoch(&self) -> u32 {
        self.ring().newest
    }

    /// Starts a new epoch with a fresh secret and returns its number.
    ///
    /// Fails with [`CryptoError::EpochsExhausted`] after [`EPOCHS_MAX`] epochs.
    pub fn rotate(&self, rng: &Rng) -> Result<u32> {
        let drawn = self.draw_epoch(rng)?;
        self.adopt_epoch(&drawn)?;
        Ok(self.epoch())
    }

    /// Draws the secret of the epoch after the newest, in clear as [`VolumeKeys::epoch_to_bytes`], and
    /// takes nothing over: those who are to have it get it first.
    ///
    /// Fails as [`VolumeKeys::rotate`] does.
    pub fn draw_epoch(&self, rng: &Rng) -> Result<Zeroizing<Vec<u8>>> {
        let secret = Zeroizing::new(rng.bytes::<32>());
        let [low, mid, high, _] = rng.bytes::<4>();
        let random = u32::from_le_bytes([low, mid, high, 0]) >> (24 - EPOCH_RANDOM_BITS);
        let ring = self.ring();
        let count = (ring.newest >> EPOCH_RANDOM_BITS) + 1;
        if ring.epochs.len() >= EPOCHS_MAX || count >= 1 << (32 - EPOCH_RANDOM_BITS) {
            return Err(CryptoError::EpochsExhausted);
        }
        let epoch = (count << EPOCH_RANDOM_BITS) | random;
        Ok(epoch_bytes(epoch, &secret))
    }

    /// Returns the keys that a member has been given one after the other: once all that there were, and
    /// an epoch each time that one began. What does not fit is left out; `None` where nothing does.
    pub fn of_grants(grants: &[Zeroizing<Vec<u8>>]) -> Option<Self> {
        let mut whole = grants
            .iter()
            .filter_map(|bytes| Self::from_bytes(bytes).ok());
        let keys = whole.next()?;
        for more in whole {
            let _ = keys.adopt(&more);
        }
        for bytes in grants {
            let _ = keys.adopt_epoch(bytes);
        }
        Some(keys)
    }

    /// Takes over what a member has been given, all keys or those of an epoch; returns whether it is
    /// new here.
    ///
    /// Fails as [`VolumeKeys::adopt`] does.
    pub fn adopt_grant(&self, bytes: &[u8]) -> Result<bool> {
        match Self::from_bytes(bytes) {
            Ok(keys) => self.adopt(&keys),
            Err(_) => self.adopt_epoch(bytes),
        }
    }

    /// Takes over the epochs that `other` has and this has not; returns whether there were any.
    ///
    /// Changes nothing where the keys are those of another volume, or where one epoch has two
    /// secrets ([`CryptoError::EpochConflict`]: two admins rotated at once and drew the same 20
    /// random bits; rotating again on either side gets out of it).
    pub fn adopt(&self, other: &Self) -> Result<bool> {
        let theirs = other.ring();
        self.adopt_all(&theirs.epochs)
    }

    /// Returns one epoch's secret in clear, to be wrapped for those who hold the epochs before it.
    ///
    /// Layout: version u8, epoch u32 LE, secret `[32]`.
    pub fn epoch_to_bytes(&self, epoch: u32) -> Result<Zeroizing<Vec<u8>>> {
        Ok(epoch_bytes(epoch, &self.ring().epoch(epoch)?.secret))
    }

    /// Takes over the epoch of [`VolumeKeys::epoch_to_bytes`]; returns whether it is new here.
    ///
    /// Fails as [`VolumeKeys::adopt`] does.
    pub fn adopt_epoch(&self, bytes: &[u8]) -> Result<bool> {
        const MALFORMED: CryptoError = CryptoError::Malformed { what: "epoch key" };
        let (&version, entry) = bytes.split_first().ok_or(MALFORMED)?;
        check_version("epoch key", version, KEYS_VERSION)?;
        let (epoch, secret) = entry.split_first_chunk::<4>().ok_or(MALFORMED)?;
        let secret: &[u8; 32] = secret.try_into().map_err(|_| MALFORMED)?;
        let epoch = u32::from_le_bytes(*epoch);
        self.adopt_all(&BTreeMap::from([(epoch, EpochKeys::new(secret))]))
    }

    fn adopt_all(&self, theirs: &BTreeMap<u32, EpochKeys>) -> Result<bool> {
        let mut ring = self.ring.write();
        let mut epochs = ring.epochs.clone();
        for (&epoch, keys) in theirs {
            let known = epochs.entry(epoch).or_insert_with(|| keys.clone());
            if known.secret != keys.secret {
                return Err(match epoch {
                    FIRST_EPOCH => CryptoError::OtherVolume,
                    _ => CryptoError::EpochConflict(epoch),
                });
            }
        }
        if epochs.len() > EPOCHS_MAX {
            return Err(CryptoError::EpochsExhausted);
        }
        let grown = epochs.len() > ring.epochs.len();
        if grown {
            *ring = Arc::new(Ring::new(epochs).expect("the first epoch is still there"));
        }
        Ok(grown)
    }

    /// Returns a chunk's plaintext sealed under the newest epoch, frame by frame.
    ///
    /// Deterministic: within an epoch equal plaintexts seal to equal bytes, so a volume stores them
    /// once. The AES key follows from a keyed hash of the whole plaintext, so it seals nothing else,
    /// and a frame's number can be its nonce; without the volume's secret nobody can test for a
    /// content. The length of the plaintext is bound to each frame: so none opens in another place,
    /// in another chunk, or in a chunk that was cut.
    pub fn seal_chunk(&self, plain: &[u8]) -> SealedChunk {
        let ring = self.ring();
        let keys = ring.newest();
        let hash = blake3::keyed_hash(&keys.chunk_hash, plain);
        let frames = Frames::of_plain(plain.len());
        let mut bytes = vec![0; frames.sealed_len()];
        let (head, body) = bytes.split_at_mut(CHUNK_HEAD_BYTES);
        write_header(head, CHUNK_VERSION, ring.newest, hash.as_bytes());
        let cipher = aead::cipher(&subkey(&keys.chunk_seal, hash.as_bytes()));
        let aad = frame_aad(head, frames);
        let mut rest = body;
        for frame in 0..frames.count() {
            let part = frames.plain(&(frame..frame + 1));
            let (sealed, later) = rest.split_at_mut(part.len() + aead::TAG_BYTES);
            let part = plain.get(part).unwrap_or_default();
            aead::seal_into(&cipher, &frame_nonce(frame), &aad, part, sealed);
            rest = later;
        }
        let bytes = Bytes::from(bytes);
        SealedChunk {
            id: chunk_id(&bytes),
            bytes,
        }
    }

    /// Returns the plaintext of a sealed chunk.
    ///
    /// That the bytes are those of the wanted [`ChunkId`] is for the caller to check, with
    /// [`chunk_id`]; this says only that a holder of the volume's keys sealed them.
    pub fn open_chunk(&self, sealed: &[u8]) -> Result<Vec<u8>> {
        const MALFORMED: CryptoError = CryptoError::Malformed { what: CHUNK };
        let frames = Frames::of_sealed(sealed.len()).ok_or(MALFORMED)?;
        let (head, body) = sealed.split_first_chunk().ok_or(MALFORMED)?;
        self.open_frames(head, frames, 0..frames.count(), body)
    }

    /// Returns the plaintext of some frames of a sealed chunk, which has the head `head`; `sealed` is
    /// these frames alone.
    ///
    /// Fails where any of them is not that frame of that chunk.
    pub fn open_frames(
        &self,
        head: &[u8; CHUNK_HEAD_BYTES],
        frames: Frames,
        wanted: Range<usize>,
        sealed: &[u8],
    ) -> Result<Vec<u8>> {
        let (epoch, hash) = read_header(head, CHUNK, CHUNK_VERSION)?;
        if wanted.end > frames.count() || sealed.len() != frames.sealed(&wanted).len() {
            return Err(CryptoError::Malformed { what: CHUNK });
        }
        let ring = self.ring();
        let cipher = aead::cipher(&subkey(&ring.epoch(epoch)?.chunk_seal, hash));
        let aad = frame_aad(head, frames);
        let mut plain = vec![0; frames.plain(&wanted).len()];
        let (mut from, mut to) = (sealed, &mut plain[..]);
        for frame in wanted {
            let len = frames.plain(&(frame..frame + 1)).len();
            let (sealed, later) = from
                .split_at_checked(len + aead::TAG_BYTES)
                .ok_or(CryptoError::Unauthentic)?;
            let (part, rest) = to.split_at_mut(len);
            aead::open_into(&cipher, &frame_nonce(frame), &aad, sealed, part)?;
            (from, to) = (later, rest);
        }
        Ok(plain)
    }

    /// Returns a segment's body sealed under the newest epoch, for the place that `aad` names.
    ///
    /// Layout: version u8, epoch u32 LE, random salt `[24]`, ciphertext, tag `[16]`; the AES key
    /// follows from the salt.
    pub fn seal_segment(&self, rng: &Rng, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        let ring = self.ring();
        let salt = rng.bytes::<SEGMENT_SALT_BYTES>();
        let mut header = [0; SEGMENT_HEADER_BYTES];
        write_header(&mut header, SEGMENT_VERSION, ring.newest, &salt);
        let cipher = aead::cipher(&subkey(&ring.newest().segment_seal, &salt));
        let nonce = aead::ONE_MESSAGE_NONCE;
        aead::seal(&cipher, &nonce, &header, &aead::bind(&header, aad), plain)
    }

    /// Returns the plaintext of a segment's body that was sealed for the same `aad`.
    pub fn open_segment(&self, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let (header, body) = sealed
            .split_first_chunk::<SEGMENT_HEADER_BYTES>()
            .ok_or(CryptoError::Malformed { what: SEGMENT })?;
        let (epoch, salt) = read_header(header, SEGMENT, SEGMENT_VERSION)?;
        let ring = self.ring();
        let cipher = aead::cipher(&subkey(&ring.epoch(epoch)?.segment_seal, salt));
        aead::open(
            &cipher,
            &aead::ONE_MESSAGE_NONCE,
            &aead::bind(header, aad),
            body,
        )
    }

    /// Returns the epoch that sealed bytes (a chunk, a segment's body) name, without opening them.
    pub fn epoch_of(sealed: &[u8]) -> Option<u32> {
        let (_, rest) = sealed.split_first()?;
        rest.first_chunk::<4>()
            .map(|epoch| u32::from_le_bytes(*epoch))
    }

    /// Returns the keyed hash of a name in a folder (or of an attribute of an inode).
    ///
    /// The same in every epoch and on every member: rows are found by it, and folders are read in
    /// its order.
    pub fn name_hash(&self, parent: Ino, name: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.ring().name_key);
        hasher.update(&parent.0.to_le_bytes());
        hasher.update(name);
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        hash
    }

    /// Returns the keyed hash of a file by which its locks of one kind are granted.
    ///
    /// The same in every epoch and on every member.
    pub fn lock_hash(&self, kind: u8, ino: Ino) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.ring().lock_key);
        hasher.update(&[kind]);
        hasher.update(&ino.0.to_le_bytes());
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        hash
    }

    /// Returns the keyed hash of a row of the view: its table, key and value.
    ///
    /// The same in every epoch and on every member.
    pub fn row_hash(&self, table: u8, key: &[u8], value: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.ring().row_key);
        // Which bytes are the key's is told by its length.
        hasher.update(&[table, u8::try_from(key.len()).unwrap_or(u8::MAX)]);
        hasher.update(key);
        hasher.update(value);
        let mut hash = [0; 16];
        hasher.finalize_xof().fill(&mut hash);
        hash
    }

    /// Returns what hashes the rows of a checkpoint.
    ///
    /// The same in every epoch and on every member.
    pub fn checkpoint_hasher(&self) -> blake3::Hasher {
        blake3::Hasher::new_keyed(&self.ring().checkpoint_key)
    }

    fn from_ring(ring: Ring) -> Self {
        Self {
            ring: RwLock::new(Arc::new(ring)),
        }
    }

    /// Returns the keys as they are now; the lock is not held while they work.
    fn ring(&self) -> Arc<Ring> {
        Arc::clone(&self.ring.read())
    }
}

impl fmt::Debug for VolumeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeKeys(epoch {:#x})", self.epoch())
    }
}

fn epoch_bytes(epoch: u32, secret: &[u8; 32]) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 + EPOCH_BYTES));
    bytes.push(KEYS_VERSION);
    bytes.extend_from_slice(&epoch.to_le_bytes());
    bytes.extend_from_slice(secret);
    bytes
}

const CHUNK: &str = "sealed chunk";
const SEGMENT: &str = "sealed segment";

const KEYS_VERSION: u8 = 1;
const CHUNK_VERSION: u8 = 2;
const SEGMENT_VERSION: u8 = 1;

const FIRST_EPOCH: u32 = 0;
const EPOCH_RANDOM_BITS: u32 = 20;
const EPOCH_BYTES: usize = 4 + 32;

/// Version and epoch, which every header begins with.
const PREFIX_BYTES: usize = 1 + 4;
/// 192 bits: no two segments of a volume ever draw the same salt.
const SEGMENT_SALT_BYTES: usize = 24;
const SEGMENT_HEADER_BYTES: usize = PREFIX_BYTES + SEGMENT_SALT_BYTES;

fn write_header(header: &mut [u8], version: u8, epoch: u32, own: &[u8]) {
    let (prefix, rest) = header.split_at_mut(PREFIX_BYTES);
    prefix[0] = version;
    prefix[1..].copy_from_slice(&epoch.to_le_bytes());
    rest.copy_from_slice(own);
}

/// Returns the epoch and what follows it.
fn read_header<'a>(header: &'a [u8], what: &'static str, known: u8) -> Result<(u32, &'a [u8])> {
    let (prefix, own) = header
        .split_first_chunk::<PREFIX_BYTES>()
        .ok_or(CryptoError::Malformed { what })?;
    let [version, epoch @ ..] = prefix;
    check_version(what, *version, known)?;
    Ok((u32::from_le_bytes(*epoch), own))
}

fn check_version(what: &'static str, found: u8, known: u8) -> Result<()> {
    if found > known {
        return Err(CryptoError::TooNew {
            what,
            found: found.into(),
            known: known.into(),
        });
    }
    if found < known {
        return Err(CryptoError::Malformed { what });
    }
    Ok(())
}

/// Returns the nonce of a frame: its number, under a key that seals one chunk alone.
fn frame_nonce(frame: usize) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(frame as u64).to_le_bytes());
    nonce
}

/// Returns what is bound to each frame of a chunk: its head and the length of its plaintext.
fn frame_aad(head: &[u8], frames: Frames) -> [u8; CHUNK_HEAD_BYTES + 8] {
    let mut aad = [0; CHUNK_HEAD_BYTES + 8];
    aad[..CHUNK_HEAD_BYTES].copy_from_slice(head);
    aad[CHUNK_HEAD_BYTES..].copy_from_slice(&(frames.plain_len() as u64).to_le_bytes());
    aad
}

fn subkey(key: &[u8; 32], input: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::keyed_hash(key, input).into())
}

#[cfg(test)]
mod tests;
