//! Packet sockets in network namespaces: needs root, says so if it isn't.

use std::time::Duration;

use weft_wire::{DropCounts, DropReason};

use super::*;
use crate::offload::{GSO_TCPV4, GSO_TCPV6, finish_checksum};
use crate::pool::{FrameCache, FramePool};
use crate::queue::{Burst, PortQueue, QueueFault};
use crate::tap::{self, TapSpec};
use crate::test_packets::{Kind, expected, field};
use crate::testing::{Patch, Sandbox, only, root, serve, start};
use crate::transport::Transport;

/// A tap `t0` in `a`, and a veth from `v0` in `sw`, where the packet socket is, to `v1` in `b`.
struct Pair {
    sandbox: Sandbox,
    tap: Box<dyn PortQueue>,
    packet: Box<dyn PortQueue>,
    control: AfPacketControl,
}

impl Pair {
    fn new() -> Self {
        let sandbox = Sandbox::new(&["a", "sw", "b"]);
        sandbox.run("sw", "ip link add v0 type veth peer name v1 netns {b}");
        sandbox.run("sw", "ip link set v0 up");
        sandbox.run("b", "ip link set v1 up");
        let name = PortName::new("t0").unwrap();
        let tap = tap::open(&TapSpec { netns: Some(sandbox.name("a")), ..TapSpec::new(name) }).unwrap();
        let port = open(&spec(&sandbox, "v0", "sw")).unwrap();
        Pair { tap: only(tap.queues), packet: only(port.queues), control: port.control, sandbox }
    }

    fn address(&self) {
        self.sandbox.run("a", "ip addr add 10.0.0.1/24 dev t0");
        self.sandbox.run("a", "ip addr add fd00::1/64 dev t0 nodad");
        self.sandbox.run("b", "ip addr add 10.0.0.2/24 dev v1");
        self.sandbox.run("b", "ip addr add fd00::2/64 dev v1 nodad");
    }
}

fn spec(sandbox: &Sandbox, name: &str, room: &str) -> AfPacketSpec {
    AfPacketSpec { name: PortName::new(name).unwrap(), netns: Some(sandbox.name(room)) }
}

#[test]
fn tcp_between_a_tap_and_a_veth_that_segments_by_offload_loses_nothing() {
    if !root("tcp_between_a_tap_and_a_veth_that_segments_by_offload_loses_nothing") {
        return;
    }
    let mut pair = Pair::new();
    pair.address();
    let pool = FramePool::new(4096).unwrap();
    let mut frames = pool.cache();
    let mut patch = Patch::new(&mut frames);
    let features = pair.sandbox.run("b", "ethtool -k v1");
    assert!(features.contains("tcp-segmentation-offload: on"), "{features}");
    for (server, client, address) in
        [("b", "a", "10.0.0.2"), ("a", "b", "10.0.0.1"), ("b", "a", "fd00::2"), ("a", "b", "fd00::1")]
    {
        let server = serve(&pair.sandbox, server);
        let before = patch.partial;
        patch.partial = 0;
        // No more is under way at a time than the socket's buffer holds.
        let client = start(&pair.sandbox, client, &format!("iperf3 -c {address} -n 50M -w 256K"));
        patch.run_until(client, &mut *pair.tap, &mut *pair.packet);
        patch.run_until(server, &mut *pair.tap, &mut *pair.packet);
        assert!(patch.partial > 10_000, "{} unfinished checksums", patch.partial);
        patch.partial += before;
    }
    assert_eq!((patch.drops, patch.longest), (DropCounts::default(), 1514));
    assert_eq!(pair.control.overruns(), 0);
    drop(pair);
    drop(frames);
    assert_eq!(pool.at_home(), pool.frames());
}

#[test]
fn tags_that_the_kernel_takes_out_are_in_the_frame_and_checksums_stay_where_they_were() {
    if !root("tags_that_the_kernel_takes_out_are_in_the_frame_and_checksums_stay_where_they_were") {
        return;
    }
    let mut pair = Pair::new();
    let far = open(&spec(&pair.sandbox, "v1", "b")).unwrap();
    let mut far = only(far.queues);
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut frames = pool.cache();
    let untagged = crate::test_packets::frame(Kind { v6: false, tcp: true, tagged: false }, &[3; 77]);
    let tags: [&[u8]; 5] = [
        &[],
        &[0x81, 0x00, 0x00, 0x07],
        &[0x81, 0x00, 0xf0, 0x00],
        &[0x88, 0xa8, 0x0f, 0xff],
        &[0x88, 0xa8, 0x00, 0x09, 0x81, 0x00, 0x00, 0x07],
    ];
    for tag in tags {
        let sent = [&untagged[..12], tag, &untagged[12..]].concat();
        let seen = through(&mut *far, &mut *pair.packet, &sent, &mut frames);
        assert_eq!(seen, sent, "{tag:02x?}");
    }
}

#[test]
fn a_guest_that_segments_by_offload_is_cut_at_its_tap_and_gets_unfinished_checksums() {
    if !root("a_guest_that_segments_by_offload_is_cut_at_its_tap_and_gets_unfinished_checksums") {
        return;
    }
    // The tap's queue plays QEMU; the packet socket is on the tap's device, as for a VM that libvirt has started.
    let Pair { sandbox, tap: mut guest, .. } = Pair::new();
    let port = open(&spec(&sandbox, "t0", "a")).unwrap();
    let mut queue = only(port.queues);
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut frames = pool.cache();
    for kind in [Kind { v6: false, tcp: true, tagged: false }, Kind { v6: true, tcp: true, tagged: false }] {
        let payload: Vec<u8> = (0..40_000u32).map(|number| (number / 7) as u8).collect();
        // 80 segments: more than a burst holds, so some have to wait.
        let got =
            cut_payload(&mut *guest, &mut *queue, &crate::test_packets::frame(kind, &payload), &mut frames);
        assert_eq!(got, payload);
        let back = crate::test_packets::frame(kind, &[5; 1000]);
        assert_eq!(through(&mut *queue, &mut *guest, &back, &mut frames), back);
    }
    drop((guest, queue, frames));
    assert_eq!(pool.at_home(), pool.frames());
}

/// The payload of all segments that `to` makes of a packet that `from` sends whole, in order.
fn cut_payload(
    from: &mut dyn PortQueue,
    to: &mut dyn PortQueue,
    octets: &[u8],
    frames: &mut FrameCache,
) -> Vec<u8> {
    let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
    let found = Transport::locate(octets).unwrap();
    let mut packet = crate::test_packets::packet(frames, octets, 2000, 2800);
    let pseudo = found.pseudo_header(octets, found.len).unwrap();
    packet.data_mut()[found.start + 16..][..2].copy_from_slice(&pseudo.to_be_bytes());
    packet.request_checksum(found.start, 16).unwrap();
    packet.offload.gso_type = if found.ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
    packet.offload.gso_size = 500;
    burst.push(packet);
    assert_eq!(from.tx_burst(frames, &mut burst, &mut drops).packets, 1, "{drops:?}");
    let mut payload = Vec::new();
    for _ in 0..10_000 {
        to.rx_burst(frames, &mut burst, &mut drops);
        for mut packet in burst.drain(..) {
            if packet.data()[6..12] == octets[6..12] {
                finish_checksum(&mut packet);
                assert_eq!(field(packet.data()).1 % 0xffff, expected(packet.data()) % 0xffff);
                payload.extend_from_slice(&packet.data()[found.start + 20..]);
            }
            frames.free(packet);
        }
        if to.arm() && !payload.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(drops, DropCounts::default());
    payload
}

/// What `to` receives, with its checksum finished, when `from` sends a packet whose checksum is unfinished.
fn through(
    from: &mut dyn PortQueue,
    to: &mut dyn PortQueue,
    octets: &[u8],
    frames: &mut FrameCache,
) -> Vec<u8> {
    let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
    let found = Transport::locate(octets).unwrap();
    let mut packet = frames.alloc().unwrap();
    packet.append(octets).unwrap();
    let pseudo = found.pseudo_header(octets, found.len).unwrap();
    packet.data_mut()[found.start + 16..][..2].copy_from_slice(&pseudo.to_be_bytes());
    packet.request_checksum(found.start, 16).unwrap();
    burst.push(packet);
    assert_eq!(from.tx_burst(frames, &mut burst, &mut drops).packets, 1, "{drops:?}");
    let mut seen = Vec::new();
    for _ in 0..10_000 {
        to.rx_burst(frames, &mut burst, &mut drops);
        for mut packet in burst.drain(..) {
            // Not what the kernel's own stack says now and then.
            if packet.data()[6..12] == octets[6..12] {
                assert_eq!(packet.checksum_start(), Some(found.start));
                finish_checksum(&mut packet);
                seen = packet.data().to_vec();
            }
            frames.free(packet);
        }
        if !seen.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(drops, DropCounts::default());
    seen
}

#[test]
fn a_device_that_goes_down_comes_back_and_one_that_is_deleted_does_not() {
    if !root("a_device_that_goes_down_comes_back_and_one_that_is_deleted_does_not") {
        return;
    }
    let Pair { sandbox, mut packet, control, tap } = Pair::new();
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut frames = pool.cache();
    let mut send = |queue: &mut dyn PortQueue, len: usize| {
        let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
        queue.rx_burst(&mut frames, &mut burst, &mut drops);
        burst.drain(..).for_each(|packet| frames.free(packet));
        for _ in 0..3 {
            let mut packet = frames.alloc().unwrap();
            packet.extend(len).unwrap().fill(0xff);
            burst.push(packet);
        }
        let sent = queue.tx_burst(&mut frames, &mut burst, &mut drops);
        (sent.packets, drops)
    };
    assert_eq!(send(&mut *packet, 60), (3, DropCounts::default()));
    assert_eq!(send(&mut *packet, 2000).1.get(DropReason::TxTooBig), 3);
    assert_eq!(packet.fault(), None);
    sandbox.run("sw", "ip link set v0 down");
    assert_eq!(packet.fault(), Some(QueueFault::DeviceDown));
    assert_eq!(send(&mut *packet, 60).1.get(DropReason::TxPortDown), 3);
    sandbox.run("sw", "ip link set v0 up");
    assert_eq!(packet.fault(), None);
    assert_eq!(send(&mut *packet, 60), (3, DropCounts::default()));
    sandbox.run("sw", "ip link set v0 name other");
    assert_eq!((packet.fault(), control.device().name().unwrap()), (None, "other".into()));
    sandbox.run("sw", "ip link del other");
    assert_eq!(packet.fault(), Some(QueueFault::DeviceGone));
    assert_eq!(send(&mut *packet, 60).1.get(DropReason::TxPortDown), 3);
    assert!(matches!(control.device().mtu(), Err(DeviceError::Gone(_))));
    assert_eq!(sys::poll_now(packet.wait_fd().unwrap(), libc::POLLIN), 0, "it would keep its worker awake");
    drop((packet, tap, frames));
    assert_eq!(pool.at_home(), pool.frames());
}

#[test]
fn a_device_that_moves_away_is_gone() {
    if !root("a_device_that_moves_away_is_gone") {
        return;
    }
    let Pair { sandbox, packet, .. } = Pair::new();
    sandbox.run("sw", "ip link set v0 netns {a}");
    assert_eq!(packet.fault(), Some(QueueFault::DeviceGone));
    assert!(open(&spec(&sandbox, "v0", "a")).is_ok());
}

#[test]
fn merging_is_off_while_the_port_is_open_and_on_again_afterwards() {
    if !root("merging_is_off_while_the_port_is_open_and_on_again_afterwards") {
        return;
    }
    let sandbox = Sandbox::new(&["sw"]);
    sandbox.run("sw", "ip link add v0 type veth peer name v1");
    sandbox.run("sw", "ethtool -K v0 gro on");
    let state = || sandbox.run("sw", "ethtool -k v0").contains("generic-receive-offload: on");
    assert!(state());
    let port = open(&spec(&sandbox, "v0", "sw")).unwrap();
    assert!(!state());
    drop(port);
    assert!(state());
}

#[test]
fn a_device_that_is_missing_or_not_ethernet_is_refused_in_one_line() {
    if !root("a_device_that_is_missing_or_not_ethernet_is_refused_in_one_line") {
        return;
    }
    let sandbox = Sandbox::new(&["sw"]);
    let missing = open(&spec(&sandbox, "v9", "sw")).unwrap_err().to_string();
    assert_eq!(missing, format!("v9: no such device in network namespace '{}'", sandbox.name("sw")));
    sandbox.run("sw", "ip tuntap add n0 mode tun");
    assert_eq!(open(&spec(&sandbox, "n0", "sw")).unwrap_err().to_string(), "n0 is not an Ethernet device");
}
