//! weft's dataplane: what happens to a packet between two ports.
//!
//! The way of a packet, file by file:
//!
//! 1. [`worker`] receives a burst from a port's queue; [`decap`] takes tunnel headers off; [`parse`] makes its
//!    [`key`]s, as wide as the port's policy reads: a [`lane`] for each width.
//! 2. [`cache`] finds each key's flow ([`flows`]), whose [`program`] says where the packet goes; [`epoch`]s and the
//!    [`connection`]s that it belongs to say whether that still stands.
//! 3. If not, [`pipeline`] walks the flow [`tables`] of the published [`snapshot`], with [`vlan`] rules and [`fdb`], and
//!    leaves a new program.
//! 4. [`forward`] applies the program's edits and outputs ([`mod@edit`], [`retag`], [`encap`]), lets packets wait for a
//!    neighbour ([`held`]), collects them per port ([`output`]), and sends them as bursts.
//!
//! What connection tracking has to do with octets: [`facts`] reads what the tracker is told of a packet, [`fragments`] wait for
//! each other, [`edit::nat`] translates, [`helper`] reads control connections.
//!
//! [`publish`] turns what the control plane wants into the next snapshot; [`runtime`] runs workers on threads; [`datapath`]
//! is the control thread's handle on it all; [`trace`] tells what would become of a packet, and [`why`] why
//! packets were dropped.

#![forbid(unsafe_code)]

pub mod bell;
pub mod budget;
pub mod cache;
pub mod classifier;
pub mod connection;
pub mod counters;
#[cfg(test)]
mod crafted;
pub mod datapath;
pub mod decap;
pub mod doubt;
pub mod edit;
pub mod encap;
pub mod epoch;
pub mod facts;
pub mod faults;
pub mod fdb;
pub mod flows;
mod fold;
pub mod forward;
pub mod fragments;
pub mod held;
pub mod helper;
pub mod intake;
pub mod key;
pub mod lane;
pub mod ledger;
pub mod listing;
pub mod masks;
pub mod output;
pub mod packet_in;
pub mod parse;
pub mod pipeline;
pub mod program;
pub mod publish;
pub mod retag;
pub mod runtime;
pub mod shared;
pub mod snapshot;
pub mod tables;
pub mod trace;
pub mod validity;
pub mod verdict;
pub mod vlan;
pub mod why;
pub mod worker;
