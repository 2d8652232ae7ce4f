//! Instructions and their order (OpenFlow 1.1 and later; ovs-actions(7), "Instructions").

use crate::action::Action;

/// The instruction that an action belongs to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Instruction {
    /// `meter`
    Meter,
    /// Actions that are done at once.
    Apply,
    /// `clear_actions`
    Clear,
    /// `write_actions`
    Write,
    /// `write_metadata`
    Metadata,
    /// `goto_table`
    Goto,
}

impl Instruction {
    /// The legal order, as text.
    pub const ORDER: &str = "meter, other actions, clear_actions, write_actions, write_metadata, goto_table";

    /// Which one an action is.
    pub(super) fn of(action: &Action) -> Instruction {
        match action {
            Action::Meter(_) => Instruction::Meter,
            Action::ClearActions => Instruction::Clear,
            Action::WriteActions(_) => Instruction::Write,
            Action::WriteMetadata { .. } => Instruction::Metadata,
            Action::GotoTable(_) => Instruction::Goto,
            _ => Instruction::Apply,
        }
    }

    /// Its name in text.
    pub fn name(self) -> &'static str {
        match self {
            Instruction::Meter => "meter",
            Instruction::Apply => "an action",
            Instruction::Clear => "clear_actions",
            Instruction::Write => "write_actions",
            Instruction::Metadata => "write_metadata",
            Instruction::Goto => "goto_table",
        }
    }
}
