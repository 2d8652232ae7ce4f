//! Ports that come and go, by will and by accident.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::lab::{Lab, Moved, Patch, eventually, forward, privileged};
use super::{all_home, system, system_of};
use crate::netns::Netns;
use crate::queue::QueueFault;
use crate::xdp::bpf::{GENERIC, NATIVE, Program, SocketMap};
use crate::xdp::{WantedMode, XdpError, XdpSpec, XdpSystem, program};
use std::os::fd::AsFd;
use weft_wire::DropReason;

#[test]
fn ports_come_and_go_while_another_loses_nothing() {
    if !privileged("ports_come_and_go_while_another_loses_nothing") {
        return;
    }
    let lab = Lab::new("abcd");
    let (pool, system) = system();
    let (left, left_port) = lab.open_one(&system, 'a', WantedMode::Native);
    let (right, right_port) = lab.open_one(&system, 'b', WantedMode::Native);
    let _server = lab.serve('b');
    let (a, b) = (lab.side('a', &left_port), lab.side('b', &right_port));
    let patch = Patch::start(&pool, left, right);
    let done = Arc::new(AtomicBool::new(false));
    let rounds = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let udp = lab.iperf('a', "10.0.0.2", "-u -b 10M -l 1000 -t 5");
            done.store(true, Ordering::Relaxed);
            udp
        });
        let mut rounds = 0;
        while !done.load(Ordering::Relaxed) {
            let (c, c_port) = lab.open_one(&system, 'c', WantedMode::Native);
            let (d, d_port) = lab.open_one(&system, 'd', WantedMode::Native);
            let other = Patch::start(&pool, c, d);
            let ping = lab.exec('c', "ping -c 3 -l 3 -W 2 10.0.0.4");
            if !ping.contains(" 0% packet loss") {
                panic!("{ping} {:?} {:?}", other.stop(), (c_port.kernel_stats(), d_port.kernel_stats()));
            }
            rounds += 1;
            // In turns, the program goes before the sockets do, and the other way round.
            if rounds % 2 == 0 {
                drop((c_port, d_port));
                other.stop();
            } else {
                other.stop();
                drop((c_port, d_port));
            }
        }
        let (rate, lost) = traffic.join().unwrap();
        eprintln!("{rounds} rounds beside {:.0} Mbit/s of UDP, {lost} lost", rate / 1e6);
        rounds
    });
    assert!(rounds >= 2, "only {rounds} rounds");
    lab.wait_quiet();
    let ([there, back], queues) = patch.pause();
    lab.assert_accounted(a, b, &there);
    lab.assert_accounted(b, a, &back);
    assert_eq!((left_port.kernel_stats(), right_port.kernel_stats()), Default::default());
    drop((left_port, right_port, queues));
    all_home(&pool);
}

#[test]
fn a_device_that_goes_down_or_away_is_noticed_and_can_be_opened_again() {
    if !privileged("a_device_that_goes_down_or_away_is_noticed_and_can_be_opened_again") {
        return;
    }
    let lab = Lab::new("ab");
    let (pool, system) = system();
    let (mut left, left_port) = lab.open_one(&system, 'a', WantedMode::Native);
    let (mut right, right_port) = lab.open_one(&system, 'b', WantedMode::Native);
    let (mut frames, mut moved) = (pool.cache(), Moved::default());
    lab.exec('a', "ip neighbour add 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0");
    let send = || drop(lab.exec('a', "ping -c 1 -W 0.01 10.0.0.2 || true"));

    assert_eq!((right.fault(), right_port.fault()), (None, None));
    lab.at_switch("ip link set pb down");
    assert_eq!(
        (right.fault(), right_port.fault()),
        (Some(QueueFault::DeviceDown), Some(QueueFault::DeviceDown))
    );
    for number in 1..=3 {
        send();
        eventually("a packet at a port that is down", || {
            forward(&mut frames, &mut *left, &mut *right, &mut moved);
            moved.received == number
        });
    }
    assert!(right.arm(), "a worker may sleep on a port that is down");
    assert!(moved.drops.get(DropReason::TxPortDown) >= 2, "{moved:?}");
    lab.at_switch("ip link set pb up");
    assert_eq!(right.fault(), None);
    let before = moved.sent.packets;
    eventually("transmit after the device is up again", || {
        send();
        forward(&mut frames, &mut *left, &mut *right, &mut moved);
        moved.sent.packets > before
    });

    lab.at_switch("ip link del pb");
    assert_eq!(
        (right.fault(), right_port.fault()),
        (Some(QueueFault::DeviceGone), Some(QueueFault::DeviceGone))
    );
    let before = moved.drops.get(DropReason::TxPortDown);
    eventually("a packet for a port that is gone", || {
        send();
        forward(&mut frames, &mut *left, &mut *right, &mut moved);
        moved.drops.get(DropReason::TxPortDown) > before
    });
    assert!(right.arm());
    assert_eq!(moved.received, moved.sent.packets + moved.drops.total(), "{moved:?}");
    let lost_share = pool.at_home();
    drop((right, right_port));
    eventually("the return of the lost port's frames", || pool.at_home() >= lost_share + 2048);

    lab.plug('b');
    lab.exec('b', "ip address add 10.0.0.2/24 dev eth0");
    lab.exec('a', "ip neighbour del 10.0.0.2 dev eth0");
    let (right, right_port) = lab.open_one(&system, 'b', WantedMode::Native);
    let patch = Patch::start(&pool, left, right);
    assert!(lab.exec('a', "ping -c 3 -l 3 -W 2 10.0.0.2").contains(" 0% packet loss"));
    patch.stop();
    drop((left_port, right_port, frames));
    all_home(&pool);
}

#[test]
fn another_program_on_the_device_is_a_refusal() {
    if !privileged("another_program_on_the_device_is_a_refusal") {
        return;
    }
    let lab = Lab::new("a");
    let (pool, system) = system();
    let netns = lab.switch_netns();
    let sockets = SocketMap::sockets(1).unwrap();
    let other = Program::load(&program::all(sockets.as_fd()), "other").unwrap();
    let index = crate::device::Device::open(&netns, "pa").unwrap().index().unsigned_abs();
    for mode in [NATIVE, GENERIC] {
        // The link of the turn before may live on for a moment.
        let mut link = None;
        eventually("an attachment", || {
            link = netns.run(|| other.attach(index, mode)).unwrap().ok();
            link.is_some()
        });
        for wanted in [WantedMode::Auto, WantedMode::Native, WantedMode::Generic] {
            let spec = XdpSpec { netns: Some(&netns), mode: wanted, ..XdpSpec::new("pa") };
            let error = system.open(spec).expect_err("a refusal");
            assert!(matches!(error, XdpError::OtherProgram { .. }), "{error}");
            assert!(error.to_string().starts_with("pa: another XDP program is attached"), "{error}");
        }
    }
    drop(lab.open(&system, 'a', WantedMode::Auto));
    all_home(&pool);
}

#[test]
fn what_is_not_there_or_taken_is_one_clear_line() {
    if !privileged("what_is_not_there_or_taken_is_one_clear_line") {
        return;
    }
    let lab = Lab::new("a");
    let (pool, system) = system_of(4096);
    let netns = lab.switch_netns();
    let text = |spec: XdpSpec<'_>| system.open(spec).expect_err("a refusal").to_string();
    let spec = |device| XdpSpec { netns: Some(&netns), ..XdpSpec::new(device) };
    assert!(text(spec("nowhere")).starts_with("nowhere: no such device in network namespace"));
    let rings = crate::xdp::RingSizes { rx: 100, tx: 64 };
    assert_eq!(
        text(XdpSpec { rings, ..spec("pa") }),
        "pa: rings of 100 and 64 entries are out of range: powers of two from 64 to 32768"
    );
    let rings = crate::xdp::RingSizes { rx: 8192, tx: 64 };
    assert_eq!(
        text(XdpSpec { rings, ..spec("pa") }),
        "pa: 1 queues reserve 8192 frames, and only 4096 of the pool's 4096 are free: configure a larger pool, or \
         smaller rings"
    );
    assert_eq!(pool.at_home(), 4096);
    let first = lab.open(&system, 'a', WantedMode::Auto);
    assert_eq!(pool.at_home(), 2048);
    let error = text(spec("pa"));
    assert!(error.starts_with("pa: another XDP program is attached to the device"), "{error}");
    eventually("the refused port's frames", || pool.at_home() == 2048);
    drop(first);
    all_home(&pool);
}

/// The other half of the next test, which runs it in a process of its own.
#[test]
#[ignore = "a helper of a_killed_process_leaves_no_program_behind"]
fn helper_opens_a_port_and_waits() {
    let Ok(netns) = std::env::var("WEFT_XDP_TEST_NETNS") else { return };
    let pool = crate::FramePool::new(4096).unwrap();
    let system = XdpSystem::new(pool).unwrap();
    let netns = Netns::open(&netns).unwrap();
    let port = system.open(XdpSpec { netns: Some(&netns), ..XdpSpec::new("pa") }).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(30));
    drop(port);
}

#[test]
fn a_killed_process_leaves_no_program_behind() {
    if !privileged("a_killed_process_leaves_no_program_behind") {
        return;
    }
    let lab = Lab::new("a");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "xdp::tests::churn::helper_opens_a_port_and_waits"])
        .env("WEFT_XDP_TEST_NETNS", lab.switch())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let attached = || lab.at_switch("ip -details link show pa").contains("prog/xdp");
    eventually("the helper's attachment", attached);
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the program's end", || !attached());
    let (pool, system) = system();
    drop(lab.open(&system, 'a', WantedMode::Auto));
    all_home(&pool);
}
