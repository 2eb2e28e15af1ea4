//! One passage over the log in a directory, as far as a signed head covers it.

use std::{
    io,
    path::{Path, PathBuf},
};

use tlog_tiles::{Hash, record_hash};

use crate::{
    line::{Found, read_line},
    read::{Input, ReadError, layout},
    retention::Tombstone,
    tree::{Tree, checkpoint::Head},
};

/// Why a log can't be passed over to the end.
#[derive(Debug)]
pub(crate) enum PassageError {
    List(ReadError),
    Read {
        path: PathBuf,
        source: io::Error,
    },
    /// It is not what the head signed for so many records.
    Altered {
        size: u64,
    },
}

/// Who is shown a log.
pub(crate) trait Visitor {
    type Error: From<PassageError>;

    /// Records that were deleted, and the tree behind them.
    fn gone(&mut self, tombstone: &Tombstone, edge: &Tree) -> Result<(), Self::Error>;

    /// A line without its newline, its leaf hash, and the tree before it.
    fn line(&mut self, before: &Tree, line: &[u8], leaf: Hash) -> Result<(), Self::Error>;
}

/// Shows the records that `head` covers, in order.
pub(crate) fn pass<V: Visitor>(
    directory: &Path,
    head: &Head,
    visitor: &mut V,
) -> Result<(), V::Error> {
    let altered = || V::Error::from(PassageError::Altered { size: head.size });
    let mut tree = Tree::default();
    let mut line = Vec::new();
    let mut layout = layout(directory).map_err(PassageError::List)?;
    layout.tombstones.reverse();
    for file in layout.segments {
        if tree.size() >= head.size {
            break;
        }
        while let Some(gone) = layout.tombstones.pop_if(|gone| gone.first <= file.first) {
            let edge = gone.end.tree().filter(|_| gone.first == tree.size());
            let edge = edge.ok_or_else(altered)?;
            visitor.gone(&gone, &edge)?;
            tree = edge;
        }
        let read = |source| PassageError::Read {
            path: file.path.clone(),
            source,
        };
        let mut input = Input::open(&file).map_err(read)?.into_reader();
        while tree.size() < head.size {
            match read_line(input.as_mut(), &mut line).map_err(read)?.0 {
                Found::Whole => {}
                Found::End => break,
                Found::Torn | Found::TooLong => return Err(altered()),
            }
            let leaf = record_hash(&line);
            visitor.line(&tree, &line, leaf)?;
            tree.push_leaf(leaf);
        }
    }
    if tree.size() == head.size && tree.root() == head.root {
        Ok(())
    } else {
        Err(altered())
    }
}
