//! The kernel's view, against the kernel: each test in namespaces of its own.

use std::net::Ipv4Addr;
use std::time::Instant;

use super::lab::{Lab, follow};
use super::monitor::RECEIVE_BUFFER;
use super::*;

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The peer's Ethernet address, as its own namespace says it.
fn peer_mac(lab: &Lab) -> weft_wire::Mac {
    let monitor = Monitor::open_in(Some(lab.peer_netns()), RECEIVE_BUFFER).unwrap();
    monitor.table().link_named("nlb0").unwrap().mac.unwrap()
}

fn device_changes(events: &[Event], wanted: &str) -> Vec<DeviceChange> {
    let of_device = |event: &Event| match event {
        Event::Device { name, change, .. } if name == wanted => Some(change.clone()),
        _ => None,
    };
    events.iter().filter_map(of_device).collect()
}

#[test]
fn the_first_reading_has_links_and_addresses() {
    let Some(lab) = Lab::new("the_first_reading_has_links_and_addresses") else { return };
    let monitor = lab.monitor();
    let link = monitor.table().link_named("nla0").unwrap();
    assert!(link.is_operational() && link.is_ethernet() && link.arp, "{link:?}");
    assert_eq!((link.kind.as_deref(), link.mtu), (Some("veth"), 1500));
    assert_eq!(monitor.table().owner(LOCAL).unwrap().name, "nla0");
    let lo = monitor.table().link_named("lo").unwrap();
    assert!(!lo.is_ethernet());
    assert!(monitor.table().link_named("nlb0").is_none(), "the peer lives elsewhere");
}

#[test]
fn a_probe_resolves_the_neighbour_in_the_peer_namespace() {
    let Some(lab) = Lab::new("a_probe_resolves_the_neighbour_in_the_peer_namespace") else { return };
    let mut monitor = lab.monitor();
    let path = monitor.resolve(LOCAL, PEER).unwrap();
    assert_eq!((path.ifname.as_str(), path.next_hop, path.dst_mac, path.mtu), ("nla0", PEER, None, 1500));
    monitor.probe(path.next_hop, path.ifindex).unwrap();
    follow(&mut monitor, |monitor, _| monitor.resolve(LOCAL, PEER).unwrap().dst_mac.is_some());
    let path = monitor.resolve(LOCAL, PEER).unwrap();
    assert_eq!(path.dst_mac, Some(peer_mac(&lab)));
    assert_eq!(Some(path.src_mac), monitor.table().link_named("nla0").unwrap().mac);
    assert!(!path.fixed);
}

#[test]
fn routes_and_gateways_are_followed() {
    let Some(lab) = Lab::new("routes_and_gateways_are_followed") else { return };
    let mut monitor = lab.monitor();
    assert_eq!(monitor.resolve(LOCAL, FAR), Err(PathProblem::NoRoute { remote: FAR }));
    lab.ip("route add 10.99.0.0/16 via 10.77.0.2 mtu 1400");
    let wanted = Event::Route { destination: Ipv4Addr::new(10, 99, 0, 0), prefix: 16 };
    follow(&mut monitor, |_, events| events.contains(&wanted));
    let path = monitor.resolve(LOCAL, FAR).unwrap();
    assert_eq!((path.next_hop, path.mtu, path.local), (PEER, 1400, LOCAL));
    lab.ip("route change 10.99.0.0/16 via 10.77.0.3");
    follow(&mut monitor, |_, events| events.contains(&wanted));
    let path = monitor.resolve(LOCAL, FAR).unwrap();
    assert_eq!((path.next_hop, path.mtu), (Ipv4Addr::new(10, 77, 0, 3), 1500));
    lab.ip("route del 10.99.0.0/16");
    follow(&mut monitor, |_, events| events.contains(&wanted));
    assert_eq!(monitor.resolve(LOCAL, FAR), Err(PathProblem::NoRoute { remote: FAR }));
}

#[test]
fn rules_by_source_address_count() {
    let Some(lab) = Lab::new("rules_by_source_address_count") else { return };
    let second = Ipv4Addr::new(10, 77, 0, 11);
    lab.ip("address add 10.77.0.11/24 dev nla0");
    lab.ip("route add 10.99.0.0/16 via 10.77.0.2");
    let mut monitor = lab.monitor();
    lab.ip("route add 10.99.0.0/16 via 10.77.0.3 table 100");
    lab.ip("rule add from 10.77.0.11 lookup 100");
    follow(&mut monitor, |_, events| events.contains(&Event::Rules));
    assert_eq!(monitor.resolve(LOCAL, FAR).unwrap().next_hop, PEER);
    assert_eq!(monitor.resolve(second, FAR).unwrap().next_hop, Ipv4Addr::new(10, 77, 0, 3));
}

#[test]
fn each_problem_has_its_name() {
    let Some(lab) = Lab::new("each_problem_has_its_name") else { return };
    lab.ip("route add unreachable 10.97.0.0/16");
    lab.ip("route add prohibit 10.98.0.0/16");
    lab.ip("route add blackhole 10.99.0.0/16");
    lab.ip("tuntap add nltun0 mode tun");
    lab.ip("address add 10.80.0.1/24 dev nltun0");
    let mut monitor = lab.monitor();
    let mut problem = |local: [u8; 4], remote: [u8; 4]| {
        monitor.resolve(local.into(), remote.into()).map(|path| format!("{path:?}")).unwrap_err().to_string()
    };
    let local = LOCAL.octets();
    assert_eq!(
        problem([10, 77, 0, 200], PEER.octets()),
        "local address 10.77.0.200 is on no device of this host"
    );
    assert_eq!(problem(local, [10, 97, 0, 1]), "the route to 10.97.0.1 is of type unreachable");
    assert_eq!(problem(local, [10, 98, 0, 1]), "the route to 10.98.0.1 is of type prohibit");
    assert_eq!(problem(local, [10, 99, 0, 1]), "the route to 10.99.0.1 is of type blackhole");
    assert_eq!(problem(local, [10, 77, 0, 1]), "remote address 10.77.0.1 is this host's own");
    assert_eq!(problem(local, [127, 0, 0, 9]), "remote address 127.0.0.9 is this host's own");
    assert_eq!(problem(local, [10, 77, 0, 255]), "remote address 10.77.0.255 is not a unicast address");
    assert_eq!(problem(local, [239, 1, 1, 1]), "remote address 239.1.1.1 is not a unicast address");
    assert_eq!(problem(local, [0; 4]), "remote address 0.0.0.0 is not a unicast address");
    assert_eq!(problem(local, [172, 16, 0, 1]), "no route to 172.16.0.1");
    assert_eq!(problem([10, 80, 0, 1], [10, 80, 0, 2]), "device nltun0 towards 10.80.0.2 is down");
}

#[test]
fn an_ipv6_next_hop_is_refused() {
    let Some(lab) = Lab::new("an_ipv6_next_hop_is_refused") else { return };
    lab.ip("route add 10.99.0.0/16 via inet6 fe80::1 dev nla0");
    let mut monitor = lab.monitor();
    assert_eq!(monitor.resolve(LOCAL, FAR), Err(PathProblem::Ipv6NextHop { remote: FAR }));
}

#[test]
fn a_device_without_ethernet_is_refused() {
    let Some(lab) = Lab::new("a_device_without_ethernet_is_refused") else { return };
    let _tun = open_tun(&lab);
    lab.ip("address add 10.80.0.1/24 dev nltun1");
    lab.ip("link set nltun1 up");
    let mut monitor = lab.monitor();
    let remote = Ipv4Addr::new(10, 80, 0, 2);
    let refused = monitor.resolve(Ipv4Addr::new(10, 80, 0, 1), remote);
    assert_eq!(refused, Err(PathProblem::NotEthernet { remote, ifname: "nltun1".to_owned() }));
}

/// A layer-3 tun device with a carrier, which it has as long as the file is open.
fn open_tun(lab: &Lab) -> std::fs::File {
    use std::os::fd::AsRawFd;
    let open = || {
        let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun").unwrap();
        // struct ifreq: name, then flags IFF_TUN | IFF_NO_PI.
        let mut request = [0u8; 40];
        request[..6].copy_from_slice(b"nltun1");
        request[16..18].copy_from_slice(&0x1001u16.to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes one struct ifreq, which the 40 octets are.
        let status = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
        assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
        file
    };
    lab.netns().run(open).unwrap()
}

#[test]
fn a_next_hop_that_changes_its_mac_is_noticed() {
    let Some(lab) = Lab::new("a_next_hop_that_changes_its_mac_is_noticed") else { return };
    let mut monitor = lab.monitor();
    let index = monitor.table().link_named("nla0").unwrap().index;
    monitor.probe(PEER, index).unwrap();
    follow(&mut monitor, |monitor, _| monitor.resolve(LOCAL, PEER).unwrap().dst_mac.is_some());
    let changed: weft_wire::Mac = "02:00:00:00:77:02".parse().unwrap();
    lab.peer_ip(&format!("link set nlb0 address {changed}"));
    lab.ip(&format!("neigh del {PEER} dev nla0"));
    follow(&mut monitor, |monitor, _| monitor.resolve(LOCAL, PEER).unwrap().dst_mac.is_none());
    monitor.probe(PEER, index).unwrap();
    follow(&mut monitor, |monitor, _| monitor.resolve(LOCAL, PEER).unwrap().dst_mac == Some(changed));
}

#[test]
fn a_next_hop_that_dies_fails_when_it_is_kept_in_use() {
    let Some(lab) = Lab::new("a_next_hop_that_dies_fails_when_it_is_kept_in_use") else { return };
    for (name, value) in
        [("base_reachable_time_ms", 200), ("delay_first_probe_time", 1), ("retrans_time_ms", 100)]
    {
        lab.exec(&format!("sysctl -qw net.ipv4.neigh.nla0.{name}={value}"));
    }
    let mut monitor = lab.monitor();
    let index = monitor.table().link_named("nla0").unwrap().index;
    monitor.probe(PEER, index).unwrap();
    follow(&mut monitor, |monitor, _| monitor.resolve(LOCAL, PEER).unwrap().dst_mac.is_some());
    lab.peer_ip("address del 10.77.0.2/24 dev nlb0");
    follow(&mut monitor, |monitor, _| {
        monitor.refresh(PEER, index).unwrap();
        monitor.resolve(LOCAL, PEER).unwrap().dst_mac.is_none()
    });
}

#[test]
fn a_permanent_neighbour_stays_permanent_when_it_is_probed() {
    let Some(lab) = Lab::new("a_permanent_neighbour_stays_permanent_when_it_is_probed") else { return };
    lab.ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:07 dev nla0 nud permanent");
    let mut monitor = lab.monitor();
    let path = monitor.resolve(LOCAL, PEER).unwrap();
    assert_eq!((path.dst_mac, path.fixed), (Some(weft_wire::Mac([2, 0, 0, 0, 0, 7])), true));
    monitor.probe(PEER, path.ifindex).unwrap();
    monitor.refresh(PEER, path.ifindex).unwrap();
    assert!(lab.ip("neigh show dev nla0").contains("PERMANENT"));
}

#[test]
fn mtu_name_state_and_end_of_a_device_are_followed() {
    let Some(lab) = Lab::new("mtu_name_state_and_end_of_a_device_are_followed") else { return };
    let mut monitor = lab.monitor();
    lab.ip("link set nla0 mtu 1450");
    let events = follow(&mut monitor, |monitor, _| monitor.resolve(LOCAL, PEER).unwrap().mtu == 1450);
    assert_eq!(device_changes(&events, "nla0"), [DeviceChange::Changed]);
    lab.peer_ip("link set nlb0 down");
    let lost = |monitor: &mut Monitor| monitor.resolve(LOCAL, PEER).map_err(|problem| problem.to_string());
    follow(&mut monitor, |monitor, _| {
        lost(monitor) == Err("device nla0 towards 10.77.0.2 is without carrier".to_owned())
    });
    lab.ip("link set nla0 down");
    follow(&mut monitor, |monitor, _| {
        lost(monitor) == Err("device nla0 towards 10.77.0.2 is down".to_owned())
    });
    lab.ip("link set nla0 name nla9");
    let renamed = DeviceChange::Renamed { from: "nla0".to_owned() };
    follow(&mut monitor, |_, events| device_changes(events, "nla9").contains(&renamed));
    lab.ip("link del nla9");
    follow(&mut monitor, |_, events| device_changes(events, "nla9").contains(&DeviceChange::Gone));
    assert_eq!(monitor.resolve(LOCAL, PEER), Err(PathProblem::NoLocalAddress { local: LOCAL }));
    assert_eq!(monitor.table().neighbours().count(), 0);
}

#[test]
fn a_port_that_leaves_a_bridge_is_not_gone() {
    let Some(lab) = Lab::new("a_port_that_leaves_a_bridge_is_not_gone") else { return };
    lab.ip("link add nlbr0 type bridge");
    let mut monitor = lab.monitor();
    lab.ip("link set nla0 master nlbr0");
    follow(&mut monitor, |monitor, _| monitor.table().link_named("nla0").unwrap().master.is_some());
    lab.ip("link set nla0 nomaster");
    let events = follow(&mut monitor, |monitor, _| {
        monitor.table().link_named("nla0").is_some_and(|link| link.master.is_none())
    });
    assert!(!device_changes(&events, "nla0").contains(&DeviceChange::Gone));
}

#[test]
fn an_overrun_is_made_good_by_reading_anew() {
    let Some(lab) = Lab::new("an_overrun_is_made_good_by_reading_anew") else { return };
    let mut monitor = lab.monitor_with(1);
    let batch: String = (0..200)
        .map(|number| {
            format!("neigh replace 10.77.0.{} lladdr 02:00:00:00:00:{number:02x} dev nla0\n", number + 3)
        })
        .collect();
    let script = std::env::temp_dir().join(format!("{}.batch", lab.left));
    std::fs::write(&script, batch + "link add nlv0 type veth peer name nlv1\nlink set nla0 mtu 1400\n")
        .unwrap();
    lab.ip(&format!("-batch {}", script.display()));
    std::fs::remove_file(&script).unwrap();
    let events = follow(&mut monitor, |_, events| events.contains(&Event::Resynchronized));
    assert_eq!(device_changes(&events, "nla0"), [DeviceChange::Changed]);
    assert_eq!(device_changes(&events, "nlv0"), [DeviceChange::Appeared]);
    assert_eq!(monitor.table().neighbours().filter(|known| known.state.is_usable()).count(), 200);
    lab.ip("link del nlv0");
    follow(&mut monitor, |monitor, _| monitor.table().link_named("nlv1").is_none());
}

#[test]
fn the_resolver_follows_the_kernel_from_unknown_to_known_to_gone() {
    let Some(lab) = Lab::new("the_resolver_follows_the_kernel_from_unknown_to_known_to_gone") else { return };
    let mut monitor = lab.monitor();
    let mut resolver = Resolver::new();
    let (near, far) = (Pair { local: LOCAL, remote: PEER }, Pair { local: LOCAL, remote: FAR });
    resolver.insert(near);
    resolver.insert(far);
    let mut reported = resolver.update(&mut monitor, Instant::now());
    assert_eq!(reported.len(), 2);
    assert_eq!(reported[1], (far, Err(PathProblem::NoRoute { remote: FAR })));
    let mut turn = |monitor: &mut Monitor, until: &dyn Fn(&Resolver) -> bool| {
        let mut seen = 0;
        follow(monitor, |monitor, events| {
            resolver.note(&events[seen..]);
            seen = events.len();
            reported.extend(resolver.update(monitor, Instant::now()));
            until(&resolver)
        });
    };
    let mac = |resolver: &Resolver, pair| resolver.lookup(pair)?.as_ref().ok()?.dst_mac;
    turn(&mut monitor, &|resolver| mac(resolver, near).is_some());
    lab.ip("route add 10.99.0.0/16 via 10.77.0.2");
    turn(&mut monitor, &|resolver| mac(resolver, far) == Some(peer_mac(&lab)));
    lab.ip("link del nla0");
    let gone = Some(Err(PathProblem::NoLocalAddress { local: LOCAL }));
    turn(&mut monitor, &|resolver| {
        [near, far].map(|pair| resolver.lookup(pair).cloned()) == [gone.clone(), gone.clone()]
    });
}

#[test]
fn opening_and_closing_leaks_no_descriptor() {
    let Some(lab) = Lab::new("opening_and_closing_leaks_no_descriptor") else { return };
    // Other tests open descriptors meanwhile: a leak of one per turn would show among hundreds.
    let before = open_descriptors();
    for _ in 0..300 {
        drop(lab.monitor());
    }
    assert!(open_descriptors() < before + 200);
}
