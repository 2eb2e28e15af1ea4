//! How a log grew from one head to the next, read from there on: what its witnesses ask for again and again.

use std::path::Path;

use tlog_tiles::{Hash, record_hash};

use crate::{
    read::{Input, Part, ReadError, layout, lines},
    segment::plain_name,
    tree::{Tree, checkpoint::Head, ranges::Ranges},
};

/// Why growth can't be shown.
#[derive(Debug, thiserror::Error)]
pub enum GrowthError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the log has no record {record}: it was deleted, or the log was cut")]
    Missing { record: u64 },
    #[error("a head over {size} records is older than the {from} that growth begins with")]
    Shrinks { from: u64, size: u64 },
    #[error(
        "the log does not have the {size} records that its checkpoint covers as they were signed; let portcullis-verify say where it was altered"
    )]
    Altered { size: u64 },
}

/// A log that grew.
#[derive(Debug)]
pub struct Growth {
    /// RFC 6962 section 2.1.2; empty if it grew from nothing.
    pub proof: Vec<Hash>,
    /// The tree under the new head.
    pub tree: Tree,
}

/// Shows that the log in `directory` grew from a tree to a head. Reads only the records between the two.
///
/// # Errors
/// If they can't be read, or are not what was signed.
pub fn grow(directory: &Path, from: &Tree, head: &Head) -> Result<Growth, GrowthError> {
    let (old, size) = (from.size(), head.size);
    if old > size {
        return Err(GrowthError::Shrinks { from: old, size });
    }
    let mut ranges = (old > 0).then(|| Ranges::of_consistency(old, size));
    if let Some(ranges) = &mut ranges {
        for (level, root) in from.subtrees() {
            // What a proof needs of the old tree is one of its complete subtrees, or several.
            if !ranges.push_subtree(root, level) {
                return Err(GrowthError::Altered { size });
            }
        }
    }
    let mut tree = from.clone();
    read_on(directory, &mut tree, size, |leaf| {
        if let Some(ranges) = &mut ranges {
            ranges.push_leaf(leaf);
        }
    })?;
    if tree.root() != head.root {
        return Err(GrowthError::Altered { size });
    }
    Ok(Growth {
        proof: ranges.map(Ranges::roots).unwrap_or_default(),
        tree,
    })
}

/// The tree over the first `size` records of the log in `directory`. Begins at the end of the last sealed segment before, or
/// where records were deleted; whoever uses the tree compares it with a signed head.
///
/// # Errors
/// If the log can't be read, or does not have so many records.
pub fn tree_at(directory: &Path, size: u64) -> Result<Tree, GrowthError> {
    let layout = layout(directory)?;
    let mut gone = layout.tombstones.iter().map(|gone| &gone.end);
    let gone = gone.rfind(|end| end.records <= size);
    let mut tree = gone.and_then(|end| end.tree()).unwrap_or_default();
    let sealed = layout.segments.iter().rev();
    for file in sealed.filter(|file| file.first < size && plain_name(&file.name).is_some()) {
        // One that can't be read is not needed, or else it is missed below.
        let Ok(Input::Sealed(segment)) = Input::open(file) else {
            continue;
        };
        let end = &segment.index().end;
        if end.records <= size {
            if let Some(edge) = end.tree().filter(|edge| edge.size() > tree.size()) {
                tree = edge;
            }
            break;
        }
    }
    read_on(directory, &mut tree, size, |_| {})?;
    Ok(tree)
}

fn read_on(
    directory: &Path,
    tree: &mut Tree,
    size: u64,
    mut each: impl FnMut(Hash),
) -> Result<(), GrowthError> {
    if tree.size() >= size {
        return Ok(());
    }
    let part = Part {
        first: tree.size(),
        ..Part::default()
    };
    let mut lines = lines(directory, part)?;
    while tree.size() < size {
        let record = tree.size();
        let missing = GrowthError::Missing { record };
        let leaf = match lines.next(&mut |_| true)? {
            Some(line) => record_hash(line),
            None => return Err(missing),
        };
        if lines.seq() != Some(record) {
            return Err(missing);
        }
        each(leaf);
        tree.push_leaf(leaf);
    }
    Ok(())
}
