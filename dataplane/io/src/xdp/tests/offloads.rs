//! What a port switches off, and puts back.

use super::lab::{Lab, eventually, privileged};
use super::{all_home, system};
use crate::queue::Burst;
use crate::xdp::WantedMode;
use crate::xdp::bpf::Program;
use crate::xdp::program::push_tag;
use weft_wire::DropCounts;

fn offloads_are_off_and_come_back(mode: WantedMode, expected: &str) {
    let lab = Lab::new("a");
    let (pool, system) = system();
    let state = || lab.exec('a', "ethtool -k eth0") + &lab.at_switch("ethtool -k pa");
    let before = state();
    assert!(before.contains("tx-vlan-offload: on"));
    let (mut queue, port) = lab.open_one(&system, 'a', mode);
    let during = state();
    for off in ["tx-vlan-offload: off", "tx-checksum-ip-generic: off", "rx-vlan-offload: off", expected] {
        assert!(during.contains(off), "{off}: {during}");
    }
    assert_eq!(port.notes().len(), 2, "{:?}", port.notes());
    assert!(port.notes()[1].starts_with(&format!("eth0 in network namespace '{}'", lab.host('a'))));

    // What the host's VLAN device does: it leaves the tag to the veth.
    let host = crate::netns::Netns::open(&lab.host('a')).unwrap();
    let index = crate::device::Device::open(&host, "eth0").unwrap().index().unsigned_abs();
    let tagger = Program::load_egress(&push_tag(10)).unwrap();
    let link = host.run(|| tagger.attach(index, 0).unwrap()).unwrap();
    lab.exec('a', "ip neighbour add 10.0.0.2 lladdr 02:00:00:00:00:99 dev eth0");
    let mut frames = pool.cache();
    let mut tag_arrives = || {
        lab.exec('a', "ping -c 1 -W 0.01 10.0.0.2 || true");
        let (mut burst, mut drops) = (Burst::new(), DropCounts::default());
        eventually("a frame", || {
            queue.rx_burst(&mut frames, &mut burst, &mut drops);
            !burst.is_empty()
        });
        let tagged = burst.iter().all(|packet| packet.data()[12..16] == [0x81, 0, 0, 10]);
        burst.drain(..).for_each(|packet| frames.free(packet));
        tagged
    };
    assert!(tag_arrives());
    lab.exec('a', "ethtool -K eth0 txvlan on");
    assert!(!tag_arrives(), "the trap that this is about");
    drop(link);
    drop((queue, port, frames));
    all_home(&pool);
    assert_eq!(state(), before);
}

#[test]
fn offloads_are_off_in_native_mode_and_come_back() {
    if privileged("offloads_are_off_in_native_mode_and_come_back") {
        offloads_are_off_and_come_back(WantedMode::Native, "tcp-segmentation-offload: off");
    }
}

#[test]
fn offloads_are_off_in_generic_mode_and_come_back() {
    if privileged("offloads_are_off_in_generic_mode_and_come_back") {
        offloads_are_off_and_come_back(WantedMode::Generic, "generic-receive-offload: off");
    }
}
