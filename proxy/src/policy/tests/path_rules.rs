//! Permissions by place, against a second reading of the rules that shares nothing with the first.

use super::*;
use crate::path::RelativePath;

fn ruled(granted: &[Permission], rules: &[&str]) -> [Mount; 1] {
    [Mount {
        rules: PathRules::parse(rules).unwrap(),
        ..mount("/box", granted)
    }]
}

fn at(place: &str) -> VirtualPath {
    path(&format!("/box{place}"))
}

fn target(place: &str) -> RelativePath {
    at(place).below(&path("/box")).unwrap()
}

/// The oracle: walks pattern and path byte by byte, by hand.
fn oracle_matches(pattern: &[u8], text: &[u8]) -> bool {
    if pattern == b"/**" {
        return text.first() == Some(&b'/');
    }
    if let Some(rest) = pattern.strip_prefix(b"/**/") {
        // Any number of names.
        return (0..text.len())
            .filter(|&index| text[index] == b'/')
            .any(|index| oracle_matches(&[b"/", rest].concat(), &text[index..]));
    }
    match (pattern.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            let run = text.iter().take_while(|&&byte| byte != b'/').count();
            (0..=run).any(|taken| oracle_matches(rest, &text[taken..]))
        }
        (Some((b'?', rest)), Some((byte, others))) => *byte != b'/' && oracle_matches(rest, others),
        (Some((expected, rest)), Some((byte, others))) => {
            expected == byte && oracle_matches(rest, others)
        }
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn oracle_grants(own: &[Permission], rules: &[&str], place: &str, permission: Permission) -> bool {
    for rule in rules {
        let (pattern, list) = rule.split_at(rule.rfind('=').unwrap());
        let name = place.rsplit('/').next().unwrap();
        let matches = if pattern.starts_with('/') {
            oracle_matches(pattern.as_bytes(), place.as_bytes())
                || (permission == Permission::List
                    && pattern
                        .strip_suffix("/**")
                        .is_some_and(|top| oracle_matches(top.as_bytes(), place.as_bytes())))
        } else {
            oracle_matches(pattern.as_bytes(), name.as_bytes())
        };
        if matches {
            return list[1..].split(',').any(|word| word == permission.name());
        }
    }
    own.contains(&permission)
}

#[test]
fn users_paths_and_operations_are_judged_as_the_oracle_judges_them() {
    let users: [(&[Permission], &[&str]); 5] = [
        (&[], &["/in/**=list,read,write", "*.tmp=delete"]),
        (
            &[Permission::List, Permission::Read],
            &["*.tmp=delete", "/in/**=list,read,write"],
        ),
        (&ALL, &["/secret/**=none", "/in/*.csv=read"]),
        (
            &[Permission::Read],
            &["/a/**/z=write", "/?/b=setattr,mkdir"],
        ),
        (&ALL, &["/**=list"]),
    ];
    let places = [
        "/in",
        "/in/a.csv",
        "/in/a.tmp",
        "/in/deep/er/a.csv",
        "/in2/a",
        "/a.tmp",
        "/secret",
        "/secret/x",
        "/secret/x/y.csv",
        "/a/z",
        "/a/b/z",
        "/a/b/c/z",
        "/a/b",
        "/q/b",
        "/aa/b",
        "/a/zz",
        "/x.tmp/y",
    ];
    let mut asked = 0;
    for (own, rules) in users {
        let mounts = ruled(own, rules);
        for place in places {
            for permission in ALL {
                let expected = oracle_grants(own, rules, place, permission);
                let (holds, _) = mounts[0].ruling(&target(place), permission);
                assert_eq!(holds, expected, "{rules:?} at {place}: {permission}");
                if let Some(operation) = that_needs(permission, place) {
                    let verdict = ask(&mounts, operation.clone());
                    assert_eq!(
                        verdict.is_ok(),
                        expected,
                        "{} at {place} with {rules:?}: {verdict:?}",
                        operation.name()
                    );
                    if let Ok(permit) = verdict {
                        // Judged, recorded and sent to the backend: one path.
                        assert_eq!(permit.target(), Some(&target(place)));
                        let recorded = permit.event().body["path"].clone();
                        assert_eq!(recorded.as_str().unwrap(), format!("/box{place}"));
                    }
                    asked += 1;
                }
            }
        }
    }
    assert!(asked > 500, "{asked}");
}

/// An operation on one path that passes with this permission and with no other.
fn that_needs(permission: Permission, place: &str) -> Option<Operation> {
    let path = at(place);
    let full = format!("/box{place}");
    Some(match permission {
        Permission::List => Operation::Opendir {
            path,
            handle: HandleId(1),
        },
        Permission::Read => open(&full, download()),
        Permission::Write => open(&full, upload()),
        Permission::Delete => Operation::Remove { path },
        Permission::Mkdir => Operation::Mkdir {
            path,
            attributes: Attributes::default(),
        },
        Permission::Rmdir => Operation::Rmdir { path },
        Permission::Setattr => Operation::Setstat {
            path,
            attributes: mode(),
        },
        Permission::Overwrite => Operation::Setstat {
            path,
            attributes: size(),
        },
        // These need more than one permission, or one at two paths.
        Permission::Append | Permission::Rename | Permission::Symlink => return None,
    })
}

#[test]
fn names_that_are_no_text_are_judged_too() {
    let mounts = ruled(&[Permission::Read], &["/in/*=none", "*.k?y=none"]);
    let read = |raw: &[u8]| {
        let operation = Operation::Open {
            path: VirtualPath::clean(raw).unwrap(),
            handle: HandleId(1),
            access: download(),
            attributes: Attributes::default(),
        };
        ask(&mounts, operation).is_ok()
    };
    assert!(!read(b"/box/in/caf\xe9"));
    assert!(!read(b"/box/in/a\nb"));
    assert!(read(b"/box/in/caf\xe9/x"));
    assert!(!read(b"/box/\xff\xfe.k\xe9y"));
    assert!(read(b"/box/\xff\xfe.k\xc3\xa9y"), "? is one byte");
    assert!(read(b"/box/IN/x"));
}

#[test]
fn a_rename_needs_the_permission_at_both_paths_and_one_rule_below_them() {
    let mounts = ruled(
        &[Permission::List, Permission::Rename],
        &["/in/**=read,rename", "/frozen/**=read", "/deep/er/**=none"],
    );
    let rename = |from: &str, to: &str| {
        let operation = Operation::Rename {
            from: at(from),
            to: at(to),
        };
        ask(&mounts, operation).map(|_| ())
    };
    assert_eq!(rename("/in/a", "/in/b/c"), Ok(()));
    assert_eq!(rename("/in/a", "/b"), Ok(()));
    assert_eq!(
        rename("/in/a", "/frozen/a"),
        Err(Denied::Missing(Permission::Rename))
    );
    assert_eq!(
        rename("/frozen/a", "/in/a"),
        Err(Denied::Missing(Permission::Rename))
    );
    // What is below would be under other rules than before.
    assert_eq!(rename("/deep", "/shallow"), Err(Denied::RulesBelow));
    assert_eq!(rename("/shallow", "/deep"), Err(Denied::RulesBelow));
    assert_eq!(rename("/deeper", "/shallow"), Ok(()));
}

#[test]
fn another_name_gives_nothing_that_the_first_one_does_not() {
    let mounts = ruled(&ALL, &["/keys/**=list,rename,read,symlink", "*.key=none"]);
    let link = |target: &'static str, link: &str| {
        let operation = Operation::Symlink {
            target: target.into(),
            link: at(link),
        };
        ask(&mounts, operation).map(|_| ())
    };
    assert_eq!(link("b", "/a"), Ok(()));
    assert_eq!(link("b.key", "/a"), Err(Denied::Widens));
    assert_eq!(link("keys/x", "/a"), Err(Denied::Widens));
    assert_eq!(link("keys", "/a"), Err(Denied::Widens));
    assert_eq!(link("./y", "/keys/x"), Ok(()));
    let hard = |from: &str, to: &str| {
        let operation = Operation::Hardlink {
            from: at(from),
            to: at(to),
        };
        ask(&mounts, operation).map(|_| ())
    };
    assert_eq!(hard("/a", "/b"), Ok(()));
    assert_eq!(hard("/keys/a", "/b"), Err(Denied::Widens));
    assert_eq!(hard("/a.key", "/b"), Err(Denied::Missing(Permission::Read)));
    let moved = |from: &str, to: &str| {
        let operation = Operation::Rename {
            from: at(from),
            to: at(to),
        };
        ask(&mounts, operation).map(|_| ())
    };
    // A link that is moved leads elsewhere.
    assert_eq!(moved("/a", "/b"), Ok(()));
    assert_eq!(moved("/a", "/d/b"), Err(Denied::Widens));
    assert_eq!(moved("/keys/a", "/a"), Err(Denied::Widens));
    let without_links = ruled(&[Permission::Rename], &["*.tmp=rename,delete"]);
    let finish = Operation::Rename {
        from: at("/in/a.tmp"),
        to: at("/out/a"),
    };
    assert!(ask(&without_links, finish).is_ok());
}

#[test]
fn a_file_that_may_only_grow_is_neither_replaced_nor_cut() {
    let granted = [Permission::Append, Permission::Setattr];
    let mounts = [mount("/inbox", &granted)];
    let permit = ask(&mounts, open("/inbox/log", append())).unwrap();
    assert!(
        matches!(permit.operation(), Operation::Open { access, .. } if access.append && !access.exclusive)
    );
    let handle = permit.opens().unwrap();
    let cut = authorize(
        &requester(),
        &mounts,
        OperationId(1),
        Operation::Fsetstat {
            handle: HandleId(1),
            attributes: size(),
        },
        Named::one(Some(&handle)),
    );
    assert_eq!(cut.unwrap_err(), Denied::Missing(Permission::Overwrite));
    let truncating = Access {
        truncate: true,
        ..append()
    };
    assert!(ask(&mounts, open("/inbox/log", truncating)).is_err());
    assert!(ask(&mounts, open("/inbox/log", update())).is_err());
}

#[test]
fn what_holds_is_told_with_the_rule_that_says_so() {
    let mounts = ruled(&[Permission::List], &["/in/**=list,read", "*.tmp=delete"]);
    let told = |place: &str, permission| {
        let Ok(Effective::Mount { permissions, .. }) = effective(&mounts, &at(place)) else {
            panic!("on the mount")
        };
        let (_, holds, rule) = *permissions
            .iter()
            .find(|(asked, ..)| *asked == permission)
            .unwrap();
        (holds, rule)
    };
    assert_eq!(told("/in/a.tmp", Permission::Read), (true, Some(0)));
    assert_eq!(told("/a.tmp", Permission::Delete), (true, Some(1)));
    assert_eq!(told("/a.tmp", Permission::List), (false, Some(1)));
    assert_eq!(told("/a", Permission::List), (true, None));
    assert_eq!(told("/in", Permission::List), (true, Some(0)));
    assert_eq!(told("/in", Permission::Read), (false, None));
    assert_eq!(effective(&mounts, &path("/")), Ok(Effective::Above));
    assert_eq!(effective(&mounts, &path("/other")), Err(Denied::Nowhere));
}

#[test]
fn a_rule_that_could_be_misread_is_refused() {
    for text in [
        "/in/**=list",
        "*.tmp=none",
        "/a/*/b=read,write",
        "[a-z]=list",
        "/x=y=read",
    ] {
        assert_eq!(text.parse::<PathRule>().unwrap().to_string(), text);
    }
    for text in [
        "",
        "/in",
        "=read",
        "/in=",
        "/in=fly",
        "in/x=read",
        "/in/=read",
        "//in=read",
        "/in/../x=read",
        "/in**=read",
        "**=read",
        "/{a,b}=read",
        "/a\\*=read",
        "/[a/b]=read",
        "/[a=read",
    ] {
        assert!(text.parse::<PathRule>().is_err(), "{text:?}");
    }
    let many = vec!["*.a=read"; 65];
    assert_eq!(PathRules::parse(&many), Err(PathRuleError::TooMany));
}
