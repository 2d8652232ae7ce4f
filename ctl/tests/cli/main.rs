//! weftctl against a switch that only talks: what it asks, what it prints, and how it fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod acl;
mod commands;
mod conntrack;
mod flows;
mod golden;
mod support;
mod top;
mod trace;
mod why;
