//! weft's desired state: parse, validate, change, compare and persist it; and the control protocol's types.
//!
//! There is one [`Config`]: the TOML file that seeds a switch, the state file and what `config apply` sends have the
//! same schema. Text becomes a [`Config`] in [`Config::from_toml`], a running switch's becomes another by
//! [`Config::apply`], a transaction of [`Change`]s, and [`diff()`] says what a reconfiguration has to touch. [`Store`]
//! keeps it on disk. [`control`] has the messages that `weftctl` and `weftd` exchange.
//!
//! What always holds: a `Config` that came out of `from_toml`, `apply` or a `Store` is valid as a whole
//! ([`Config::validate`]), and those out of `apply` and a `Store` have an OpenFlow number for every port. No threads,
//! no sockets, no dataplane in here. Every error is one line: what, where, and the legal range.

#![forbid(unsafe_code)]

pub mod acl;
pub mod change;
pub mod conntrack;
pub mod control;
pub mod diff;
pub mod keys;
pub mod model;
pub mod port;
pub mod source;
pub mod store;
pub mod tunnel;
pub mod validate;
pub mod value;
pub mod vlan;

pub use change::{Change, ChangeError};
pub use diff::{Difference, diff};
pub use model::{Bridge, Config, Idle, StaticEntry, Switch, VniMap, Workers};
pub use port::{Backend, Port, PortType};
pub use source::ConfigError;
pub use store::{Flush, Store, StoreError};
pub use tunnel::{KeyMode, Tos, Tunnel};
pub use validate::{Invalid, KeyPath, Problem};
pub use value::{Bounded, Netns, NumberSet, ValueError};
pub use vlan::{PriorityTags, VlanMode, VlanModeName};
