//! Do the switch's counters account for every packet?

use crate::cmd::{Error, Result};
use serde_json::Value;
use std::fmt;

/// The counters of everything that has a queue of its own, and the drops of the tunnels.
///
/// A tunnel's packets are counted at the uplink and at the VM's port as well: only its drops are its own.
#[derive(Debug, Default, Clone)]
pub struct Accounts {
    rows: Vec<Row>,
    held: u64,
}

#[derive(Debug, Clone)]
struct Row {
    name: String,
    rx: u64,
    copies: u64,
    tx: u64,
    drops: Vec<(String, u64)>,
}

impl Accounts {
    /// Of what `weftctl --json show` says.
    pub fn of(switch: &Value) -> Result<Self> {
        let list = |key: &str| switch[key].as_array().map_or(&[][..], Vec::as_slice).iter();
        if list("workers").count() == 0 {
            return Err(Error::new(format!("no switch with workers: {switch}")));
        }
        let port = |port: &Value| {
            let is_tunnel = ["vxlan", "gre", "patch"].contains(&port["type"].as_str().unwrap_or_default());
            Row::of(&port["name"], &port["counters"], is_tunnel)
        };
        let uplink = |uplink: &Value| Row::of(&uplink["device"], &uplink["counters"], false);
        let held = |worker: &Value| worker["held"].as_u64().unwrap_or(0);
        let rows = list("ports").map(port).chain(list("uplinks").map(uplink)).collect();
        Ok(Accounts { rows, held: list("workers").map(held).sum() })
    }

    /// Packets received and copies made, less those sent, dropped and held: 0 when every packet is accounted for.
    pub fn surplus(&self) -> i64 {
        let row = |row: &Row| {
            let dropped: u64 = row.drops.iter().map(|(_, packets)| packets).sum();
            (row.rx + row.copies) as i64 - (row.tx + dropped) as i64
        };
        self.rows.iter().map(row).sum::<i64>() - self.held as i64
    }

    /// Packets that a port or uplink has received.
    pub fn received_by(&self, name: &str) -> u64 {
        self.rows.iter().filter(|row| row.name == name).map(|row| row.rx).sum()
    }

    /// Packets that wait for a neighbour.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// Dropped packets of all ports, tunnels and uplinks, for one reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        let drops = self.rows.iter().flat_map(|row| &row.drops);
        drops.filter(|(name, _)| name == reason).map(|(_, packets)| packets).sum()
    }

    /// Dropped packets of all ports, tunnels and uplinks, for all reasons but these.
    pub fn dropped_but(&self, expected: &[&str]) -> u64 {
        let drops = self.rows.iter().flat_map(|row| &row.drops);
        drops.filter(|(name, _)| !expected.contains(&name.as_str())).map(|(_, packets)| packets).sum()
    }
}

impl Row {
    fn of(name: &Value, counters: &Value, only_drops: bool) -> Self {
        let number = |key: &str| if only_drops { 0 } else { counters[key].as_u64().unwrap_or(0) };
        let drops = counters["drops"].as_object().into_iter().flatten();
        Row {
            name: name.as_str().unwrap_or("?").to_owned(),
            rx: number("rx_packets"),
            copies: number("copies"),
            tx: number("tx_packets"),
            drops: drops.map(|(reason, packets)| (reason.clone(), packets.as_u64().unwrap_or(0))).collect(),
        }
    }
}

impl fmt::Display for Accounts {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Row { name, rx, copies, tx, drops } in &self.rows {
            writeln!(out, "{name:>15}  rx {rx}  copies {copies}  tx {tx}  drops {drops:?}")?;
        }
        writeln!(out, "           held {}", self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tunnels_drops_count_and_its_packets_do_not() {
        let counters = |rx: u64, tx: u64, copies: u64, drops: Value| json!({"rx_packets": rx, "tx_packets": tx, "copies": copies, "drops": drops});
        let switch = json!({
            "ports": [
                {"name": "a", "type": "tap", "counters": counters(10, 3, 2, json!({"no_destination": 4}))},
                {"name": "t", "type": "vxlan", "counters": counters(50, 60, 7, json!({"tunnel_too_big": 1}))},
            ],
            "uplinks": [{"device": "u", "counters": counters(1, 4, 0, json!({}))}],
            "workers": [{"held": 1}],
        });
        let accounts = Accounts::of(&switch).unwrap();
        assert_eq!(accounts.surplus(), 0);
        assert!(Accounts::of(&json!({"ports": []})).is_err(), "an answer that is no switch");
        assert_eq!((accounts.dropped("tunnel_too_big"), accounts.dropped_but(&["tunnel_too_big"])), (1, 4));
    }
}
