//! Ports and tunnels come and go while packets run between others: not one of the others' packets is lost, and when all
//! is gone, nothing is left behind. `WEFT_TEST_SECONDS` makes it longer.

use std::collections::BTreeMap;
use std::time::Instant;

use weft_tests::cmd::SHORT;
use weft_tests::node::two_nodes;
use weft_tests::probe::{Stream, descriptors, duration_of_load, gauge};
use weft_tests::{Error, Host, Lab, Netns, Node, Result, Weftd, ping, veth, wait_for, weftd};

#[test]
fn nothing_is_lost_beside_ports_that_come_and_go_with_one_worker() -> Result {
    churn("nothing_is_lost_beside_ports_that_come_and_go_with_one_worker", 1)
}

#[test]
fn nothing_is_lost_beside_ports_that_come_and_go_with_two_workers() -> Result {
    churn("nothing_is_lost_beside_ports_that_come_and_go_with_two_workers", 2)
}

fn churn(test: &str, workers: u32) -> Result {
    let Some(lab) = Lab::open(test, &weftd::NEEDS)? else { return Ok(()) };
    let [one, two] = two_nodes(&lab, workers)?;
    // The counters of ports that are removed under traffic go with them.
    one.weft.no_accounts();
    for node in [&one, &two] {
        node.weft.sh("vni map br0 20 1020")?;
    }
    let a = one.numbered_vm(&lab, "a", "vlan=10", 1)?;
    let b = one.numbered_vm(&lab, "b", "vlan=10", 2)?;
    let c = two.numbered_vm(&lab, "c", "vlan=10", 3)?;
    // Its packets are flooded to whatever comes and goes: those ports are busy when they go.
    let noisy = one.numbered_vm(&lab, "noisy", "vlan=20", 4)?;
    let guests = Guests::new(&lab, &one)?;
    for peer in [&b, &c] {
        assert!(ping(a.ns(), peer.address(), 5, "")?.received > 0);
    }
    // Once round, so that what stays open from then on (the AF_XDP system) is open.
    guests.round(&one, 0)?;
    let start = Sizes::of(&one)?;
    let time = duration_of_load(15);
    let seconds = time.as_secs() + 1;
    let streams = [
        Stream::start(&lab, "a-b", (&a, &b), (2000, seconds))?,
        Stream::start(&lab, "a-c", (&a, &c), (1000, seconds))?,
        Stream::start(&lab, "c-a", (&c, &a), (1000, seconds))?,
    ];
    let noise = "--dmac 02:00:00:00:00:99 --no-announce";
    let noise = Stream::start_with(&lab, "noise", (&noisy, &b), (500, seconds), noise)?;
    let end = Instant::now() + time;
    let mut rounds = 0;
    while Instant::now() < end {
        rounds += 1;
        guests.round(&one, rounds)?;
    }
    for stream in streams {
        let streamed = stream.finish_clean()?;
        println!("{workers} workers, {rounds} rounds: {streamed:?}");
    }
    noise.finish()?;
    assert!(ping(a.ns(), c.address(), 5, "")?.is_clean());
    assert!(rounds > 1, "{rounds} rounds in {time:?}");
    start.come_back(&one)?;
    // Counters went with the ports that went.
    one.weft.no_accounts();
    two.close_accounts()?;
    one.weft.sh("bridge del br0")?;
    wait_for("all frames to come home", SHORT, || {
        Ok(gauge(&one.weft, "frames")? == gauge(&one.weft, "frames_free")?)
    })?;
    wait_for("the uplink to lose its XDP program", SHORT, || {
        Ok(!one.ns.ip("-d link show dev uplink")?.contains("xdp"))
    })?;
    wait_for("the end of all BPF objects", SHORT, || {
        Ok(!descriptors(one.weft.pid()?)?.keys().any(|kind| kind.contains("bpf")))
    })?;
    drop((a, b, c, noisy));
    Ok(())
}

/// Where the ports live that come and go.
struct Guests {
    vm: Netns,
    packet: Host,
    xdp: Host,
}

impl Guests {
    fn new(lab: &Lab, node: &Node) -> Result<Self> {
        let host = |name: &str, device: &str| -> Result<Host> {
            let host = Host::new(lab, name, "eth0")?;
            veth((host.ns(), "eth0"), (&node.ns, device))?;
            Ok(host)
        };
        Ok(Guests {
            vm: Netns::new(lab, "guest")?,
            packet: host("packet", "vpacket")?,
            xdp: host("xdp", "vxdp")?,
        })
    }

    /// Everything comes, changes and goes.
    fn round(&self, node: &Node, number: u32) -> Result {
        let weftd = &node.weft;
        let (vni, remote) = (2000 + number, 100 + number % 100);
        weftd.sh(&format!("port add br0 g1 type=tap netns={} vlan=20", self.vm.name()))?;
        weftd.sh("port add br0 vpacket backend=af_packet trunks=10,20")?;
        add_xdp_port(weftd)?;
        weftd.sh(&format!("vni map br0 30 {vni}"))?;
        let local = &node.address;
        weftd.sh(&format!("tunnel add br0 t1 type=vxlan local={local} remote=192.168.77.{remote}"))?;
        weftd.sh(&format!("tunnel add br0 t2 type=gre local={local} remote=192.168.77.2 key=7 vlan=20"))?;
        weftd.sh("port set g1 vlan=21")?;
        weftd.sh("fdb add br0 g1 21 02:00:00:00:07:07")?;
        self.packet.ns().send_frame("eth0", &[0xff; 60])?;
        self.xdp.ns().send_frame("eth0", &[0xff; 60])?;
        weftd.sh("tunnel set t2 ttl=9")?;
        weftd.sh("port del g1")?;
        weftd.sh("tunnel del t1")?;
        weftd.sh("port del vxdp")?;
        weftd.sh("vni unmap br0 30")?;
        weftd.sh("tunnel del t2")?;
        weftd.sh("port del vpacket")?;
        Ok(())
    }
}

/// Adds the port `vxdp`, whose sockets of the round before are being closed in the background.
fn add_xdp_port(weftd: &Weftd) -> Result {
    let add = || weftd.try_ctl(&["port", "add", "br0", "vxdp", "backend=af_xdp", "vlan=20"]);
    let mut added = add()?;
    wait_for("vxdp's queue to be free", SHORT, || {
        if added.stderr.contains("another AF_XDP socket") {
            added = add()?;
        }
        Ok(!added.stderr.contains("another AF_XDP socket"))
    })?;
    if added.success() { Ok(()) } else { Err(Error::new(added.stderr)) }
}

/// What must not grow.
#[derive(Debug)]
struct Sizes {
    descriptors: BTreeMap<String, usize>,
    threads: usize,
}

impl Sizes {
    fn of(node: &Node) -> Result<Self> {
        let pid = node.weft.pid()?;
        let threads = std::fs::read_dir(format!("/proc/{pid}/task"))?.count();
        Ok(Sizes { descriptors: descriptors(pid)?, threads })
    }

    /// Waits until there is no more than at the start: sockets of AF_XDP are closed in the background. At the start one may
    /// have been open still; what leaks leaks once a round.
    fn come_back(&self, node: &Node) -> Result {
        let mut last = None;
        let back = wait_for("descriptors and threads to go", SHORT, || {
            let now = Sizes::of(node)?;
            let known = |kind| self.descriptors.get(kind).copied().unwrap_or(0);
            let no_more = now.descriptors.iter().all(|(kind, count)| *count <= known(kind));
            let back = no_more && now.threads <= self.threads;
            last = Some(now);
            Ok(back)
        });
        back.map_err(|error| Error::new(format!("{error}: {self:?} at the start, {last:?} now")))
    }
}
