//! Whose packets somebody asks about: a port, an address, or a connection.

use std::net::IpAddr;

use weft_config::control::{Code, Refusal};
use weft_config::value::Value;
use weft_core::key::PortId;
use weft_core::why::{Pattern, Subject};
use weft_flow::Match;
use weft_flow::text::parse_match;
use weft_wire::Mac;

use crate::flows::Names;
use crate::switch::{Live, Switch};

/// Stations behind one port at most for them to be the port's own: behind an uplink there is half the world.
const STATIONS: usize = 8;

/// What was asked about.
#[derive(Debug)]
pub(super) struct Asked {
    /// In words.
    pub text: String,
    /// For the workers.
    pub subject: Subject,
}

impl Switch {
    /// Reads what was asked about.
    pub(super) fn whose(&self, text: &str) -> Result<Asked, Refusal> {
        if let Some((name, port)) = self.ports.iter().find(|(name, _)| name.as_str() == text) {
            let (id, stations) = (port.id, self.stations(port.id));
            // What comes in at the port is meant anyway; what its stations send may be dropped where it is to leave.
            let from_or_to = stations
                .iter()
                .flat_map(|mac| [from(&format!("dl_src={mac}")), towards(&format!("dl_dst={mac}"))]);
            let bridge = self.config.bridges.iter().find(|bridge| bridge.ofport_of(text).is_some());
            let of = bridge.map_or_else(String::new, |bridge| format!(" of bridge {}", bridge.name));
            let subject = Subject { ports: vec![id], whole_ports: true, patterns: from_or_to.collect() };
            return Ok(Asked { text: format!("port {name}{of}"), subject });
        }
        if let Ok(mac) = Mac::parse(text) {
            return Ok(self.station(mac));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let patterns = of_address(address);
            return Ok(Asked {
                text: address.to_string(),
                subject: Subject { patterns, ..Subject::default() },
            });
        }
        connection(text)
    }

    fn station(&self, mac: Mac) -> Asked {
        let homes = self.homes(mac);
        let behind: Vec<&str> = homes.iter().map(|(name, _)| *name).collect();
        let text = match &behind[..] {
            [] => format!("{mac}, which is behind no port that is known"),
            behind => format!("{mac}, behind {}", behind.join(", ")),
        };
        let patterns = vec![from(&format!("dl_src={mac}")), towards(&format!("dl_dst={mac}"))];
        let ports = homes.iter().map(|(_, id)| *id).filter(|&id| !self.stations(id).is_empty()).collect();
        Asked { text, subject: Subject { ports, whole_ports: false, patterns } }
    }

    /// The ports behind which an address is.
    fn homes(&self, mac: Mac) -> Vec<(&str, PortId)> {
        let entries = self.bridges.values().flat_map(|bridge| bridge.fdb.entries());
        let mut homes: Vec<PortId> =
            entries.filter(|entry| entry.mac == mac).map(|entry| entry.port).collect();
        homes.sort_unstable();
        homes.dedup();
        let named = |id: PortId| {
            let (name, port) = self.ports.iter().find(|(_, port)| port.id == id)?;
            Some((name.as_str(), port.id))
        };
        homes.into_iter().filter_map(named).collect()
    }

    /// The addresses behind a port, if they are its own: not those of a tunnel, and not too many.
    fn stations(&self, id: PortId) -> Vec<Mac> {
        let own = |port: &&crate::switch::PortState| {
            port.id == id && !matches!(port.live, Live::Tunnel | Live::Patch)
        };
        if !self.ports.values().any(|port| own(&port)) {
            return Vec::new();
        }
        let entries = self.bridges.values().flat_map(|bridge| bridge.fdb.entries());
        let mut stations: Vec<Mac> =
            entries.filter(|entry| entry.port == id).map(|entry| entry.mac).collect();
        stations.sort_unstable();
        stations.dedup();
        if stations.len() > STATIONS { Vec::new() } else { stations }
    }
}

fn of_address(address: IpAddr) -> Vec<Pattern> {
    match address {
        IpAddr::V4(ip) => vec![
            from(&format!("ip,nw_src={ip}")),
            towards(&format!("ip,nw_dst={ip}")),
            from(&format!("arp,arp_spa={ip}")),
            towards(&format!("arp,arp_tpa={ip}")),
        ],
        IpAddr::V6(ip) => {
            vec![from(&format!("ipv6,ipv6_src={ip}")), towards(&format!("ipv6,ipv6_dst={ip}"))]
        }
    }
}

/// A match of this module's own making.
fn own(text: &str) -> Match {
    parse_match(text, &Names::none()).unwrap_or_default()
}

fn from(text: &str) -> Pattern {
    Pattern { addresses: own(text), whole: own(text), sends: true }
}

fn towards(text: &str) -> Pattern {
    Pattern { sends: false, ..from(text) }
}

/// A match, of both directions.
fn connection(text: &str) -> Result<Asked, Refusal> {
    let both = [text.to_owned(), turned(text)];
    let patterns = both.iter().map(|text| pattern(text)).collect::<Result<Vec<Pattern>, String>>();
    let patterns = patterns.map_err(|problem| {
        let what = "no port of that name, no MAC or IP address, and no connection";
        let example = "as in tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_dst=80";
        Refusal::new(Code::NotFound, format!("'{text}': {what} ({example}): {problem}"))
    })?;
    Ok(Asked { text: text.to_owned(), subject: Subject { patterns, ..Subject::default() } })
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let parse = |text: &str| parse_match(text, &Names::none()).map_err(|error| error.to_string());
    let whole = parse(text)?;
    if whole.terms().is_empty() {
        return Err("it says nothing".to_owned());
    }
    let is_port = |word: &&str| word.split_once('=').is_some_and(|(key, _)| is_of_ports(key));
    let rest: Vec<&str> = text.split(',').filter(|word| !is_port(word)).collect();
    let has_address = rest.iter().any(|word| word.contains("_src=") || word.contains("_dst="));
    let addresses = if has_address { parse(&rest.join(","))? } else { whole.clone() };
    Ok(Pattern { addresses, whole, sends: false })
}

fn is_of_ports(key: &str) -> bool {
    matches!(key.trim().split('_').next(), Some("tp" | "tcp" | "udp" | "sctp" | "icmp" | "icmpv6"))
}

/// The same with its ends exchanged.
fn turned(text: &str) -> String {
    let turn = |word: &str| match word.split_once('=') {
        Some((key, value)) => match (key.strip_suffix("_src"), key.strip_suffix("_dst")) {
            (Some(stem), _) => format!("{stem}_dst={value}"),
            (_, Some(stem)) => format!("{stem}_src={value}"),
            _ => word.to_owned(),
        },
        None => word.to_owned(),
    };
    text.split(',').map(turn).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_both_its_directions() {
        assert_eq!(turned("tcp,nw_src=10.0.0.1,tp_dst=80"), "tcp,nw_dst=10.0.0.1,tp_src=80");
        let asked =
            connection("tcp,nw_src=10.0.0.1,nw_dst=10.0.0.2,tp_dst=80").map_err(|error| error.message);
        let asked = asked.unwrap_or_else(|error| panic!("{error}"));
        let [there, back] = &asked.subject.patterns[..] else { panic!("two directions") };
        assert!(there.whole.terms().len() >= there.addresses.terms().len());
        assert_eq!(back.addresses, own("tcp,nw_dst=10.0.0.1,nw_src=10.0.0.2"));
        assert_eq!(back.whole, own("tcp,nw_dst=10.0.0.1,nw_src=10.0.0.2,tp_src=80"));
    }

    #[test]
    fn what_is_none_of_them_is_refused_in_one_line() {
        for text in ["vm9", "", "tcp,nw_src=10.0.0", "10.0.0.300"] {
            let refused = connection(text).err().map(|error| error.message).unwrap_or_default();
            assert!(
                refused.starts_with(&format!("'{text}': no port")) && !refused.contains('\n'),
                "{refused}"
            );
        }
    }
}
