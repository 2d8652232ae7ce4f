//! The underlay: by which device, gateway and Ethernet address each tunnel's remote end is reached, and the uplinks that
//! carry the tunnel packets.
//!
//! Paths come from the kernel and are followed as they change ([`weft_io::netlink`]). An uplink is a device that holds a
//! tunnel's local address or leads to its remote end; it stays the host's, and only packets for a local tunnel endpoint
//! are taken out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use weft_core::key::PortId;
use weft_core::snapshot;
use weft_io::PortQueue;
use weft_io::netlink::{Event, Monitor, NetlinkError, Pair, Path, PathProblem, Resolver};
use weft_io::xdp::{Endpoint, Role, XdpError, XdpPort, XdpSpec};

use crate::device::LazyXdp;
use crate::numbers::Numbers;

/// How long an uplink that can't be opened is left alone.
const RETRY: Duration = Duration::from_secs(2);

/// A tunnel's ends, as the underlay sees them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ends {
    /// The outer addresses; none if rules say where the tunnel leads.
    pub pair: Option<Pair>,
    /// Where the other end sends to.
    pub endpoint: Endpoint,
}

impl Ends {
    fn local(&self) -> Ipv4Addr {
        match self.endpoint {
            Endpoint::Vxlan { local, .. } | Endpoint::Gre { local } => local,
        }
    }
}

/// An uplink that is open.
#[derive(Debug)]
pub struct Uplink {
    /// Its port.
    pub id: PortId,
    /// The device's name.
    pub name: String,
    control: XdpPort,
    endpoints: BTreeSet<Endpoint>,
}

/// Uplinks that came or went.
#[derive(Debug, Default)]
pub struct UplinkChanges {
    /// New ones' queues.
    pub opened: Vec<(PortId, Vec<Box<dyn PortQueue>>)>,
    /// Those that nobody needs any more, or whose device is gone. Dropping takes the program off the device.
    pub closed: Vec<Uplink>,
}

impl UplinkChanges {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.opened.is_empty() && self.closed.is_empty()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Underlay {
    monitor: Monitor,
    resolver: Resolver,
    ends: BTreeSet<Ends>,
    /// Remote ends that flows have asked for.
    asked: BTreeSet<Pair>,
    uplinks: BTreeMap<u32, Uplink>,
    /// Devices that could not be opened: why, and until when they are left alone.
    problems: BTreeMap<u32, (String, Instant)>,
}

impl Underlay {
    /// Follows the namespace of this process.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Underlay {
            monitor: Monitor::open()?,
            resolver: Resolver::new(),
            ends: BTreeSet::new(),
            asked: BTreeSet::new(),
            uplinks: BTreeMap::new(),
            problems: BTreeMap::new(),
        })
    }

    /// Readable when something has changed.
    pub fn fd(&self) -> RawFd {
        self.monitor.as_raw_fd()
    }

    /// When [`Underlay::update`] has something to do even if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        self.resolver.deadline()
    }

    /// The tunnels that there are now.
    pub fn follow(&mut self, ends: BTreeSet<Ends>) {
        let before = self.pairs();
        self.ends = ends;
        self.resolve_instead_of(&before);
    }

    /// The remote ends that flows have asked for, and that are not forgotten yet.
    pub fn ask(&mut self, asked: BTreeSet<Pair>) {
        let before = self.pairs();
        self.asked = asked;
        self.resolve_instead_of(&before);
    }

    fn pairs(&self) -> BTreeSet<Pair> {
        self.ends.iter().filter_map(|ends| ends.pair).chain(self.asked.iter().copied()).collect()
    }

    fn resolve_instead_of(&mut self, old: &BTreeSet<Pair>) {
        let new = self.pairs();
        old.difference(&new).for_each(|&pair| self.resolver.remove(pair));
        new.difference(old).for_each(|&pair| self.resolver.insert(pair));
    }

    /// Takes in what the kernel has to say, and asks it again where need be. Returns what happened, and whether a
    /// tunnel's path is another one now.
    pub fn update(&mut self, now: Instant) -> (Vec<Event>, bool) {
        let events = self.monitor.poll().unwrap_or_else(|error| {
            tracing::warn!("underlay: {error}");
            Vec::new()
        });
        self.resolver.note(&events);
        if events
            .iter()
            .any(|event| matches!(event, Event::Device { .. } | Event::Address(_) | Event::Resynchronized))
        {
            self.problems.clear();
        }
        let changed = self.resolver.update(&mut self.monitor, now);
        for (pair, resolution) in &changed {
            match resolution {
                Ok(path) => tracing::info!(remote = %pair.remote, "tunnel path: {}", text(path)),
                Err(problem) => tracing::warn!(remote = %pair.remote, "tunnel path: {problem}"),
            }
        }
        (events, !changed.is_empty())
    }

    /// Opens the uplinks that are needed and missing, closes the others, and tells each its endpoints.
    pub fn tend_uplinks(&mut self, now: Instant, xdp: &mut LazyXdp, numbers: &mut Numbers) -> UplinkChanges {
        let mut changes = UplinkChanges::default();
        let needed = self.needed();
        let gone: Vec<u32> = self
            .uplinks
            .iter()
            .filter(|(index, uplink)| {
                !needed.contains_key(index) || uplink.control.fault().is_some_and(is_final)
            })
            .map(|(&index, _)| index)
            .collect();
        changes.closed = gone.into_iter().filter_map(|index| self.uplinks.remove(&index)).collect();
        for (index, name) in needed {
            let endpoints: BTreeSet<Endpoint> = self.ends.iter().map(|ends| ends.endpoint).collect();
            if let Some(uplink) = self.uplinks.get_mut(&index) {
                uplink.set_endpoints(endpoints);
                continue;
            }
            if self.problems.get(&index).is_some_and(|(_, until)| now < *until) {
                continue;
            }
            let Some(id) = numbers.take().map(PortId) else {
                self.fail(index, &name, "no more port numbers", Instant::now());
                continue;
            };
            // Making the AF_XDP system takes its time, once.
            let ready = xdp.get().map(drop);
            let start = Instant::now();
            let spec =
                XdpSpec { role: Role::Uplink(endpoints.iter().copied().collect()), ..XdpSpec::new(&name) };
            match ready.and_then(|()| xdp.get()?.open(spec)) {
                Ok(open) => {
                    tracing::info!("uplink {name}: af_xdp {} ({})", open.control.mode(), open.control.why());
                    self.problems.remove(&index);
                    self.uplinks.insert(index, Uplink { id, name, control: open.control, endpoints });
                    changes.opened.push((id, open.queues));
                }
                Err(error) => {
                    numbers.give(id.0);
                    self.fail(index, &name, &error.to_string(), start);
                }
            }
        }
        changes
    }

    /// Leaves a device alone for a while; longer when it took long since `start` to find out that it can't be used.
    fn fail(&mut self, index: u32, name: &str, why: &str, start: Instant) {
        let until = Instant::now() + RETRY.max(start.elapsed() * 5);
        let known = self.problems.insert(index, (why.to_owned(), until));
        if known.is_none_or(|(before, _)| before != why) {
            tracing::error!("uplink {name}: {why}");
        }
    }

    /// Devices by index: those that hold a local address, and those that lead to a remote end.
    fn needed(&self) -> BTreeMap<u32, String> {
        let owners = self.ends.iter().filter_map(|ends| self.monitor.table().owner(ends.local()));
        let owners = owners.map(|link| (link.index, link.name.clone()));
        let paths = self.resolver.iter().filter_map(|(_, resolution)| resolution?.as_ref().ok());
        let alive = |(index, _): &(u32, String)| self.monitor.table().link(*index).is_some();
        owners.chain(paths.map(|path| (path.ifindex, path.ifname.clone()))).filter(alive).collect()
    }

    /// What is known of a tunnel's path.
    pub fn lookup(&self, pair: Pair) -> Option<&Result<Path, PathProblem>> {
        self.resolver.lookup(pair)
    }

    /// A tunnel's path, as the dataplane wants it.
    pub fn path(&self, pair: Pair) -> snapshot::Path {
        let Some(Ok(path)) = self.lookup(pair) else { return snapshot::Path::NoRoute };
        let Some(uplink) = self.uplinks.get(&path.ifindex) else { return snapshot::Path::NoRoute };
        match path.dst_mac {
            Some(destination) => snapshot::Path::Ready {
                uplink: uplink.id,
                source: path.src_mac,
                destination,
                mtu: u16::try_from(path.mtu).unwrap_or(u16::MAX),
            },
            None => snapshot::Path::Resolving,
        }
    }

    /// The paths to the remote ends that flows have asked for.
    pub fn routes(&self) -> impl Iterator<Item = (snapshot::Route, snapshot::Path)> {
        self.asked.iter().map(|&pair| {
            let path = self.lookup(pair).map_or(snapshot::Path::Resolving, |_| self.path(pair));
            ((pair.local, pair.remote), path)
        })
    }

    /// Why a tunnel can't carry packets; `None` if it can, as far as that is known without a remote end.
    pub fn problem_of(&self, ends: &Ends) -> Option<String> {
        if let Some(pair) = ends.pair {
            return self.problem(pair);
        }
        let local = ends.local();
        match self.monitor.table().owner(local) {
            None => Some(format!("no device of this host has the address {local}")),
            Some(link) if !self.uplinks.contains_key(&link.index) => {
                Some(self.closed(link.index, &link.name))
            }
            Some(_) => None,
        }
    }

    fn closed(&self, index: u32, name: &str) -> String {
        let why = self.problems.get(&index).map_or("not open yet", |(why, _)| why);
        format!("uplink {name}: {why}")
    }

    fn problem(&self, pair: Pair) -> Option<String> {
        match self.lookup(pair) {
            None => Some("not looked up yet".to_owned()),
            Some(Err(problem)) => Some(problem.to_string()),
            Some(Ok(path)) if !self.uplinks.contains_key(&path.ifindex) => {
                Some(self.closed(path.ifindex, &path.ifname))
            }
            Some(Ok(path)) if path.dst_mac.is_none() => {
                Some(format!("next hop {} does not answer", path.next_hop))
            }
            Some(Ok(_)) => None,
        }
    }

    /// The uplinks, by the index of their device.
    pub fn uplinks(&self) -> impl Iterator<Item = &Uplink> {
        self.uplinks.values()
    }

    /// The device of that name in this namespace, if there is one.
    pub fn has_device(&self, name: &str) -> bool {
        self.monitor.table().link_named(name).is_some()
    }
}

impl Uplink {
    /// What its program runs as, and why.
    pub fn backend(&self) -> (String, &'static str) {
        (format!("af_xdp {}", self.control.mode()), self.control.why())
    }

    /// Tunnel packets that were lost before the switch could receive them.
    pub fn missed(&self) -> u64 {
        crate::device::missed(&self.control)
    }

    /// Its device's index and MTU.
    pub fn facts(&self) -> (u32, u32) {
        (self.control.ifindex(), self.control.mtu())
    }

    fn set_endpoints(&mut self, endpoints: BTreeSet<Endpoint>) {
        for &endpoint in endpoints.difference(&self.endpoints) {
            log_failure(&self.name, self.control.add_endpoint(endpoint));
        }
        for &endpoint in self.endpoints.difference(&endpoints) {
            log_failure(&self.name, self.control.remove_endpoint(endpoint).map(|_| ()));
        }
        self.endpoints = endpoints;
    }
}

fn log_failure(name: &str, result: Result<(), XdpError>) {
    if let Err(error) = result {
        tracing::error!("uplink {name}: {error}");
    }
}

fn is_final(fault: weft_io::queue::QueueFault) -> bool {
    fault == weft_io::queue::QueueFault::DeviceGone
}

fn text(path: &Path) -> String {
    match path.dst_mac {
        Some(mac) => format!("{} via {} at {mac}, MTU {}", path.ifname, path.next_hop, path.mtu),
        None => format!("{} via {}, whose address is being looked for", path.ifname, path.next_hop),
    }
}
