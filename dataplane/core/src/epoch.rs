//! Invalidation by number: a table of epochs that every cached decision is held against.
//!
//! What: one [`Cell`] for each thing that a decision can depend on: an FDB entry, an FDB bucket (for an entry that was
//! *not* there), a port's configuration, a table partition, a flood set, a tunnel's path. A decision notes the cells'
//! epochs ([`Dep`]) *before* it reads the things themselves; whoever changes a thing moves its cell's epoch on. A
//! decision holds as long as all its epochs do. Nobody walks caches to delete.
//!
//! Each cell has a stamp beside its epoch: the second in which the thing was last used (FDB ageing).
//!
//! Who: workers read, and write FDB cells when they learn; the control thread writes the rest. All accesses are atomic.
//! An epoch has 32 bits: a stale decision would be taken for a fresh one if its cell moved exactly 2^32 times between
//! two of its packets; flows without a packet for some minutes are not kept ([`crate::lane`]).

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use bytemuck::Zeroable;
use weft_io::mem::{HugeTable, prefetch};

/// The index of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Zeroable)]
#[repr(transparent)]
pub struct Cell(pub u32);

impl Cell {
    /// The cell that never changes: for a decision that depends on less than it has room for.
    pub const NEVER: Cell = Cell(0);

    /// The cell `index` places behind this one, in a range that [`Epochs::allocate`] gave.
    #[inline]
    pub const fn at(self, index: usize) -> Cell {
        Cell(self.0 + index as u32)
    }
}

/// What a decision saw of one cell.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Zeroable)]
#[repr(C)]
pub struct Dep {
    /// Which cell.
    pub cell: Cell,
    /// Its epoch at that time.
    pub epoch: u32,
}

impl Dep {
    /// The dependency that always holds.
    pub const NONE: Dep = Dep { cell: Cell::NEVER, epoch: 0 };
}

/// All cells of the process. See the module's text.
#[derive(Debug)]
pub struct Epochs {
    epochs: HugeTable<AtomicU32>,
    stamps: HugeTable<AtomicU32>,
    /// Counts every change that the control thread publishes: while it stands still, so do all cells but the FDB's.
    published: AtomicU32,
    free: Mutex<FreeRanges>,
}

/// There is no room for so many cells.
#[derive(Debug, thiserror::Error)]
#[error("no room for {0} more epochs: {max} are all there are", max = Epochs::CELLS)]
pub struct OutOfCells(pub usize);

impl Epochs {
    /// Cells in all (of address space: memory is touched as cells are used).
    pub const CELLS: usize = 32 << 20;

    /// A fresh table.
    pub fn new() -> io::Result<Self> {
        Ok(Epochs {
            epochs: HugeTable::new(Self::CELLS)?,
            stamps: HugeTable::new(Self::CELLS)?,
            published: AtomicU32::new(0),
            free: Mutex::new(FreeRanges::all(1, Self::CELLS as u32 - 1)),
        })
    }

    /// `count` cells in a row. Their epochs go on from where a former owner left them, so that nothing that depended
    /// on him holds: their first new owner moves each on.
    pub fn allocate(&self, count: usize) -> Result<Cell, OutOfCells> {
        let mut free = self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let start = u32::try_from(count).ok().and_then(|count| free.take(count)).ok_or(OutOfCells(count))?;
        drop(free);
        for index in 0..count {
            self.advance(Cell(start).at(index));
        }
        Ok(Cell(start))
    }

    /// Gives cells back; what depended on them no longer holds.
    pub fn release(&self, start: Cell, count: usize) {
        for index in 0..count {
            self.advance(start.at(index));
        }
        self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner).put(start.0, count as u32);
    }

    /// Whether what `dep` saw is still so.
    #[inline]
    pub fn holds(&self, dep: Dep) -> bool {
        self.epoch(dep.cell) == dep.epoch
    }

    /// Brings a cell into the processor's cache.
    #[inline]
    pub fn prefetch(&self, cell: Cell) {
        if let Some(epoch) = self.epochs.get(cell.0 as usize) {
            prefetch(epoch);
        }
    }

    #[inline]
    fn epoch(&self, cell: Cell) -> u32 {
        self.epochs.get(cell.0 as usize).map_or(0, |epoch| epoch.load(Ordering::Acquire))
    }

    /// The cell's epoch now, to be noted before the thing behind the cell is read.
    #[inline]
    pub fn observe(&self, cell: Cell) -> Dep {
        Dep { cell, epoch: self.epoch(cell) }
    }

    /// Says that the thing behind `cell` has changed (the change was made before), and returns the new state.
    ///
    /// Steps are even, so that a cell that also serves as a sequence lock ([`Epochs::write`]) stays even at rest.
    pub fn advance(&self, cell: Cell) -> Dep {
        let before = self.epochs[cell.0 as usize].fetch_add(2, Ordering::AcqRel);
        Dep { cell, epoch: before.wrapping_add(2) }
    }

    /// What [`Epochs::advance`] will return, if nobody else advances the cell: lets a snapshot that is published
    /// *before* its cells advance name their next epochs.
    pub fn next(&self, cell: Cell) -> Dep {
        Dep { cell, epoch: self.epoch(cell).wrapping_add(2) }
    }

    /// Runs `change` with the cell's epoch odd, as the writer of a sequence lock does. Writers of one cell exclude
    /// each other by other means.
    pub fn write(&self, cell: Cell, change: impl FnOnce()) -> Dep {
        let epoch = &self.epochs[cell.0 as usize];
        let before = epoch.load(Ordering::Relaxed);
        epoch.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        change();
        let after = before.wrapping_add(2);
        epoch.store(after, Ordering::Release);
        Dep { cell, epoch: after }
    }

    /// Runs `read` as the reader of a sequence lock does: `None` when a writer was at work meanwhile.
    #[inline]
    pub fn read<T>(&self, cell: Cell, read: impl FnOnce() -> T) -> Option<(T, Dep)> {
        let before = self.observe(cell);
        let value = read();
        fence(Ordering::Acquire);
        let undisturbed = before.epoch & 1 == 0 && self.epoch(cell) == before.epoch;
        undisturbed.then_some((value, before))
    }

    /// Notes that the thing behind `cell` is in use at `second`.
    #[inline]
    pub fn stamp(&self, cell: Cell, second: u32) {
        if let Some(stamp) = self.stamps.get(cell.0 as usize) {
            stamp.store(second, Ordering::Relaxed);
        }
    }

    /// When the thing behind `cell` was last in use.
    #[inline]
    pub fn stamped(&self, cell: Cell) -> u32 {
        self.stamps.get(cell.0 as usize).map_or(0, |stamp| stamp.load(Ordering::Relaxed))
    }

    /// The number of publications so far.
    #[inline]
    pub fn published(&self) -> u32 {
        self.published.load(Ordering::Acquire)
    }

    /// Counts one more publication; called after its cells have advanced.
    pub fn publish(&self) {
        self.published.fetch_add(1, Ordering::AcqRel);
    }
}

/// Free ranges of cells by their start, neighbours joined.
#[derive(Debug)]
struct FreeRanges(BTreeMap<u32, u32>);

impl FreeRanges {
    fn all(start: u32, count: u32) -> Self {
        FreeRanges(BTreeMap::from([(start, count)]))
    }

    fn take(&mut self, count: u32) -> Option<u32> {
        let (&start, &length) = self.0.iter().find(|&(_, &length)| length >= count)?;
        self.0.remove(&start);
        if length > count {
            self.0.insert(start + count, length - count);
        }
        Some(start)
    }

    fn put(&mut self, mut start: u32, mut count: u32) {
        if let Some(behind) = self.0.remove(&(start + count)) {
            count += behind;
        }
        if let Some((&before, &length)) = self.0.range(..start).next_back()
            && before + length == start
        {
            (start, count) = (before, length + count);
        }
        self.0.insert(start, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dependency_holds_until_its_cell_advances() {
        let epochs = Epochs::new().unwrap();
        let start = epochs.allocate(10).unwrap();
        let dep = epochs.observe(start.at(3));
        epochs.advance(start.at(4));
        assert!(epochs.holds(dep) && epochs.holds(Dep::NONE));
        let promised = epochs.next(start.at(3));
        assert!(!epochs.holds(promised));
        assert_eq!(epochs.advance(start.at(3)), promised);
        assert!(!epochs.holds(dep) && epochs.holds(promised));
    }

    #[test]
    fn cells_that_are_given_back_join_and_are_fresh_for_the_next_owner() {
        let epochs = Epochs::new().unwrap();
        let (first, second, third) =
            (epochs.allocate(5).unwrap(), epochs.allocate(5).unwrap(), epochs.allocate(5).unwrap());
        let dep = epochs.observe(second);
        epochs.release(first, 5);
        epochs.release(third, 5);
        epochs.release(second, 5);
        assert_eq!(epochs.allocate(Epochs::CELLS - 1).unwrap(), first);
        assert!(!epochs.holds(dep));
        assert!(epochs.allocate(1).is_err());
    }

    #[test]
    fn a_reader_notices_a_writer() {
        let epochs = Epochs::new().unwrap();
        let cell = epochs.allocate(1).unwrap();
        assert!(epochs.read(cell, || ()).is_some());
        assert!(epochs.read(cell, || epochs.write(cell, || ())).is_none());
        epochs.write(cell, || assert!(epochs.read(cell, || ()).is_none()));
    }
}
