//! The VLAN truth table: what each kind of port does with each kind of frame, as stock Open vSwitch does it.
//!
//! * [`tags`]: a frame's tag stack and its short spelling (`u`, `10`, `0p5`, `s10+20`).
//! * [`table`]: the table as a text file that people read, and as a value that tests walk.
//! * [`record`]: asks a running OVS for every cell.

pub mod record;
pub mod table;
pub mod tags;

pub use table::{Block, Port, Table};
pub use tags::{CTAG, STAG, Tag, Tags};
