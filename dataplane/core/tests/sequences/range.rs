//! A range of a translation: what is asked for, and what of it may be chosen for a connection.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::flow::Flow;
use crate::packets::Ends;
use crate::policy::{UPPER, outer};
use crate::rig::dice::Dice;

/// The most ports that are tried in a row.
const TRIES: usize = 128;

/// `nat(src=..)` or `nat(dst=..)` with several addresses or ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Which end is translated: 0 the source, 1 the destination.
    pub side: usize,
    pub six: bool,
    pub addresses: [u128; 2],
    pub ports: Option<[u16; 2]>,
    /// How one is chosen.
    pub choice: &'static str,
}

const CHOICES: [&str; 4] = ["", ",hash", ",random", ",persistent"];

impl Range {
    pub fn random(dice: &mut Dice, six: bool) -> Range {
        let first = match six && dice.percent(30) {
            // It goes on in the upper half.
            true => UPPER,
            false => outer(six, 0),
        };
        let ports = dice.pick(&[
            None,
            None,
            Some([5000, 5001]),
            Some([5000, 5009]),
            Some([100, 103]),
            Some([65533, 65535]),
            Some([7, 7]),
            Some([1, 65535]),
        ]);
        Range {
            side: usize::from(dice.percent(40)),
            six,
            addresses: [first, first + dice.pick(&[0, 1, 2, 3])],
            ports,
            choice: dice.pick(&CHOICES),
        }
    }

    /// The argument of `ct`.
    pub fn text(&self) -> String {
        let Range { side, six, addresses: [first, last], ports, choice } = *self;
        let address = |address: u128| match (six, ports) {
            (false, _) => Ipv4Addr::from(address as u32).to_string(),
            (true, None) => Ipv6Addr::from(address).to_string(),
            (true, Some(_)) => format!("[{}]", Ipv6Addr::from(address)),
        };
        let mut text = format!("nat({}={}", ["src", "dst"][side], address(first));
        if last != first {
            text += &format!("-{}", address(last));
        }
        match ports {
            Some([low, high]) if low == high => text += &format!(":{low}"),
            Some([low, high]) => text += &format!(":{low}-{high}"),
            None => {}
        }
        format!("{text}{choice})")
    }

    /// The range in rules that have one.
    pub fn of(rules: &[String]) -> Range {
        let find = |side: usize| {
            let word = ["nat(src=", "nat(dst="][side];
            rules.iter().find_map(|rule| Some((side, rule.split_once(word)?.1.split_once(')')?.0)))
        };
        let (side, text) = find(0).or_else(|| find(1)).unwrap();
        let (place, choice) = text.split_once(',').unwrap_or((text, ""));
        let choice = CHOICES.iter().find(|known| known.trim_start_matches(',') == choice).unwrap();
        let six = place.matches(':').count() > 1;
        let (addresses, ports) = match (six, place.contains('[')) {
            (true, false) => (place, None),
            (true, true) => match place.rsplit_once("]:") {
                Some((addresses, ports)) => (addresses, Some(ports)),
                None => (place, None),
            },
            (false, _) => match place.split_once(':') {
                Some((addresses, ports)) => (addresses, Some(ports)),
                None => (place, None),
            },
        };
        let pair = |text: &str| {
            let (low, high) = text.split_once('-').unwrap_or((text, text));
            [low.to_owned(), high.to_owned()]
        };
        let address = |text: String| match six {
            true => text.trim_matches(['[', ']']).parse::<Ipv6Addr>().unwrap().to_bits(),
            false => text.parse::<Ipv4Addr>().unwrap().to_bits().into(),
        };
        Range {
            side,
            six,
            addresses: pair(addresses).map(address),
            ports: ports.map(|ports| pair(ports).map(|port| port.parse().unwrap())),
            choice,
        }
    }

    pub fn has(&self, address: u128) -> bool {
        (self.addresses[0]..=self.addresses[1]).contains(&address)
    }

    fn all_addresses(&self) -> impl Iterator<Item = u128> {
        self.addresses[0]..=self.addresses[1]
    }

    /// The source ports that may be tried for a connection when its own is taken: those of its class.
    fn class(port: u16) -> [u16; 2] {
        match port {
            ..512 => [1, 511],
            512..1024 => [600, 1023],
            _ => [1024, u16::MAX],
        }
    }

    /// Whether `chosen` is a translation of `asked` that the range allows. `is_taken` is what other connections have:
    /// another port is chosen only where those before it are taken.
    pub fn allows(&self, asked: &Flow, chosen: &Flow, is_taken: &dyn Fn(&Flow) -> bool) -> bool {
        let (at, other) = (self.side, 1 - self.side);
        let (from, to) = (asked.ends, chosen.ends);
        if !self.has(to.addresses[at])
            || from.addresses[other] != to.addresses[other]
            || asked.protocol != chosen.protocol
        {
            return false;
        }
        if !asked.has_ports() {
            return from.ports == to.ports;
        }
        let within = |[low, high]: [u16; 2], port: u16| (low..=high).contains(&port);
        let with_source = |port: u16, chosen: &Flow| {
            let ports = [port, chosen.ends.ports[1]];
            Flow { ends: Ends { ports, ..chosen.ends }, ..*chosen }
        };
        let own = from.ports[0] == to.ports[0];
        let helps = |taken: bool| own || taken && within(Range::class(from.ports[0]), to.ports[0]);
        match (self.side, self.ports) {
            (0, Some(ports)) => from.ports[1] == to.ports[1] && within(ports, to.ports[0]),
            (0, None) => from.ports[1] == to.ports[1] && helps(is_taken(&with_source(from.ports[0], chosen))),
            (_, Some(ports)) => {
                let all_taken =
                    || self.ports_of(asked, to.addresses[at]).iter().filter(|flow| is_taken(flow)).count();
                within(ports, to.ports[1]) && helps(!own && all_taken() >= self.tries())
            }
            (_, None) => from.ports[1] == to.ports[1] && helps(is_taken(&with_source(from.ports[0], chosen))),
        }
    }

    /// How many ports have to be taken before it gives up.
    fn tries(&self) -> usize {
        self.ports.map_or(TRIES, |[low, high]| usize::from(high - low) + 1).min(TRIES)
    }

    /// What it may become with this address, but for source ports of a destination translation.
    fn ports_of(&self, asked: &Flow, address: u128) -> Vec<Flow> {
        let mut flow = *asked;
        flow.ends.addresses[self.side] = address;
        if !asked.has_ports() {
            return vec![flow];
        }
        let [low, high] = match (self.side, self.ports) {
            (_, Some(ports)) => ports,
            (0, None) => Range::class(asked.ends.ports[0]),
            (_, None) => [asked.ends.ports[1]; 2],
        };
        let with = |port| {
            let mut flow = flow;
            flow.ends.ports[self.side] = port;
            flow
        };
        (low..=high).map(with).collect()
    }

    /// Whether there is an address with which nothing is free (or so little that it may not be found).
    pub fn may_be_exhausted(&self, asked: &Flow, is_taken: &dyn Fn(&Flow) -> bool) -> bool {
        self.all_addresses().any(|address| {
            let all = self.ports_of(asked, address);
            all.iter().filter(|flow| is_taken(flow)).count() >= all.len().min(TRIES)
        })
    }
}
