//! The harness: network namespaces, VM stand-ins and real peers (the kernel's vxlan, stock Open vSwitch, QEMU, tshark).
//!
//! A test opens a [`Lab`], says what it needs, and builds its little world from the other types. Every object ends its
//! processes and removes its namespaces and files when it is dropped, also when the test fails; what a killed test run
//! left behind is removed by the next lab.
//!
//! * [`lab`]: needs, loud skips, names, the scratch folder.
//! * [`cmd`], [`process`]: commands with a time limit, and daemons that end with the test.
//! * [`netns`], [`traffic`], [`capture`]: namespaces, veth pairs and hosts; ping, arping, iperf3; tcpdump and tshark.
//! * [`recorder`]: every frame that a device receives, with its tags.
//! * [`pcap`]: capture files.
//! * [`servers`]: servers for real clients.
//! * [`vxlan`], [`ovs`], [`qemu`]: the kernel's vxlan device, stock Open vSwitch, a QEMU guest.
//! * [`weftd`], [`accounts`]: the switch under test, and whether its counters account for every packet.
//! * [`probe`]: streams that count every packet, and what the kernel knows of a process.
//! * [`node`]: compute nodes under weft on one underlay, with their VMs; scenarios with one and with two workers.
//! * [`edge`]: a VM behind a switch that translates, a router, a server beyond; both families.
//! * [`neutron`]: two nodes as Neutron wires them, under its recorded rules.
//! * [`vlan`]: the VLAN truth table.

pub mod accounts;
pub mod capture;
pub mod cmd;
pub mod edge;
pub mod lab;
pub mod netns;
pub mod neutron;
pub mod node;
pub mod ovs;
pub mod pcap;
pub mod probe;
pub mod process;
pub mod qemu;
pub mod recorder;
pub mod servers;
pub mod traffic;
pub mod unixctl;
pub mod vlan;
pub mod vxlan;
pub mod weftd;

pub use capture::{Capture, Captured};
pub use cmd::{Error, Result};
pub use lab::{Lab, Need};
pub use netns::{Host, Netns, veth};
pub use node::{Node, Wire};
pub use ovs::StockOvs;
pub use process::Process;
pub use qemu::{Guest, QemuGuest};
pub use recorder::{Received, Recorder};
pub use traffic::{
    Iperf, Ping, arping, clean_ping, iperf3, ping, send_bytes, wait_for_listener, wait_reachable,
};
pub use vxlan::KernelVxlan;
pub use weftd::Weftd;

/// Waits until `done` answers true, asking every 20 ms, and says what was awaited when `limit` has passed.
pub fn wait_for(
    what: &str,
    limit: std::time::Duration,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let end = std::time::Instant::now() + limit;
    while !done()? {
        if std::time::Instant::now() >= end {
            return Err(Error::new(format!("waited {limit:?} in vain for {what}")));
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(())
}
