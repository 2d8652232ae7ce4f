//! What a bridge does by itself: its FDB, reserved addresses, its own port, and ports that replay and capture files.

use std::time::{Duration, Instant};
use weft_tests::cmd::SHORT;
use weft_tests::node::NEEDS;
use weft_tests::vlan::{CTAG, Tag, Tags};
use weft_tests::{Host, Lab, Node, Recorder, Result, clean_ping, iperf3, pcap, ping, scenarios, wait_for};

scenarios! {
    the_fdb_learns_ages_moves_and_is_flushed needs NEEDS;
    a_full_fdb_forgets_and_still_forwards needs NEEDS;
    a_static_entry_stays_where_it_was_put needs NEEDS;
    reserved_addresses_are_forwarded_when_asked_for needs NEEDS;
    the_host_reaches_vms_by_the_bridges_own_port needs NEEDS;
    a_file_is_replayed_and_captured needs NEEDS;
}

const FIRST: (&str, &str) = ("10.0.0.1/24", "02:00:00:00:00:01");
const SECOND: (&str, &str) = ("10.0.0.2/24", "02:00:00:00:00:02");
const LIMIT: Duration = SHORT;

/// A node with two VMs on VLAN 10.
fn two_vms(lab: &Lab, workers: u32) -> Result<(Node, Host, Host)> {
    let node = Node::alone(lab, "node", workers)?;
    let one = node.vm(lab, "one", "vlan=10", FIRST)?;
    let two = node.vm(lab, "two", "vlan=10", SECOND)?;
    Ok((node, one, two))
}

/// A broadcast from a station 02:00:00:00:01:`number`.
fn station(number: u8) -> Vec<u8> {
    Tags::default().frame([2, 0, 0, 0, 1, number])
}

/// Waits until the FDB holds exactly these lines (`PORT VLAN MAC`).
fn wait_for_fdb(node: &Node, lines: &[&str]) -> Result {
    let mut found = Vec::new();
    wait_for("the FDB", LIMIT, || {
        found = node.weft.fdb()?;
        Ok(found == lines)
    })
    .map_err(|error| weft_tests::Error::new(format!("{error}: {found:?}, not {lines:?}")))
}

fn the_fdb_learns_ages_moves_and_is_flushed(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    let other = node.vm(lab, "other", "vlan=20", FIRST)?;
    // No ARP: only what is sent here teaches the FDB anything.
    for (vm, (address, mac)) in [(&one, SECOND), (&two, FIRST)] {
        let address = address.trim_end_matches("/24");
        vm.ns().ip(&format!("neigh add {address} lladdr {mac} dev {} nud permanent", vm.device()))?;
    }
    let (on_one, on_two) = ("one 10 02:00:00:00:00:01", "two 10 02:00:00:00:00:02");
    let on_other = "other 20 02:00:00:00:00:01";
    let learn = || -> Result {
        clean_ping(&one, &two, "")?;
        other.ns().send_frame("other", &Tags::default().frame([2, 0, 0, 0, 0, 1]))?;
        wait_for_fdb(&node, &[on_one, on_other, on_two])
    };
    for (what, left) in [
        ("br0 port=one", &[on_other, on_two][..]),
        ("br0 vlan=20", &[on_one, on_two]),
        ("vlan=10 port=two", &[on_one, on_other]),
        ("br0", &[]),
    ] {
        learn()?;
        node.weft.sh(&format!("fdb flush {what}"))?;
        assert_eq!(node.weft.fdb()?, left, "after fdb flush {what}");
    }
    learn()?;
    two.ns().send_frame("two", &Tags::default().frame([2, 0, 0, 0, 0, 1]))?;
    wait_for_fdb(&node, &[on_other, "two 10 02:00:00:00:00:01", on_two])?;
    assert_eq!(node.weft.json("bridge list")?[0]["fdb_moves"], 1);
    let entries = node.weft.json("fdb show br0")?;
    let moves = |mac: &str| {
        let of = |entry: &&serde_json::Value| entry["mac"] == mac && entry["vlan"] == 10;
        entries.as_array().and_then(|list| list.iter().find(of)).map(|entry| entry["moves"].clone())
    };
    assert_eq!((moves(FIRST.1), moves(SECOND.1)), (Some(1.into()), Some(0.into())), "{entries}");

    node.weft.sh("bridge set br0 fdb_ageing=1")?;
    wait_for_fdb(&node, &[])?;
    // What goes on sending stays.
    node.weft.sh("bridge set br0 fdb_ageing=3")?;
    let mut pings = one.ns().spawn(lab, "ping", &["ping", "-n", "-i", "0.1", two.address()])?;
    wait_for("the stations", LIMIT, || Ok(node.weft.fdb()?.len() == 2))?;
    let end = Instant::now() + Duration::from_secs(7);
    while Instant::now() < end {
        assert_eq!(node.weft.fdb()?, [on_one, on_two]);
        std::thread::sleep(Duration::from_millis(50));
    }
    pings.terminate(LIMIT)?;
    wait_for_fdb(&node, &[])
}

fn a_full_fdb_forgets_and_still_forwards(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    node.weft.sh("bridge set br0 fdb_size=4")?;
    let frames: Vec<Vec<u8>> = (0..20).map(station).collect();
    one.ns().send_frames("one", &frames)?;
    wait_for("the frames at the other VM", LIMIT, || Ok(node.weft.counter("two", "tx_packets")? >= 20))?;
    let bridge = node.weft.json("bridge list")?[0].take();
    let number = |key: &str| bridge[key].as_u64().unwrap_or(0);
    assert_eq!((number("fdb_size"), number("fdb_entries"), number("fdb_full")), (4, 4, 16), "{bridge}");
    clean_ping(&one, &two, "")?;
    let fdb = node.weft.fdb()?;
    assert!(fdb.len() == 4 && fdb.iter().any(|line| line.starts_with("two ")), "{fdb:?}");
    Ok(())
}

fn a_static_entry_stays_where_it_was_put(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    let seen = Recorder::start(lab, "two", two.ns(), &["two"])?;
    node.weft.sh("fdb add br0 two 10 02:00:00:00:01:07")?;
    let line = "two 10 02:00:00:00:01:07";
    one.ns().send_frame("one", &station(7))?;
    clean_ping(&one, &two, "")?;
    node.weft.sh("fdb flush")?;
    wait_for_fdb(&node, &[line])?;
    let entry = node.weft.json("fdb show")?[0].take();
    assert_eq!((&entry["static"], &entry["moves"]), (&true.into(), &0.into()), "{entry}");
    // A third VM does not get what is sent to it.
    let third = node.vm(lab, "third", "vlan=10", ("10.0.0.3/24", ""))?;
    let before = node.weft.counter(third.device(), "tx_packets")?;
    let mut to_it = station(1);
    to_it[..6].copy_from_slice(&[2, 0, 0, 0, 1, 7]);
    one.ns().send_frame("one", &to_it)?;
    let got = || Ok(seen.received().iter().any(|received| received.frame == to_it));
    wait_for("the frame for the static station", LIMIT, got)?;
    assert_eq!(node.weft.counter(third.device(), "tx_packets")?, before);
    node.weft.sh("fdb del br0 10 02:00:00:00:01:07")?;
    assert!(!node.weft.fdb()?.iter().any(|found| found == line));
    Ok(())
}

fn reserved_addresses_are_forwarded_when_asked_for(lab: &Lab, workers: u32) -> Result {
    let (node, one, two) = two_vms(lab, workers)?;
    let seen = Recorder::start(lab, "two", two.ns(), &["two"])?;
    let frame = |last: u8| {
        let mut frame = station(last);
        frame[..6].copy_from_slice(&[0x01, 0x80, 0xc2, 0, 0, last]);
        frame
    };
    // 01:80:c2:00:00:10 is the first that is not reserved.
    let frames: Vec<Vec<u8>> = (0..=0x10).map(frame).collect();
    let received = |from: usize| -> Vec<Vec<u8>> {
        seen.received().into_iter().skip(from).map(|received| received.frame).collect()
    };
    one.ns().send_frames("one", &frames)?;
    wait_for("the frame that is not reserved", LIMIT, || Ok(!received(0).is_empty()))?;
    assert_eq!(received(0), frames[0x10..]);
    let reserved = || node.weft.drops("one", "link_local_reserved");
    wait_for("the drops", LIMIT, || Ok(reserved()? == 16))?;
    node.weft.sh("bridge set br0 forward_reserved=true")?;
    one.ns().send_frames("one", &frames)?;
    wait_for("all of them", LIMIT, || Ok(received(1).len() >= frames.len()))?;
    assert_eq!(received(1), frames);
    node.weft.sh("bridge set br0 forward_reserved=false")?;
    one.ns().send_frames("one", &frames)?;
    wait_for("the drops", LIMIT, || Ok(reserved()? == 32))
}

fn the_host_reaches_vms_by_the_bridges_own_port(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let vm = node.vm(lab, "vm", "", FIRST)?;
    let tagged = node.vm(lab, "tagged", "vlan=10", SECOND)?;
    node.ns.configure("br0", "10.0.0.100/24", 0)?;
    for (from, to) in [(&node.ns, "10.0.0.1"), (vm.ns(), "10.0.0.100")] {
        let result = ping(from, to, 3, "")?;
        assert!(result.is_clean(), "{to}: {result:?}");
    }
    let shown = node.weft.port("br0")?;
    assert_eq!((&shown["type"], &shown["state"]), (&"internal".into(), &"up".into()), "{shown}");
    assert_eq!(ping(&node.ns, "10.0.0.2", 1, "")?.received, 0, "VLAN 10 is not the host's");
    // TCP, so that unfinished checksums pass both ways.
    let megabyte = 1 << 20;
    let from_vm = weft_tests::send_bytes(lab, vm.ns(), (&node.ns, "10.0.0.100"), megabyte)?;
    assert_eq!(from_vm, u64::from(megabyte));
    let other = node.vm(lab, "other", "", ("10.0.0.3/24", ""))?;
    iperf3(lab, &other, &vm, 0, "-n 2M")?;
    drop(tagged);
    Ok(())
}

/// Frames of all sizes that a bridge forwards: content matters to nobody.
fn sound_frames() -> Vec<Vec<u8>> {
    let frame = |length: usize| {
        let mut frame = station((length % 200) as u8);
        frame.truncate(length);
        frame.extend((frame.len()..length).map(|octet| octet as u8));
        frame
    };
    (14..1515).step_by(15).map(frame).chain(vec![frame(60); 50]).collect()
}

/// Too short for an Ethernet header; with a tag that an access port does not admit; longer than a frame of the pool.
fn unsound_frames() -> [Vec<Vec<u8>>; 3] {
    let tagged: Vec<u8> =
        Tags(vec![Tag { tpid: CTAG, pcp: 0, dei: false, vid: 20 }]).frame([2, 0, 0, 0, 3, 1]);
    let mut big = station(1);
    big.resize(9000, 0);
    [vec![vec![2; 13], vec![2], Vec::new()], vec![tagged], vec![big]]
}

fn with_tag_10(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0, 0, 10], &frame[12..]].concat()
}

fn a_file_is_replayed_and_captured(lab: &Lab, workers: u32) -> Result {
    let node = Node::alone(lab, "node", workers)?;
    let dir = lab.dir().display().to_string();
    let (sound, unsound) = (sound_frames(), unsound_frames());
    let frames = [&sound[..], &unsound.concat()].concat();
    pcap::write(&lab.path("in.pcap"), &frames)?;
    let [short, tagged, big] = unsound.map(|frames| frames.len() as u64);
    let (good, all) = (sound.len() as u64, frames.len() as u64);
    node.weft.sh(&format!("port add br0 access type=capture vlan=10 file={dir}/access.pcap"))?;
    node.weft.sh(&format!("port add br0 trunk type=capture file={dir}/trunk.pcap"))?;
    node.weft.sh("port add br0 nothing type=null vlan=10")?;
    node.weft.sh(&format!("port add br0 in type=replay vlan=10 file={dir}/in.pcap"))?;
    wait_for("the whole file", LIMIT, || Ok(node.weft.counter("in", "rx_packets")? == all))?;
    node.weft.settle()?;
    for (reason, packets) in [("rx_truncated", short), ("vlan_not_admitted", tagged), ("rx_too_big", big)] {
        assert_eq!(node.weft.drops("in", reason)?, packets, "{reason}: {}", node.weft.accounts()?);
    }
    for port in ["access", "trunk", "nothing"] {
        assert_eq!(node.weft.counter(port, "tx_packets")?, good, "{port}");
    }
    // A capture file is whole when its port is closed.
    node.weft.remove("port del access")?;
    node.weft.remove("port del trunk")?;
    assert!(pcap::read(&lab.path("access.pcap"))? == sound, "the access port sent other frames");
    let tagged: Vec<Vec<u8>> = sound.iter().map(|frame| with_tag_10(frame)).collect();
    assert!(pcap::read(&lab.path("trunk.pcap"))? == tagged, "the trunk sent other frames");
    Ok(())
}
