//! weftctl against a switch that only talks: what it asks, what it prints, and how it fails.

mod commands;
mod golden;
mod support;
mod trace;
