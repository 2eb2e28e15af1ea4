//! The command that `scp -O` sends: which way, with which options, for which paths.
//!
//! A shell would read the line; here only what a shell would take for plain words is understood. Everything that a shell would
//! expand, substitute or run is refused.

use bytes::Bytes;

/// Longest command line, in bytes: a path and its quotes.
const MAX_LINE: usize = 16 * 1024;
/// Most paths of one download.
const MAX_PATHS: usize = 256;

/// One `scp` in the role of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub direction: Direction,
    /// `-r`
    pub recursive: bool,
    /// `-p`: times and modes too.
    pub preserve: bool,
    /// `-d`: the target has to be a directory.
    pub into_directory: bool,
    /// One for an upload, at least one for a download. As the client named them.
    pub paths: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// `-t`
    Upload,
    /// `-f`
    Download,
}

/// Why a command is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    #[error("the command is not scp")]
    NotScp,
    #[error("the command is longer than {MAX_LINE} bytes")]
    TooLong,
    #[error("{:?} would be for a shell to expand or run", char::from(*.0))]
    Shell(u8),
    #[error("a quote is not closed")]
    Quote,
    #[error("an option that scp does not send, or neither or both of -t and -f")]
    Options,
    #[error("an upload has one target, a download from one to {MAX_PATHS} sources")]
    Paths,
}

/// Understands the command of an exec request.
///
/// # Errors
/// For anything but `scp` with the options that scp programs send, and plain words.
pub fn parse(line: &[u8]) -> Result<Command, CommandError> {
    if line.len() > MAX_LINE {
        return Err(CommandError::TooLong);
    }
    let mut words = words(line)?.into_iter();
    if words.next().as_deref() != Some(b"scp") {
        return Err(CommandError::NotScp);
    }
    let (mut upload, mut download) = (false, false);
    let mut command = Command {
        direction: Direction::Upload,
        recursive: false,
        preserve: false,
        into_directory: false,
        paths: Vec::new(),
    };
    let mut options = true;
    for word in words {
        match word.strip_prefix(b"-") {
            Some(b"-") if options => options = false,
            Some(letters) if options && !letters.is_empty() => {
                for letter in letters {
                    match letter {
                        b't' => upload = true,
                        b'f' => download = true,
                        b'r' => command.recursive = true,
                        b'p' => command.preserve = true,
                        b'd' => command.into_directory = true,
                        b'v' | b'q' => {}
                        _ => return Err(CommandError::Options),
                    }
                }
            }
            Some(_) | None => {
                options = false;
                command.paths.push(word.into());
            }
        }
    }
    command.direction = match (upload, download) {
        (true, false) => Direction::Upload,
        (false, true) => Direction::Download,
        (true, true) | (false, false) => return Err(CommandError::Options),
    };
    let most = match command.direction {
        Direction::Upload => 1,
        Direction::Download => MAX_PATHS,
    };
    if command.paths.is_empty() || command.paths.len() > most {
        return Err(CommandError::Paths);
    }
    Ok(command)
}

/// The words of a line as sh(1) would split them (POSIX.1-2017, section 2.2 of its command language).
fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, CommandError> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut rest = line.iter().copied().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(CommandError::Quote)? {
                        b'\'' => break,
                        0 => return Err(CommandError::Shell(0)),
                        quoted => word.push(quoted),
                    }
                }
            }
            b'"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(CommandError::Quote)? {
                        b'"' => break,
                        b'\\' => match rest.next().ok_or(CommandError::Quote)? {
                            escaped @ (b'$' | b'`' | b'"' | b'\\') => word.push(escaped),
                            other => word.extend([b'\\', other]),
                        },
                        expanded @ (b'$' | b'`' | 0) => return Err(CommandError::Shell(expanded)),
                        quoted => word.push(quoted),
                    }
                }
            }
            b'\\' => match rest.next().ok_or(CommandError::Quote)? {
                joined @ (b'\n' | 0) => return Err(CommandError::Shell(joined)),
                escaped => word.get_or_insert_default().push(escaped),
            },
            // The home directory is the root of what the account sees.
            b'~' if word.is_none() => {
                if !matches!(rest.peek(), None | Some(b' ' | b'\t' | b'/')) {
                    return Err(CommandError::Shell(b'~'));
                }
                let home = if rest.peek() == Some(&b'/') {
                    &b""[..]
                } else {
                    b"/"
                };
                word = Some(home.to_vec());
            }
            b'#' if word.is_none() => return Err(CommandError::Shell(b'#')),
            special @ (b'|' | b'&' | b';' | b'<' | b'>' | b'(' | b')' | b'$' | b'`' | b'*'
            | b'?' | b'[' | b']' | b'{' | b'}' | b'\n' | b'\r' | 0) => {
                return Err(CommandError::Shell(special));
            }
            plain => word.get_or_insert_default().push(plain),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_scp_programs_send_is_understood() {
        let upload = Command {
            direction: Direction::Upload,
            recursive: false,
            preserve: false,
            into_directory: false,
            paths: vec!["/inbox".into()],
        };
        for (line, expected) in [
            ("scp -t /inbox", upload.clone()),
            (
                "scp -v -r -p -d -t -- /inbox",
                Command {
                    recursive: true,
                    preserve: true,
                    into_directory: true,
                    ..upload.clone()
                },
            ),
            (
                "scp -rpt '/inbox'",
                Command {
                    recursive: true,
                    preserve: true,
                    ..upload.clone()
                },
            ),
            (
                "scp -f /a 'b c' d\\ e \"f'\\\"\\$g\"",
                Command {
                    direction: Direction::Download,
                    paths: ["/a", "b c", "d e", "f'\"$g"].map(Bytes::from).to_vec(),
                    ..upload.clone()
                },
            ),
            (
                "scp -t ~",
                Command {
                    paths: vec!["/".into()],
                    ..upload.clone()
                },
            ),
            (
                "scp -t ~/x~1",
                Command {
                    paths: vec!["/x~1".into()],
                    ..upload.clone()
                },
            ),
            (
                "scp -t -- -x",
                Command {
                    paths: vec!["-x".into()],
                    ..upload.clone()
                },
            ),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_a_shell_would_expand_or_run_is_refused_and_the_same_in_quotes_is_a_name() {
        for special in [
            "|", "&", ";", "<", ">", "(", ")", "$", "`", "*", "?", "[", "]", "{", "}", "\n", "\r",
        ] {
            let line = format!("scp -f a{special}b");
            let byte = special.as_bytes()[0];
            assert_eq!(
                parse(line.as_bytes()),
                Err(CommandError::Shell(byte)),
                "{line}"
            );
            let quoted = format!("scp -f 'a{special}b'");
            let command = parse(quoted.as_bytes()).unwrap();
            assert_eq!(command.paths, [format!("a{special}b")]);
        }
        for line in [
            "scp -f \"$HOME\"",
            "scp -f \"`id`\"",
            "scp -f ~bob/x",
            "scp -f #x",
            "scp -f a\\\nb",
            "scp -f 'a\0b'",
        ] {
            assert!(
                matches!(parse(line.as_bytes()), Err(CommandError::Shell(_))),
                "{line}"
            );
        }
    }

    #[test]
    fn every_other_command_is_refused() {
        for (line, expected) in [
            ("", CommandError::NotScp),
            ("id", CommandError::NotScp),
            ("/usr/bin/scp -t x", CommandError::NotScp),
            ("scp2 -t x", CommandError::NotScp),
            ("scp", CommandError::Options),
            ("scp x", CommandError::Options),
            ("scp -t -f x", CommandError::Options),
            ("scp -t -S sh x", CommandError::Options),
            ("scp --t x", CommandError::Options),
            ("scp -t", CommandError::Paths),
            ("scp -t a b", CommandError::Paths),
            ("scp -f", CommandError::Paths),
            ("scp -t 'a", CommandError::Quote),
            ("scp -t \"a", CommandError::Quote),
            ("scp -t a\\", CommandError::Quote),
        ] {
            assert_eq!(parse(line.as_bytes()), Err(expected), "{line}");
        }
        let long = format!("scp -t {}", "x".repeat(MAX_LINE));
        assert_eq!(parse(long.as_bytes()), Err(CommandError::TooLong));
        let many = format!("scp -f{}", " x".repeat(MAX_PATHS + 1));
        assert_eq!(parse(many.as_bytes()), Err(CommandError::Paths));
    }

    proptest! {
        #[test]
        fn a_name_in_single_quotes_is_that_name(name in proptest::collection::vec(1_u8.., 1..80)) {
            let quoted: Vec<u8> = name
                .split(|&byte| byte == b'\'')
                .collect::<Vec<_>>()
                .join(&b"'\\''"[..]);
            let line = [b"scp -f -- '", &quoted[..], b"'"].concat();
            prop_assert_eq!(parse(&line).unwrap().paths, [Bytes::from(name)]);
        }

        #[test]
        fn whatever_a_client_sends_is_a_command_or_refused(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
            let _ = parse(&[&b"scp -t "[..], &line].concat());
        }
    }
}
