//! A VM behind a switch that translates its addresses, a router, and a server beyond that; in both families.
//!
//! ```text
//!  inside                weft (br0)                         router             far
//!  10.0.0.1, fd00:a::1 - as 192.0.2.100, 2001:db8:1::100 - .1, ::1 - 198.51.100.2, 2001:db8:2::2
//! ```
//!
//! The bridge's rules route between the two networks; it is 10.0.0.254 and fd00:a::fe to `inside`, by fixed neighbours. Whatever
//! `inside` begins is tracked in zone 1, with helpers for FTP and TFTP, and comes from the public addresses. What is sent to
//! 192.0.2.80 and 2001:db8:1::80 from outside goes to `inside`. TTLs stay: the router is the first hop.

use crate::cmd::{Error, Result, SHORT};
use crate::lab::{Lab, Need};
use crate::netns::{Host, Netns, veth};
use crate::node::{NEEDS, Node};

/// The addresses of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// `-4` or `-6`, as most programs have it.
    pub flag: &'static str,
    /// The VM's own.
    pub inside: &'static str,
    /// What the VM's is translated to.
    pub public: &'static str,
    /// What stands for the VM as a server.
    pub service: &'static str,
    /// The router's, towards weft.
    pub router: &'static str,
    /// The server's.
    pub far: &'static str,
}

/// IPv4.
pub const V4: Family = Family {
    flag: "-4",
    inside: "10.0.0.1",
    public: "192.0.2.100",
    service: "192.0.2.80",
    router: "192.0.2.1",
    far: "198.51.100.2",
};

/// IPv6.
pub const V6: Family = Family {
    flag: "-6",
    inside: "fd00:a::1",
    public: "2001:db8:1::100",
    service: "2001:db8:1::80",
    router: "2001:db8:1::1",
    far: "2001:db8:2::2",
};

/// Both.
pub const FAMILIES: [Family; 2] = [V4, V6];

impl Family {
    /// An address as URLs have it.
    pub fn url(&self, address: &str) -> String {
        if self.flag == "-6" { format!("[{address}]") } else { address.to_owned() }
    }
}

/// The VM's MAC, the router's, and the one that weft's rules answer to.
pub const MACS: [&str; 3] = ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:fe"];

/// What a scenario with these programs needs.
pub fn needs(tools: &[&'static str]) -> Vec<Need> {
    NEEDS.into_iter().chain(tools.iter().copied().map(Need::Tool)).collect()
}

/// All of it.
pub struct Edge {
    /// The switch.
    pub node: Node,
    /// The VM.
    pub inside: Host,
    /// The router's port in weft.
    pub router: Host,
    /// The server.
    pub far: Netns,
}

impl Edge {
    /// Makes it, with its rules.
    pub fn new(lab: &Lab, workers: u32) -> Result<Self> {
        let node = Node::alone(lab, "node", workers)?;
        let inside = node.vm(lab, "inside", "", ("10.0.0.1/24", MACS[0]))?;
        let router = node.vm(lab, "router", "", ("192.0.2.1/24", MACS[1]))?;
        let far = Netns::new(lab, "far")?;
        veth((router.ns(), "far0"), (&far, "eth0"))?;
        router.ns().configure("far0", "198.51.100.1/24", 0)?;
        far.configure("eth0", "198.51.100.2/24", 0)?;
        for ns in [inside.ns(), router.ns(), &far] {
            dual_stack(ns)?;
        }
        let edge = Edge { node, inside, router, far };
        edge.addresses()?;
        let rules = lab.path("edge.flows");
        std::fs::write(&rules, edge_rules())?;
        edge.node.weft.sh(&format!("flow replace br0 {}", rules.display()))?;
        Ok(edge)
    }

    fn addresses(&self) -> Result {
        let (inside, router, far) = (self.inside.ns(), self.router.ns(), &self.far);
        let weft = MACS[2];
        inside.ip("addr add fd00:a::1/64 dev inside nodad")?;
        router.ip("addr add 2001:db8:1::1/64 dev router nodad")?;
        router.ip("addr add 2001:db8:2::1/64 dev far0 nodad")?;
        far.ip("addr add 2001:db8:2::2/64 dev eth0 nodad")?;
        inside.ip(&format!("neigh add 10.0.0.254 lladdr {weft} dev inside nud permanent"))?;
        inside.ip(&format!("neigh add fd00:a::fe lladdr {weft} dev inside nud permanent"))?;
        inside.ip("route add default via 10.0.0.254")?;
        inside.ip("route add default via fd00:a::fe")?;
        for family in FAMILIES {
            for address in [family.public, family.service] {
                router.ip(&format!("neigh add {address} lladdr {weft} dev router nud permanent"))?;
            }
        }
        far.ip("route add default via 198.51.100.1")?;
        far.ip("route add default via 2001:db8:2::1")?;
        router.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        // Errors of traceroute and path MTU discovery come whenever they are due.
        for ns in [router, far] {
            ns.sh("sysctl -qw net.ipv4.icmp_ratelimit=0 net.ipv6.icmp.ratelimit=0")?;
        }
        Ok(())
    }

    /// `weftctl conntrack list` of the translating zone, with further filters.
    pub fn connections(&self, filter: &str) -> Result<Vec<String>> {
        let listed = self.node.weft.sh(&format!("conntrack list zone=1 {filter}"))?;
        Ok(listed.lines().map(str::to_owned).collect())
    }
}

/// Gives a namespace IPv6, on the devices that it has; their addresses count at once.
pub fn dual_stack(ns: &Netns) -> Result {
    let all = "cd /proc/sys/net/ipv6/conf; for key in accept_dad disable_ipv6; do for device in *; do \
               echo 0 >$device/$key; done; done";
    let set = ns.run(&["sh", "-c", all], SHORT)?;
    if set.success() { Ok(()) } else { Err(Error::new(format!("no IPv6: {}", set.stderr))) }
}

/// Table 0 asks for the connection and translates what is known, 1 says what may begin, and what becomes of it, 2 routes. A second
/// packet to the service, before the first was answered, is new still, but has its new destination already.
fn edge_rules() -> String {
    let mut rules = String::from(
        "table=0,priority=20,icmp6,icmp_type=133 actions=drop\n\
         table=0,priority=20,icmp6,icmp_type=135 actions=drop\n\
         table=0,priority=20,icmp6,icmp_type=143 actions=drop\n\
         table=0,priority=10,ip actions=ct(zone=1,nat,table=1)\n\
         table=0,priority=10,ipv6 actions=ct(zone=1,nat,table=1)\n\
         table=1,priority=30,ct_state=+inv+trk actions=drop\n\
         table=1,priority=20,ct_state=+est+trk actions=goto_table:2\n\
         table=1,priority=20,ct_state=+dnat+trk actions=goto_table:2\n\
         table=1,priority=20,ct_state=-new+rel+trk actions=goto_table:2\n\
         table=1,priority=20,ct_state=+new+rel+trk,ip actions=ct(commit,zone=1,nat,table=2)\n\
         table=1,priority=20,ct_state=+new+rel+trk,ipv6 actions=ct(commit,zone=1,nat,table=2)\n",
    );
    for (family, suffix, to) in [(V4, "", "nw_dst"), (V6, "6", "ipv6_dst")] {
        let Family { inside, public, service, .. } = family;
        let ip = if suffix.is_empty() { "ip" } else { "ipv6" };
        for (priority, what, helper) in [
            (15, format!("tcp{suffix},tp_dst=21"), "alg=ftp,"),
            (15, format!("udp{suffix},tp_dst=69"), "alg=tftp,"),
            (10, ip.to_owned(), ""),
        ] {
            let begins = format!("table=1,priority={priority},ct_state=+new-rel+trk,{what}");
            rules += &format!(
                "{begins},in_port=inside actions=ct(commit,zone=1,{helper}nat(src={public}),table=2)\n"
            );
            rules += &format!(
                "{begins},in_port=router,{to}={service} actions=ct(commit,zone=1,{helper}nat(dst={inside}),table=2)\n"
            );
        }
        let [vm, router, weft] = MACS;
        rules += &format!(
            "table=2,priority=10,{ip},{to}={inside} actions=mod_dl_src:{weft},mod_dl_dst:{vm},output:inside\n\
             table=2,priority=5,{ip},in_port=inside actions=mod_dl_src:{weft},mod_dl_dst:{router},output:router\n"
        );
    }
    rules
}
