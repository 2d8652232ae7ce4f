//! The paths of all tunnels, followed as the underlay changes.
//!
//! The control thread says which (local, remote) pairs it cares about, hands over the monitor's events, and gets back
//! the pairs whose path is another one now. Unknown next hops are probed, known ones kept confirmed.
//!
//! What is looked at again: after a device or address event or a lost one, every pair (routes vanish with a device
//! and with an address without an event of their own); after a route event, the remotes in its prefix; after a
//! neighbour event, the pairs by that next hop; and every pair once in a while, because a path MTU that was learned
//! has no event.
//!
//! Time is given by the caller; nothing here reads a clock, starts a thread or waits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::error::NetlinkError;
use super::monitor::Monitor;
use super::route::{Path, PathProblem};
use super::table::Event;

/// How often an unknown next hop is probed. (The kernel itself asks three times, a second apart, per probe.)
const PROBE: Duration = Duration::from_secs(1);
/// How soon an unknown next hop is probed again when something has happened to it.
const AGAIN: Duration = Duration::from_millis(20);
/// How often a known next hop is said to be in use.
const REFRESH: Duration = Duration::from_secs(5);
/// How often everything is looked at although nothing happened.
const REVIEW: Duration = Duration::from_secs(10);

/// The two ends of a tunnel in the underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// This host's address; 0.0.0.0 leaves it to the kernel.
    pub local: Ipv4Addr,
    /// The other host's.
    pub remote: Ipv4Addr,
}

/// How a pair's packets go, or why they can't.
pub type Resolution = Result<Path, PathProblem>;

/// The kernel, as the resolver sees it; [`Monitor`] is the real one.
pub trait Underlay {
    /// As [`Monitor::resolve`].
    fn resolve(&mut self, pair: Pair) -> Resolution;
    /// As [`Monitor::probe`].
    fn probe(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError>;
    /// As [`Monitor::refresh`].
    fn refresh(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError>;
}

impl Underlay for Monitor {
    fn resolve(&mut self, pair: Pair) -> Resolution {
        Monitor::resolve(self, pair.local, pair.remote)
    }

    fn probe(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError> {
        Monitor::probe(self, next_hop, ifindex)
    }

    fn refresh(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError> {
        Monitor::refresh(self, next_hop, ifindex)
    }
}

/// A next hop: device and address.
type Hop = (u32, Ipv4Addr);

/// When a next hop was probed or refreshed, and whether it was known then.
#[derive(Debug, Clone, Copy)]
struct Tended {
    at: Instant,
    known: bool,
    /// Something happened to it since: what was probed may be an entry that was just being deleted.
    disturbed: bool,
    /// The last probe was a second one because of that. There is no third.
    repeated: bool,
}

impl Tended {
    fn due(self) -> Instant {
        self.at
            + match self {
                Tended { known: true, .. } => REFRESH,
                Tended { disturbed: true, repeated: false, .. } => AGAIN,
                _ => PROBE,
            }
    }

    /// After what is done `now`, because of what was done before.
    fn after(last: Option<Tended>, now: Instant, known: bool) -> Self {
        let repeated =
            !known && last.is_some_and(|last| !last.known && last.disturbed && now < last.at + PROBE);
        Tended { at: now, known, disturbed: false, repeated }
    }
}

/// The pairs in use, and how each goes.
#[derive(Debug, Default)]
pub struct Resolver {
    pairs: BTreeMap<Pair, Option<Resolution>>,
    dirty: BTreeSet<Pair>,
    hops: BTreeMap<Hop, Tended>,
    reviewed: Option<Instant>,
}

impl Resolver {
    /// Cares about nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cares about `pair` from now on; the next [`Resolver::update`] reports it. Twice is as good as once.
    pub fn insert(&mut self, pair: Pair) {
        self.pairs.entry(pair).or_insert_with(|| {
            self.dirty.insert(pair);
            None
        });
    }

    /// Forgets `pair`.
    pub fn remove(&mut self, pair: Pair) {
        self.pairs.remove(&pair);
        self.dirty.remove(&pair);
    }

    /// What the last [`Resolver::update`] knew of `pair`; `None` before the first, and for a pair that is not cared
    /// about.
    pub fn lookup(&self, pair: Pair) -> Option<&Resolution> {
        self.pairs.get(&pair)?.as_ref()
    }

    /// All pairs, and what is known of each.
    pub fn iter(&self) -> impl Iterator<Item = (Pair, Option<&Resolution>)> {
        self.pairs.iter().map(|(&pair, resolution)| (pair, resolution.as_ref()))
    }

    /// Takes note of events; [`Resolver::update`] acts on them.
    pub fn note(&mut self, events: &[Event]) {
        for event in events {
            match *event {
                Event::Route { destination, prefix } => {
                    self.mark(|pair, _| is_within(pair.remote, destination, prefix));
                }
                Event::Neighbour { index, address } => {
                    self.hops.entry((index, address)).and_modify(|hop| hop.disturbed = true);
                    self.mark(|_, resolution| hop(resolution) == Some((index, address)));
                }
                Event::Device { .. } | Event::Address(_) | Event::Rules | Event::Resynchronized => {
                    self.mark(|_, _| true);
                }
            }
        }
    }

    fn mark(&mut self, affected: impl Fn(&Pair, Option<&Resolution>) -> bool) {
        let marked = self.pairs.iter().filter(|(pair, resolution)| affected(pair, resolution.as_ref()));
        self.dirty.extend(marked.map(|(&pair, _)| pair));
    }

    /// Looks again at what may have changed, probes and refreshes next hops, and returns the pairs that go another way
    /// than before. To be called after events, after an insertion and at [`Resolver::deadline`].
    ///
    /// A path that was good stays so while the kernel can't be asked; it is asked again next time.
    pub fn update(&mut self, underlay: &mut impl Underlay, now: Instant) -> Vec<(Pair, Resolution)> {
        if self.reviewed.is_none_or(|last| now.saturating_duration_since(last) >= REVIEW) {
            self.mark(|_, _| true);
            self.reviewed = Some(now);
        }
        let mut changed = Vec::new();
        for pair in std::mem::take(&mut self.dirty) {
            let Some(known) = self.pairs.get_mut(&pair) else { continue };
            let resolution = underlay.resolve(pair);
            let unanswered = matches!(resolution, Err(PathProblem::Netlink { .. }));
            if unanswered {
                self.dirty.insert(pair);
            }
            let keep = unanswered && matches!(known, Some(Ok(_)));
            if !keep && known.as_ref() != Some(&resolution) {
                *known = Some(resolution.clone());
                changed.push((pair, resolution));
            }
        }
        self.tend(underlay, now);
        changed
    }

    /// Probes the next hops that are unknown and refreshes those that are known, each when its time has come; one that
    /// has just become unknown is probed at once.
    fn tend(&mut self, underlay: &mut impl Underlay, now: Instant) {
        let wanted = self.wanted();
        self.hops.retain(|hop, _| wanted.contains_key(hop));
        for ((ifindex, next_hop), known) in wanted {
            let last = self.hops.get(&(ifindex, next_hop)).copied();
            let tended = Tended::after(last, now, known);
            if last.is_some_and(|last| known && !last.known) {
                // It has answered just now: nothing to confirm, and if it is lost again, that is news.
                self.hops.insert((ifindex, next_hop), tended);
                continue;
            }
            if last.is_some_and(|last| now < last.due() && (known || !last.known)) {
                continue;
            }
            // A failure leaves the path as it is, unresolved or unconfirmed, and the next turn tries again.
            let _ = match known {
                true => underlay.refresh(next_hop, ifindex),
                false => underlay.probe(next_hop, ifindex),
            };
            self.hops.insert((ifindex, next_hop), tended);
        }
    }

    /// The next hops in use that can change, and whether their Ethernet address is known.
    fn wanted(&self) -> BTreeMap<Hop, bool> {
        let paths = self.pairs.values().flatten().flatten().filter(|path| !path.fixed);
        paths.map(|path| ((path.ifindex, path.next_hop), path.dst_mac.is_some())).collect()
    }

    /// When [`Resolver::update`] has something to do even if nothing happens. `None`: it has nothing to care about.
    pub fn deadline(&self) -> Option<Instant> {
        if self.pairs.is_empty() {
            return None;
        }
        let hops = self.hops.values().map(|tended| tended.due());
        hops.chain(self.reviewed.map(|last| last + REVIEW)).min()
    }
}

fn hop(resolution: Option<&Resolution>) -> Option<Hop> {
    let path = resolution?.as_ref().ok()?;
    Some((path.ifindex, path.next_hop))
}

fn is_within(address: Ipv4Addr, network: Ipv4Addr, prefix: u8) -> bool {
    let host_bits = 32u32.saturating_sub(u32::from(prefix));
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    (address.to_bits() ^ network.to_bits()) & mask == 0
}

#[cfg(test)]
mod tests {
    use weft_wire::Mac;

    use super::super::table::{Address, DeviceChange};
    use super::*;

    const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
    const KNOWN: Mac = Mac([2, 0, 0, 0, 0, 1]);

    /// A kernel that answers what the test says, and writes down what it was asked.
    #[derive(Default)]
    struct Scripted {
        answers: BTreeMap<Pair, Resolution>,
        asked: Vec<Pair>,
        probed: Vec<Hop>,
        refreshed: Vec<Hop>,
    }

    impl Underlay for Scripted {
        fn resolve(&mut self, pair: Pair) -> Resolution {
            self.asked.push(pair);
            let none = Err(PathProblem::NoRoute { remote: pair.remote });
            self.answers.get(&pair).cloned().unwrap_or(none)
        }

        fn probe(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError> {
            self.probed.push((ifindex, next_hop));
            Ok(())
        }

        fn refresh(&mut self, next_hop: Ipv4Addr, ifindex: u32) -> Result<(), NetlinkError> {
            self.refreshed.push((ifindex, next_hop));
            Err(NetlinkError::Timeout { operation: "use a neighbour", milliseconds: 1000 })
        }
    }

    fn to(last: u8) -> Pair {
        Pair { local: LOCAL, remote: Ipv4Addr::new(10, 1, last, 1) }
    }

    fn path(next_hop: Ipv4Addr, dst_mac: Option<Mac>) -> Path {
        let (kind, ifname) = (None, "eth0".to_owned());
        let src_mac = Mac([2, 0, 0, 0, 0, 9]);
        Path { local: LOCAL, ifindex: 7, ifname, kind, src_mac, next_hop, dst_mac, fixed: false, mtu: 1500 }
    }

    /// Pairs 1 and 2 by the gateway, 3 by a neighbour of its own, all known and looked at once.
    fn settled(now: Instant) -> (Resolver, Scripted) {
        let (mut resolver, mut kernel) = (Resolver::new(), Scripted::default());
        for (last, next_hop) in [(1, GATEWAY), (2, GATEWAY), (3, to(3).remote)] {
            resolver.insert(to(last));
            kernel.answers.insert(to(last), Ok(path(next_hop, Some(KNOWN))));
        }
        assert_eq!(resolver.update(&mut kernel, now).len(), 3);
        kernel.asked.clear();
        kernel.refreshed.clear();
        (resolver, kernel)
    }

    #[test]
    fn an_event_that_concerns_nobody_asks_nothing() {
        let now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        resolver.note(&[
            Event::Route { destination: Ipv4Addr::new(10, 2, 0, 0), prefix: 16 },
            Event::Neighbour { index: 8, address: GATEWAY },
            Event::Neighbour { index: 7, address: Ipv4Addr::new(10, 0, 0, 77) },
        ]);
        assert_eq!(resolver.update(&mut kernel, now), []);
        assert_eq!((kernel.asked, kernel.probed, kernel.refreshed), (vec![], vec![], vec![]));
    }

    #[test]
    fn each_event_asks_for_the_pairs_that_it_may_concern() {
        let now = Instant::now();
        let all = vec![to(1), to(2), to(3)];
        let device = Event::Device { index: 7, name: "eth0".to_owned(), change: DeviceChange::Changed };
        let address = Event::Address(Address { index: 7, local: LOCAL, prefix: 24 });
        let route = |prefix, last| Event::Route { destination: Ipv4Addr::new(10, 1, last, 0), prefix };
        for (event, concerned) in [
            (route(24, 2), vec![to(2)]),
            (route(16, 0), all.clone()),
            (route(0, 0), all.clone()),
            (route(32, 2), vec![]),
            (Event::Neighbour { index: 7, address: GATEWAY }, vec![to(1), to(2)]),
            (device, all.clone()),
            (address, all.clone()),
            (Event::Rules, all.clone()),
            (Event::Resynchronized, all.clone()),
        ] {
            let (mut resolver, mut kernel) = settled(now);
            resolver.note(std::slice::from_ref(&event));
            assert_eq!(resolver.update(&mut kernel, now), [], "{event:?}");
            assert_eq!(kernel.asked, concerned, "{event:?}");
        }
    }

    #[test]
    fn only_what_differs_is_reported() {
        let now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        let moved = Ok(path(GATEWAY, Some(Mac([2, 0, 0, 0, 0, 2]))));
        kernel.answers.insert(to(2), moved.clone());
        resolver.note(&[Event::Neighbour { index: 7, address: GATEWAY }]);
        assert_eq!(resolver.update(&mut kernel, now), [(to(2), moved.clone())]);
        assert_eq!(resolver.lookup(to(2)), Some(&moved));
        kernel.answers.remove(&to(2));
        resolver.note(&[Event::Resynchronized]);
        let none = Err(PathProblem::NoRoute { remote: to(2).remote });
        assert_eq!(resolver.update(&mut kernel, now), [(to(2), none)]);
    }

    #[test]
    fn an_unknown_next_hop_is_probed_each_second_once_for_all_its_pairs() {
        let mut now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        for last in [1, 2] {
            kernel.answers.insert(to(last), Ok(path(GATEWAY, None)));
        }
        resolver.note(&[Event::Neighbour { index: 7, address: GATEWAY }]);
        now += Duration::from_millis(1);
        assert_eq!(resolver.update(&mut kernel, now).len(), 2);
        assert_eq!(kernel.probed, [(7, GATEWAY)], "at once, though it was refreshed a moment ago");
        resolver.update(&mut kernel, now + Duration::from_millis(999));
        assert_eq!(kernel.probed.len(), 1);
        assert_eq!(resolver.deadline(), Some(now + Duration::from_secs(1)));
        resolver.update(&mut kernel, now + Duration::from_secs(1));
        assert_eq!(kernel.probed.len(), 2);
    }

    #[test]
    fn a_next_hop_that_is_lost_again_and_again_is_probed_at_once_each_time() {
        let mut now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        for round in 1..=5 {
            for (mac, probes) in [(None, round), (Some(KNOWN), round)] {
                now += Duration::from_millis(10);
                kernel.answers.insert(to(3), Ok(path(to(3).remote, mac)));
                resolver.note(&[Event::Neighbour { index: 7, address: to(3).remote }]);
                assert_eq!(resolver.update(&mut kernel, now).len(), 1);
                assert_eq!(kernel.probed.len(), probes);
            }
        }
        assert_eq!(kernel.refreshed, []);
    }

    #[test]
    fn a_probe_of_an_entry_that_was_being_deleted_is_repeated_once() {
        let start = Instant::now();
        let (mut resolver, mut kernel) = settled(start);
        kernel.answers.insert(to(3), Ok(path(to(3).remote, None)));
        let event = [Event::Neighbour { index: 7, address: to(3).remote }];
        for (milliseconds, probes) in
            [(0, 1), (5, 1), (30, 2), (60, 2), (999, 2), (1040, 3), (1041, 3), (1080, 4)]
        {
            let now = start + Duration::from_millis(milliseconds);
            resolver.note(&event);
            resolver.update(&mut kernel, now);
            assert_eq!(kernel.probed.len(), probes, "after {milliseconds} ms");
        }
    }

    #[test]
    fn known_next_hops_are_refreshed_and_fixed_ones_are_left_alone() {
        let now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        kernel.answers.insert(to(3), Ok(Path { fixed: true, ..path(to(3).remote, Some(KNOWN)) }));
        resolver.note(&[Event::Resynchronized]);
        resolver.update(&mut kernel, now + Duration::from_secs(4));
        assert_eq!(kernel.refreshed, []);
        assert_eq!(resolver.deadline(), Some(now + Duration::from_secs(5)));
        resolver.update(&mut kernel, now + Duration::from_secs(5));
        assert_eq!(kernel.refreshed, [(7, GATEWAY)]);
    }

    #[test]
    fn everything_is_reviewed_although_nothing_happens() {
        let now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        kernel.answers.insert(to(1), Ok(Path { mtu: 1400, ..path(GATEWAY, Some(KNOWN)) }));
        assert_eq!(resolver.update(&mut kernel, now + Duration::from_secs(9)), []);
        assert_eq!(resolver.update(&mut kernel, now + Duration::from_secs(10)).len(), 1);
    }

    #[test]
    fn a_good_path_outlives_a_kernel_that_does_not_answer() {
        let now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        let error = NetlinkError::Timeout { operation: "look a route up", milliseconds: 1000 };
        let silent = Err(PathProblem::Netlink { remote: to(1).remote, error });
        kernel.answers.insert(to(1), silent.clone());
        kernel.answers.insert(to(4), silent.clone());
        resolver.insert(to(4));
        resolver.note(&[Event::Resynchronized]);
        assert_eq!(resolver.update(&mut kernel, now), [(to(4), silent)]);
        assert!(resolver.lookup(to(1)).is_some_and(Result::is_ok));
        kernel.answers.remove(&to(1));
        assert_eq!(resolver.update(&mut kernel, now).len(), 1, "asked again without an event");
    }

    #[test]
    fn a_forgotten_pair_is_asked_for_no_more() {
        let now = Instant::now();
        let (mut resolver, mut kernel) = settled(now);
        resolver.note(&[Event::Resynchronized]);
        for last in [1, 2, 3] {
            resolver.remove(to(last));
        }
        assert_eq!(resolver.update(&mut kernel, now + Duration::from_secs(60)), []);
        assert_eq!((kernel.asked, kernel.refreshed, resolver.deadline()), (vec![], vec![], None));
        assert_eq!(resolver.lookup(to(1)), None);
    }

    #[test]
    fn a_prefix_covers_what_it_should() {
        let within =
            |address: [u8; 4], network: [u8; 4], prefix| is_within(address.into(), network.into(), prefix);
        assert!(within([10, 1, 2, 3], [10, 1, 2, 3], 32));
        assert!(!within([10, 1, 2, 3], [10, 1, 2, 2], 32));
        assert!(within([10, 1, 2, 3], [10, 1, 2, 0], 24));
        assert!(!within([10, 1, 2, 3], [10, 1, 3, 0], 24));
        assert!(within([255, 1, 2, 3], [0, 0, 0, 0], 0));
        assert!(within([10, 1, 2, 3], [10, 1, 2, 3], 255), "a length off the wire may be anything");
    }
}
