//! Workers on threads of their own, while the control thread changes things: what no hand-driven test can meet.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use std::time::{Duration, Instant};

use rig::dice::Dice;
use rig::frames::{BROADCAST, frame, mac};
use rig::{Rig, UPLINK, access, ready, tunnel, vid};
use weft_core::fdb::Flush;
use weft_core::runtime::{Idle, run};
use weft_core::snapshot::{Path, TunnelKeys};
use weft_wire::{Mac, TunnelKind};

/// Ports 0 to 3 stay in VLAN 10, 4 to 7 in VLAN 20; 8 changes between the two. The last octet of a frame is its VLAN.
const FIXED: u16 = 8;
const MOVING: u16 = 8;

fn marked(vlan: u8, source: u8, destination: Mac) -> Vec<u8> {
    let mut frame = frame(mac(vlan * 10 + source), destination);
    frame[59] = vlan;
    frame
}

fn switch() -> Rig {
    let mut rig = Rig::with_frames(2, 8192);
    rig.add_bridge_with_limit(0, 24);
    rig.bridge(0).vnis = vec![(vid(10), 1000), (vid(20), 2000)];
    for port in 0..FIXED {
        rig.add_device(port, access(if port < 4 { 10 } else { 20 }));
    }
    rig.add_device(MOVING, access(10));
    rig.add_uplink();
    rig.add_tunnel(50, tunnel(TunnelKind::Vxlan, 50, TunnelKeys::Map(None)));
    rig.publish();
    rig
}

/// Offers some frames of both VLANs by the fixed ports.
fn pump(rig: &Rig, dice: &mut Dice) {
    for _ in 0..40 {
        let port = dice.below(FIXED.into()) as u16;
        let vlan = if port < 4 { 10 } else { 20 };
        let destination =
            dice.pick(&[BROADCAST, mac(vlan * 10), mac(vlan * 10 + 1), mac(vlan * 10 + 2), mac(250)]);
        rig.offer(port, marked(vlan, port as u8 % 4, destination));
    }
}

/// No frame has left by a port of the other VLAN. What the moving port sends is looked at by the caller.
fn look(rig: &Rig) {
    for port in 0..FIXED {
        let vlan = if port < 4 { 10 } else { 20 };
        assert!(
            rig.sent(port).iter().all(|frame| frame[59] == vlan),
            "a frame of another VLAN left by port {port}"
        );
    }
    for outer in rig.sent(UPLINK) {
        let vni = u32::from_be_bytes([0, outer[46], outer[47], outer[48]]);
        assert_eq!(u32::from(outer[50 + 59]) * 100, vni);
    }
}

fn change(rig: &mut Rig, dice: &mut Dice) {
    match dice.below(6) {
        0 => {
            rig.fdb().flush(Flush::default());
        }
        1 => {
            rig.tunnel(50).path =
                dice.pick(&[ready(UPLINK, 50), ready(UPLINK, 51), Path::Resolving, Path::NoRoute])
        }
        2 => {
            let port = dice.below(FIXED.into()) as u16;
            rig.port(port).protected ^= true;
        }
        3 => {
            let port = dice.below(FIXED.into()) as u16;
            rig.port(port).up ^= true;
        }
        4 => {
            rig.fdb().expire(u32::MAX, 1);
        }
        _ => {}
    }
}

#[test]
fn while_ports_change_no_frame_is_lost_uncounted_or_leaves_by_another_vlan() {
    let mut rig = switch();
    let start = Instant::now();
    let threads: Vec<_> = std::mem::take(&mut rig.workers)
        .into_iter()
        .map(|worker| std::thread::spawn(move || run(worker, start, Idle::Auto)))
        .collect();
    let mut dice = Dice(7);
    let mut rounds = 0;
    while start.elapsed() < Duration::from_secs(3) || rounds < 20 {
        rounds += 1;
        let vlan = dice.pick(&[10, 20]);
        rig.port(MOVING).vlan = access(vlan);
        change(&mut rig, &mut dice);
        pump(&rig, &mut dice);
        rig.publish_unseen();
        rig.datapath.sync().unwrap();
        // What is sent by now may go by the old VLAN; what comes after this doesn't.
        rig.settle();
        look(&rig);
        rig.sent(MOVING);
        pump(&rig, &mut dice);
        rig.settle();
        look(&rig);
        let strays = rig.sent(MOVING).iter().filter(|frame| u16::from(frame[59]) != vlan).count();
        assert_eq!(strays, 0, "frames of the VLAN that port {MOVING} has left, in round {rounds}");
    }
    rig.tunnel(50).path = Path::NoRoute;
    rig.publish_unseen();
    rig.datapath.sync().unwrap();
    rig.datapath.stop();
    threads.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    rig.sent_all();
}
