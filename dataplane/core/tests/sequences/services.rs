//! Translations of which a connection meets several: services whose client is behind them itself (hairpins), in two zones and
//! in one; addresses that stay, unless there is a clash; `force` where something is translated; `nat` without a range.
//!
//! Packets are made one by one: answers go to where the last frame of the first one's packet came from.

use weft_tests::Result;

use crate::case::{Case, Recorded};
use crate::packets::Ends;
use crate::policy::{Path, outer};
use crate::rig::dice::Dice;
use crate::stock::Stock;
use crate::suite::{self, Suite};
use crate::talks::Talk;

/// Paths beside those of [`crate::policy::PATHS`].
pub const SERVICES: [Path; 13] = [
    Path::Look,
    Path::Plain,
    Path::Service,
    Path::Hairpin,
    Path::HairpinBack,
    Path::HairpinOne,
    Path::Zero,
    Path::ZeroNew,
    Path::Bare,
    Path::BareNat,
    Path::ForceSource,
    Path::ForceDestination,
    Path::ForceBare,
];

/// A service at an outer address, whose server is a station, be it a client's own; and a gateway.
struct Scene {
    six: bool,
    zones: [u16; 2],
    server: u128,
    port: u16,
    /// Whether answers are looked at where they come from, too.
    gateway_port: Option<u16>,
}

/// What a case is about.
const THEMES: [&[[Path; 2]]; 4] = [
    // Hairpins.
    &[
        [Path::Hairpin, Path::HairpinBack],
        [Path::Hairpin, Path::HairpinBack],
        [Path::Service, Path::Look],
        [Path::HairpinOne, Path::Look],
    ],
    // What is taken by one translation, another has to leave.
    &[
        [Path::Zero, Path::Look],
        [Path::ZeroNew, Path::ZeroNew],
        [Path::Service, Path::Look],
        [Path::Service, Path::Service],
    ],
    &[
        [Path::ForceSource, Path::Look],
        [Path::ForceDestination, Path::Look],
        [Path::Service, Path::Look],
        [Path::ForceSource, Path::ForceSource],
        [Path::Service, Path::ForceBare],
    ],
    &[
        [Path::Bare, Path::Look],
        [Path::Bare, Path::Bare],
        [Path::BareNat, Path::Look],
        [Path::Bare, Path::BareNat],
    ],
];

impl Scene {
    fn random(dice: &mut Dice) -> Scene {
        let six = dice.percent(35);
        Scene {
            six,
            zones: [5, 7],
            server: Scene::stations(six) + dice.pick(&[1, 2, 5]),
            port: dice.pick(&[8080, 80, 1000]),
            gateway_port: dice.pick(&[None, None, Some(5000)]),
        }
    }

    fn stations(six: bool) -> u128 {
        if six { 0xfd00 << 112 } else { 0x0a00_0000 }
    }

    fn address(&self, address: u128, port: Option<u16>) -> String {
        let address = match self.six {
            true => format!("[{}]", std::net::Ipv6Addr::from(address)),
            false => std::net::Ipv4Addr::from(address as u32).to_string(),
        };
        match port {
            Some(port) => format!("{address}:{port}"),
            None => address.trim_matches(['[', ']']).to_owned(),
        }
    }

    /// What a path does, table by table.
    fn way(&self, path: Path) -> Vec<String> {
        let [a, b] = self.zones;
        let service = format!("nat(dst={})", self.address(self.server, Some(self.port)));
        let gateway = format!("nat(src={})", self.address(outer(self.six, 1), self.gateway_port));
        let zero = format!("nat(src={})", if self.six { "::" } else { "0.0.0.0" });
        let ways: &[String] = &match path {
            Path::Plain => vec![format!("zone={a}")],
            Path::Service => vec![format!("commit,zone={a},{service}")],
            Path::Hairpin => {
                vec![format!("commit,zone={a},{service}"), format!("commit,zone={b},{gateway}")]
            }
            Path::HairpinBack => vec![format!("zone={b},nat"), format!("zone={a},nat")],
            Path::HairpinOne => {
                vec![format!("commit,zone={a},{service}"), format!("commit,zone={a},{gateway}")]
            }
            Path::Zero => vec![format!("commit,zone={a},{zero}")],
            Path::ZeroNew => vec![format!("zone={a},nat"), format!("new,commit,zone={a},{zero}")],
            Path::Bare => vec![format!("commit,zone={a}")],
            Path::BareNat => vec![format!("commit,zone={a},nat")],
            Path::ForceSource => vec![format!("commit,force,zone={a},{gateway}")],
            Path::ForceDestination => vec![format!("commit,force,zone={a},{service}")],
            Path::ForceBare => vec![format!("commit,force,zone={a}")],
            _ => vec![format!("zone={a},nat")],
        };
        ways.to_vec()
    }

    fn rules(&self, has_bare: bool) -> Vec<String> {
        let mut rules: Vec<String> = crate::policy::SHOW.lines().map(str::to_owned).collect();
        let family = if self.six { "ipv6" } else { "ip" };
        for path in SERVICES {
            let (then, last) = (10 + path as u8, 40 + path as u8);
            // What comes of it in Open vSwitch would be an excuse for too much.
            let path_done = if path == Path::BareNat && !has_bare { Path::Look } else { path };
            let ways = self.way(path_done);
            let first = &ways[0];
            rules.push(format!(
                "table=0,priority=1,{family},nw_tos={},actions=ct({first},table={then})",
                path.tos()
            ));
            rules.push(format!("table={then},priority=1,{family},actions=resubmit(,100)"));
            if let Some(second) = ways.get(1) {
                let (state, second) = match second.strip_prefix("new,") {
                    Some(second) => (",ct_state=+new", second),
                    None => ("", second.as_str()),
                };
                let second = format!("actions=resubmit(,100),ct({second},table={last})");
                rules.push(format!("table={then},priority=2,{family}{state},{second}"));
                rules.push(format!("table={last},priority=1,{family},actions=resubmit(,100)"));
            }
        }
        rules
    }

    fn talk(&self, dice: &mut Dice, paths: &[[Path; 2]]) -> Talk {
        let client = Scene::stations(self.six) + 1 + dice.below(2) as u128;
        let (to, port) = dice.pick(&[
            (outer(self.six, 0), 80),
            (outer(self.six, 0), 80),
            (outer(self.six, 2), 80),
            (self.server, self.port),
        ]);
        let ports = [dice.pick(&[1000, 1001, 300]), port];
        let ends = Ends { six: self.six, addresses: [client, to], ports };
        let paths = dice.pick(paths);
        Talk::service(dice, ends, paths)
    }
}

fn play(stock: &mut Stock, seed: u64) -> Result<Recorded> {
    let mut dice = Dice(seed);
    let (scene, theme) = (Scene::random(&mut dice), dice.pick(&THEMES));
    let case = Case {
        name: format!("{seed}"),
        rules: scene.rules(theme.iter().flatten().any(|path| *path == Path::BareNat)),
        steps: vec![],
    };
    let talks: Vec<Talk> = (0..2 + dice.below(5)).map(|_| scene.talk(&mut dice, theme)).collect();
    let rounds = 50 + dice.below(40);
    suite::converse((stock, &mut dice), case, (talks, rounds), Talk::hear_last)
}

const SUITE: Suite = Suite {
    name: "services",
    head: HEAD,
    recorded: 12,
    cases: 50,
    play,
    compare: |counts, recorded| counts.compare(recorded),
};

#[test]
fn services_are_reached_as_they_were_through_stock_ovs() {
    let counts = SUITE.replay();
    assert!(counts.frames > 500);
    counts.finish();
}

#[test]
fn services_are_reached_as_they_are_through_stock_ovs() -> Result {
    SUITE.beside_ovs()
}

const HEAD: &str = "\
# What stock Open vSwitch's connection tracking makes of translations on top of others. It reads like sequences-truth.txt.
#
# Recorded from Open vSwitch 3.1 (Debian 12), userspace datapath, by
# WEFT_OVS_RECORD=1 cargo test -p weft-core --test sequences services

";
