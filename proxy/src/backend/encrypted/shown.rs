//! What clients are told of stored files.

use futures_util::FutureExt as _;
use portcullis_at_rest::Layout;

use crate::{
    backend::Execution,
    operation::{Attributes, Outcome},
};

/// The attributes that are asked for, with the size of the plaintext.
pub(super) fn with_size(asked: Execution, size: u64) -> Execution {
    async move {
        let mut outcome = asked.await?;
        if let Outcome::Attributes(attributes) = &mut outcome {
            attributes.size = Some(size);
        }
        Ok(outcome)
    }
    .boxed()
}

/// True for a regular file of a size that an encrypted one can have.
pub(super) fn may_be_encrypted(attributes: &Attributes) -> bool {
    let kind = attributes
        .permissions
        .map(|mode| mode & Attributes::TYPE_MASK);
    matches!(kind, None | Some(0 | Attributes::REGULAR))
        && attributes
            .size
            .is_some_and(|size| Layout::of_stored(size).is_ok())
}

/// The size of the plaintext, for what may be an encrypted file.
pub(super) fn show_plaintext(attributes: &mut Attributes) {
    if may_be_encrypted(attributes)
        && let Some(stored) = attributes.size
        && let Ok(layout) = Layout::of_stored(stored)
    {
        attributes.size = Some(layout.plaintext());
    }
}
