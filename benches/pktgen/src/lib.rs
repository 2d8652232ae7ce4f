//! `weft-pktgen`: sends numbered packets into one netdev, receives them at another, and accounts for every one.
//!
//! One thread sends and one receives, each in its device's network namespace and with its own socket ([`af_packet`] or
//! [`af_xdp`], behind [`port::Port`]). Each packet is an IPv4/UDP frame that carries a magic, the number of this run
//! and a sequence number ([`frame`]); the receiver marks each number that it sees ([`track`]), so that loss,
//! duplicates and reordering are counts, not estimates. A run is bounded in time and in packets and ends by itself.
//!
//! What a full queue of the *sending* socket refuses is sent again and not counted as loss; what the *receiving* socket
//! dropped because this program was too slow is shown apart (`receiver_drops`), because the switch under test is
//! innocent of it.

#![deny(unsafe_code)]

pub mod af_packet;
pub mod af_xdp;
pub mod cli;
pub mod device;
pub mod frame;
pub mod port;
pub mod report;
pub mod run;
#[expect(unsafe_code, reason = "system calls that have no safe wrapper; each block proves its own")]
mod sys;
pub mod track;

pub use report::Report;
pub use run::{Error, run};
