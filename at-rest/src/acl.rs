//! Access control lists, as far as key files need them: systemd gives a service its credentials by an entry for the service's
//! user, and the bits of the group then show the list's mask (acl(5)), not rights of the group.

use std::os::fd::AsFd;

const NAME: &str = "system.posix_acl_access";
const VERSION: u32 = 2;
const ENTRY: usize = 8;
const USER_OBJECT: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJECT: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// True if `mode` has bits for the group only because of a list that gives rights to `user` and to nobody else but the owner.
pub(crate) fn is_for_one_reader(file: impl AsFd, mode: u32, user: u32) -> bool {
    let mut room = [0; 512];
    let Ok(length) = rustix::fs::fgetxattr(file, NAME, &mut room) else {
        return false;
    };
    mode & 0o007 == 0
        && room
            .get(..length)
            .is_some_and(|list| gives_rights_to_one(list, user))
}

fn gives_rights_to_one(list: &[u8], user: u32) -> bool {
    let Some((version, entries)) = list.split_first_chunk() else {
        return false;
    };
    u32::from_le_bytes(*version) == VERSION
        && entries.len().is_multiple_of(ENTRY)
        && entries.chunks_exact(ENTRY).all(|entry| {
            let [t0, t1, p0, p1, i0, i1, i2, i3] = *entry else {
                return false;
            };
            let rights = u16::from_le_bytes([p0, p1]);
            match u16::from_le_bytes([t0, t1]) {
                USER_OBJECT | MASK => true,
                USER => rights == 0 || u32::from_le_bytes([i0, i1, i2, i3]) == user,
                GROUP_OBJECT | OTHER => rights == 0,
                // A named group, or what acl(5) does not know.
                _ => rights == 0,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: u32 = u32::MAX;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = VERSION.to_le_bytes().to_vec();
        for (tag, rights, id) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(id.to_le_bytes());
        }
        list
    }

    #[test]
    fn a_list_for_the_reader_alone_is_told_from_one_for_others() {
        // As systemd makes them.
        let credential = [
            (USER_OBJECT, 4, NOBODY),
            (USER, 4, 990),
            (GROUP_OBJECT, 0, NOBODY),
            (MASK, 4, NOBODY),
            (OTHER, 0, NOBODY),
        ];
        assert!(gives_rights_to_one(&list(&credential), 990));
        assert!(!gives_rights_to_one(&list(&credential), 991));
        for (at, more) in [
            (2, (GROUP_OBJECT, 4, NOBODY)),
            (4, (OTHER, 4, NOBODY)),
            (3, (USER, 4, 991)),
            (3, (0x08, 4, 50)),
        ] {
            let mut wider = credential;
            wider[at] = more;
            assert!(!gives_rights_to_one(&list(&wider), 990), "{more:?}");
        }
        assert!(!gives_rights_to_one(&list(&credential)[..21], 990));
        assert!(!gives_rights_to_one(b"", 990));
    }
}
