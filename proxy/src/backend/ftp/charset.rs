//! Names between clients and the server.

use std::borrow::Cow;

use super::{fault::Fault, settings::Charset};
use crate::backend::ErrorKind;

impl Charset {
    /// A client's name or path in the server's bytes.
    ///
    /// # Errors
    /// If it is not UTF-8 where it must be, or has a character that ISO 8859-1 lacks.
    pub(super) fn to_server(self, name: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
        match self {
            Self::AsTheyAre => Ok(Cow::Borrowed(name)),
            Self::Utf8 => utf8(name).map(|_| Cow::Borrowed(name)),
            Self::Latin1 if name.is_ascii() => Ok(Cow::Borrowed(name)),
            Self::Latin1 => utf8(name)?
                .chars()
                .map(|character| u8::try_from(u32::from(character)))
                .collect::<Result<Vec<u8>, _>>()
                .map(Cow::Owned)
                .map_err(|_| {
                    unfit("the server's names are Latin-1, which lacks a character of this one")
                }),
        }
    }

    /// The server's name as clients see it.
    pub(super) fn to_client(self, name: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::AsTheyAre | Self::Utf8 => Cow::Borrowed(name),
            Self::Latin1 if name.is_ascii() => Cow::Borrowed(name),
            Self::Latin1 => {
                let text: String = name.iter().copied().map(char::from).collect();
                Cow::Owned(text.into_bytes())
            }
        }
    }
}

fn utf8(name: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(name).map_err(|_| unfit("names must be UTF-8 on this mount"))
}

fn unfit(reason: &'static str) -> Fault {
    Fault::judged(ErrorKind::Unsupported, reason)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_name_on_the_server_can_be_seen_and_used(name in proptest::collection::vec(any::<u8>(), 0..40)) {
            for charset in [Charset::AsTheyAre, Charset::Latin1] {
                let seen = charset.to_client(&name);
                let meant = charset.to_server(&seen).unwrap();
                prop_assert_eq!(meant.as_ref(), &name[..]);
            }
            prop_assert!(std::str::from_utf8(&Charset::Latin1.to_client(&name)).is_ok());
        }
    }

    #[test]
    fn latin1_takes_its_own_characters_and_refuses_others() {
        let taken = Charset::Latin1
            .to_server("Müller ÿ.csv".as_bytes())
            .unwrap();
        assert_eq!(taken.as_ref(), b"M\xfcller \xff.csv");
        for refused in ["Łódź".as_bytes(), "€".as_bytes(), b"M\xfcller"] {
            let fault = Charset::Latin1.to_server(refused).unwrap_err();
            assert_eq!(fault.kind(), Some(ErrorKind::Unsupported));
        }
    }

    #[test]
    fn a_server_of_utf8_alone_gets_no_other_bytes_and_one_of_any_bytes_does() {
        let name = "Łódź €.csv".as_bytes();
        assert_eq!(Charset::Utf8.to_server(name).unwrap().as_ref(), name);
        let refused = Charset::Utf8.to_server(b"M\xfcller").unwrap_err();
        assert_eq!(refused.kind(), Some(ErrorKind::Unsupported));
        assert_eq!(
            Charset::AsTheyAre.to_server(b"M\xfcller").unwrap().as_ref(),
            b"M\xfcller"
        );
        assert_eq!(Charset::Utf8.to_client(b"M\xfcller").as_ref(), b"M\xfcller");
    }
}
