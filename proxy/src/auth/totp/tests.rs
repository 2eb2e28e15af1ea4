use super::*;

/// RFC 6238 appendix B: time, then the eight digits with SHA-1, SHA-256 and SHA-512.
const VECTORS: [(u64, [&str; 3]); 6] = [
    (59, ["94287082", "46119246", "90693936"]),
    (1_111_111_109, ["07081804", "68084774", "25091201"]),
    (1_111_111_111, ["14050471", "67062674", "99943326"]),
    (1_234_567_890, ["89005924", "91819424", "93441116"]),
    (2_000_000_000, ["69279037", "90698825", "38618901"]),
    (20_000_000_000, ["65353130", "77737706", "47863826"]),
];

/// The RFC's seeds: the ten digits over and over, as long as the hash.
fn of_rfc(algorithm: Algorithm, digits: Digits) -> Authenticator {
    let secret: Vec<u8> = (1..=algorithm.secret_bytes())
        .map(|position| b'0' + u8::try_from(position % 10).unwrap())
        .collect();
    Authenticator {
        secret: Secret::from(secret),
        algorithm,
        digits,
    }
}

fn usual() -> Authenticator {
    of_rfc(Algorithm::Sha1, Digits::Six)
}

fn code(text: &str) -> Option<Code> {
    Code::parse(text.as_bytes())
}

fn step_of(text: &str, at: u64) -> Option<u64> {
    usual().matching_step(code(text), step_at(at), Drift::default())
}

#[test]
fn codes_are_those_of_rfc_6238_with_all_three_hashes_in_eight_and_six_digits() {
    for (at, codes) in VECTORS {
        let algorithms = [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512];
        for (algorithm, eight) in algorithms.into_iter().zip(codes) {
            for (digits, shown) in [(Digits::Eight, eight), (Digits::Six, &eight[2..])] {
                let authenticator = of_rfc(algorithm, digits);
                assert_eq!(authenticator.code_at(at), shown, "{algorithm:?} {at}");
                let step = authenticator.matching_step(code(shown), step_at(at), Drift::default());
                assert_eq!(step, Some(at / 30));
            }
        }
    }
}

#[test]
fn a_code_of_another_length_or_hash_is_wrong() {
    let eight = of_rfc(Algorithm::Sha1, Digits::Eight);
    let present = step_at(1_111_111_109);
    let matches = |authenticator: &Authenticator, text| {
        let step = authenticator.matching_step(code(text), present, Drift::default());
        step.is_some()
    };
    assert!(matches(&eight, "07081804"));
    assert!(!matches(&eight, "081804"));
    assert!(!matches(&usual(), "07081804"));
    assert!(matches(&usual(), "081804"));
    assert!(!matches(&of_rfc(Algorithm::Sha256, Digits::Six), "081804"));
}

#[test]
fn one_step_early_or_late_is_accepted_and_two_are_not() {
    let (at, code) = (1_111_111_111, "050471");
    let step = at / 30;
    assert_eq!(step_of(code, (step - 1) * 30), Some(step));
    assert_eq!(step_of(code, (step + 1) * 30 + 29), Some(step));
    assert_eq!(step_of(code, (step - 1) * 30 - 1), None);
    assert_eq!(step_of(code, (step + 2) * 30), None);
}

#[test]
fn a_code_is_six_or_eight_ascii_digits_with_at_most_one_space_in_the_middle() {
    for (text, value, digits) in [
        ("050471", 50_471, Digits::Six),
        ("050 471", 50_471, Digits::Six),
        ("14050471", 14_050_471, Digits::Eight),
        ("1405 0471", 14_050_471, Digits::Eight),
    ] {
        assert_eq!(code(text), Some(Code { value, digits }), "{text:?}");
    }
    for wrong in [
        "",
        " ",
        "05047",
        "0504711",
        "050471 ",
        " 050471",
        "05 0471",
        "050  471",
        "050471\n",
        "+50471",
        "-50471",
        "0x0471",
        "05047a",
        "140 50471",
        "14050471 ",
        "140504711",
        "1405  0471",
        "\u{660}\u{665}\u{660}\u{664}\u{667}\u{661}",
        "\u{ff10}\u{ff15}\u{ff10}\u{ff14}\u{ff17}\u{ff11}",
        "\u{660}\u{665}\u{660}",
        "050\u{a0}471",
    ] {
        assert_eq!(code(wrong), None, "{wrong:?}");
    }
    assert_eq!(Code::parse(&vec![b'0'; 1_000_000]), None);
}

#[test]
fn the_neighbour_of_the_right_code_is_wrong_and_so_is_no_code() {
    assert_eq!(step_of("050472", 1_111_111_111), None);
    assert_eq!(step_of("", 1_111_111_111), None);
}

#[test]
fn two_codes_in_a_row_are_found_within_ten_minutes_and_in_their_order_only() {
    let present = step_at(1_700_000_000);
    let shown = |step: u64| code(&usual().code_at(step * STEP_SECONDS));
    let found = |first, second| usual().consecutive_steps(shown(first), shown(second), present);
    for offset in [0, 1, RESYNC_STEPS] {
        let late = present + offset;
        assert_eq!(found(late - 1, late), Some(late));
        let early = present - offset;
        let expected = (offset < RESYNC_STEPS).then_some(early);
        assert_eq!(found(early - 1, early), expected);
    }
    assert_eq!(found(present, present - 1), None);
    assert_eq!(found(present, present), None);
    assert_eq!(found(present, present + 2), None);
    assert_eq!(found(present + 20, present + 21), None);
    assert_eq!(
        usual().consecutive_steps(None, shown(present), present),
        None
    );
}

#[test]
fn a_new_secret_is_as_long_as_the_hash_and_differs_from_the_last() {
    for (algorithm, bytes) in [
        (Algorithm::Sha1, 20),
        (Algorithm::Sha256, 32),
        (Algorithm::Sha512, 64),
    ] {
        let new = || Authenticator::generate(algorithm, Digits::Six).unwrap();
        let (one, other) = (new(), new());
        assert_eq!(one.secret.expose().len(), bytes);
        assert_ne!(one.secret.expose(), other.secret.expose());
        assert_eq!(one.base32().len(), (bytes * 8).div_ceil(5));
        assert_eq!(algorithm.name().parse(), Ok(algorithm));
    }
    assert!("SHA1".parse::<Algorithm>().is_err());
    assert!("md5".parse::<Algorithm>().is_err());
}

#[test]
fn the_uri_names_issuer_account_secret_and_what_the_app_has_to_do() {
    assert_eq!(
        *usual().uri("alice"),
        "otpauth://totp/Portcullis:alice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&issuer=Portcullis&algorithm=SHA1&digits=6&period=30"
    );
    let uri = of_rfc(Algorithm::Sha512, Digits::Eight).uri("alice");
    assert!(uri.contains("&algorithm=SHA512&digits=8&"), "{}", *uri);
}

#[test]
fn neither_a_code_nor_an_authenticator_is_printed() {
    assert_eq!(format!("{:?}", code("050471").unwrap()), "<secret>");
    assert!(!format!("{:?}", usual()).contains("1234"));
}
