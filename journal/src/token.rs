//! What stands in records in the place of paths that are hidden.

use crate::record::HIDDEN;

/// Whether a path of a record is a token.
pub fn is_token(path: &[u8]) -> bool {
    path.starts_with(HIDDEN.as_bytes())
}

/// A token without the extension, as it stands in the paths below it; a path in clear as it is.
pub fn base(path: &[u8]) -> &[u8] {
    if is_token(path) {
        without_extension(path)
    } else {
        path
    }
}

/// Of a path that is made of tokens, with or without what a token begins with.
pub(crate) fn without_extension(path: &[u8]) -> &[u8] {
    let name = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let last = path.get(name..).unwrap_or_default();
    // Tokens have no dot in them.
    match last.iter().position(|&byte| byte == b'.') {
        Some(at) if at > 0 => path.get(..name + at).unwrap_or(path),
        Some(_) | None => path,
    }
}

/// A path as it stands in what is below it: `/` and its token are empty.
pub fn beginning(path: &[u8]) -> &[u8] {
    let path = base(path);
    path.strip_suffix(b"/").unwrap_or(path)
}
