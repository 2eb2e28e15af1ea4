//! Errors with their causes, in one line.

use std::error::Error;

/// The messages of an error and its causes; one that an earlier message repeats is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{message}")]
    struct Told {
        message: &'static str,
        source: io::Error,
    }

    #[test]
    fn each_cause_is_said_once() {
        let chain_of = |message| {
            let source = io::Error::other("no such thing");
            chain(&Told { message, source })
        };
        assert_eq!(chain_of("read the key"), "read the key: no such thing");
        assert_eq!(chain_of("no such thing, sir"), "no such thing, sir");
    }
}
