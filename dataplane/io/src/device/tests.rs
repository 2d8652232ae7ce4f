//! Devices, drivers and offloads, in namespaces.

use super::*;
use crate::netlink::lab::Lab;

fn device(lab: &Lab, name: &str) -> Device {
    Device::open(&lab.netns(), name).unwrap()
}

/// Whether some part of the offload is on.
fn is_on(device: &Device, offload: DeviceOffload) -> bool {
    let features = device.features().unwrap();
    features.iter().any(|feature| feature.active && offload.features().contains(&feature.name.as_str()))
}

#[test]
fn drivers_are_told_apart() {
    let Some(lab) = Lab::new("drivers_are_told_apart") else { return };
    lab.ip("link add nlbr0 type bridge");
    lab.ip("tuntap add nltap0 mode tap");
    lab.ip("link add nlvx0 type vxlan id 7 dstport 4789 local 10.77.0.1");
    for (name, driver) in [("nla0", "veth"), ("nlbr0", "bridge"), ("nltap0", "tun"), ("nlvx0", "vxlan")] {
        assert_eq!(device(&lab, name).driver().unwrap(), driver);
    }
    lab.ip("link set nlbr0 name sixteen-octets-");
    for name in ["nl-none", "a/b", "", "nla0\0", "sixteen-octets-x"] {
        let none = Device::open(&lab.netns(), name).unwrap_err().to_string();
        assert_eq!(none, format!("{name}: no such device in network namespace '{}'", lab.left));
    }
}

#[test]
fn offloads_are_switched_and_given_back_as_they_were() {
    let Some(lab) = Lab::new("offloads_are_switched_and_given_back_as_they_were") else { return };
    // Not the default, so that a restoration to defaults would show.
    lab.exec("ethtool -K nla0 tx-udp-segmentation off gro on");
    let listed = || lab.exec("ethtool -k nla0");
    let before = listed();
    let device = device(&lab, "nla0");
    let groups = [
        DeviceOffload::TxChecksum,
        DeviceOffload::Tso,
        DeviceOffload::OtherSegmentation,
        DeviceOffload::Gro,
        DeviceOffload::RxVlan,
        DeviceOffload::TxVlan,
    ];
    for group in groups {
        assert!(is_on(&device, group), "{group:?}");
    }
    let previous = device.switch_offloads(&groups.map(|group| (group, false))).unwrap();
    for group in groups {
        assert!(!is_on(&device, group), "{group:?}");
    }
    let off = listed();
    for name in ["tx-checksumming", "tcp-segmentation-offload", "rx-vlan-offload", "tx-vlan-offload"] {
        assert!(off.contains(&format!("{name}: off")), "{name} in {off}");
    }
    device.restore_offloads(&previous).unwrap();
    assert_eq!(listed(), before);
}

#[test]
fn one_offload_alone_is_switched_and_the_rest_stays() {
    let Some(lab) = Lab::new("one_offload_alone_is_switched_and_the_rest_stays") else { return };
    let device = device(&lab, "nla0");
    let before = device.features().unwrap();
    device.switch_offloads(&[(DeviceOffload::RxVlan, false), (DeviceOffload::Gro, true)]).unwrap();
    let after = device.features().unwrap();
    let differing: Vec<_> = before.iter().zip(&after).filter(|(old, new)| old.active != new.active).collect();
    let names: Vec<_> = differing.iter().map(|(_, new)| (new.name.as_str(), new.active)).collect();
    assert!(names.contains(&("rx-vlan-hw-parse", false)) && names.contains(&("rx-gro", true)), "{names:?}");
    assert!(names.iter().all(|(name, _)| name.starts_with("rx-")), "{names:?}");
}

#[test]
fn a_feature_that_stays_on_is_an_error_and_nothing_is_changed() {
    let Some(lab) = Lab::new("a_feature_that_stays_on_is_an_error_and_nothing_is_changed") else { return };
    let device = device(&lab, "lo");
    let before = device.features().unwrap();
    let refused = device
        .switch_offloads(&[(DeviceOffload::TxChecksum, false), (DeviceOffload::Tso, false)])
        .unwrap_err();
    assert!(matches!(refused, DeviceError::StaysOn { .. }), "{refused}");
    assert_eq!(device.features().unwrap(), before);
}
