//! Programs of decisions that were for one packet only.
//!
//! No flow uses them, so they would be compiled anew for each such packet: for each new connection, say. The last few of
//! them are kept. Each is used by the keeper once, however often it is taken.

use crate::program::ProgramId;

/// How many are kept: paths that new connections take in turn.
const KEPT: usize = 64;

/// See the module's text. Belongs to one worker.
#[derive(Debug)]
pub struct Keep {
    programs: [ProgramId; KEPT],
    /// The oldest.
    next: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Keep { programs: [ProgramId::MAX; KEPT], next: 0 }
    }
}

impl Keep {
    /// Takes over one use of a program. Which one is to be released for it: another one, or the same if it is kept already.
    #[inline]
    pub fn put(&mut self, program: ProgramId) -> Option<ProgramId> {
        if self.programs.contains(&program) {
            return Some(program);
        }
        let place = self.programs.get_mut(self.next)?;
        self.next = (self.next + 1) % KEPT;
        Some(std::mem::replace(place, program)).filter(|&old| old != ProgramId::MAX)
    }

    /// One that needs not be kept, if there is one: to be released.
    pub fn take(&mut self, mut is_stale: impl FnMut(ProgramId) -> bool) -> Option<ProgramId> {
        let stale = |place: &&mut ProgramId| **place != ProgramId::MAX && is_stale(**place);
        let place = self.programs.iter_mut().find(stale)?;
        Some(std::mem::replace(place, ProgramId::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_programs_are_kept_once_each() {
        let mut keep = Keep::default();
        for program in 0..KEPT as ProgramId {
            assert_eq!(keep.put(program), None);
        }
        assert_eq!(keep.put(5), Some(5));
        assert_eq!(keep.put(100), Some(0));
        assert_eq!(keep.take(|program| program == 7), Some(7));
        assert_eq!(keep.take(|program| program == 7), None);
    }
}
