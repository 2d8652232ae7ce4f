//! `weft-pktgen` as a program, in network namespaces of its own: over a veth pair, over the kernel's bridge, and through a
//! forwarder that drops, doubles and swaps packets in a known way.
//!
//! Needs root and `ip`; without them each test says so and does nothing.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use weft_pktgen::af_packet::PacketPort;
use weft_pktgen::device::Endpoint;
use weft_pktgen::port::Port;

/// Two namespaces `a` and `b`, and one between them; deleted with everything in them.
struct Nets {
    a: String,
    middle: String,
    b: String,
}

fn try_ip(arguments: &str) -> Output {
    Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs")
}

fn ip(arguments: &str) {
    let output = try_ip(arguments);
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Nets {
    /// `None`, loudly, when this process may not make namespaces.
    fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let id = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let name = |which: &str| format!("weft-pg-{id}-{which}");
        let nets = Nets { a: name("a"), middle: name("m"), b: name("b") };
        // A killed run whose process had this id may have left them.
        nets.remove();
        let made = Command::new("ip").args(["netns", "add", &nets.a]).output();
        if !made.as_ref().is_ok_and(|output| output.status.success()) {
            skip(&format!("can't make network namespaces (needs root and iproute2): {made:?}"));
            return None;
        }
        for namespace in [&nets.middle, &nets.b] {
            ip(&format!("netns add {namespace}"));
        }
        Some(nets)
    }

    fn remove(&self) {
        for namespace in [&self.a, &self.middle, &self.b] {
            try_ip(&format!("netns del {namespace}"));
        }
    }

    /// A veth pair from `a` to `b`.
    fn join_directly(&self) {
        ip(&format!("-n {} link add e0 mtu 9000 type veth peer name e0 netns {} mtu 9000", self.a, self.b));
        self.up();
    }

    /// A veth pair from each to the one between, where its ends are `pa` and `pb`.
    fn join_by_the_middle(&self) {
        for (namespace, end) in [(&self.a, "pa"), (&self.b, "pb")] {
            ip(&format!("-n {} link add {end} type veth peer name e0 netns {namespace}", self.middle));
            ip(&format!("-n {} link set {end} up", self.middle));
        }
        self.up();
    }

    fn up(&self) {
        for namespace in [&self.a, &self.b] {
            ip(&format!("-n {namespace} link set e0 up"));
        }
    }

    fn pktgen(&self, options: &str) -> Output {
        let (tx, rx) = (format!("e0@{}", self.a), format!("e0@{}", self.b));
        Command::new(env!("CARGO_BIN_EXE_weft-pktgen"))
            .args(["--tx", &tx, "--rx", &rx, "--json"])
            .args(options.split_whitespace())
            .output()
            .expect("weft-pktgen runs")
    }

    fn report(&self, options: &str) -> Report {
        let output = self.pktgen(options);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Report(serde_json::from_slice(&output.stdout).expect("the output is JSON"))
    }
}

impl Drop for Nets {
    fn drop(&mut self) {
        self.remove();
    }
}

struct Report(Value);

impl Report {
    fn get(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    /// Sent at least `least` packets, and all arrived once, whole and in order.
    fn assert_clean(&self, least: u64) {
        assert!(self.get("sent") >= least, "{}", self.0);
        assert_eq!(self.get("received"), self.get("sent"), "{}", self.0);
        for count in ["lost", "duplicated", "reordered", "damaged", "receiver_drops"] {
            assert_eq!(self.get(count), 0, "{count}: {}", self.0);
        }
    }
}

/// Says on the real standard error, past the test runner's capture, that this test did not run, and writes it down where the
/// closing summary counts it: in the file that `WEFT_SKIPS` names.
fn skip(reason: &str) {
    let test = thread::current().name().unwrap_or_default().to_owned();
    let line = format!("SKIPPED: {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("standard error");
    if let Some(list) = std::env::var_os("WEFT_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(list);
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the list of skipped tests");
    }
}

#[test]
fn a_veth_pair_loses_nothing_at_a_modest_rate() {
    let Some(nets) = Nets::new() else { return };
    nets.join_directly();
    let report = nets.report("--rate 20k --seconds 1 --flows 100");
    report.assert_clean(5_000);
    assert!(report.get("sent") <= 20_001, "the rate is kept: {}", report.0);
}

#[test]
fn frames_of_each_size_arrive_whole_with_and_without_a_tag() {
    let Some(nets) = Nets::new() else { return };
    nets.join_directly();
    for size in [60, 61, 1514, 9000] {
        for vlan in ["", "--vlan 100", "--vlan 4095"] {
            nets.report(&format!("--rate 5k --seconds 0.2 --settle 200 --size {size} {vlan}"))
                .assert_clean(200);
        }
    }
}

#[test]
fn the_kernels_bridge_loses_nothing_at_a_modest_rate() {
    let Some(nets) = Nets::new() else { return };
    nets.join_by_the_middle();
    ip(&format!("-n {} link add br0 type bridge forward_delay 0 mcast_snooping 0", nets.middle));
    for device in ["pa", "pb"] {
        ip(&format!("-n {} link set {device} master br0", nets.middle));
    }
    ip(&format!("-n {} link set br0 up", nets.middle));
    let forwarding = || {
        let ports = try_ip(&format!("-n {} -d link show master br0", nets.middle)).stdout;
        String::from_utf8_lossy(&ports).matches("state forwarding").count() == 2
    };
    let forwards = (0..1000).any(|_| {
        thread::sleep(Duration::from_millis(10));
        forwarding()
    });
    assert!(forwards, "the bridge does not forward");
    nets.report("--rate 20k --seconds 1 --flows 1000 --size 200").assert_clean(5_000);
}

#[test]
fn af_xdp_loses_nothing_at_a_modest_rate() {
    for (options, least) in [("--seconds 1 --flows 10", 1_000), ("--seconds 0.2 --size 1514", 200)] {
        // Devices of its own: after a run's end the kernel has a device's queue for some time yet.
        let Some(nets) = Nets::new() else { return };
        nets.join_directly();
        for side in [&nets.a, &nets.b] {
            ip(&format!("-n {side} link set e0 mtu 1500"));
        }
        nets.report(&format!("--backend af-xdp --rate 5k {options}")).assert_clean(least);
    }
}

/// Forwards from `pa` to `pb`: of each ten numbered packets one is dropped, one goes twice, and two swap their places.
/// All else goes as it comes.
fn forward_badly(middle: &str, stop: &AtomicBool, ready: &AtomicBool) {
    let open = |name: &str| {
        let endpoint: Endpoint = format!("{name}@{middle}").parse().expect("a device");
        endpoint.enter().expect("the namespace is there");
        PacketPort::open(&endpoint.probe().expect("the device is there")).expect("a socket")
    };
    let (mut from, mut to) = (open("pa"), open("pb"));
    ready.store(true, Ordering::Release);
    let (mut number, mut held) = (0u64, Vec::new());
    while !stop.load(Ordering::Acquire) {
        let mut frames = Vec::new();
        from.receive(Duration::from_millis(2), &mut |frame| frames.push(frame.to_vec())).expect("receives");
        for frame in frames {
            let numbered = frame.get(42..46) == Some(&[0xf7, 0xe5, 0xe6, 0xf4]);
            let turn = if numbered { number % 10 } else { 0 };
            number += u64::from(numbered);
            let mut send = |frame: &[u8]| assert_eq!(to.send(frame, frame.len()).expect("sends"), 1);
            match turn {
                3 => {}
                5 => (0..2).for_each(|_| send(&frame)),
                7 => held = frame,
                8 => [&frame, &held].iter().for_each(|frame| send(frame)),
                _ => send(&frame),
            }
        }
    }
    assert_eq!(from.receiver_drops().expect("the kernel counts"), 0, "the forwarder itself lost packets");
}

#[test]
fn what_is_dropped_doubled_and_swapped_is_counted_exactly() {
    let Some(nets) = Nets::new() else { return };
    nets.join_by_the_middle();
    let (stop, ready) = (AtomicBool::new(false), AtomicBool::new(false));
    let report = thread::scope(|scope| {
        let forwarder = scope.spawn(|| forward_badly(&nets.middle, &stop, &ready));
        while !ready.load(Ordering::Acquire) && !forwarder.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        let report = nets.report("--rate 10k --seconds 1");
        stop.store(true, Ordering::Release);
        report
    });
    let sent = report.get("sent");
    // The last packets of the run may be an incomplete ten: a held one whose partner never came stays lost.
    let turn = |which: u64| (sent + 9 - which) / 10;
    let held_for_ever = turn(7) - turn(8);
    assert!(sent > 2_000, "{}", report.0);
    assert_eq!(report.get("lost"), turn(3) + held_for_ever, "{}", report.0);
    assert_eq!(report.get("received"), sent - turn(3) - held_for_ever, "{}", report.0);
    assert_eq!(report.get("duplicated"), turn(5), "{}", report.0);
    assert_eq!(report.get("reordered"), turn(8), "{}", report.0);
    assert_eq!((report.get("damaged"), report.get("receiver_drops")), (0, 0), "{}", report.0);
}

#[test]
fn what_can_not_work_is_one_clear_line() {
    let Some(nets) = Nets::new() else { return };
    nets.join_directly();
    let refused = |options: &str| {
        let output = nets.pktgen(options);
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(text.lines().count(), 1, "{text}");
        text
    };
    ip(&format!("-n {} link set e0 mtu 1500", nets.b));
    assert!(refused("--size 1515").contains("frames of 1515 octets do not fit: 1514 at most"));
    assert!(refused("--backend af-xdp --size 4000").contains("4000 octets do not fit: 3840 at most"));
    ip(&format!("-n {} link set e0 down", nets.b));
    assert!(refused("").contains("the device is down"));
}
