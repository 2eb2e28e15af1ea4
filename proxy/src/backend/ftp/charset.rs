//! Names between clients and the server.

use std::borrow::Cow;

use super::{fault::Fault, settings::Charset};
use crate::backend::ErrorKind;

impl Charset {
    /// A client's name or path in the server's bytes.
    ///
    /// # Errors
    /// With [`Charset::Latin1`], if it is not UTF-8 or has a character that ISO 8859-1 lacks.
    pub(super) fn to_server(self, name: &[u8]) -> Result<Cow<'_, [u8]>, Fault> {
        match self {
            Self::AsTheyAre => Ok(Cow::Borrowed(name)),
            Self::Latin1 if name.is_ascii() => Ok(Cow::Borrowed(name)),
            Self::Latin1 => {
                let text = std::str::from_utf8(name)
                    .map_err(|_| unfit("names must be UTF-8 on this mount"))?;
                text.chars()
                    .map(|character| u8::try_from(u32::from(character)))
                    .collect::<Result<Vec<u8>, _>>()
                    .map(Cow::Owned)
                    .map_err(|_| {
                        unfit("the server's names are Latin-1, which lacks a character of this one")
                    })
            }
        }
    }

    /// The server's name as clients see it.
    pub(super) fn to_client(self, name: &[u8]) -> Cow<'_, [u8]> {
        match self {
            Self::AsTheyAre => Cow::Borrowed(name),
            Self::Latin1 if name.is_ascii() => Cow::Borrowed(name),
            Self::Latin1 => {
                let text: String = name.iter().copied().map(char::from).collect();
                Cow::Owned(text.into_bytes())
            }
        }
    }
}

fn unfit(reason: &'static str) -> Fault {
    Fault::judged(ErrorKind::InvalidArgument, reason)
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
            assert_eq!(fault.kind(), Some(ErrorKind::InvalidArgument));
        }
        assert_eq!(
            Charset::AsTheyAre.to_server(b"M\xfcller").unwrap().as_ref(),
            b"M\xfcller"
        );
    }
}
