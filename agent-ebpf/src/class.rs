//! What a table says about an address: one byte.

/// The class of a source address: what the most specific rule that covers it makes of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Class(pub u8);

impl Class {
    /// No rule covers the address.
    pub const NOT_LISTED: Self = Self(0);
    /// Allowed, whatever the protocol and port.
    pub const ALLOWED: Self = Self(1);
    /// Allowed, and neither a ban nor a list can cut it.
    pub const PROTECTED: Self = Self(2);
    /// Banned for a time.
    pub const BANNED: Self = Self(3);
    /// Taken out of a wider allowed prefix by a list.
    pub const DENIED: Self = Self(4);
    /// The first of the classes whose packets are judged by a [`ScopeSet`](crate::scope::ScopeSet).
    pub const FIRST_SCOPED: Self = Self(5);

    /// The class of the scope set with this index, if there can be one.
    pub fn scoped(index: usize) -> Option<Self> {
        let index = u8::try_from(index).ok()?;
        Self::FIRST_SCOPED.0.checked_add(index).map(Self)
    }

    /// The index of the class's scope set, if it has one.
    #[inline(always)]
    pub fn scope(self) -> Option<u32> {
        if self.0 >= Self::FIRST_SCOPED.0 {
            Some((self.0 - Self::FIRST_SCOPED.0) as u32)
        } else {
            None
        }
    }
}

/// Scope sets that one generation can have.
pub const SCOPE_SETS: u32 = 256 - Class::FIRST_SCOPED.0 as u32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_set_has_a_class_and_the_next_has_none() {
        let last = SCOPE_SETS as usize - 1;
        assert_eq!(Class::scoped(0), Some(Class::FIRST_SCOPED));
        assert_eq!(Class::scoped(last), Some(Class(u8::MAX)));
        assert_eq!(Class::scoped(last + 1), None);
        for index in [0, last] {
            assert_eq!(Class::scoped(index).unwrap().scope(), Some(index as u32));
        }
        assert_eq!(Class::DENIED.scope(), None);
    }
}
