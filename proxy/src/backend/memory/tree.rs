//! Files, directories and links by their whole path; the root is the empty path.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::error;
use crate::{
    backend::{BackendError, ErrorKind},
    operation::{Attributes, Entry},
};

#[derive(Debug, Default)]
pub(super) struct Tree {
    nodes: BTreeMap<Vec<u8>, Node>,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    Directory {
        attributes: Attributes,
    },
    File {
        attributes: Attributes,
        data: Vec<u8>,
    },
    Link {
        target: Bytes,
    },
}

impl Tree {
    pub(super) fn get(&self, path: &[u8]) -> Option<&Node> {
        static ROOT: Node = Node::Directory {
            attributes: Attributes {
                size: None,
                owner: None,
                permissions: Some(Attributes::DIRECTORY | 0o755),
                times: None,
                is_interrupted: false,
                is_foreign: false,
            },
        };
        if path.is_empty() {
            return Some(&ROOT);
        }
        self.nodes.get(path)
    }

    pub(super) fn existing(&self, path: &[u8]) -> Result<&Node, BackendError> {
        self.get(path).ok_or_else(|| error(ErrorKind::NotFound))
    }

    pub(super) fn existing_mut(&mut self, path: &[u8]) -> Result<&mut Node, BackendError> {
        self.nodes
            .get_mut(path)
            .ok_or_else(|| error(ErrorKind::NotFound))
    }

    pub(super) fn insert(&mut self, path: &[u8], node: Node) {
        self.nodes.insert(path.to_vec(), node);
    }

    pub(super) fn remove(&mut self, path: &[u8]) {
        self.nodes.remove(path);
    }

    pub(super) fn paths(&self) -> Vec<Vec<u8>> {
        self.nodes.keys().cloned().collect()
    }

    pub(super) fn parent_must_exist(&self, path: &[u8]) -> Result<(), BackendError> {
        let parent = self.follow(parent(path))?;
        match self.existing(&parent)? {
            Node::Directory { .. } => Ok(()),
            Node::File { .. } | Node::Link { .. } => Err(error(ErrorKind::NotADirectory)),
        }
    }

    /// The path with every link on it, the last one too, replaced by what it names.
    pub(super) fn follow(&self, path: &[u8]) -> Result<Vec<u8>, BackendError> {
        let mut rest: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut resolved = Vec::new();
        let mut links = 0;
        while let Some(component) = rest.pop() {
            if component == b"." {
                continue;
            }
            let next = join(&resolved, &component);
            match self.existing(&next)? {
                Node::Link { target } => {
                    links += 1;
                    if links > 16 {
                        return Err(error(ErrorKind::Failure));
                    }
                    rest.extend(components(target).rev().map(<[u8]>::to_vec));
                }
                Node::File { .. } if !rest.is_empty() => {
                    return Err(error(ErrorKind::NotADirectory));
                }
                Node::File { .. } | Node::Directory { .. } => resolved = next,
            }
        }
        Ok(resolved)
    }

    pub(super) fn list(&self, path: &[u8]) -> Result<Vec<Entry>, BackendError> {
        match self.existing(path)? {
            Node::Directory { .. } => {}
            Node::File { .. } | Node::Link { .. } => {
                return Err(error(ErrorKind::NotADirectory));
            }
        }
        Ok(self
            .nodes
            .iter()
            .filter(|(other, _)| parent(other) == path)
            .filter_map(|(other, node)| {
                Some(Entry {
                    name: Bytes::copy_from_slice(components(other).next_back()?),
                    attributes: node.attributes(),
                })
            })
            .collect())
    }

    /// Moves `from` and all below it to `to`, which it replaces unless that is a directory with content.
    pub(super) fn rename(&mut self, from: &[u8], to: &[u8]) -> Result<(), BackendError> {
        let is_directory = matches!(self.existing(from)?, Node::Directory { .. });
        self.parent_must_exist(to)?;
        if from == to {
            return Ok(());
        }
        let within =
            |path: &[u8], above: &[u8]| path == above || path.starts_with(&[above, b"/"].concat());
        if within(to, from) {
            return Err(error(ErrorKind::InvalidArgument));
        }
        match self.get(to) {
            Some(Node::Directory { .. }) if !is_directory => {
                return Err(error(ErrorKind::IsADirectory));
            }
            Some(Node::Directory { .. }) if !self.list(to)?.is_empty() => {
                return Err(error(ErrorKind::NotEmpty));
            }
            Some(Node::File { .. } | Node::Link { .. }) if is_directory => {
                return Err(error(ErrorKind::NotADirectory));
            }
            Some(Node::Directory { .. } | Node::File { .. } | Node::Link { .. }) | None => {}
        }
        let moved: Vec<Vec<u8>> = self
            .nodes
            .keys()
            .filter(|path| within(path, from))
            .cloned()
            .collect();
        for path in moved {
            if let Some(node) = self.nodes.remove(&path) {
                let below = path.get(from.len()..).unwrap_or_default();
                self.nodes.insert([to, below].concat(), node);
            }
        }
        Ok(())
    }
}

impl Node {
    pub(super) fn file(data: Vec<u8>) -> Self {
        Self::File {
            attributes: Attributes {
                permissions: Some(Attributes::REGULAR | 0o644),
                times: Some((0, 0)),
                ..Attributes::default()
            },
            data,
        }
    }

    pub(super) fn directory() -> Self {
        Self::Directory {
            attributes: Attributes {
                permissions: Some(Attributes::DIRECTORY | 0o755),
                times: Some((0, 0)),
                ..Attributes::default()
            },
        }
    }

    pub(super) fn attributes(&self) -> Attributes {
        match self {
            Self::Directory { attributes } => attributes.clone(),
            Self::File { attributes, data } => Attributes {
                size: Some(data.len() as u64),
                ..attributes.clone()
            },
            Self::Link { target } => Attributes {
                size: Some(target.len() as u64),
                permissions: Some(Attributes::SYMLINK | 0o777),
                ..Attributes::default()
            },
        }
    }

    pub(super) fn set(&mut self, new: &Attributes) {
        let attributes = match self {
            Self::Link { .. } => return,
            Self::Directory { attributes } => attributes,
            Self::File { attributes, data } => {
                if let Some(size) = new.size.and_then(|size| usize::try_from(size).ok()) {
                    data.resize(size.min(1 << 30), 0);
                }
                attributes
            }
        };
        if let Some(mode) = new.permissions {
            let kind = attributes.permissions.unwrap_or_default() & Attributes::TYPE_MASK;
            attributes.permissions = Some(kind | (mode & 0o7777));
        }
        attributes.owner = new.owner.or(attributes.owner);
        attributes.times = new.times.or(attributes.times);
    }
}

pub(super) fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() {
        name.to_vec()
    } else {
        [path, b"/", name].concat()
    }
}

fn parent(path: &[u8]) -> &[u8] {
    let end = path
        .iter()
        .rposition(|&byte| byte == b'/')
        .unwrap_or_default();
    path.get(..end).unwrap_or_default()
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
        .filter(|component| !component.is_empty())
}
