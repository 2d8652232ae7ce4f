//! What flow tables are made of: the fields of a packet, matches on them, actions, and the messages that change tables.
//!
//! The words are Open vSwitch's (ovs-fields(7), ovs-actions(7)), with its meaning. This crate says what a rule *is*;
//! `weft-core` looks rules up and does what they say. It depends on `weft-wire` alone, and knows no port but by number:
//! whoever parses or prints names hands in a way to look them up.

#![forbid(unsafe_code)]

pub mod action;
pub mod field;
pub mod fields;
pub mod key;
pub mod matching;
pub mod message;
pub mod text;

pub use action::Action;
pub use field::{Field, Subfield};
pub use fields::{Fields, FlowKey, KeyMask};
pub use key::Width;
pub use matching::{Match, Term};
