//! weftd: the switch. Turns configuration into tables, devices into ports, and answers `weftctl`.
//!
//! * [`assemble`] wires everything together, in one function; [`event_loop`] then runs on the control thread.
//! * [`switch`] holds the state, and makes it equal to a configuration ([`reconcile`]): [`device`]s are opened, the
//!   [`underlay`] is followed, and the dataplane's [`model`] is published.
//! * [`acl`] makes rules of port security and security groups.
//! * [`control`] serves the control socket, [`status`] says what there is to say, `trace` what would happen to a packet,
//!   `why` what has happened to some, `top` how busy it all is, `conntrack` what connections there are,
//!   `limits` what there is only so much of.

pub mod acl;
pub mod assemble;
mod conntrack;
pub mod control;
pub mod device;
pub mod event_loop;
mod flows;
mod limits;
pub mod model;
mod numbers;
pub mod reconcile;
mod routes;
pub mod status;
pub mod switch;
mod top;
mod trace;
pub mod underlay;
mod why;
