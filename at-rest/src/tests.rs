//! What was written comes back, and nothing else ever does.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    DataKey, EXTENT_HEADER, EXTENT_PLAINTEXT, ExtentReaders, Head, HeadError, Holder, Keyring,
    Layout, Realm, SEGMENT_PLAINTEXT, Sealer, UnwrapError, escrow::Identity, kek::SoftwareKek,
};

struct Lab {
    kek: Arc<SoftwareKek>,
    ring: Keyring,
    escrow: Identity,
    realm: Realm,
}

impl Lab {
    fn new() -> Self {
        let escrow = Identity::generate().unwrap();
        let kek = Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
        let recipient = escrow.recipient().clone();
        Self {
            ring: Keyring::new(Arc::clone(&kek) as _, Vec::new(), Some(recipient)),
            kek,
            escrow,
            realm: Realm::named("archive"),
        }
    }

    /// In writes of up to `step` bytes.
    fn seal(&self, plaintext: &[u8], step: usize) -> Vec<u8> {
        let (key, head) = self.ring.create(&self.realm).unwrap();
        let mut pieces = vec![head.as_bytes().to_vec()];
        let mut sealer = Sealer::new(&key, head);
        for data in plaintext.chunks(step) {
            sealer.write(data, &mut pieces).unwrap();
        }
        assert_eq!(sealer.length(), plaintext.len() as u64);
        sealer.finish(&mut pieces).unwrap();
        pieces.concat()
    }

    fn open(&self, stored: &[u8]) -> Result<Vec<u8>, String> {
        let head = Head::parse(stored).map_err(|error| error.to_string())?;
        let key = self
            .ring
            .unwrap(&head, &self.realm)
            .map_err(|error| error.to_string())?;
        open_with(&key, head, stored)
    }
}

fn open_with(key: &DataKey, head: Head, stored: &[u8]) -> Result<Vec<u8>, String> {
    let layout = Layout::of_stored(stored.len() as u64).map_err(|error| error.to_string())?;
    let readers = ExtentReaders::new(key, head, layout);
    let mut plaintext = Vec::new();
    loop {
        let place = layout.segment_at(plaintext.len() as u64);
        let begins = Layout::extent_header(place.extent) as usize;
        let reader = readers
            .extent(place.extent, &stored[begins..begins + EXTENT_HEADER])
            .map_err(|error| error.to_string())?;
        let from = place.stored_offset as usize;
        let segment = &stored[from..from + place.stored_length];
        let mut found = vec![1; place.length];
        let opened = reader.open(&place, segment, &mut found);
        assert!(opened.is_ok() || found.iter().all(|byte| *byte == 0));
        opened.map_err(|error| error.to_string())?;
        assert_eq!(plaintext.len() as u64, place.offset);
        plaintext.extend(found);
        if place == layout.last_segment() {
            return Ok(plaintext);
        }
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}

const SEGMENT: usize = SEGMENT_PLAINTEXT;
const EXTENT: usize = EXTENT_PLAINTEXT as usize;

#[test]
fn files_of_every_shape_come_back() {
    let lab = Lab::new();
    for (length, step) in [
        (0, 1),
        (1, 1),
        (1000, 7),
        (SEGMENT - 1, 100),
        (SEGMENT, SEGMENT),
        (SEGMENT + 1, 32 << 10),
        (3 * SEGMENT, 32 << 10),
        (EXTENT - 1, 255 << 10),
        (EXTENT, 255 << 10),
        (EXTENT + 1, 255 << 10),
        (2 * EXTENT + 5, 1 << 20),
    ] {
        let plaintext = noise(length);
        let stored = lab.seal(&plaintext, step);
        assert_eq!(
            stored.len() as u64,
            Layout::of_plaintext(length as u64).stored()
        );
        assert!(lab.open(&stored).unwrap() == plaintext, "{length}");
        let head = Head::parse(&stored).unwrap();
        let key = head.rescue(&lab.escrow).unwrap().unwrap();
        assert!(
            open_with(&key, head, &stored).unwrap() == plaintext,
            "{length}"
        );
    }
}

#[test]
fn a_flipped_bit_anywhere_is_found() {
    let lab = Lab::new();
    let plaintext = noise(SEGMENT + 100);
    let stored = lab.seal(&plaintext, 1 << 20);
    let regions = (0..Head::LENGTH + EXTENT_HEADER + 60)
        .chain((0..200).map(|at| at * 331 % stored.len()))
        .chain(stored.len() - 160..stored.len());
    for at in regions {
        for bit in [0, 3, 7] {
            let mut changed = stored.clone();
            changed[at] ^= 1 << bit;
            assert!(lab.open(&changed).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_file_that_was_cut_or_lengthened_anywhere_is_found() {
    let lab = Lab::new();
    let plaintext = noise(EXTENT + 2 * SEGMENT);
    let stored = lab.seal(&plaintext, 1 << 20);
    let layout = Layout::of_plaintext(plaintext.len() as u64);
    let ends = (0..layout.last_segment().index)
        .map(|index| layout.segment_at(index * SEGMENT as u64).stored_offset as usize);
    let ends = ends.chain([0, 1, Head::LENGTH, Layout::extent_header(1) as usize]);
    for end in ends.flat_map(|end| end.saturating_sub(1)..(end + 2).min(stored.len())) {
        assert!(lab.open(&stored[..end]).is_err(), "cut at {end}");
    }
    for more in [1, 32, 33, SEGMENT + 32] {
        let longer = [&stored[..], &noise(more)].concat();
        assert!(lab.open(&longer).is_err(), "{more} bytes more");
    }
}

#[test]
fn segments_and_extents_do_not_change_places_or_files() {
    let lab = Lab::new();
    let plaintext = noise(2 * EXTENT + 3 * SEGMENT);
    let (stored, other) = (lab.seal(&plaintext, 1 << 20), lab.seal(&plaintext, 1 << 20));
    let layout = Layout::of_plaintext(plaintext.len() as u64);
    let segment = |index: u64| {
        let place = layout.segment_at(index * SEGMENT as u64);
        let from = place.stored_offset as usize;
        from..from + place.stored_length
    };
    for (one, two) in [(0, 1), (0, 256), (255, 511), (512, 513)] {
        let mut swapped = stored.clone();
        swapped[segment(one)].copy_from_slice(&stored[segment(two)]);
        swapped[segment(two)].copy_from_slice(&stored[segment(one)]);
        assert!(lab.open(&swapped).is_err(), "{one} and {two}");
    }
    let extent =
        |index| Layout::extent_header(index) as usize..Layout::extent_header(index + 1) as usize;
    let mut swapped = stored.clone();
    swapped[extent(0)].copy_from_slice(&stored[extent(1)]);
    swapped[extent(1)].copy_from_slice(&stored[extent(0)]);
    assert!(lab.open(&swapped).is_err());
    let mut mixed = stored.clone();
    mixed[extent(1)].copy_from_slice(&other[extent(1)]);
    assert!(lab.open(&mixed).is_err());
    let mut headed = stored;
    headed[..Head::LENGTH].copy_from_slice(&other[..Head::LENGTH]);
    assert!(lab.open(&headed).is_err());
}

#[test]
fn only_its_own_key_and_realm_open_a_file() {
    let lab = Lab::new();
    let stored = lab.seal(b"result", 100);
    let head = Head::parse(&stored).unwrap();
    assert!(matches!(
        lab.ring.unwrap(&head, &Realm::named("lab")),
        Err(UnwrapError::Head(HeadError::OtherRealm))
    ));
    let stranger = Lab::new();
    assert!(matches!(
        stranger.ring.unwrap(&head, &stranger.realm),
        Err(UnwrapError::NoSuchKek(kek)) if kek == head.kek()
    ));
    assert!(head.rescue(&stranger.escrow).is_none());
}

#[test]
fn a_head_that_is_wrapped_anew_opens_the_same_file_and_old_ones_stay_readable() {
    let lab = Lab::new();
    let plaintext = noise(100);
    let old = lab.seal(&plaintext, 100);
    let fresh: Arc<SoftwareKek> = Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
    let both = Keyring::new(
        Arc::clone(&fresh) as _,
        vec![Arc::clone(&lab.kek) as _],
        None,
    );
    let head = Head::parse(&old).unwrap();
    assert!(lab.ring.is_current(&head) && !both.is_current(&head));
    let rewrapped = both.rewrap(&head, &lab.realm).unwrap();
    assert!(both.is_current(&rewrapped) && rewrapped.object() == head.object());
    let stored = [&rewrapped.as_bytes()[..], &old[Head::LENGTH..]].concat();
    let later = Lab {
        ring: both,
        ..Lab::new()
    };
    for file in [&stored, &old] {
        assert_eq!(later.open(file).unwrap(), plaintext);
    }
    let only = Lab {
        ring: Keyring::new(fresh, Vec::new(), None),
        ..Lab::new()
    };
    assert_eq!(only.open(&stored).unwrap(), plaintext);
    assert!(only.open(&old).is_err());
}

#[test]
fn a_ring_that_is_destroyed_opens_and_makes_nothing_and_says_why_and_others_go_on() {
    struct Held(AtomicBool);
    impl Holder for Held {
        fn wipe(&self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let held = || Arc::new(Held(AtomicBool::new(false)));
    let (before, after) = (held(), held());
    let (lab, other) = (Lab::new(), Lab::new());
    let (stored, others) = (lab.seal(b"result", 100), other.seal(b"result", 100));
    let young = Keyring::new(
        Arc::new(SoftwareKek::new(&DataKey::random().unwrap())),
        vec![Arc::clone(&lab.kek) as _],
        None,
    );
    // The same keys read again, as a reload does.
    let again = Keyring::new(Arc::clone(&lab.kek) as _, Vec::new(), None);
    let clone = lab.ring.clone();
    clone.hold(Arc::downgrade(&before) as _);
    let head = Head::parse(&stored).unwrap();
    Keyring::destroy(&[lab.ring.active()], &Arc::from("record 7"));
    assert!(before.0.load(Ordering::SeqCst));
    clone.hold(Arc::downgrade(&after) as _);
    assert!(after.0.load(Ordering::SeqCst), "one that comes too late");
    for ring in [&lab.ring, &clone, &again] {
        let refused = ring.unwrap(&head, &lab.realm).unwrap_err();
        assert_eq!(refused.to_string(), "record 7");
        let refused = ring.create(&lab.realm).unwrap_err();
        assert_eq!(refused.to_string(), "record 7");
    }
    assert_eq!(other.open(&others).unwrap(), b"result");
    // Its key is retired there: whoever destroys the set sees to that before.
    assert!(young.unwrap(&head, &lab.realm).is_ok());
    assert!(matches!(
        lab.ring.unwrap(&Head::parse(&others).unwrap(), &lab.realm),
        Err(UnwrapError::NoSuchKek(_))
    ));
    let lost = Keyring::lost(head.kek(), Vec::new(), Arc::from("record 8"));
    let refused = lost.unwrap(&head, &lab.realm).unwrap_err();
    assert_eq!(refused.to_string(), "record 8");
    let fresh = Arc::new(SoftwareKek::new(&DataKey::random().unwrap()));
    let known = vec![(head.kek(), Arc::from("record 9"))];
    let knowing = Keyring::knowing(fresh, Vec::new(), None, known);
    let refused = knowing.unwrap(&head, &lab.realm).unwrap_err();
    assert_eq!(refused.to_string(), "record 9");
}

#[test]
fn an_interrupted_file_goes_on_behind_its_whole_extents() {
    let lab = Lab::new();
    let plaintext = noise(2 * EXTENT + 100);
    let stored = lab.seal(&plaintext, 1 << 20);
    for cut in [EXTENT + 50, 2 * EXTENT + 50] {
        let partial = &stored[..Layout::of_plaintext(cut as u64).stored() as usize - 40];
        let whole = Layout::whole_extents(partial.len() as u64);
        assert_eq!(whole, (cut / EXTENT * EXTENT) as u64);
        let head = Head::parse(partial).unwrap();
        let key = lab.ring.unwrap(&head, &lab.realm).unwrap();
        let kept = &partial[..Layout::stored_extents(whole) as usize];
        let mut pieces = vec![kept.to_vec()];
        let mut sealer = Sealer::from(&key, head, whole / EXTENT_PLAINTEXT);
        sealer
            .write(&plaintext[whole as usize..], &mut pieces)
            .unwrap();
        sealer.finish(&mut pieces).unwrap();
        let resumed = pieces.concat();
        assert!(lab.open(&resumed).unwrap() == plaintext);
        assert_ne!(
            resumed[kept.len()..],
            stored[kept.len()..],
            "nothing is encrypted twice alike"
        );
    }
}

#[test]
fn what_was_cut_off_never_seems_whole() {
    let lab = Lab::new();
    for length in [0, 1, EXTENT - 1, EXTENT, EXTENT + 1, 2 * EXTENT] {
        let stored = lab.seal(&noise(length), 1 << 20);
        for missing in [0, 1, 31, 32, 33, 106, 107] {
            let whole = Layout::whole_extents((stored.len() - missing) as u64) as usize;
            assert!(whole < length.max(1), "{whole} of {length}");
        }
    }
}

#[test]
fn what_is_not_a_head_is_named() {
    let lab = Lab::new();
    let stored = lab.seal(b"", 1);
    assert_eq!(Head::parse(b""), Err(HeadError::Empty));
    assert_eq!(Head::parse(&stored[..4]), Err(HeadError::Short));
    assert_eq!(Head::parse(&stored[..511]), Err(HeadError::Short));
    assert_eq!(Head::parse(b"name,result\n"), Err(HeadError::Foreign));
    let mut newer = stored;
    newer[9] = 2;
    assert_eq!(Head::parse(&newer), Err(HeadError::Newer(2)));
    newer[9] = 0;
    assert_eq!(Head::parse(&newer), Err(HeadError::NotAuthentic));
}

#[test]
fn no_nonce_is_used_twice_in_a_million_segments() {
    let lab = Lab::new();
    let (key, head) = lab.ring.create(&lab.realm).unwrap();
    let mut sealer = Sealer::new(&key, head);
    let mut nonces = HashSet::new();
    let mut segments = 0_u64;
    // Empty ones would do, but only whole ones are cut by the sealer: their content does not matter.
    let segment = vec![0; SEGMENT];
    let mut pieces = Vec::new();
    let count = if cfg!(debug_assertions) {
        20_000
    } else {
        1_000_001
    };
    for _ in 0..count {
        sealer.write(&segment, &mut pieces).unwrap();
        for piece in pieces.drain(..) {
            if piece.len() != EXTENT_HEADER {
                segments += 1;
                assert!(nonces.insert(<[u8; 12]>::try_from(&piece[4..16]).unwrap()));
            }
        }
    }
    assert_eq!(segments, count - 1);
}
