//! Real programs through a switch that tracks and translates their connections, in both families; see [`weft_tests::edge`].

use std::time::Duration;

use weft_tests::cmd::SHORT;
use weft_tests::edge::{Edge, FAMILIES, Family, V4, V6, needs};
use weft_tests::probe::python;
use weft_tests::{Lab, Netns, Process, Result, ping, scenarios, servers, wait_for, wait_for_listener};

scenarios! {
    pings_and_web_pages_come_translated needs needs(&["curl"]);
    a_thousand_parallel_connections_are_one_entry_each needs needs(&[]);
    fragments_of_pings_and_datagrams_pass_whole needs needs(&[]);
    traceroute_sees_each_hop_and_the_end needs needs(&["traceroute"]);
    a_smaller_mtu_on_the_path_is_found_through_the_translation needs needs(&[]);
    tftp_answers_from_ports_of_their_own_are_expected needs needs(&["curl", "dnsmasq"]);
}

/// Has curl fetch a URL into a file, which must then be the page.
fn fetch(lab: &Lab, from: &Netns, url: &str, options: &[&str]) -> Result {
    let file = lab.path("fetched").display().to_string();
    let argv = [&["curl", "-sSg", "--max-time", "20", "-o", &file][..], options, &[url]].concat();
    let output = from.run(&argv, SHORT)?;
    assert!(output.success(), "{url}: {output:?}");
    assert!(std::fs::read(&file)? == servers::content(), "{url}: not the page");
    Ok(())
}

/// Three pings at once, each of which gets exactly one reply.
fn clean(edge: &Edge, (from, to): (&Netns, &str), options: &str) -> Result {
    let result = ping(from, to, 3, options)?;
    let weft = &edge.node.weft;
    let said = [weft.sh("stats drops")?, weft.sh("conntrack list")?].concat();
    assert!(result.is_clean(), "{to} {options}: {result:?}: {}{said}", weft.accounts()?);
    Ok(())
}

fn pings_and_web_pages_come_translated(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let (inside, far) = (edge.inside.ns(), &edge.far);
    let _far = servers::web(lab, far, 80)?;
    let _inside = servers::web(lab, inside, 8080)?;
    for family in FAMILIES {
        let Family { inside: own, public, service, far: server, .. } = family;
        for (from, to) in [(inside, server), (far, service)] {
            clean(&edge, (from, to), "")?;
        }
        fetch(lab, inside, &format!("http://{}/page", family.url(server)), &[])?;
        fetch(lab, far, &format!("http://{}:8080/page", family.url(service)), &[])?;
        let icmp = if family == V4 { "icmp" } else { "icmpv6" };
        for (filter, original, reply) in [
            (format!("proto={icmp} src={own}"), (own, server), (server, public)),
            (format!("proto={icmp} dst={service}"), (server, service), (own, server)),
            (format!("proto=tcp src={own} dport=80"), (own, server), (server, public)),
            (format!("proto=tcp dst={service} dport=8080"), (server, service), (own, server)),
        ] {
            let listed = edge.connections(&filter)?;
            let [line] = &listed[..] else { panic!("{filter}: {listed:?}") };
            let ends = |(src, dst): (&str, &str)| format!("(src={src},dst={dst},");
            assert!(line.contains(&format!("orig={}", ends(original))), "{line}");
            assert!(line.contains(&format!("reply={}", ends(reply))) && line.contains(",zone=1"), "{line}");
        }
    }
    // Nobody reaches the VM but as the service that it is; what it has not begun doesn't come.
    let (refused, seen) = (edge.node.weft.drops("router", "table_miss")?, inside.counter("Icmp", "InEchos")?);
    assert_eq!(ping(far, V4.public, 2, "")?.received, 0);
    assert!(edge.node.weft.drops("router", "table_miss")? >= refused + 2);
    assert_eq!(inside.counter("Icmp", "InEchos")?, seen);
    Ok(())
}

/// Accepts connections and sends back what comes, on TCP port 7 of both families.
const ECHO: &str = r#"
import asyncio, resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
async def echo(reader, writer):
    while data := await reader.read(100):
        writer.write(data)
    writer.close()
async def main():
    await (await asyncio.start_server(echo, None, 7, backlog=2000)).serve_forever()
asyncio.run(main())
"#;

/// Makes that many connections to port 7 of an address, and has an octet come back by each; then again, when it is told so.
const PARALLEL: &str = r#"
import asyncio, os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
address, count, again = sys.argv[1], int(sys.argv[2]), sys.argv[3]
async def ask(ends):
    ends[1].write(b"x")
    assert await ends[0].read(1) == b"x"
async def main():
    ends = await asyncio.gather(*(asyncio.open_connection(address, 7) for _ in range(count)))
    await asyncio.gather(*map(ask, ends))
    print("open", len(ends))
    while not os.path.exists(again):
        await asyncio.sleep(0.05)
    await asyncio.gather(*map(ask, ends))
    print("still open", len(ends))
asyncio.run(main())
"#;

fn a_thousand_parallel_connections_are_one_entry_each(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let _server = servers::python(lab, &edge.far, ECHO, 7)?;
    let again = lab.path("again");
    for (family, count) in [(V4, 1000), (V6, 200)] {
        let (number, file) = (count.to_string(), again.display().to_string());
        let client = ["/usr/bin/python3", "-u", "-c", PARALLEL, family.far, &number, &file];
        let mut client = edge.inside.ns().spawn(lab, "parallel", &client)?;
        client.wait_until(SHORT, |client| client.log().contains(&format!("open {count}\n")))?;
        let listed = edge.connections(&format!("proto=tcp src={} dport=7", family.inside))?;
        assert_eq!(listed.len(), count);
        let answers = format!("reply=(src={},dst={},sport=7,dport=", family.far, family.public);
        let port = |line: &String| line.split(&answers).nth(1)?.split(')').next()?.parse::<u16>().ok();
        let ports: std::collections::BTreeSet<_> = listed.iter().filter_map(port).collect();
        assert_eq!(ports.len(), count, "each has a port of its own");
        let established = |line: &&String| line.contains("protoinfo=(state=ESTABLISHED)");
        assert_eq!(listed.iter().filter(established).count(), count);
        let counted = edge.node.weft.sh(&format!("conntrack count zone=1 src={} dport=7", family.inside))?;
        assert!(counted.starts_with(&format!("{count} connections")), "{counted}");
        std::fs::write(&again, "")?;
        let ended = client.wait(SHORT)?;
        assert!(ended.success() && client.log().contains(&format!("still open {count}")), "{}", client.log());
        std::fs::remove_file(&again)?;
    }
    // No packet is lost because its connection changes while it is under way at another worker.
    for port in ["inside", "router"] {
        assert_eq!(edge.node.weft.drops(port, "connection_gone")?, 0, "{}", edge.node.weft.accounts()?);
    }
    Ok(())
}

/// Sends a datagram of 8000 octets and waits for the same from there.
const DATAGRAM: &str = r#"
import os, socket, sys
address, text = sys.argv[1], os.urandom(8000)
s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(10)
s.sendto(text, (address, 7))
got, peer = s.recvfrom(65535)
assert got == text and peer[:2] == (address, 7), (len(got), peer)
"#;

/// Sends back each datagram; its TCP port says that it is there.
const UDP_ECHO: &str = r#"
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.bind(("::", 7))
listener = socket.create_server(("::", 7), family=socket.AF_INET6)
while True:
    text, peer = s.recvfrom(65535)
    s.sendto(text, peer)
"#;

fn fragments_of_pings_and_datagrams_pass_whole(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let (inside, far) = (edge.inside.ns(), &edge.far);
    let _far = servers::python(lab, far, UDP_ECHO, 7)?;
    for family in FAMILIES {
        for size in [5000, 60000] {
            clean(&edge, (inside, family.far), &format!("-s {size}"))?;
        }
        python(inside, DATAGRAM, &[family.far], SHORT)?;
        clean(&edge, (far, family.service), "-s 5000")?;
        let listed = edge.connections(&format!("proto=udp src={}", family.inside))?;
        let [line] = &listed[..] else { panic!("one connection: {listed:?}") };
        assert!(line.contains(&format!("dst={},sport=7,", family.public)), "{line}");
    }
    let drops = edge.node.weft.accounts()?.dropped_but(&["rule_drop"]);
    assert_eq!(drops, 0, "{}", edge.node.weft.accounts()?);
    Ok(())
}

fn traceroute_sees_each_hop_and_the_end(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    for family in FAMILIES {
        for kind in ["-U", "-I", "-T"] {
            let words = ["traceroute", family.flag, kind, "-n", "-q", "2", "-w", "3", "-m", "5", family.far];
            let output = edge.inside.ns().run(&words, SHORT)?;
            let hops: Vec<Vec<&str>> =
                output.stdout.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
            let hop = |number: usize, address: &str| {
                hops.get(number).is_some_and(|words| words.get(1) == Some(&address) && !words.contains(&"*"))
            };
            assert!(hop(0, family.router) && hop(1, family.far) && hops.len() == 2, "{kind}: {output:?}");
        }
    }
    // Errors belong to the connections of what they are about: they begin none.
    for line in edge.connections("proto=icmp")?.iter().chain(&edge.connections("proto=icmpv6")?) {
        assert!(!line.contains(&format!("src={}", V4.router)), "{line}");
        assert!(!line.contains(&format!("src={}", V6.router)), "{line}");
    }
    Ok(())
}

/// The router sends no more than 1300 octets on, and says so.
fn a_smaller_mtu_on_the_path_is_found_through_the_translation(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let (inside, router) = (edge.inside.ns(), edge.router.ns());
    router.ip("route add 198.51.100.2 dev far0 mtu 1300")?;
    router.ip("route add 2001:db8:2::2 dev far0 mtu 1300")?;
    for family in FAMILIES {
        let (far, megabyte) = (family.far, 1 << 20);
        let found = || -> Result<bool> { Ok(inside.ip(&format!("route get {far}"))?.contains("mtu 1300")) };
        assert!(!found()?);
        // What the router can't send on is an echo request, and then a segment of TCP.
        assert_eq!(ping(inside, far, 1, "-M do -s 1400")?.received, 0);
        assert!(found()?, "{}", inside.ip(&format!("route get {far}"))?);
        clean(&edge, (inside, far), "-M do -s 1200")?;
        inside.ip(&format!("{} route flush cache", family.flag))?;
        assert!(!found()?);
        let arrived = upload(lab, (inside, &edge.far), family, &family.url(far), megabyte)?;
        assert!(arrived == u64::from(megabyte) && found()?, "{arrived}");
    }
    Ok(())
}

/// Sends zeros over TCP, and returns how many arrived.
fn upload(lab: &Lab, (from, to): (&Netns, &Netns), family: Family, address: &str, bytes: u32) -> Result<u64> {
    let kind = if family == V4 { "4" } else { "6" };
    let count = format!("socat -u TCP{kind}-LISTEN:5000,reuseaddr STDOUT | wc -c");
    let mut server = to.spawn(lab, "upload-server", &["sh", "-c", &count])?;
    wait_for_listener(to, 5000)?;
    let line =
        format!("head -c {bytes} /dev/zero | socat -u STDIN TCP{kind}:{address}:5000,connect-timeout=10");
    let sent = from.run(&["sh", "-c", &line], SHORT)?;
    assert!(sent.success(), "{sent:?}");
    server.wait(SHORT)?;
    Ok(server.log().trim().parse()?)
}

/// dnsmasq, which has a TFTP server, and nothing else of it: files of [`servers::pages`].
fn tftp_server(lab: &Lab, ns: &Netns) -> Result<Process> {
    let root = format!("--tftp-root={}", servers::pages(lab)?);
    let options = ["--log-facility=-", "--enable-tftp", &root];
    let mut server = servers::dnsmasq(lab, ns, "dnsmasq-tftp", &options)?;
    let listens = |ns: &Netns| ns.sh("ss -Hlun sport = :69").is_ok_and(|text| text.lines().count() >= 2);
    server.wait_until(SHORT, |_| listens(ns))?;
    Ok(server)
}

fn tftp_answers_from_ports_of_their_own_are_expected(lab: &Lab, workers: u32) -> Result {
    let edge = Edge::new(lab, workers)?;
    let _server = tftp_server(lab, &edge.far)?;
    for family in FAMILIES {
        let Family { inside, public, far, .. } = family;
        fetch(lab, edge.inside.ns(), &format!("tftp://{}/page", family.url(far)), &[])?;
        let asked = edge.connections(&format!("proto=udp src={inside} dport=69"))?;
        let [asked] = &asked[..] else { panic!("one request: {asked:?}") };
        assert!(asked.contains(&format!("reply=(src={far},dst={public},sport=69,")), "{asked}");
        assert!(asked.ends_with("helper=tftp"), "{asked}");
        // The server's answers are a connection of the server's, whose parent is the request.
        let sent = edge.connections(&format!("proto=udp src={far} dst={public}"))?;
        assert!(!sent.is_empty());
        for line in sent {
            assert!(line.contains(&format!("reply=(src={inside},dst={far},")), "{line}");
            assert!(line.contains(&format!("parent=(src={inside},dst={far},")), "{line}");
        }
    }
    // Without a request nothing of the kind comes in.
    let stray = "import socket,sys; s=socket.socket(type=socket.SOCK_DGRAM); \
                 s.bind(('', 6969)); [s.sendto(b'x', (sys.argv[1], 40000 + i)) for i in range(5)]";
    let before = edge.node.weft.counter("inside", "tx_packets")?;
    python(&edge.far, stray, &[V4.public], SHORT)?;
    let refused = || Ok(edge.node.weft.drops("router", "table_miss")? >= 5);
    wait_for("five refused datagrams", Duration::from_secs(10), refused)?;
    assert_eq!(edge.node.weft.counter("inside", "tx_packets")?, before);
    Ok(())
}
