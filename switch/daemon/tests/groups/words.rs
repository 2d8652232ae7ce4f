//! What a user is told that security groups do, said naively: the configuration, and a list of connections.
//!
//! It knows no table, no rule but the user's, and looks everything up anew for every packet.

use weft_config::Config;
use weft_config::acl::{Decision, Direction, Ethertype, GroupName, Pair, Prefix, Protocol, Remote, Rule};
use weft_config::port::Port;
use weft_wire::{DropReason, Mac};

use crate::packet::{ACK, Body, Inside, Packet, SYN, View};

/// How long a connection lasts without packets, in seconds: in all its states.
pub const LIFE: u64 = 30;

/// A connection: of which bridge and VLAN, its first packet, and when it ends.
#[derive(Clone, Debug)]
pub struct Talk {
    pub place: Place,
    pub first: View,
    pub ends: u64,
}

/// A bridge and a VLAN.
pub type Place = (usize, u16);

#[derive(Clone, Debug)]
pub struct Words {
    pub config: Config,
    pub talks: Vec<Talk>,
    pub second: u64,
    /// How often a rule of a group has let a packet pass.
    pub permitted: u64,
}

/// What a packet is to the connections, with the view that its connection's first packet has or would have.
enum State {
    Invalid,
    /// It goes where the first packet went; `true` if it is one.
    Ahead(View, bool),
    Back(View),
}

impl Words {
    pub fn flush(&mut self, place: Option<Place>, protocol: Option<u8>) {
        self.talks.retain(|talk| {
            place.is_some_and(|place| place != talk.place)
                || protocol.is_some_and(|protocol| protocol != talk.first.protocol)
        });
    }

    pub fn wait(&mut self, seconds: u64) {
        self.second += seconds;
        let now = self.second;
        self.talks.retain(|talk| talk.ends > now);
    }

    pub fn port(&self, name: &str) -> Port {
        self.config.port(name).unwrap().1.clone()
    }

    /// Whether the port may send it, and if not, why.
    pub fn may_send(&mut self, name: &str, place: Place, packet: &Packet) -> Result<(), DropReason> {
        let port = self.port(name);
        if !port.port_security.0.is_empty() {
            claims(&port.port_security.0, packet)?;
        }
        if port.acl.0.is_empty() {
            return Ok(());
        }
        let Body::Ip(view, inside) = &packet.body else {
            return if packet.body == Body::Other { Err(DropReason::AclEgress) } else { Ok(()) };
        };
        let always = is_udp(view, [68, 67], false)
            || is_udp(view, [546, 547], true)
            || is_icmp6(view, &[133, 135, 136]);
        if always || port.acl_multicast && is_membership(view) {
            return Ok(());
        }
        self.groups_permit(&port, Direction::Egress, place, (view, inside))
    }

    /// Whether the port may get it.
    pub fn may_get(&mut self, name: &str, place: Place, packet: &Packet) -> Result<(), DropReason> {
        let port = self.port(name);
        if port.acl.0.is_empty() {
            return Ok(());
        }
        let Body::Ip(view, inside) = &packet.body else {
            return if packet.body == Body::Other { Err(DropReason::AclIngress) } else { Ok(()) };
        };
        let always = is_udp(view, [67, 68], false)
            || is_udp(view, [547, 546], true)
            || is_icmp6(view, &[134, 135, 136]);
        if always || port.acl_multicast && is_membership(view) {
            return Ok(());
        }
        self.groups_permit(&port, Direction::Ingress, place, (view, inside))
    }

    fn groups_permit(
        &mut self,
        port: &Port,
        way: Direction,
        place: Place,
        (view, inside): (&View, &Inside),
    ) -> Result<(), DropReason> {
        let (refused, other) = match way {
            Direction::Egress => (DropReason::AclEgress, Direction::Ingress),
            Direction::Ingress => (DropReason::AclIngress, Direction::Egress),
        };
        let permit = |words: &Words, way: Direction, stateless: bool, view: &View| {
            let mut rules =
                words.rules(port).filter(|rule| (rule.stateless, rule.direction) == (stateless, way));
            rules.any(|rule| words.is_about(rule, view))
        };
        if permit(self, way, true, view) {
            self.permitted += 1;
            return Ok(());
        }
        let open = port.acl_egress == Decision::Open;
        if !open && self.rules(port).all(|rule| rule.stateless) {
            return Err(refused);
        }
        let (begun, first, new) = match self.track(place, view, inside) {
            State::Invalid => return Err(DropReason::AclInvalid),
            State::Ahead(first, new) => (way, first, new),
            State::Back(first) => (other, first, false),
        };
        if !(open && begun == Direction::Egress || permit(self, begun, false, &first)) {
            return Err(refused);
        }
        self.permitted += 1;
        if new {
            self.talks.push(Talk { place, first, ends: self.second + LIFE });
        }
        Ok(())
    }

    fn rules<'a>(&'a self, port: &'a Port) -> impl Iterator<Item = &'a Rule> {
        port.acl.0.iter().filter_map(|name| self.config.acl.group(name)).flat_map(|group| &group.rules)
    }

    /// Whether a rule is about such a first packet.
    fn is_about(&self, rule: &Rule, view: &View) -> bool {
        let family = if view.six { Ethertype::Ipv6 } else { Ethertype::Ipv4 };
        let far = view.address(if rule.direction == Direction::Egress { 1 } else { 0 });
        rule.ethertype == family
            && (rule.protocol == Protocol::Any || rule.protocol == Protocol::Number(view.protocol))
            && rule.ports.is_none_or(|ports| {
                let (first, last) = ports.bounds();
                (first..=last).contains(&view.ports[1])
            })
            && rule.icmp.is_none_or(|icmp| {
                icmp.kind == view.icmp.0 && icmp.code.is_none_or(|code| code == view.icmp.1)
            })
            && match &rule.remote {
                Remote::Any => true,
                Remote::Prefix(prefix) => prefix.contains(&far),
                Remote::Group(group) => self.is_member(group, &far),
            }
    }

    fn is_member(&self, name: &GroupName, address: &Prefix) -> bool {
        let group = self.config.acl.group(name).unwrap();
        let ports = self.config.bridges.iter().flat_map(|bridge| &bridge.ports);
        let bound = ports.filter(|port| port.acl.0.contains(name));
        let mut pairs = bound.flat_map(|port| &port.port_security.0);
        group.members.iter().any(|member| member.contains(address))
            || pairs.any(|pair| pair.ip.is_some_and(|ip| ip.contains(address)))
    }

    fn find(&mut self, place: Place, name: &View) -> Option<&mut Talk> {
        self.talks.iter_mut().find(|talk| talk.place == place && is_same(&talk.first, name))
    }

    fn track(&mut self, place: Place, view: &View, inside: &Inside) -> State {
        let ends = self.second + LIFE;
        if let Inside::Error(about) = inside {
            if view.addresses[1] != about.addresses[0] {
                return State::Invalid;
            }
            // It goes against what it is about.
            if let Some(talk) = self.find(place, about) {
                return State::Back(talk.first.clone());
            }
            return match self.find(place, &about.turned()) {
                Some(talk) => State::Ahead(talk.first.clone(), false),
                None => State::Invalid,
            };
        }
        let ports = view.protocol == 6 || view.protocol == 17;
        if ports && view.ports.contains(&0) {
            return State::Invalid;
        }
        if view.is_icmp() && (!view.asks() && !view.tells() || view.icmp.1 != 0) {
            return State::Invalid;
        }
        if let Some(talk) = self.find(place, view) {
            talk.ends = ends;
            return State::Ahead(view.clone(), false);
        }
        if let Some(talk) = self.find(place, &view.turned()) {
            talk.ends = ends;
            return State::Back(view.turned());
        }
        let answers = *inside == Inside::Segment(SYN | ACK) || view.is_icmp() && view.tells();
        if answers { State::Invalid } else { State::Ahead(view.clone(), true) }
    }
}

/// Whether the packet is one of the connection that the other began, in the same direction.
fn is_same(first: &View, view: &View) -> bool {
    let ends = (first.six, first.protocol, first.addresses) == (view.six, view.protocol, view.addresses);
    ends && match view.protocol {
        6 | 17 => first.ports == view.ports,
        1 | 58 if view.is_icmp() => (first.icmp.0, first.id) == (view.icmp.0, view.id),
        _ => true,
    }
}

fn is_udp(view: &View, ports: [u16; 2], six: bool) -> bool {
    (view.six, view.protocol, view.ports) == (six, 17, ports)
}

fn is_icmp6(view: &View, kinds: &[u8]) -> bool {
    view.six && view.protocol == 58 && kinds.contains(&view.icmp.0)
}

/// IGMP and MLD.
fn is_membership(view: &View) -> bool {
    !view.six && view.protocol == 2 || is_icmp6(view, &[130, 131, 132, 143])
}

/// Port security.
fn claims(pairs: &[Pair], packet: &Packet) -> Result<(), DropReason> {
    let own: Vec<&Pair> = pairs.iter().filter(|pair| pair.mac == packet.source).collect();
    if own.is_empty() {
        return Err(DropReason::SpoofedMac);
    }
    let owns = |address: Prefix| {
        own.iter().any(|pair| pair.ip.is_none_or(|ip| ip.contains(&address)))
            || address == link_local(packet.source)
    };
    let refuse = |wrong: bool, reason| if wrong { Err(reason) } else { Ok(()) };
    match &packet.body {
        Body::Other => Ok(()),
        Body::Arp(mac, address, _) => {
            let address = Prefix::of(std::net::IpAddr::V4((*address).into()), 32);
            let probe = address.address().is_unspecified();
            refuse(*mac != packet.source || !probe && !owns(address), DropReason::SpoofedArp)
        }
        Body::Ip(view, inside) => {
            let nobody = view.addresses[0] == 0
                && (is_udp(view, [68, 67], false) || is_icmp6(view, &[133, 135, 131, 132, 143]));
            refuse(!nobody && !owns(view.address(0)), DropReason::SpoofedIp)?;
            refuse(is_udp(view, [67, 68], false), DropReason::RogueDhcp)?;
            refuse(is_udp(view, [547, 546], true), DropReason::RogueDhcpv6)?;
            refuse(is_icmp6(view, &[134]), DropReason::RogueRa)?;
            let Inside::Neighbour(target, shown) = inside else { return Ok(()) };
            let target = View { addresses: [*target, 0], ..view.clone() }.address(0);
            let shows = shown.is_some_and(|mac| mac != packet.source);
            let wrong = view.icmp.1 != 0 || shows || view.icmp.0 == 136 && !owns(target);
            refuse(wrong, DropReason::SpoofedNd)
        }
    }
}

pub fn link_local(mac: Mac) -> Prefix {
    let [a, b, c, d, e, f] = mac.0;
    let address = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Prefix::of(std::net::IpAddr::V6(address.into()), 128)
}
