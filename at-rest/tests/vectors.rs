//! Both FLOE implementations give the answers that the specification knows.

use floe_rs::gcm::{FloeDecryptor, FloeKey, Header, Segment};

const VECTORS: &str = include_str!("floe-vectors.txt");
const ASSOCIATED: &[u8] = b"This is AAD";

struct Vector {
    name: &'static str,
    segment: u32,
    plaintext: Vec<u8>,
    ciphertext: Vec<u8>,
}

fn vectors() -> Vec<Vector> {
    VECTORS
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut fields = line.split(' ');
            Some(Vector {
                name: fields.next()?,
                segment: fields.next()?.parse().ok()?,
                plaintext: hex::decode(fields.next()?).ok()?,
                ciphertext: hex::decode(fields.next()?).ok()?,
            })
        })
        .collect()
}

fn by_the_gateways(vector: &Vector, ciphertext: &[u8]) -> Option<Vec<u8>> {
    let parameters = fast_floe::Parameters::with_segment_length(vector.segment).ok()?;
    let key = fast_floe::Key::from_bytes([0; 32]);
    fast_floe::decrypt_with_parameters(&key, ASSOCIATED, parameters, ciphertext).ok()
}

fn by_the_other<const S: u32>(ciphertext: &[u8]) -> Option<Vec<u8>> {
    let (header, segments) = ciphertext.split_at_checked(Header::LENGTH)?;
    let header = Header::from_bytes(header).ok()?;
    let key = FloeKey::from([0; 32]);
    let decryptor = FloeDecryptor::<S>::new(&key, ASSOCIATED, &header).ok()?;
    let count = segments.len().div_ceil(S as usize);
    let mut plaintext = Vec::new();
    for (number, segment) in segments.chunks(S as usize).enumerate() {
        let segment = Segment::from_bytes(segment).ok()?;
        let mut room = vec![0; segment.plaintext_size()];
        decryptor
            .decrypt_segment(&segment, &mut room, number as u64, number + 1 == count)
            .ok()?;
        plaintext.extend(room);
    }
    Some(plaintext)
}

#[test]
fn known_answers_are_given() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 12);
    for vector in vectors {
        let expected = Some(&vector.plaintext);
        // The gateway's library wants segments of at least 64 bytes; the two vectors with shorter ones are for the other alone.
        let is_for_both = fast_floe::Parameters::VALID_SEGMENT_LENGTHS.contains(&vector.segment);
        assert_eq!(is_for_both, vector.segment >= 64);
        let ours = by_the_gateways(&vector, &vector.ciphertext);
        assert!(
            ours.as_ref() == expected.filter(|_| is_for_both),
            "{}",
            vector.name
        );
        let theirs = match vector.segment {
            40 => by_the_other::<40>(&vector.ciphertext),
            64 => by_the_other::<64>(&vector.ciphertext),
            4096 => by_the_other::<4096>(&vector.ciphertext),
            other => panic!("segments of {other} bytes"),
        };
        assert!(theirs.as_ref() == expected, "{}", vector.name);
        let mut changed = vector.ciphertext.clone();
        let at = changed.len() / 2;
        changed[at] ^= 1;
        assert_eq!(by_the_gateways(&vector, &changed), None, "{}", vector.name);
    }
}
