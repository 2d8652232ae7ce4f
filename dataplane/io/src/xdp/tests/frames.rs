//! Where frames are when they run out.

use super::lab::{Lab, eventually, privileged};
use super::{all_home, system_of};
use crate::queue::Burst;
use crate::xdp::{KernelStats, RingSizes, WantedMode, XdpSpec};
use weft_wire::{DropCounts, DropReason};

#[test]
fn a_queue_without_free_frames_drops_and_keeps_its_reserve() {
    if !privileged("a_queue_without_free_frames_drops_and_keeps_its_reserve") {
        return;
    }
    let lab = Lab::new("a");
    let (pool, system) = system_of(1024);
    let netns = lab.switch_netns();
    let rings = RingSizes { rx: 256, tx: 64 };
    let spec = XdpSpec { netns: Some(&netns), mode: WantedMode::Native, rings, ..XdpSpec::new("pa") };
    let mut port = system.open(spec).unwrap();
    let queue = &mut port.queues[0];
    let mut frames = pool.cache();
    let hoard: Vec<_> = std::iter::from_fn(|| frames.alloc()).collect();
    assert_eq!((hoard.len(), pool.at_home()), (1024 - 256, 0));
    lab.exec('a', "ip neighbour add 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0");
    let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
    // More than the ring holds, in portions that it does.
    for portion in 1..=5 {
        lab.exec('a', "ping -c 100 -i 0.0002 -W 0.01 10.0.0.2 || true");
        eventually("a portion's drop", || {
            queue.rx_burst(&mut frames, &mut burst, &mut drops);
            drops.get(DropReason::RxNoFrame) == portion * 100
        });
    }
    assert_eq!((burst.len(), drops.total()), (0, 500));
    hoard.into_iter().for_each(|packet| frames.free(packet));
    lab.exec('a', "ping -c 50 -i 0.0002 -W 0.01 10.0.0.2 || true");
    eventually("packets", || {
        queue.rx_burst(&mut frames, &mut burst, &mut drops);
        burst.len() == 50
    });
    assert_eq!((drops.total(), port.control.kernel_stats()), (500, KernelStats::default()));
    burst.drain(..).for_each(|packet| frames.free(packet));
    // What is still in the rings comes home with the queue.
    lab.exec('a', "ping -c 50 -i 0.0002 -W 0.01 10.0.0.2 || true");
    drop((port, frames));
    all_home(&pool);
}

#[test]
fn a_worker_that_sleeps_is_woken_by_a_packet() {
    if !privileged("a_worker_that_sleeps_is_woken_by_a_packet") {
        return;
    }
    let lab = Lab::new("a");
    let (pool, system) = system_of(4096);
    let (mut queue, _port) = lab.open_one(&system, 'a', WantedMode::Native);
    let mut frames = pool.cache();
    let wait = |queue: &dyn crate::PortQueue, milliseconds| {
        use std::os::fd::AsRawFd;
        let fd = queue.wait_fd().unwrap().as_raw_fd();
        let mut wait = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure, borrowed for the call.
        unsafe { libc::poll(&mut wait, 1, milliseconds) == 1 }
    };
    let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
    queue.rx_burst(&mut frames, &mut burst, &mut drops);
    burst.drain(..).for_each(|packet| frames.free(packet));
    assert!(queue.arm() && !wait(&*queue, 50));
    lab.exec('a', "ip neighbour add 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0");
    lab.exec('a', "ping -c 1 -W 0.01 10.0.0.2 || true");
    assert!(wait(&*queue, 10_000) && !queue.arm(), "a packet waits");
    queue.rx_burst(&mut frames, &mut burst, &mut drops);
    assert_eq!(burst.len(), 1);
    assert!(queue.arm());
    burst.drain(..).for_each(|packet| frames.free(packet));
}
