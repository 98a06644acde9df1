//! Tests of the sealing of chunks, segments and names.

use super::*;
use crate::base::id::to_hex;

fn keys(seed: u64) -> VolumeKeys {
    VolumeKeys::generate(&Rng::from_seed(seed))
}

#[test]
fn chunks_round_trip_and_equal_ones_seal_alike() {
    let keys = keys(1);
    for length in [0, 1, 15, 16, 17, 4096, 1 << 20] {
        let plain: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
        let sealed = keys.seal_chunk(&plain);
        assert_eq!(sealed.bytes.len(), length + SEALED_OVERHEAD_BYTES);
        assert_eq!(sealed.id, chunk_id(&sealed.bytes));
        assert_eq!(keys.open_chunk(&sealed.bytes).unwrap(), plain);
        assert_eq!(keys.seal_chunk(&plain), sealed);
    }
    assert_ne!(keys.seal_chunk(b"a").id, keys.seal_chunk(b"b").id);
}

#[test]
fn the_chunk_format_stays_as_it_is() {
    let bytes = [&[KEYS_VERSION, 1, 0, 0, 0, 0, 0, 0, 0][..], &[9; 32]].concat();
    let keys = VolumeKeys::from_bytes(&bytes).unwrap();
    let sealed = keys.seal_chunk(b"dfs");
    assert_eq!(to_hex(&sealed.bytes), CHUNK_ANSWER);
    assert_eq!(to_hex(&keys.name_hash(Ino::ROOT, b"dfs")), NAME_ANSWER);
}

const CHUNK_ANSWER: &str = concat!(
    "0100000000f75fbadfbb0c2327dbf1ba7d73625ff139e5196f305ca3",
    "1649e84c2924f2183d8dfaea61a183a03981943ff7b0a28a6472659d"
);
const NAME_ANSWER: &str = "589051143698336338eb6e47192622ab";

#[test]
fn every_flipped_byte_of_a_chunk_is_refused() {
    let keys = keys(1);
    let sealed = keys.seal_chunk(b"contents of a chunk").bytes;
    for index in 0..sealed.len() {
        let mut changed = sealed.to_vec();
        changed[index] ^= 4;
        let expected = match index {
            0 => CryptoError::TooNew {
                what: CHUNK,
                found: 5,
                known: 1,
            },
            1..5 => CryptoError::UnknownEpoch(4 << (8 * (index - 1))),
            _ => CryptoError::Unauthentic,
        };
        assert_eq!(keys.open_chunk(&changed), Err(expected), "byte {index}");
        assert!(keys.open_chunk(&sealed[..index]).is_err());
    }
}

#[test]
fn other_volumes_neither_open_nor_recognize_a_chunk() {
    let sealed = keys(1).seal_chunk(b"same");
    assert_eq!(
        keys(2).open_chunk(&sealed.bytes),
        Err(CryptoError::Unauthentic)
    );
    assert_ne!(keys(2).seal_chunk(b"same").id, sealed.id);
}

#[test]
fn segments_open_in_their_place_only() {
    let (keys, rng) = (keys(1), Rng::from_seed(9));
    let sealed = keys.seal_segment(&rng, b"device 1, segment 2", b"ops");
    assert_eq!(sealed.len(), 3 + SEGMENT_OVERHEAD_BYTES);
    assert_eq!(
        keys.open_segment(b"device 1, segment 2", &sealed).unwrap(),
        b"ops"
    );
    assert_eq!(
        keys.open_segment(b"device 1, segment 3", &sealed),
        Err(CryptoError::Unauthentic)
    );
    assert_ne!(
        keys.seal_segment(&rng, b"device 1, segment 2", b"ops"),
        sealed
    );
    for index in 0..sealed.len() {
        let mut changed = sealed.clone();
        changed[index] ^= 1;
        assert!(keys.open_segment(b"device 1, segment 2", &changed).is_err());
        assert!(
            keys.open_segment(b"device 1, segment 2", &sealed[..index])
                .is_err()
        );
    }
}

#[test]
fn a_new_epoch_reads_the_old_ones_and_the_old_ones_not_it() {
    let (keys, rng) = (keys(1), Rng::from_seed(5));
    let before = VolumeKeys::from_bytes(&keys.to_bytes()).unwrap();
    let old = keys.seal_chunk(b"x");
    let epoch = keys.rotate(&rng).unwrap();
    assert_eq!(keys.epoch(), epoch);
    let new = keys.seal_chunk(b"x");
    assert_ne!(old.id, new.id);
    assert_eq!(VolumeKeys::epoch_of(&new.bytes), Some(epoch));
    assert_eq!(keys.open_chunk(&old.bytes).unwrap(), b"x");
    assert_eq!(
        before.open_chunk(&new.bytes),
        Err(CryptoError::UnknownEpoch(epoch))
    );
    assert_eq!(keys.name_hash(Ino(3), b"n"), before.name_hash(Ino(3), b"n"));
    assert!(before.adopt(&keys).unwrap());
    assert_eq!(before.open_chunk(&new.bytes).unwrap(), b"x");
    assert!(!before.adopt(&keys).unwrap());
}

#[test]
fn epochs_started_at_the_same_time_unite() {
    let one = keys(1);
    let two = VolumeKeys::from_bytes(&one.to_bytes()).unwrap();
    one.rotate(&Rng::from_seed(10)).unwrap();
    two.rotate(&Rng::from_seed(11)).unwrap();
    let sealed = [one.seal_chunk(b"1"), two.seal_chunk(b"2")];
    one.adopt(&two).unwrap();
    two.adopt(&one).unwrap();
    assert_eq!(one.epoch(), two.epoch());
    assert_eq!(*one.to_bytes(), *two.to_bytes());
    for chunk in sealed {
        one.open_chunk(&chunk.bytes).unwrap();
        two.open_chunk(&chunk.bytes).unwrap();
    }
    assert_eq!(one.adopt(&keys(2)), Err(CryptoError::OtherVolume));
}

#[test]
fn one_epoch_can_be_handed_over_alone() {
    let one = keys(1);
    let two = VolumeKeys::from_bytes(&one.to_bytes()).unwrap();
    let epoch = one.rotate(&Rng::from_seed(10)).unwrap();
    let bytes = one.epoch_to_bytes(epoch).unwrap();
    assert!(two.adopt_epoch(&bytes).unwrap());
    assert!(!two.adopt_epoch(&bytes).unwrap());
    assert_eq!(two.seal_chunk(b"x"), one.seal_chunk(b"x"));
    let mut other = bytes.to_vec();
    other[20] ^= 1;
    let conflict = Err(CryptoError::EpochConflict(epoch));
    assert_eq!(two.adopt_epoch(&other), conflict);
    for cut in 0..bytes.len() {
        assert!(two.adopt_epoch(&bytes[..cut]).is_err());
    }
    assert!(matches!(
        two.epoch_to_bytes(7),
        Err(CryptoError::UnknownEpoch(7))
    ));
}

#[test]
fn names_hash_by_folder_and_volume() {
    let keys = keys(1);
    let hash = keys.name_hash(Ino(1), b"name");
    assert_eq!(hash, keys.name_hash(Ino(1), b"name"));
    assert_ne!(hash, keys.name_hash(Ino(2), b"name"));
    assert_ne!(hash, keys.name_hash(Ino(1), b"nam"));
    assert_ne!(hash, self::keys(2).name_hash(Ino(1), b"name"));
}

#[test]
fn damaged_key_bytes_are_refused() {
    let keys = keys(1);
    keys.rotate(&Rng::from_seed(2)).unwrap();
    let bytes = keys.to_bytes();
    for cut in 0..bytes.len() {
        assert!(
            VolumeKeys::from_bytes(&bytes[..cut]).is_err(),
            "cut at {cut}"
        );
    }
    let mut swapped = bytes.to_vec();
    swapped[5..].rotate_left(EPOCH_BYTES);
    assert!(VolumeKeys::from_bytes(&swapped).is_err());
    let mut newer = bytes.to_vec();
    newer[0] = 9;
    assert!(matches!(
        VolumeKeys::from_bytes(&newer),
        Err(CryptoError::TooNew { found: 9, .. })
    ));
    assert!(VolumeKeys::from_bytes(&[1, 0, 0, 0, 0]).is_err());
}
