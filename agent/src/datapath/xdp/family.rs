//! What differs between the tables of the two families.

use std::sync::atomic::AtomicU64;

use agent_ebpf::{
    class::Class,
    layout,
    table::{v4, v6},
};

use super::inner::Inner;
use crate::table::{
    Change6, Classed4, Classed6, NeedsRebuild, Plan4, Plan6, Readers, Table4, Table6, TooLarge,
};

/// An address family.
pub(super) trait Family: Sized {
    /// A prefix with its class.
    type Classed: Copy + PartialEq + Send + Sync;
    type Change: Send;
    type Plan: Send;
    type Table: Send + 'static;
    /// An address as a number.
    type Address: Copy + Ord;

    /// Bytes of an address.
    const BYTES: usize;
    const CELL_BYTES: usize;

    fn cells(size: usize) -> u32;
    fn flags(size: usize) -> u32;
    /// The outer maps, by size.
    fn outer_names() -> &'static [&'static str];
    fn lpm_name() -> &'static str;

    fn plan(classed: &[Self::Classed], seed: u64) -> Result<Self::Plan, TooLarge>;
    fn size(plan: &Self::Plan) -> usize;
    fn build(plan: Self::Plan, memory: Inner) -> Self::Table;
    fn edit(
        table: &mut Self::Table,
        changes: &[Self::Change],
        readers: &mut dyn Readers,
    ) -> Result<(), NeedsRebuild>;
    fn inner(table: &Self::Table) -> &Inner;
    fn image(table: &Self::Table) -> &[AtomicU64];
    fn class_of(table: &Self::Table, address: Self::Address) -> Class;

    fn class(classed: &Self::Classed) -> Class;
    fn first(classed: &Self::Classed) -> Self::Address;
    /// The address behind the prefix, if there is one.
    fn behind(classed: &Self::Classed) -> Option<Self::Address>;
    /// Length and address, as an LPM trie wants its key.
    fn key(classed: &Self::Classed) -> Vec<u8>;
}

pub(super) struct V4;
pub(super) struct V6;

impl Family for V4 {
    type Classed = Classed4;
    type Change = Classed4;
    type Plan = Plan4;
    type Table = Table4<Inner>;
    type Address = u32;

    const BYTES: usize = 4;
    const CELL_BYTES: usize = v4::CELL_BYTES;

    fn cells(size: usize) -> u32 {
        v4::cells_of(size)
    }

    fn flags(size: usize) -> u32 {
        layout::flags4(size)
    }

    fn outer_names() -> &'static [&'static str] {
        &layout::TABLES4
    }

    fn lpm_name() -> &'static str {
        layout::LPM4
    }

    fn plan(classed: &[Classed4], _seed: u64) -> Result<Plan4, TooLarge> {
        crate::table::v4::plan(classed)
    }

    fn size(plan: &Plan4) -> usize {
        plan.size()
    }

    fn build(plan: Plan4, memory: Inner) -> Self::Table {
        plan.build(memory)
    }

    fn edit(
        table: &mut Self::Table,
        changes: &[Classed4],
        readers: &mut dyn Readers,
    ) -> Result<(), NeedsRebuild> {
        table.edit(changes, readers)
    }

    fn inner(table: &Self::Table) -> &Inner {
        table.memory()
    }

    fn image(table: &Self::Table) -> &[AtomicU64] {
        table.image()
    }

    fn class_of(table: &Self::Table, address: u32) -> Class {
        table.class_of(address)
    }

    fn class(classed: &Classed4) -> Class {
        classed.class
    }

    fn first(classed: &Classed4) -> u32 {
        classed.address
    }

    fn behind(classed: &Classed4) -> Option<u32> {
        classed.last().checked_add(1)
    }

    fn key(classed: &Classed4) -> Vec<u8> {
        key(classed.length, &classed.address.to_be_bytes())
    }
}

impl Family for V6 {
    type Classed = Classed6;
    type Change = Change6;
    type Plan = Plan6;
    type Table = Table6<Inner>;
    type Address = u128;

    const BYTES: usize = 16;
    const CELL_BYTES: usize = v6::CELL_BYTES;

    fn cells(size: usize) -> u32 {
        v6::CELLS.get(size).copied().unwrap_or(0)
    }

    fn flags(size: usize) -> u32 {
        layout::flags6(size)
    }

    fn outer_names() -> &'static [&'static str] {
        &layout::TABLES6
    }

    fn lpm_name() -> &'static str {
        layout::LPM6
    }

    fn plan(classed: &[Classed6], seed: u64) -> Result<Plan6, TooLarge> {
        crate::table::v6::plan(classed, seed)
    }

    fn size(plan: &Plan6) -> usize {
        plan.size()
    }

    fn build(plan: Plan6, memory: Inner) -> Self::Table {
        plan.build(memory)
    }

    fn edit(
        table: &mut Self::Table,
        changes: &[Change6],
        readers: &mut dyn Readers,
    ) -> Result<(), NeedsRebuild> {
        table.edit(changes, &mut || readers.wait())
    }

    fn inner(table: &Self::Table) -> &Inner {
        table.memory()
    }

    fn image(table: &Self::Table) -> &[AtomicU64] {
        table.image()
    }

    fn class_of(table: &Self::Table, address: u128) -> Class {
        table.class_of(address)
    }

    fn class(classed: &Classed6) -> Class {
        classed.class
    }

    fn first(classed: &Classed6) -> u128 {
        classed.address
    }

    fn behind(classed: &Classed6) -> Option<u128> {
        let last = classed.address
            | u128::MAX
                .checked_shr(u32::from(classed.length))
                .unwrap_or(0);
        last.checked_add(1)
    }

    fn key(classed: &Classed6) -> Vec<u8> {
        key(classed.length, &classed.address.to_be_bytes())
    }
}

fn key(length: u8, address: &[u8]) -> Vec<u8> {
    let mut key = u32::from(length).to_ne_bytes().to_vec();
    key.extend_from_slice(address);
    key
}
