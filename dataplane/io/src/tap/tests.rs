//! Taps in network namespaces: needs root, says so if it isn't.

use weft_wire::{DropCounts, DropReason};

use super::*;
use crate::pool::FramePool;
use crate::queue::{Burst, QueueFault};
use crate::testing::{Patch, Sandbox, eventually, only, root, serve, start};

fn name(text: &str) -> PortName {
    PortName::new(text).unwrap()
}

fn spec(sandbox: &Sandbox, tap: &str, room: &str) -> TapSpec {
    TapSpec { netns: Some(sandbox.name(room)), ..TapSpec::new(name(tap)) }
}

#[test]
fn two_taps_ping_each_other_with_large_frames_and_carry_tcp_with_unfinished_checksums() {
    if !root("two_taps_ping_each_other_with_large_frames_and_carry_tcp_with_unfinished_checksums") {
        return;
    }
    let sandbox = Sandbox::new(&["a", "b"]);
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut frames = pool.cache();
    let mac = "52:54:00:00:00:0a".parse().unwrap();
    let a = open(&TapSpec { mac: Some(mac), mtu: Some(9000), ..spec(&sandbox, "eth0", "a") }).unwrap();
    let b = open(&TapSpec { mtu: Some(9000), ..spec(&sandbox, "eth0", "b") }).unwrap();
    let device = a.control.device().unwrap();
    assert_eq!((device.mtu().unwrap(), device.mac().unwrap()), (9000, Some(mac)));
    assert_eq!((device.name().unwrap(), device.queue_length().unwrap()), ("eth0".into(), 4096));
    assert!(device.link().unwrap().up && device.link().unwrap().running);
    assert_eq!(a.control.netns().unwrap().name(), Some(sandbox.name("a")));
    sandbox.run("a", "ip addr add 10.0.0.1/24 dev eth0");
    sandbox.run("b", "ip addr add 10.0.0.2/24 dev eth0");
    let (mut qa, mut qb) = (only(a.queues), only(b.queues));
    let mut patch = Patch::new(&mut frames);
    for size in [56, 1472, 8972, 20_000] {
        let ping = start(&sandbox, "a", &format!("ping -c 3 -l 3 -W 2 -s {size} 10.0.0.2"));
        let said = patch.run_until(ping, &mut *qa, &mut *qb);
        assert!(said.contains("3 received"), "{said}");
    }
    let server = serve(&sandbox, "b");
    // No more is under way at a time than the tap's queue holds.
    let client = start(&sandbox, "a", "iperf3 -c 10.0.0.2 -n 50M -w 256K");
    patch.run_until(client, &mut *qa, &mut *qb);
    patch.run_until(server, &mut *qa, &mut *qb);
    assert!(patch.partial > 1000, "{} unfinished checksums", patch.partial);
    assert_eq!(patch.drops, DropCounts::default());
    drop((qa, qb));
    eventually("the tap's end", || matches!(a.control.device(), Err(DeviceError::Gone(_))));
    eventually("the end of its name", || !sandbox.try_run("a", "ip link show eth0").status.success());
    drop(frames);
    assert_eq!(pool.at_home(), pool.frames());
}

#[test]
fn a_tap_that_moves_to_another_namespace_keeps_working() {
    if !root("a_tap_that_moves_to_another_namespace_keeps_working") {
        return;
    }
    let sandbox = Sandbox::new(&["a", "b", "c"]);
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut frames = pool.cache();
    let (a, b) = (open(&spec(&sandbox, "t0", "a")).unwrap(), open(&spec(&sandbox, "t1", "b")).unwrap());
    let (mut qa, mut qb) = (only(a.queues), only(b.queues));
    let mut patch = Patch::new(&mut frames);
    sandbox.run("b", "ip addr add 10.0.0.2/24 dev t1");
    sandbox.run("a", "ip addr add 10.0.0.1/24 dev t0");
    let ping = start(&sandbox, "a", "ping -c 2 -l 2 -W 2 10.0.0.2");
    patch.run_until(ping, &mut *qa, &mut *qb);
    sandbox.run("a", "ip link set t0 netns {c} name moved0");
    for (room, command) in [("c", "ip addr add 10.0.0.1/24 dev moved0"), ("c", "ip link set moved0 up")] {
        patch.step(&mut *qa, &mut *qb);
        patch.step(&mut *qb, &mut *qa);
        sandbox.run(room, command);
    }
    let ping = start(&sandbox, "c", "ping -c 2 -l 2 -W 2 10.0.0.2");
    patch.run_until(ping, &mut *qa, &mut *qb);
    assert_eq!(a.control.netns().unwrap().name(), Some(sandbox.name("c")));
    assert_eq!(a.control.device().unwrap().name().unwrap(), "moved0");
    a.control.device().unwrap().set_mtu(1300).unwrap();
    assert!(sandbox.run("c", "ip link show moved0").contains("mtu 1300"));
    assert_eq!(qa.fault(), None);
}

#[test]
fn a_persistent_tap_is_found_again_wherever_it_is() {
    if !root("a_persistent_tap_is_found_again_wherever_it_is") {
        return;
    }
    let sandbox = Sandbox::new(&["a", "b"]);
    let mac: Mac = "52:54:00:00:00:0b".parse().unwrap();
    let tap = format!("knp{}", std::process::id());
    let spec = TapSpec { persistent: true, mac: Some(mac), ..spec(&sandbox, &tap, "a") };
    let first = open(&spec).unwrap();
    let busy = open(&spec).unwrap_err();
    assert!(matches!(&busy, TapError::Busy { .. }), "{busy}");
    drop(first);
    let again = reopen(&spec);
    assert_eq!(again.control.netns().unwrap().name(), Some(sandbox.name("a")));
    drop(again);
    // Somebody moves it to a namespace without a name.
    let mut sleeper = sandbox.command("b", "unshare -n sleep 30").spawn().unwrap();
    let pid = holder(sleeper.id(), &sandbox);
    sandbox.run("a", &format!("ip link set {tap} netns {pid}"));
    let found = reopen(&spec);
    let device = found.control.device().unwrap();
    assert_eq!((device.mac().unwrap(), device.link().unwrap().up), (Some(mac), true));
    assert_eq!(found.control.netns().unwrap().name(), None);
    found.control.set_persistent(false).unwrap();
    drop((found, device));
    let anew = reopen(&TapSpec { persistent: false, ..spec });
    assert_eq!(anew.control.netns().unwrap().name(), Some(sandbox.name("a")));
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

/// Opens a tap that was closed just now.
fn reopen(spec: &TapSpec) -> OpenPort<TapControl> {
    let mut opened = open(spec);
    eventually("a tap that is not busy", || {
        if matches!(opened, Err(TapError::Busy { .. })) {
            opened = open(spec);
        }
        !matches!(opened, Err(TapError::Busy { .. }))
    });
    opened.unwrap_or_else(|error| panic!("{error}"))
}

/// The process, once it is in a namespace of its own.
fn holder(pid: u32, sandbox: &Sandbox) -> u32 {
    let outside = [Netns::current().unwrap().id(), Netns::open(&sandbox.name("b")).unwrap().id()];
    eventually("a namespace of its own", || {
        let file = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        !outside.contains(&Netns::from_fd(file.into()).unwrap().id())
    });
    pid
}

#[test]
fn a_deleted_tap_is_a_fault_and_nothing_panics_or_blocks() {
    if !root("a_deleted_tap_is_a_fault_and_nothing_panics_or_blocks") {
        return;
    }
    let sandbox = Sandbox::new(&["a"]);
    let pool = FramePool::new(FramePool::MIN_FRAMES).unwrap();
    let mut frames = pool.cache();
    let port = open(&spec(&sandbox, "t0", "a")).unwrap();
    let mut queue = only(port.queues);
    let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
    let mut send = |queue: &mut dyn PortQueue, octets: &[u8]| {
        let mut packet = frames.alloc().unwrap();
        packet.append(octets).unwrap();
        burst.push(packet);
        let mut drops = DropCounts::default();
        let sent = queue.tx_burst(&mut frames, &mut burst, &mut drops);
        (sent.packets, drops)
    };
    assert_eq!(send(&mut *queue, &[0xff; 60]).0, 1);
    assert_eq!(send(&mut *queue, &[0xff; 10]).1.get(DropReason::TxError), 1);
    sandbox.run("a", "ip link set t0 down");
    assert_eq!(send(&mut *queue, &[0xff; 60]).1.get(DropReason::TxPortDown), 1);
    assert_eq!(queue.fault(), Some(QueueFault::DeviceDown));
    sandbox.run("a", "ip link set t0 up");
    assert_eq!(queue.fault(), None);
    assert_eq!(send(&mut *queue, &[0xff; 60]).0, 1);
    sandbox.run("a", "ip link del t0");
    assert_eq!(send(&mut *queue, &[0xff; 60]).1.get(DropReason::TxPortDown), 1);
    for _ in 0..3 {
        queue.rx_burst(&mut frames, &mut burst, &mut drops);
    }
    assert_eq!((burst.len(), drops), (0, DropCounts::default()));
    assert_eq!(queue.fault(), Some(QueueFault::DeviceGone));
    assert!(matches!(port.control.netns(), Err(DeviceError::Gone(_))));
    drop((queue, frames));
    assert_eq!(pool.at_home(), pool.frames());
}

#[test]
fn an_idle_queue_of_a_deleted_tap_says_so_before_it_is_used() {
    if !root("an_idle_queue_of_a_deleted_tap_says_so_before_it_is_used") {
        return;
    }
    let sandbox = Sandbox::new(&["a"]);
    let port = open(&spec(&sandbox, "t0", "a")).unwrap();
    sandbox.run("a", "ip link del t0");
    assert_eq!(only(port.queues).fault(), Some(QueueFault::DeviceGone));
}

#[test]
fn a_multi_queue_tap_has_as_many_queues_and_one_of_another_kind_is_refused() {
    if !root("a_multi_queue_tap_has_as_many_queues_and_one_of_another_kind_is_refused") {
        return;
    }
    let sandbox = Sandbox::new(&["a"]);
    let many = TapSpec { queues: 3, persistent: true, ..spec(&sandbox, "t0", "a") };
    let port = open(&many).unwrap();
    assert_eq!(port.queues.len(), 3);
    drop(port);
    let unlike = open(&TapSpec { queues: 1, ..many.clone() }).unwrap_err();
    assert!(matches!(unlike, TapError::Unlike { .. }), "{unlike}");
    assert!(matches!(open(&TapSpec { queues: 0, ..many.clone() }), Err(TapError::Queues { queues: 0, .. })));
    sandbox.run("a", "ip link add v0 type veth peer name v1");
    let veth = open(&spec(&sandbox, "v0", "a")).unwrap_err();
    assert_eq!(
        veth.to_string(),
        format!(
            "v0 in network namespace '{}' exists and is no tap (its driver is 'veth')",
            sandbox.name("a")
        )
    );
    let nowhere = open(&TapSpec { netns: Some("kn-nowhere".into()), persistent: false, ..many }).unwrap_err();
    assert!(nowhere.to_string().contains("network namespace 'kn-nowhere': No such file"), "{nowhere}");
}

#[test]
fn an_impossible_mtu_is_refused_with_its_value_and_leaves_no_tap_behind() {
    if !root("an_impossible_mtu_is_refused_with_its_value_and_leaves_no_tap_behind") {
        return;
    }
    let sandbox = Sandbox::new(&["a"]);
    let error = open(&TapSpec { mtu: Some(5), persistent: true, ..spec(&sandbox, "t0", "a") }).unwrap_err();
    assert!(error.to_string().contains("t0: MTU 5 is refused"), "{error}");
    eventually("the tap's end", || !sandbox.try_run("a", "ip link show t0").status.success());
}
