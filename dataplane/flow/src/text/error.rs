//! What can be wrong with a text, and where.

use std::fmt;

use super::order::Instruction;
use crate::field::{Field, Prerequisite};

/// At most so many characters of the offending token are quoted.
const QUOTED: usize = 60;

/// A text that can't be read: one line that names the token, its place, what was expected and the legal range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The line in its file, from 1.
    pub line: Option<u64>,
    /// Where the token starts in its line: octets from 1.
    pub column: usize,
    /// The offending token, shortened if it is long.
    pub token: Box<str>,
    /// What is wrong with it.
    pub problem: Problem,
}

impl Error {
    pub(super) fn new(at: usize, token: &str, problem: Problem) -> Error {
        let mut token: String = token.chars().take(QUOTED + 1).flat_map(char::escape_debug).collect();
        if token.chars().count() > QUOTED {
            token = token.chars().take(QUOTED).chain("...".chars()).collect();
        }
        // Quotes of names are no reason for backslashes.
        let token = token.replace("\\\"", "\"").replace("\\'", "'");
        Error { line: None, column: at + 1, token: token.into(), problem }
    }

    /// The same error, in that line of a file.
    #[must_use]
    pub fn at_line(mut self, line: u64) -> Error {
        self.line = Some(line);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(out, "line {line}, ")?;
        }
        write!(out, "column {}: ", self.column)?;
        if !self.token.is_empty() {
            write!(out, "'{}': ", self.token)?;
        }
        self.problem.fmt(out)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.problem)
    }
}

/// What is wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file can't be read.
    #[error("can't be read: {0}")]
    Unreadable(std::io::ErrorKind),
    /// A line is too long.
    #[error("the line is longer than {max} octets")]
    LineTooLong {
        /// The limit.
        max: usize,
    },
    /// A line isn't UTF-8.
    #[error("the line is not UTF-8 text")]
    NotText,
    /// No such match field or setting.
    #[error("no match field or setting of that name")]
    UnknownKeyword,
    /// A setting that this command hasn't.
    #[error("not a setting of this command")]
    NotHere,
    /// No such field.
    #[error("no field of that name")]
    UnknownField,
    /// No such action.
    #[error("no action or port of that name")]
    UnknownAction,
    /// No such argument of the action.
    #[error("no argument of {action} has that name; expected {expected}")]
    UnknownArgument {
        /// Of which action.
        action: &'static str,
        /// Which it has.
        expected: &'static str,
    },
    /// No such port.
    #[error("no such port; expected 0 to 65279, the name of a port, or a reserved port such as LOCAL")]
    UnknownPort,
    /// A port that can't be used here.
    #[error("can't be used as a port here; expected 0 to 65279 or {reserved}")]
    BadPort {
        /// The reserved ports that can.
        reserved: &'static str,
    },
    /// Something is missing.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Something else was expected.
    #[error("expected {0}")]
    Expected(&'static str),
    /// Not a number.
    #[error("expected a number, {min} to {max}")]
    NotNumber {
        /// Smallest legal number.
        min: u128,
        /// Largest legal number.
        max: u128,
    },
    /// A number that is too large or too small.
    #[error("{what} is out of range: {min} to {max}")]
    OutOfRange {
        /// Of what.
        what: &'static str,
        /// Smallest legal number.
        min: u128,
        /// Largest legal number.
        max: u128,
    },
    /// A parenthesis or quote isn't closed.
    #[error("'{0}' is missing")]
    Unclosed(char),
    /// Something comes behind the end.
    #[error("unexpected text behind the end of {0}")]
    Trailing(&'static str),
    /// Given twice.
    #[error("given twice")]
    Twice,
    /// Two parts of a match that no packet fulfils.
    #[error("contradicts what was said before: no packet can match both")]
    Contradiction,
    /// A mask on a field that can't have one.
    #[error("{} can't be matched or set in part: no mask is allowed", .0.info().name)]
    NotMaskable(Field),
    /// A value with bits outside the mask.
    #[error("the value has bits that are not in the mask")]
    OutsideMask,
    /// A field whose prerequisite isn't matched.
    #[error("{} can only be used with {}", field.info().name, needs.described())]
    Lacks {
        /// The field.
        field: Field,
        /// What it needs.
        needs: Prerequisite,
    },
    /// A setting or an action whose prerequisite isn't matched.
    #[error("can only be used with {0} matched")]
    NotMatched(&'static str),
    /// Parts that no version of OpenFlow has together.
    #[error(
        "the match does not fit this action, which is tolerated in OpenFlow 1.0 only, but {0} needs a later version"
    )]
    Inconsistent(&'static str),
    /// A field that only weft itself uses.
    #[error("{} is internal: a rule can't match on it", .0.info().name)]
    Internal(Field),
    /// A field that can't be written.
    #[error("{} is read-only", .0.info().name)]
    ReadOnly(Field),
    /// Bits that a field hasn't.
    #[error("{} has bits 0 to {}", .0.info().name, .0.info().bits - 1)]
    NoSuchBits(Field),
    /// Two subfields that should be equally wide.
    #[error("the source has {source_bits} bits, but the destination {target_bits}")]
    WidthsDiffer {
        /// Width of the source.
        source_bits: u8,
        /// Width of the destination.
        target_bits: u8,
    },
    /// A destination that must be one bit.
    #[error("the destination must be a single bit")]
    NotOneBit,
    /// `drop` and something else.
    #[error("drop must be the only action")]
    DropNotAlone,
    /// No `actions=`.
    #[error("actions= is missing")]
    NoActions,
    /// Instructions in the wrong order.
    #[error("{} must come before {} (the order is {})", .0.name(), .1.name(), Instruction::ORDER)]
    Order(Instruction, Instruction),
    /// An instruction given twice.
    #[error("{} may be given only once", .0.name())]
    InstructionTwice(Instruction),
    /// Something that can't be in there.
    #[error("not allowed within {0}")]
    NotWithin(&'static str),
    /// Something that must be in there.
    #[error("only allowed within {0}")]
    OnlyWithin(&'static str),
    /// Conjunctions and other actions.
    #[error("conjunction can be combined with note and other conjunctions only")]
    MixedConjunction,
    /// Nested too deep.
    #[error("nested too deep: at most {max} levels")]
    TooDeep {
        /// The limit.
        max: usize,
    },
    /// A table that doesn't come later.
    #[error("goto_table must lead to a later table than {0}")]
    NotForward(u8),
    /// One VLAN tag too many.
    #[error("a packet can have two VLAN tags at most")]
    TooManyVlans,
    /// Too many of something.
    #[error("too many {what}: at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// Settings that exclude each other.
    #[error("can't be combined with {0}")]
    Excludes(&'static str),
    /// A setting that needs another.
    #[error("needs {0}")]
    Needs(&'static str),
}
