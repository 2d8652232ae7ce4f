//! Real programs behind guarded ports: addresses by DHCP, DHCPv6 and SLAAC where only these addresses may be used, servers of
//! these kinds that no VM may be, and a security group and translation on one path.

use weft_tests::cmd::SHORT;
use weft_tests::edge::{Edge, FAMILIES, Family, V4, dual_stack, needs};
use weft_tests::{Host, Lab, Netns, Node, Process, Result, Weftd, ping, scenarios, servers, wait_for};

scenarios! {
    addresses_come_by_slaac_and_dhcp_and_no_vm_gives_any needs needs(&["dnsmasq", "dhclient"]);
    a_guarded_vm_behind_translation_reaches_all_and_is_reached_as_permitted
        needs needs(&["curl", "traceroute"]);
}

const MAC: &str = "02:00:00:00:00:01";
/// What the VM with this MAC is given: by DHCP, by DHCPv6, and by SLAAC.
const GIVEN: [&str; 3] = ["10.0.0.50", "fd00:d::50", "fd00:d::ff:fe00:1"];

/// dnsmasq with these settings, as a server of DHCP, DHCPv6 and router advertisements on a host's device.
fn address_server(lab: &Lab, host: &Host, settings: &[&str]) -> Result<Process> {
    let name = format!("dnsmasq-{}", host.device());
    let leases = format!("--dhcp-leasefile={}", lab.path(&format!("{name}.leases")).display());
    let device = format!("--interface={}", host.device());
    let common = ["--log-facility=-", "--dhcp-authoritative", "--no-ping", "--enable-ra", &leases, &device];
    let mut server = servers::dnsmasq(lab, host.ns(), &name, &[&common[..], settings].concat())?;
    let listens = |port: u16| {
        host.ns().sh(&format!("ss -Hlun sport = :{port}")).is_ok_and(|text| !text.trim().is_empty())
    };
    server.wait_until(SHORT, |_| listens(67) && listens(547))?;
    Ok(server)
}

/// A VM without address, on a port with these settings.
fn vm(lab: &Lab, node: &Node, name: &str, mac: &str) -> Result<Host> {
    let vm = node.vm(lab, name, "", ("", mac))?;
    vm.ns()
        .sh(&format!("sysctl -qw net.ipv6.conf.{name}.accept_ra=1 net.ipv6.conf.{name}.use_tempaddr=0"))?;
    Ok(vm)
}

/// Starts dhclient for a family in a VM, which takes what it is given.
fn dhclient(lab: &Lab, vm: &Host, family: &str) -> Result<Process> {
    let name = format!("dhclient{family}-{}", vm.device());
    let path = |what: &str| lab.path(&format!("{name}.{what}")).display().to_string();
    let (text, script) = (path("text"), path("script"));
    let takes = "#!/bin/sh\ncase $reason in\n\
                 BOUND|REBOOT) ip addr replace $new_ip_address/24 dev $interface;;\n\
                 BOUND6|REBIND6) ip addr replace $new_ip6_address/64 dev $interface;;\nesac\n";
    std::fs::write(&text, takes)?;
    // Another process makes the program: what this one writes another thread's child may hold open when it is to be run.
    weft_tests::cmd::sh(&format!("install -m 755 {text} {script}"))?;
    let (leases, pid) = (path("leases"), path("pid"));
    let argv = ["dhclient", family, "-d", "-v", "-cf", "/dev/null", "-sf", &script, "-lf", &leases];
    let identity: &[&str] = if family == "-6" { &["-D", "LL"] } else { &[] };
    vm.ns().spawn(lab, &name, &[&argv[..], &["-pf", &pid], identity, &[vm.device()]].concat())
}

/// Waits until a VM has an address that begins so, which counts.
fn wait_address(vm: &Host, begins: &str, client: Option<&Process>) -> Result {
    let shown = || vm.ns().ip(&format!("-o addr show dev {}", vm.device()));
    let has = |line: &str| line.contains(&format!(" {begins}")) && !line.contains("tentative");
    let came = wait_for(&format!("an address {begins}"), SHORT, || Ok(shown()?.lines().any(has)));
    came.map_err(|error| {
        let said = client.map(Process::log).unwrap_or_default();
        weft_tests::Error::new(format!("{error}: {}\n{said}", shown().unwrap_or_default()))
    })
}

fn pings_from(vm: &Host, source: &str, to: &str) -> Result<bool> {
    Ok(ping(vm.ns(), to, 3, &format!("-I {source}"))?.is_clean())
}

fn addresses_come_by_slaac_and_dhcp_and_no_vm_gives_any(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let provider = node.vm(lab, "provider", "", ("10.0.0.254/24", "02:00:00:00:00:fe"))?;
    dual_stack(provider.ns())?;
    provider.ns().ip("addr add fd00:d::fe/64 dev provider nodad")?;
    let host = format!("--dhcp-host={MAC},{},[{}]", GIVEN[0], GIVEN[1]);
    let ranges =
        ["--dhcp-range=10.0.0.100,10.0.0.150,1h", "--dhcp-range=fd00:d::100,fd00:d::150,slaac,64,1h"];
    let _server = address_server(lab, &provider, &[&ranges[..], &[&host]].concat())?;
    let client = vm(lab, &node, "client", MAC)?;
    for line in [
        "acl group add vms",
        "acl rule add vms egress",
        "acl rule add vms egress ethertype=ipv6",
        "acl bind client vms",
    ] {
        node.weft.sh(line)?;
    }
    let pairs: Vec<String> = GIVEN.iter().map(|address| format!("{MAC} {address}")).collect();
    node.weft.ctl(&["port", "set", "client", &format!("port_security={}", pairs.join(","))])?;
    obtains(lab, &client)?;
    for (source, to) in [(GIVEN[0], "10.0.0.254"), (GIVEN[1], "fd00:d::fe"), (GIVEN[2], "fd00:d::fe")] {
        assert!(pings_from(&client, source, to)?, "{source}: {}", node.weft.sh("acl show client")?);
    }
    assert_eq!(ping(provider.ns(), GIVEN[0], 1, "")?.received, 0, "nothing permits what others begin");
    // An address that nobody has given is none.
    client.ns().ip("addr add 10.0.0.51/24 dev client")?;
    client.ns().ip("addr add fd00:d::51/64 dev client nodad")?;
    let refused = |reason| node.weft.drops("client", reason);
    let (ip, nd) = (refused("spoofed_ip")?, refused("spoofed_nd")?);
    assert!(!pings_from(&client, "10.0.0.51", "10.0.0.254")? && refused("spoofed_ip")? >= ip + 3);
    assert!(!pings_from(&client, "fd00:d::51", "fd00:d::fe")?);
    assert!(refused("spoofed_ip")? >= ip + 6 || refused("spoofed_nd")? > nd);
    rogue_servers_are_not_heard(lab, &node, &client)
}

/// The VM gets all three, by itself.
fn obtains(lab: &Lab, client: &Host) -> Result {
    dual_stack(client.ns())?;
    wait_address(client, GIVEN[2], None)?;
    let [four, six] = [dhclient(lab, client, "-4")?, dhclient(lab, client, "-6")?];
    wait_address(client, GIVEN[0], Some(&four))?;
    wait_address(client, GIVEN[1], Some(&six))
}

/// The VM becomes a server of all three kinds, and another VM, whose port isn't guarded, looks for addresses.
fn rogue_servers_are_not_heard(lab: &Lab, node: &Node, client: &Host) -> Result {
    let weft = &node.weft;
    weft.sh("acl bind client")?;
    client.ns().ip("addr add fd00:bad::1/64 dev client nodad")?;
    let ranges =
        ["--dhcp-range=10.0.0.200,10.0.0.210,1h", "--dhcp-range=fd00:bad::100,fd00:bad::150,slaac,64,1h"];
    let rogue = address_server(lab, client, &ranges)?;
    let victim = vm(lab, node, "victim", "02:00:00:00:00:02")?;
    let received = weft.counter("victim", "tx_packets")?;
    dual_stack(victim.ns())?;
    wait_address(&victim, "fd00:d:", None)?;
    let clients = [dhclient(lab, &victim, "-4")?, dhclient(lab, &victim, "-6")?];
    wait_address(&victim, "10.0.0.1", Some(&clients[0]))?;
    wait_address(&victim, "fd00:d::1", Some(&clients[1]))?;
    for reason in ["rogue_ra", "rogue_dhcp", "rogue_dhcpv6"] {
        let counted = wait_for(reason, SHORT, || Ok(weft.drops("client", reason)? > 0));
        counted.map_err(|error| weft_tests::Error::new(format!("{error}: {}", rogue.log())))?;
    }
    assert!(weft.counter("victim", "tx_packets")? > received);
    let has = victim.ns().ip("-o addr show dev victim")?;
    assert!(!has.contains("fd00:bad") && !has.contains("10.0.0.20"), "{has}");
    why_names_them(weft)
}

fn why_names_them(weft: &Weftd) -> Result {
    let told = weft.sh("why client --last 600")?;
    for reason in ["rogue_ra", "rogue_dhcp", "rogue_dhcpv6"] {
        assert!(told.contains(&format!("  {reason} at ")), "{told}");
    }
    Ok(())
}

/// Whether the page comes, within so many seconds.
fn page(from: &Netns, (host, port): (&str, u16), seconds: &str) -> Result<bool> {
    let url = format!("http://{host}:{port}/page");
    Ok(from.run(&["curl", "-sSg", "--max-time", seconds, "-o", "/dev/null", &url], SHORT)?.success())
}

/// What passes goes by two connections, the group's and the translation's.
fn a_guarded_vm_behind_translation_reaches_all_and_is_reached_as_permitted(
    lab: &Lab,
    workers: u32,
) -> Result {
    let edge = Edge::new(lab, workers)?;
    let (inside, far, weft) = (edge.inside.ns(), &edge.far, &edge.node.weft);
    let pairs = FAMILIES.map(|family| format!("{MAC} {}", family.inside)).join(",");
    weft.ctl(&["port", "set", "inside", &format!("port_security={pairs}")])?;
    weft.sh("acl group add vms")?;
    for family in ["ipv4", "ipv6"] {
        weft.sh(&format!("acl rule add vms egress ethertype={family}"))?;
        weft.sh(&format!("acl rule add vms ingress ethertype={family} protocol=tcp ports=8080"))?;
    }
    weft.sh("acl bind inside vms")?;
    let ports = [(far, 80), (inside, 8080), (inside, 8081)];
    let _servers = ports.map(|(ns, port)| servers::web(lab, ns, port));
    for family in FAMILIES {
        let Family { flag, service, far: server, router, .. } = family;
        for options in ["", "-s 5000"] {
            let result = ping(inside, server, 3, options)?;
            assert!(result.is_clean(), "{server} {options}: {result:?}\n{}", weft.accounts()?);
        }
        assert!(page(inside, (&family.url(server), 80), "20")?, "{server}");
        for kind in ["-U", "-I"] {
            let words = ["traceroute", flag, kind, "-n", "-q", "1", "-w", "3", "-m", "5", server];
            let hops = inside.run(&words, SHORT)?.stdout;
            let seen = |number, address| hops.contains(&format!(" {number}  {address}  "));
            assert!(seen(1, router) && seen(2, server) && hops.lines().count() == 3, "{kind}: {hops}");
        }
        // The service is open to what the group permits; all else is refused, and counted where it came in.
        assert!(page(far, (&family.url(service), 8080), "20")?, "{service}");
        let refused = weft.drops("router", "acl_ingress")?;
        assert!(!page(far, (&family.url(service), 8081), "1")? && ping(far, service, 2, "")?.received == 0);
        assert!(weft.drops("router", "acl_ingress")? >= refused + 3, "{}", weft.accounts()?);
    }
    // Of what the VM has begun there is a connection in each zone: as the VM sent it, and with its translation.
    let listed = weft.sh(&format!("conntrack list proto=tcp src={} dport=80", V4.inside))?;
    let zone = |in_it: fn(&str) -> bool| listed.lines().find(|line| in_it(line)).unwrap_or_default();
    let (own, translated) = (zone(|line| !line.contains("zone=1,")), zone(|line| line.contains("zone=1,")));
    assert!(own.contains(&format!("reply=(src={},dst={},", V4.far, V4.inside)), "{listed}");
    assert!(translated.contains(&format!("reply=(src={},dst={},", V4.far, V4.public)), "{listed}");
    Ok(())
}
