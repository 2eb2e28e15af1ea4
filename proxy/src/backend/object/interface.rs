//! What differs between the services, as data: `Interface` knows the limits, `wire` speaks the dialects.

use std::fmt;

const MIB: usize = 1024 * 1024;
const GIB: u64 = 1 << 30;

/// How a service is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interface {
    /// Amazon S3, and the many servers that speak like it.
    S3,
    /// Azure Blob Storage.
    Azure,
    /// The XML interface of Google Cloud Storage.
    Gcs,
}

/// Sizes of the parts of an upload: so many have the same size, then it doubles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartSizes {
    first: usize,
    of_a_size: usize,
    /// From then on all have the same size.
    doublings: usize,
}

impl PartSizes {
    /// Bytes of a part; `index` counts from zero.
    pub(super) fn of(self, index: usize) -> usize {
        self.first << (index / self.of_a_size).min(self.doublings)
    }

    /// True for the larger ones, of which an upload sends one at a time.
    pub(super) fn is_large(self, index: usize) -> bool {
        self.of(index) > self.first
    }
}

impl Interface {
    pub(super) fn part_sizes(self) -> PartSizes {
        match self {
            // 5 TiB, the largest object, fits into 10,000 parts; each has 5 MiB to 5 GiB (S3 user guide, "Multipart upload
            // limits"; Cloud Storage, "Quotas and limits").
            Self::S3 | Self::Gcs => PartSizes {
                first: 8 * MIB,
                of_a_size: 1000,
                doublings: 9,
            },
            // 50,000 blocks of at most 4,000 MiB ("Understanding block blobs", version 2019-12-12). These hold 29 TiB.
            Self::Azure => PartSizes {
                first: 8 * MIB,
                of_a_size: 5000,
                doublings: 8,
            },
        }
    }

    /// Largest object that one request copies, where there is a limit (S3 API reference, CopyObject).
    pub(super) fn copy_max(self) -> Option<u64> {
        match self {
            Self::S3 => Some(5 * GIB),
            Self::Azure | Self::Gcs => None,
        }
    }

    /// True if an upload in parts can be published on the condition that nothing stands under its name. Cloud Storage
    /// takes no preconditions with them ("XML API multipart uploads").
    pub(super) fn completes_conditionally(self) -> bool {
        match self {
            Self::S3 | Self::Azure => true,
            Self::Gcs => false,
        }
    }

    /// True if the service keeps a component of a key as it is. Azure takes a backslash for a slash and drops dots at the
    /// end ("Naming and referencing containers, blobs, and metadata").
    pub(super) fn keeps(self, component: &str) -> bool {
        match self {
            Self::S3 | Self::Gcs => true,
            Self::Azure => !component.contains('\\') && !component.ends_with('.'),
        }
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3 => "S3",
            Self::Azure => "Azure Blob Storage",
            Self::Gcs => "Cloud Storage",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_object_fits_into_the_most_parts_and_no_part_is_too_large() {
        for (interface, parts, object, part) in [
            (Interface::S3, 10_000, 5_u64 << 40, 5_u64 << 30),
            (Interface::Gcs, 10_000, 5 << 40, 5 << 30),
            (Interface::Azure, 50_000, 5 << 40, 4000 << 20),
        ] {
            let sizes = interface.part_sizes();
            let total: u64 = (0..parts).map(|index| sizes.of(index) as u64).sum();
            assert!(total >= object, "{interface}");
            assert!((0..parts).all(|index| sizes.of(index) as u64 <= part));
            assert!((0..parts).all(|index| sizes.of(index) >= 5 * MIB));
        }
        let sizes = Interface::S3.part_sizes();
        assert_eq!((sizes.of(999), sizes.of(1000)), (8 * MIB, 16 * MIB));
        assert!(!sizes.is_large(999) && sizes.is_large(1000));
    }

    #[test]
    fn azure_would_change_some_names_and_the_others_change_none() {
        for name in ["a.", "..a.", "a\\b"] {
            assert!(!Interface::Azure.keeps(name), "{name}");
            assert!(Interface::S3.keeps(name) && Interface::Gcs.keeps(name));
        }
        for name in ["a", ".a", "a.b", "a b"] {
            assert!(Interface::Azure.keeps(name), "{name}");
        }
    }
}
