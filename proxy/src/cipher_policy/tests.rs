use super::*;

#[test]
fn no_preset_names_a_denied_algorithm() {
    for preset in PRESETS {
        for list in [
            preset.key_exchanges,
            preset.host_keys,
            preset.user_keys,
            preset.ciphers,
            preset.macs,
        ] {
            assert!(!list.is_empty(), "{}", preset.name);
            for name in list {
                assert_eq!(denied(name), None, "{name} in {}", preset.name);
            }
        }
    }
}

#[test]
fn no_configuration_can_enable_what_is_denied() {
    for (purpose, names) in [
        (
            Purpose::KeyExchange,
            &[
                "diffie-hellman-group1-sha1",
                "diffie-hellman-group14-sha1",
                "diffie-hellman-group-exchange-sha1",
                "none",
            ][..],
        ),
        (
            Purpose::Cipher,
            &[
                "none",
                "3des-cbc",
                "3DES-CBC",
                "3des-ctr",
                "des-cbc",
                "aes256-cbc",
                "aes128-cbc",
                "rijndael-cbc@lysator.liu.se",
                "arcfour",
                "arcfour256",
                "blowfish-cbc",
                "blowfish-ctr",
                "cast128-cbc",
                "cast128-ctr",
            ],
        ),
        (
            Purpose::Mac,
            &[
                "none",
                "hmac-md5",
                "hmac-md5-96-etm@openssh.com",
                "hmac-sha1",
                "hmac-sha1-etm@openssh.com",
                "hmac-sha2-256-96",
                "umac-64@openssh.com",
            ],
        ),
    ] {
        for name in names {
            let mut policy = CipherPolicy::preset("hipaa-2026").unwrap();
            let before = policy.clone();
            let errors = policy.narrow(purpose, &[name]).unwrap_err();
            assert!(
                matches!(errors[..], [PolicyError::Denied { .. }]),
                "{name}: {errors:?}"
            );
            assert_eq!(policy, before);
        }
    }
    for name in ["ssh-dss", "ssh-rsa", "ssh-rsa-cert-v01@openssh.com", "zlib"] {
        assert!(denied(name).is_some(), "{name}");
    }
    for name in ["rsa-sha2-256", "rsa-sha2-512", "aes256-ctr", "ssh-ed25519"] {
        assert_eq!(denied(name), None, "{name}");
    }
}

#[test]
fn a_list_narrows_a_preset_and_never_widens_it() {
    let mut policy = CipherPolicy::preset("hipaa-2026").unwrap();
    policy
        .narrow(Purpose::KeyExchange, &["mlkem768x25519-sha256"])
        .unwrap();
    assert_eq!(policy.key_exchanges(), ["mlkem768x25519-sha256"]);
    let errors = policy
        .narrow(
            Purpose::Cipher,
            &["aes256-ctr", "chacha20-poly1305@openssh.com"],
        )
        .unwrap_err();
    assert!(matches!(errors[..], [PolicyError::NotInPreset { .. }]));
    assert_eq!(
        policy.ciphers(),
        ["aes256-gcm@openssh.com", "aes256-ctr"],
        "a refused list changes nothing"
    );
    assert_eq!(
        policy.narrow(Purpose::Mac, &[]),
        Err(vec![PolicyError::Empty {
            preset: "hipaa-2026"
        }])
    );
}

#[test]
fn an_unknown_preset_is_answered_with_those_there_are() {
    let error = CipherPolicy::preset("hipaa-2025").unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown cipher policy \"hipaa-2025\"; known: hipaa-2026, fips-140-3, pq-only, legacy-compat"
    );
}

#[test]
fn what_a_preset_lacks_is_not_what_it_offers() {
    for preset in PRESETS {
        for name in preset.not_implemented {
            assert!(!preset.key_exchanges.contains(name), "{name}");
            assert_eq!(denied(name), None, "{name}");
        }
    }
}

#[test]
fn a_relaxation_ends_after_its_last_day_and_whatever_else_does_not() {
    let day = |day| NaiveDate::from_ymd_opt(2027, 6, day).unwrap();
    let exception = Exception {
        reason: "a scanner".to_owned(),
        approver: "somebody".to_owned(),
        expires: day(29),
    };
    let mut policy = CipherPolicy::preset("legacy-compat")
        .unwrap()
        .under(exception);
    policy.narrow(Purpose::Cipher, &["aes128-ctr"]).unwrap();
    assert_eq!(policy.on(day(29)).ciphers(), ["aes128-ctr"]);
    let after = policy.on(day(30));
    assert_eq!(*after, CipherPolicy::preset("hipaa-2026").unwrap());
    let other = CipherPolicy::preset("pq-only").unwrap();
    assert_eq!(*other.on(day(30)), other);
}

#[test]
fn only_a_relaxation_offers_less_than_the_default_and_the_fips_preset_does_not_claim_validation() {
    let relaxed: Vec<_> = PRESETS
        .iter()
        .filter(|preset| preset.is_relaxation)
        .map(|preset| preset.name)
        .collect();
    assert_eq!(relaxed, ["legacy-compat"]);
    let fips = CipherPolicy::preset("fips-140-3").unwrap();
    assert!(fips.claim().contains("not a validated one"));
    assert!(CipherPolicy::preset("cnsa-2.0").is_err());
}
