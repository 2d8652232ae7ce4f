//! Two hosts talk through two ports.

use std::time::Instant;

use super::lab::{Lab, Patch, forward, privileged};
use super::{all_home, system};
use crate::netns::Netns;
use crate::queue::{Burst, Sent};
use crate::xdp::tests::lab::{Moved, eventually};
use crate::xdp::{Mode, WantedMode, XdpSpec};
use weft_wire::{DropCounts, DropReason};

/// Ping, TCP and UDP, first with the offloads that the port wants, then with the peers' checksums left to us.
fn everything_crosses(mode: WantedMode) {
    let lab = Lab::new("ab");
    let (pool, system) = system();
    let (left, left_port) = lab.open_one(&system, 'a', mode);
    let (right, right_port) = lab.open_one(&system, 'b', mode);
    let wanted = if mode == WantedMode::Generic { Mode::Generic } else { Mode::Native };
    assert_eq!((left_port.mode(), right_port.mode()), (wanted, wanted), "{}", left_port.why());
    let _server = lab.serve('b');
    let (a, b) = (lab.side('a', &left_port), lab.side('b', &right_port));
    let patch = Patch::start(&pool, left, right);
    let ping = lab.exec('a', "ping -c 50 -l 50 -W 2 10.0.0.2");
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    let (tcp, _) = lab.iperf('a', "10.0.0.2", "-t 1");
    let (udp, lost) = lab.iperf('a', "10.0.0.2", "-u -b 100M -l 1400 -t 1");
    eprintln!("{wanted}: TCP {:.2} Gbit/s, UDP {:.0} Mbit/s, {lost} lost", tcp / 1e9, udp / 1e6);
    // What the receiver's socket had no room for is not the switch's loss; that is counted below.
    // Far below what any machine does, and above what gets through when every other packet is lost.
    assert!(tcp > 3e7 && udp > 1e7);
    lab.wait_quiet();
    let ([there, back], queues) = patch.pause();
    lab.assert_accounted(a, b, &there);
    lab.assert_accounted(b, a, &back);
    for moved in [there, back] {
        // One packet in 65536 looks unfinished by chance, and is as good when it has been finished.
        assert!(moved.partial <= 5 + moved.received / 5000, "{moved:?}");
    }
    drop((left_port, right_port, queues));
    all_home(&pool);
}

fn unfinished_checksums_are_finished(mode: WantedMode) {
    let lab = Lab::new("ab");
    let (pool, system) = system();
    let (left, _left_port) = lab.open_one(&system, 'a', mode);
    let (right, _right_port) = lab.open_one(&system, 'b', mode);
    for host in ['a', 'b'] {
        lab.exec(host, "ethtool -K eth0 tx on");
    }
    let _server = lab.serve('b');
    let patch = Patch::start(&pool, left, right);
    let (tcp, _) = lab.iperf('a', "10.0.0.2", "-t 1");
    let (udp, _) = lab.iperf('a', "10.0.0.2", "-u -b 100M -l 1400 -t 1");
    eprintln!("{mode:?}, with the peer's tx checksum offload on: TCP {:.2} Gbit/s", tcp / 1e9);
    assert!(tcp > 3e7 && udp > 1e7);
    let [moved, back] = patch.stop();
    assert_eq!(lab.checksum_errors('a') + lab.checksum_errors('b'), 0);
    for moved in [moved, back] {
        assert!(moved.partial > moved.received / 2, "{moved:?}");
        assert_eq!(moved.drops, DropCounts::default());
    }
}

#[test]
fn everything_crosses_in_native_mode() {
    if privileged("everything_crosses_in_native_mode") {
        everything_crosses(WantedMode::Auto);
    }
}

#[test]
fn everything_crosses_in_generic_mode() {
    if privileged("everything_crosses_in_generic_mode") {
        everything_crosses(WantedMode::Generic);
    }
}

#[test]
fn unfinished_checksums_are_finished_in_native_mode() {
    if privileged("unfinished_checksums_are_finished_in_native_mode") {
        unfinished_checksums_are_finished(WantedMode::Native);
    }
}

#[test]
fn unfinished_checksums_are_finished_in_generic_mode() {
    if privileged("unfinished_checksums_are_finished_in_generic_mode") {
        unfinished_checksums_are_finished(WantedMode::Generic);
    }
}

#[test]
fn packets_of_several_frames_cross_and_those_above_the_mtu_are_counted() {
    if !privileged("packets_of_several_frames_cross_and_those_above_the_mtu_are_counted") {
        return;
    }
    let lab = Lab::new("ab");
    for host in ['a', 'b'] {
        lab.exec(host, "ip link set eth0 mtu 9000");
        lab.at_switch(&format!("ip link set p{host} mtu 9000"));
    }
    let (pool, system) = system();
    let (left, left_port) = lab.open_one(&system, 'a', WantedMode::Native);
    let (right, right_port) = lab.open_one(&system, 'b', WantedMode::Native);
    let patch = Patch::start(&pool, left, right);
    for _ in 0..4 {
        let ping = lab.exec('a', "ping -M do -s 8972 -c 5 -l 5 -W 2 10.0.0.2");
        assert!(ping.contains(" 0% packet loss"), "{ping}");
    }
    let [moved, _] = patch.stop();
    assert!(moved.sent.bytes > 20 * 9000, "{moved:?}");
    assert_eq!(moved.drops, DropCounts::default());
    drop((left_port, right_port));
    all_home(&pool);

    let (mut left, _left_port) = lab.open_one(&system, 'a', WantedMode::Native);
    let (mut right, right_port) = lab.open_one(&system, 'b', WantedMode::Native);
    lab.at_switch("ip link set pb mtu 1500");
    assert_eq!((right.fault(), right_port.mtu()), (None, 1500));
    let (mut frames, mut moved) = (pool.cache(), Moved::default());
    lab.exec('a', "ip neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0");
    lab.exec('a', "ping -M do -s 8000 -c 1 -W 0.1 10.0.0.2 || true");
    eventually("the packet's drop", || {
        forward(&mut frames, &mut *left, &mut *right, &mut moved);
        moved.drops.get(DropReason::TxTooBig) == 1
    });
    assert_eq!(moved.sent, Sent::default());
}

#[test]
fn a_device_of_two_queues_has_two_sockets() {
    if !privileged("a_device_of_two_queues_has_two_sockets") {
        return;
    }
    let lab = Lab::new("ab");
    for host in ['a', 'b'] {
        lab.exec(host, "ethtool -L eth0 rx 2 tx 2");
        lab.at_switch(&format!("ethtool -L p{host} rx 2 tx 2"));
    }
    let (pool, system) = system();
    let (left, right) =
        (lab.open(&system, 'a', WantedMode::Native), lab.open(&system, 'b', WantedMode::Native));
    let [left0, left1] = <[_; 2]>::try_from(left.queues).unwrap();
    let [right0, right1] = <[_; 2]>::try_from(right.queues).unwrap();
    let patches = [Patch::start(&pool, left0, right0), Patch::start(&pool, left1, right1)];
    let _server = lab.serve('b');
    let (tcp, _) = lab.iperf('a', "10.0.0.2", "-t 1 -P 8");
    assert!(tcp > 1e8);
    let received: Vec<u64> = patches.map(|patch| patch.stop()[0].received).to_vec();
    assert!(received.iter().all(|&packets| packets > 0), "{received:?}");
    drop((left.control, right.control));
    all_home(&pool);
}

/// Prints how fast a queue sends alone, and how fast one is forwarded to another while a third sends.
#[test]
#[ignore = "a measurement"]
fn measure_sending_and_forwarding() {
    let lab = Lab::new("ab");
    let (pool, system) = system();
    let (left, left_port) = lab.open_one(&system, 'a', WantedMode::Native);
    let (right, _right_port) = lab.open_one(&system, 'b', WantedMode::Native);
    let netns = Netns::open(&lab.host('a')).unwrap();
    let spec = XdpSpec { netns: Some(&netns), mode: WantedMode::Native, ..XdpSpec::new("eth0") };
    let mut sender = system.open(spec).unwrap();
    let mut frames = pool.cache();
    let mut send = |seconds: f64| {
        let (mut sent, mut drops) = (0, DropCounts::default());
        let start = Instant::now();
        while start.elapsed().as_secs_f64() < seconds {
            let mut burst = Burst::new();
            while !burst.is_full() {
                let mut packet = frames.alloc().unwrap();
                packet.append(&[2; 64]).unwrap();
                burst.push(packet);
            }
            sent += sender.queues[0].tx_burst(&mut frames, &mut burst, &mut drops).packets;
        }
        (sent as f64 / seconds / 1e6, drops)
    };
    let (alone, drops) = send(2.0);
    eprintln!("sent {alone:.2} Mpps, drops {:?}", drops.nonzero().collect::<Vec<_>>());
    let patch = Patch::start(&pool, left, right);
    let (offered, _) = send(2.0);
    let ([there, _], _queues) = patch.pause();
    let rate = there.sent.packets as f64 / 2e6;
    eprintln!("offered {offered:.2} Mpps, forwarded {rate:.2}, drops {:?}", there.drops.total());
    eprintln!("{:?}", left_port.kernel_stats());
}
