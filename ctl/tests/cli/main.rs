//! weftctl against a switch that only talks: what it asks, what it prints, and how it fails.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod acl;
mod commands;
mod flows;
mod golden;
mod support;
mod trace;
