//! Tests of the sealing of chunks, segments and names.

use super::*;
use crate::base::id::to_hex;
use crate::crypto::FRAME_BYTES;

fn keys(seed: u64) -> VolumeKeys {
    VolumeKeys::generate(&Rng::from_seed(seed))
}

#[test]
fn chunks_round_trip_and_equal_ones_seal_alike() {
    let keys = keys(1);
    const FRAME: usize = FRAME_BYTES;
    for length in [0, 1, 15, 17, 4096, FRAME - 1, FRAME, FRAME + 1, 1 << 20] {
        let plain: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
        let sealed = keys.seal_chunk(&plain);
        assert_eq!(sealed.bytes.len(), Frames::of_plain(length).sealed_len());
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
    "0200000000f75fbadfbb0c2327dbf1ba7d73625ff139e5196f305ca3",
    "1649e84c2924f2183d8dfaeaeaaf4297d429dfe1e30b5a7a81ea2ca5"
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
                found: 6,
                known: 2,
            },
            1..5 => CryptoError::UnknownEpoch(4 << (8 * (index - 1))),
            _ => CryptoError::Unauthentic,
        };
        assert_eq!(keys.open_chunk(&changed), Err(expected), "byte {index}");
        assert!(keys.open_chunk(&sealed[..index]).is_err());
    }
}

/// Returns a chunk of three frames, the last one short, with its plaintext.
fn framed(keys: &VolumeKeys, seed: u8, len: usize) -> (Vec<u8>, Bytes) {
    let mut plain = vec![0; len];
    blake3::Hasher::new()
        .update(&[seed])
        .finalize_xof()
        .fill(&mut plain);
    let sealed = keys.seal_chunk(&plain).bytes;
    (plain, sealed)
}

fn head_of(sealed: &[u8]) -> &[u8; CHUNK_HEAD_BYTES] {
    sealed.first_chunk().unwrap()
}

#[test]
fn each_run_of_frames_opens_alone() {
    let keys = keys(1);
    let (plain, sealed) = framed(&keys, 1, 2 * FRAME_BYTES + 100);
    let frames = Frames::of_sealed(sealed.len()).unwrap();
    for start in 0..3 {
        for end in start..=3 {
            let bytes = &sealed[frames.sealed(&(start..end))];
            let opened = keys
                .open_frames(head_of(&sealed), frames, start..end, bytes)
                .unwrap();
            assert_eq!(opened, plain[frames.plain(&(start..end))]);
        }
    }
}

#[test]
fn a_frame_opens_in_its_place_its_chunk_and_its_length_only() {
    let keys = keys(1);
    let (plain, sealed) = framed(&keys, 1, 3 * FRAME_BYTES);
    let (_, other) = framed(&keys, 2, 3 * FRAME_BYTES);
    let frames = Frames::of_sealed(sealed.len()).unwrap();
    let frame = |sealed: &[u8], index: usize| sealed[frames.sealed(&(index..index + 1))].to_vec();
    let open = |frames, index: usize, bytes: &[u8]| {
        keys.open_frames(head_of(&sealed), frames, index..index + 1, bytes)
    };
    assert_eq!(
        open(frames, 1, &frame(&sealed, 1)).unwrap(),
        plain[frames.plain(&(1..2))]
    );
    let refused = Err(CryptoError::Unauthentic);
    // In another place.
    assert_eq!(open(frames, 1, &frame(&sealed, 0)), refused);
    assert_eq!(open(frames, 2, &frame(&sealed, 1)), refused);
    // Of another chunk, and under another's head.
    assert_eq!(open(frames, 1, &frame(&other, 1)), refused);
    let under = keys.open_frames(head_of(&other), frames, 1..2, &frame(&sealed, 1));
    assert_eq!(under, refused);
    // Of a chunk that is said to be longer or shorter.
    for len in [2 * FRAME_BYTES, 3 * FRAME_BYTES - 1, 4 * FRAME_BYTES] {
        assert_eq!(open(Frames::of_plain(len), 1, &frame(&sealed, 1)), refused);
    }
    // Frames left out at the end, in the middle, exchanged.
    let exchanged = [
        &sealed[..CHUNK_HEAD_BYTES],
        &frame(&sealed, 1),
        &frame(&sealed, 0),
    ]
    .concat();
    let (first, last) = (&sealed[..frames.sealed(&(0..1)).end], frame(&sealed, 2));
    for cut in [
        exchanged,
        [first, &last].concat(),
        first.to_vec(),
        sealed[..sealed.len() - 1].to_vec(),
    ] {
        assert_eq!(keys.open_chunk(&cut), refused);
    }
    // Bytes that are not as many as the frames have.
    assert!(open(frames, 1, &frame(&sealed, 1)[1..]).is_err());
    assert!(open(frames, 3, &frame(&sealed, 2)).is_err());
}

#[test]
fn a_flipped_bit_costs_its_frame_alone() {
    let keys = keys(1);
    let (plain, sealed) = framed(&keys, 1, 3 * FRAME_BYTES);
    let frames = Frames::of_sealed(sealed.len()).unwrap();
    let mut rotten = sealed.to_vec();
    rotten[frames.sealed(&(1..2)).start + 5] ^= 1;
    for index in 0..3 {
        let bytes = &rotten[frames.sealed(&(index..index + 1))];
        let opened = keys.open_frames(head_of(&rotten), frames, index..index + 1, bytes);
        match index {
            1 => assert_eq!(opened, Err(CryptoError::Unauthentic)),
            _ => assert_eq!(opened.unwrap(), plain[frames.plain(&(index..index + 1))]),
        }
    }
    assert_eq!(keys.open_chunk(&rotten), Err(CryptoError::Unauthentic));
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
