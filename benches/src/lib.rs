//! What weft's benches share: the switch in each case of the comparison, and the packets that it is fed.
//!
//! * [`case`]: what the switch does with the packets, as `benches/peer/cases.py` has it for Open vSwitch.
//! * [`groups`]: the bridge with security groups, and who talks there; [`talker`]: how they begin.
//! * [`switch`]: one worker, driven by hand, between a replay port and null ports.
//! * [`frames`]: packets without a pcap file; [`synth`]: millions of flows without a frame for each.

pub mod case;
pub mod frames;
pub mod groups;
pub mod switch;
pub mod synth;
pub mod talker;

/// What a bench ends with when it can't be run.
pub type Failure = Box<dyn std::error::Error>;
