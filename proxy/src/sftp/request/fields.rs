//! The fields that several requests have, read from the front of a packet.

use super::{Body, Reason};
use crate::{
    operation::{Access, Attributes, HandleId},
    path::VirtualPath,
    sftp::framing::Fields,
};

impl Body {
    pub(super) fn path(&mut self) -> Result<VirtualPath, Reason> {
        let raw = self.fields.string()?;
        VirtualPath::clean(&raw).map_err(|error| {
            self.evidence = Some(raw);
            error.into()
        })
    }

    pub(super) fn handle(&mut self) -> Result<HandleId, Reason> {
        let raw = self.fields.string()?;
        HandleId::from_wire(&raw).ok_or_else(|| {
            let length = raw.len();
            self.evidence = Some(raw);
            Reason::Handle { length }
        })
    }

    /// filexfer-02 section 5.
    pub(super) fn attributes(&mut self) -> Result<Attributes, Reason> {
        const SIZE: u32 = 0x1;
        const OWNER: u32 = 0x2;
        const PERMISSIONS: u32 = 0x4;
        const TIMES: u32 = 0x8;
        const EXTENDED: u32 = 0x8000_0000;
        let flags = self.fields.number()?;
        if flags & !(SIZE | OWNER | PERMISSIONS | TIMES | EXTENDED) != 0 {
            return Err(Reason::AttributeFlags { flags });
        }
        let mut attributes = Attributes::default();
        if flags & SIZE != 0 {
            attributes.size = Some(self.fields.long()?);
        }
        if flags & OWNER != 0 {
            attributes.owner = Some((self.fields.number()?, self.fields.number()?));
        }
        if flags & PERMISSIONS != 0 {
            attributes.permissions = Some(self.fields.number()?);
        }
        if flags & TIMES != 0 {
            attributes.times = Some((self.fields.number()?, self.fields.number()?));
        }
        if flags & EXTENDED != 0 {
            for _ in 0..self.fields.number()? {
                self.fields.string()?;
                self.fields.string()?;
            }
        }
        if attributes.size.is_some_and(|size| size > i64::MAX as u64) {
            return Err(Reason::Range);
        }
        Ok(attributes)
    }

    pub(super) fn numbers(&mut self) -> Result<Vec<u32>, Reason> {
        let packed = self.fields.string()?;
        let mut fields = Fields::new(packed);
        let mut numbers = Vec::new();
        while !fields.is_empty() {
            numbers.push(fields.number()?);
        }
        Ok(numbers)
    }
}

/// filexfer-02 section 6.3. Bits that the draft does not know are left out, and an OPEN for nothing reads, as in OpenSSH.
pub(super) fn access(flags: u32) -> Access {
    let mut access = Access {
        read: flags & 0x01 != 0,
        write: flags & 0x02 != 0,
        append: flags & 0x04 != 0,
        create: flags & 0x08 != 0,
        truncate: flags & 0x10 != 0,
        exclusive: flags & 0x20 != 0,
    };
    access.read |= !access.writes();
    access
}

pub(super) fn within_range(offset: u64, length: u64) -> Result<(), Reason> {
    match offset.checked_add(length) {
        Some(end) if end <= i64::MAX as u64 => Ok(()),
        Some(_) | None => Err(Reason::Range),
    }
}
