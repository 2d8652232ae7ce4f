//! What has to change to get from one configuration to another, and nothing else.
//!
//! A difference is a [`Change`] with a line for people, so that `old.apply` of all of them is `new` again, up to the
//! order of ports. Removals come first: a name or an OpenFlow number may go from one port to another.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use crate::change::{Change, Settings};
use crate::keys::{self, Key};
use crate::model::{Bridge, Config, StaticEntry};
use crate::port::Port;
use crate::tunnel::Tunnel;

/// One thing that differs. Its text is one line: `+` is added, `-` removed, `~` changed, with old and new value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What makes the old configuration equal to the new one in this.
    pub change: Change,
    text: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

/// All that differs, in an order in which it can be applied. `new` should be complete ([`Config::complete`]): a port
/// without an OpenFlow number differs from one that has one.
pub fn diff(old: &Config, new: &Config) -> Vec<Difference> {
    let mut found = Vec::new();
    if let Some((set, text)) = changed(&old.switch, &new.switch, keys::SWITCH) {
        found.push(Difference { change: Change::SwitchSet { set }, text: format!("~ switch: {text}") });
    }
    for bridge in &old.bridges {
        match new.bridges.iter().find(|other| other.name == bridge.name) {
            Some(next) if next == bridge => {}
            Some(next) => removed(bridge, next, &mut found),
            None => {
                let text = format!("- bridge {}", bridge.name);
                found.push(Difference { change: Change::BridgeDel { name: bridge.name.clone() }, text });
            }
        }
    }
    for bridge in &new.bridges {
        match old.bridges.iter().find(|other| other.name == bridge.name) {
            Some(before) if before == bridge => {}
            Some(before) => bridge_changed(before, bridge, &mut found),
            None => bridge_added(bridge, &mut found),
        }
    }
    if old.acl != new.acl {
        let mut add = |change, text| found.push(Difference { change, text });
        crate::acl::differences(&old.acl, &new.acl, &mut add);
    }
    found
}

/// What `next` lacks of what `bridge` has.
fn removed(bridge: &Bridge, next: &Bridge, found: &mut Vec<Difference>) {
    let mut add = |change, text| found.push(Difference { change, text });
    let of = format!("of bridge {}", bridge.name);
    for Port { name, .. } in missing(&bridge.ports, &next.ports, |port| &port.name) {
        add(Change::PortDel { name: name.clone() }, format!("- port {name} {of}"));
    }
    for Tunnel { name, .. } in missing(&bridge.tunnels, &next.tunnels, |tunnel| &tunnel.name) {
        add(Change::TunnelDel { name: name.clone() }, format!("- tunnel {name} {of}"));
    }
    for (&vlan, vni) in bridge.vnis.0.iter().filter(|(vlan, _)| !next.vnis.0.contains_key(vlan)) {
        add(
            Change::VniUnmap { bridge: bridge.name.clone(), vlan },
            format!("- VNI {vni} for VLAN {vlan} {of}"),
        );
    }
    for entry in missing(&bridge.fdb, &next.fdb, |entry| (entry.vlan, entry.mac)) {
        if !taken_along(bridge, next, entry) {
            let StaticEntry { vlan, mac, .. } = *entry;
            let change = Change::FdbDel { bridge: bridge.name.clone(), vlan, mac };
            add(change, format!("- static entry VLAN {vlan} {mac} {of}"));
        }
    }
}

/// Whether the removal of the entry's port, from `bridge` to `next`, takes the entry along.
fn taken_along(bridge: &Bridge, next: &Bridge, entry: &StaticEntry) -> bool {
    let port =
        missing(&bridge.ports, &next.ports, |port| &port.name).iter().any(|port| port.name == entry.port);
    let tunnels = missing(&bridge.tunnels, &next.tunnels, |tunnel| &tunnel.name);
    port || tunnels.iter().any(|tunnel| tunnel.name == entry.port)
}

fn missing<'a, T, K: PartialEq>(old: &'a [T], new: &'a [T], key: impl Fn(&'a T) -> K) -> Vec<&'a T> {
    old.iter().filter(|item| !new.iter().any(|other| key(other) == key(item))).collect()
}

fn bridge_added(bridge: &Bridge, found: &mut Vec<Difference>) {
    let bare = Bridge {
        vnis: Default::default(),
        fdb: Vec::new(),
        ports: Vec::new(),
        tunnels: Vec::new(),
        ..bridge.clone()
    };
    let text = format!("+ bridge {}{}", bare.name, settings_text(&bare, keys::BRIDGE));
    found.push(Difference { change: Change::BridgeAdd { bridge: Box::new(bare.clone()) }, text });
    bridge_changed(&bare, bridge, found);
}

/// What `bridge` has that `before` lacks or has otherwise.
fn bridge_changed(before: &Bridge, bridge: &Bridge, found: &mut Vec<Difference>) {
    if let Some((set, text)) = changed(before, bridge, keys::BRIDGE) {
        let change = Change::BridgeSet { name: bridge.name.clone(), set };
        found.push(Difference { change, text: format!("~ bridge {}: {text}", bridge.name) });
    }
    for port in &bridge.ports {
        let old = before.ports.iter().find(|old| old.name == port.name);
        found.extend(port_changed(old, port, bridge));
    }
    for tunnel in &bridge.tunnels {
        let old = before.tunnels.iter().find(|old| old.name == tunnel.name);
        found.extend(tunnel_changed(old, tunnel, bridge));
    }
    maps_changed(before, bridge, found);
}

fn port_changed(old: Option<&Port>, port: &Port, bridge: &Bridge) -> Option<Difference> {
    let named = format!("port {} of bridge {}", port.name, bridge.name);
    let Some(old) = old else {
        let change = Change::PortAdd { bridge: bridge.name.clone(), port: Box::new(port.clone()) };
        return Some(Difference { change, text: format!("+ {named}{}", settings_text(port, keys::PORT)) });
    };
    if old == port {
        return None;
    }
    let (set, text) = changed(old, port, keys::PORT)?;
    Some(Difference {
        change: Change::PortSet { name: port.name.clone(), set },
        text: format!("~ {named}: {text}"),
    })
}

fn tunnel_changed(old: Option<&Tunnel>, tunnel: &Tunnel, bridge: &Bridge) -> Option<Difference> {
    let named = format!("tunnel {} of bridge {}", tunnel.name, bridge.name);
    let Some(old) = old else {
        let change = Change::TunnelAdd { bridge: bridge.name.clone(), tunnel: Box::new(tunnel.clone()) };
        return Some(Difference {
            change,
            text: format!("+ {named}{}", settings_text(tunnel, keys::TUNNEL)),
        });
    };
    let (set, text) = changed(old, tunnel, keys::TUNNEL)?;
    let change = Change::TunnelSet { name: tunnel.name.clone(), set };
    Some(Difference { change, text: format!("~ {named}: {text}") })
}

fn maps_changed(before: &Bridge, bridge: &Bridge, found: &mut Vec<Difference>) {
    let name = &bridge.name;
    for (&vlan, &vni) in &bridge.vnis.0 {
        let text = match before.vnis.0.get(&vlan) {
            Some(old) if *old == vni => continue,
            Some(old) => format!("~ VNI for VLAN {vlan} of bridge {name}: {old} -> {vni}"),
            None => format!("+ VNI {vni} for VLAN {vlan} of bridge {name}"),
        };
        found.push(Difference { change: Change::VniMap { bridge: name.clone(), vlan, vni }, text });
    }
    for entry in &bridge.fdb {
        let StaticEntry { vlan, mac, port } = entry;
        let text = match before.fdb.iter().find(|old| (old.vlan, old.mac) == (*vlan, *mac)) {
            Some(old) if old == entry && !taken_along(before, bridge, old) => continue,
            Some(old) if old != entry => {
                format!("~ static entry VLAN {vlan} {mac} of bridge {name}: port {} -> {port}", old.port)
            }
            _ => format!("+ static entry VLAN {vlan} {mac} of bridge {name}: port {port}"),
        };
        found
            .push(Difference { change: Change::FdbAdd { bridge: name.clone(), entry: entry.clone() }, text });
    }
}

/// The keys of `keys` whose values differ: their new values (null is the default), and the text.
fn changed(old: &impl Serialize, new: &impl Serialize, keys: &[Key]) -> Option<(Settings, String)> {
    let (old, new) = (object(old), object(new));
    let mut set = Settings::new();
    let mut texts = Vec::new();
    for key in keys.iter().filter(|key| old.get(key.name) != new.get(key.name)) {
        let text = |side: &Map<String, Json>| side.get(key.name).map_or(key.default.to_owned(), value_text);
        texts.push(format!("{} {} -> {}", key.name, text(&old), text(&new)));
        set.insert(key.name.to_owned(), new.get(key.name).cloned().unwrap_or(Json::Null));
    }
    if set.is_empty() { None } else { Some((set, texts.join(", "))) }
}

/// ` key=value` for each key that is not as by default, the name left out.
fn settings_text(what: &impl Serialize, keys: &[Key]) -> String {
    let values = object(what);
    let given = keys.iter().filter(|key| key.name != "name");
    given.filter_map(|key| Some(format!(" {}={}", key.name, value_text(values.get(key.name)?)))).collect()
}

fn object(what: &impl Serialize) -> Map<String, Json> {
    match serde_json::to_value(what) {
        Ok(Json::Object(keys)) => keys,
        Ok(_) | Err(_) => unreachable!("an object of the configuration serializes to an object"),
    }
}

fn value_text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}
