use super::*;
use crate::auth::password::PasswordPolicy;

#[test]
fn password_rules_can_only_be_made_stricter() {
    let files = Files::new();
    let config = files.parse(MINIMAL).unwrap();
    assert_eq!(config.auth.password, PasswordPolicy::default());
    files.write(
        "hashes",
        "5BAA61E4C9B93F3F0682250B6CF8331B7EE68FD8:3\n",
        0o644,
    );
    files.write("words", "letmein\n", 0o644);
    let text = "[auth.password]\nmemory_mib = 64\npasses = 3\nlanes = 2\nmin_characters = 16\nhistory = 10\n\
                max_age_days = 90\nbreach_list = \"%/hashes\"\nword_list = \"%/words\"\n";
    let policy = files
        .parse(&(MINIMAL.to_owned() + text))
        .unwrap()
        .auth
        .password;
    assert_eq!(
        (
            policy.cost.memory_kib,
            policy.cost.passes,
            policy.cost.lanes
        ),
        (64 * 1024, 3, 2)
    );
    assert_eq!((policy.min_characters, policy.history), (16, 10));
    assert_eq!(policy.max_age, TimeDelta::try_days(90));
    assert!(policy.breach_list.is_some() && policy.word_list.is_some());

    let text = "[auth.password]\nmemory_mib = 18\npasses = 1\nlanes = 0\nmin_characters = 11\nhistory = 25\n\
                max_age_days = 0\nbreach_list = \"%/words\"\nword_list = \"%/missing\"\n";
    let faults = files.faults(&(MINIMAL.to_owned() + text));
    for (fault, expected) in faults.iter().zip([
        "auth.password.memory_mib: expected a whole number from 19 to 1024, found the number 18",
        "auth.password.passes: expected a whole number from 2 to 20,",
        "auth.password.lanes: expected a whole number from 1 to 16,",
        "auth.password.min_characters: expected a whole number from 12 to 64,",
        "auth.password.history: expected a whole number from 0 to 24,",
        "auth.password.max_age_days: expected a whole number from 1 to 3650,",
        "auth.password.breach_list: ",
        "auth.password.word_list: ",
    ]) {
        assert!(fault.starts_with(expected), "{fault}");
    }
    assert_eq!(faults.len(), 8, "{faults:?}");
}

#[test]
fn a_fault_in_the_password_rules_does_not_keep_an_account_from_being_disabled() {
    let files = Files::new();
    let text = MINIMAL.to_owned() + "[auth.password]\nbreach_list = \"/nowhere\"\n";
    files.write("proxy.toml", &text, 0o644);
    let config = Config::load_accounts(&files.0.path().join("proxy.toml")).unwrap();
    assert!(config.auth.unwrap_err().to_string().contains("breach_list"));
}
