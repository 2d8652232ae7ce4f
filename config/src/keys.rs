//! The keys of each table with what they take: one list for the command line's help and for the texts of differences.
//!
//! What a key takes is decided by its type; a test holds this list to the types.

/// A key of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub legal: &'static str,
    /// What holds when it is absent; empty when it has to be there.
    pub default: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn key(name: &'static str, legal: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { name, legal, default, help }
}

/// Keys of `[switch]`.
pub const SWITCH: &[Key] = &[
    key("workers", "1 to 64, or [CPU,CPU,...]", "1", "how many workers, or the CPU of each"),
    key("frames", "1024 to 4194304", "65536", "frames of the pool, 4 KiB each"),
    key("idle", "auto|spin", "auto", "what a worker without packets does"),
    key("socket_group", "GROUP", "none", "the group that may use the control socket"),
    key("slow_path_share", "1 to 100", "3", "percent of a busy worker's time for a port's new flows"),
    key("port_flows", "1024 to 262144", "262144", "flows of a port that a worker caches"),
];

/// Keys of `[[bridge]]` that can be set, and its name.
pub const BRIDGE: &[Key] = &[
    key("name", "NAME", "", "name of the bridge and of its internal port's device"),
    key("mac", "MAC", "none", "Ethernet address of the internal port"),
    key("fdb_size", "1 to 1000000", "8192", "entries of the FDB"),
    key("fdb_ageing", "0 to 86400", "300", "seconds until a silent FDB entry goes; 0 is never"),
    key("forward_reserved", "true|false", "false", "forward 01:80:c2:00:00:00 to 0f as well"),
    key("internal", "true|false", "true", "the bridge has an internal port"),
];

/// Keys of `[[bridge.port]]`.
pub const PORT: &[Key] = &[
    key("name", "NAME", "", "name of the port and of its device"),
    key(
        "type",
        "auto|tap|netdev|internal|replay|capture|null|memory|patch",
        "auto",
        "what stands behind the port",
    ),
    key("backend", "auto|af_packet|af_xdp", "auto", "how to reach an existing netdev"),
    key("netns", "NAME", "none", "network namespace of the device"),
    key("mtu", "68 to 9600", "none", "MTU to set on the device"),
    key("persistent", "true|false", "false", "the tap stays when the switch ends"),
    key("mac", "MAC", "none", "Ethernet address to give to the device"),
    key("ofport", "1 to 65279", "none", "OpenFlow number; the switch chooses one and keeps it"),
    key(
        "mode",
        "access|trunk|native-tagged|native-untagged",
        "none",
        "VLAN mode; access with vlan, else trunk",
    ),
    key("vlan", "0 to 4095", "none", "VLAN of an access port, or native VLAN"),
    key("trunks", "all, or as in 10,20-29", "all", "VLANs of a trunk"),
    key("priority_tags", "no|always|if-nonzero", "no", "send priority tags with packets of no VLAN"),
    key("protected", "true|false", "false", "exchange no packets with other protected ports"),
    key("file", "PATH", "none", "pcap file of a replay or capture port"),
    key("loop", "true|false", "false", "a replay port starts again at its file's end"),
    key("peer", "NAME", "none", "patch port at the other end, which names this one"),
    key("acl", "GROUP,GROUP,...", "none", "security groups: only what they permit passes"),
    key("acl_egress", "deny|open", "deny", "what it may send when no rule of its groups is about it"),
    key("acl_multicast", "true|false", "false", "let IGMP and MLD pass a port of groups"),
    key("fdb_limit", "1 to 1000000", "none", "addresses that are learned behind it"),
    key("port_security", "MAC IP,MAC IP/LENGTH,MAC,...", "none", "addresses that it may send from"),
];

/// Keys of `[[acl.group]]` that are no lists.
pub const ACL_GROUP: &[Key] = &[
    key("name", "NAME", "", "name of the group"),
    key("id", "1 to 65535", "none", "number in cookies; the switch chooses one and keeps it"),
];

/// Keys of `[[acl.group.rule]]`.
pub const ACL_RULE: &[Key] = &[
    key("id", "1 to 65535", "none", "number in cookies; the switch chooses one and keeps it"),
    key("direction", "ingress|egress", "", "who starts it: others, or the group's ports"),
    key("ethertype", "ipv4|ipv6", "ipv4", "the family"),
    key("protocol", "any, tcp, udp, icmp, icmpv6, sctp, or 0 to 255", "any", "the protocol"),
    key("ports", "PORT, or FIRST-LAST, 0 to 65535", "none", "destination ports (tcp, udp, sctp)"),
    key("icmp", "TYPE, or TYPE/CODE, 0 to 255", "none", "ICMP type and code (icmp, icmpv6)"),
    key("remote", "any, ADDRESS, NETWORK/LENGTH, or GROUP", "any", "the other side"),
    key("stateless", "true|false", "false", "packet by packet: answers need a rule of their own"),
];

/// Keys of `[[bridge.tunnel]]`.
pub const TUNNEL: &[Key] = &[
    key("name", "NAME", "", "name of the tunnel"),
    key("type", "vxlan|gre", "", "encapsulation"),
    key("local", "IPV4", "", "outer source address, one of this host's"),
    key("remote", "IPV4|flow", "", "outer destination address, or from the rules (tun_dst)"),
    key(
        "key",
        "map, flow, or 0 to 16777215 (vxlan) or 4294967295 (gre)",
        "map",
        "from the VLAN-to-VNI map, from the rules (set_tunnel), or fixed",
    ),
    key("vnis", "all, or as in 5010,5020-5029", "all", "which mapped VNIs it carries"),
    key("ttl", "1 to 255", "64", "outer time to live"),
    key("tos", "inherit, or 0 to 255", "0", "outer type of service"),
    key("df", "true|false", "true", "set the outer don't-fragment bit"),
    key("dst_port", "1 to 65535", "4789", "outer UDP destination port (vxlan)"),
    key("csum", "true|false", "false", "fill in the outer UDP checksum, or GRE's"),
    key("ofport", "1 to 65279", "none", "OpenFlow number; the switch chooses one and keeps it"),
    key("mode", "access|trunk|native-tagged|native-untagged", "none", "VLAN mode, not with key=map"),
    key("vlan", "0 to 4095", "none", "VLAN of an access port, or native VLAN, not with key=map"),
    key("trunks", "all, or as in 10,20-29", "all", "VLANs of a trunk, not with key=map"),
    key("priority_tags", "no|always|if-nonzero", "no", "send priority tags, not with key=map"),
    key("fdb_limit", "1 to 1000000", "none", "addresses that are learned behind it"),
];

/// Keys of `[conntrack]`; timeouts are seconds without a packet.
pub const CONNTRACK: &[Key] = &[
    key("max", "1 to 67108864", "4000000", "connections of the whole switch"),
    key("limit", "unlimited, or 1 to 67108864", "none", "connections of each zone"),
    key("tcp_be_liberal", "true|false", "false", "TCP: segments outside of their windows are valid, too"),
    key(
        "tcp_syn_sent",
        "1 to 31536000",
        "none",
        "TCP: a SYN without an answer, or picked up in midstream (30)",
    ),
    key("tcp_syn_recv", "1 to 31536000", "none", "TCP: opening (30)"),
    key("tcp_established", "1 to 31536000", "none", "TCP: established (86400)"),
    key("tcp_fin_wait", "1 to 31536000", "none", "TCP: one end has sent a FIN (900)"),
    key("tcp_time_wait", "1 to 31536000", "none", "TCP: both have (45)"),
    key("tcp_close", "1 to 31536000", "none", "TCP: both FINs acknowledged, or reset (30)"),
    key("udp_first", "1 to 31536000", "none", "UDP and others: one packet (60)"),
    key("udp_single", "1 to 31536000", "none", "UDP and others: several packets in one direction (60)"),
    key("udp_multiple", "1 to 31536000", "none", "UDP and others: packets in both directions (30)"),
    key("icmp_first", "1 to 31536000", "none", "ICMP: a query without an answer (60)"),
    key("icmp_reply", "1 to 31536000", "none", "ICMP: a query with one (30)"),
];

/// Keys of `[[conntrack.zone]]`.
pub const CONNTRACK_ZONE: &[Key] = &[
    key("id", "0 to 65535", "", "number of the zone"),
    key("limit", "unlimited, or 1 to 67108864", "none", "connections of the zone"),
    key("tcp_syn_sent", "1 to 31536000", "none", "TCP: a SYN without an answer, or picked up in midstream"),
    key("tcp_syn_recv", "1 to 31536000", "none", "TCP: opening"),
    key("tcp_established", "1 to 31536000", "none", "TCP: established"),
    key("tcp_fin_wait", "1 to 31536000", "none", "TCP: one end has sent a FIN"),
    key("tcp_time_wait", "1 to 31536000", "none", "TCP: both have"),
    key("tcp_close", "1 to 31536000", "none", "TCP: both FINs acknowledged, or reset"),
    key("udp_first", "1 to 31536000", "none", "UDP and others: one packet"),
    key("udp_single", "1 to 31536000", "none", "UDP and others: several packets in one direction"),
    key("udp_multiple", "1 to 31536000", "none", "UDP and others: packets in both directions"),
    key("icmp_first", "1 to 31536000", "none", "ICMP: a query without an answer"),
    key("icmp_reply", "1 to 31536000", "none", "ICMP: a query with one"),
];

#[cfg(test)]
mod tests {
    use serde::Serialize;
    use serde::de::DeserializeOwned;
    use serde_json::json;

    use super::*;
    use crate::acl::{Group, Rule};
    use crate::conntrack::{Conntrack, Zone};
    use crate::{Bridge, Port, Switch, Tunnel};

    /// The names that serde lists when it meets an unknown one.
    fn fields<T: DeserializeOwned>() -> Vec<String> {
        let message = match serde_json::from_value::<T>(json!({ "?": 1 })) {
            Err(error) => error.to_string(),
            Ok(_) => String::new(),
        };
        message.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    /// A key at its default must not change the object: it is not even written.
    fn defaults_hold<T: Serialize + DeserializeOwned>(keys: &[Key], object: serde_json::Value) {
        for key in keys.iter().filter(|key| !key.default.is_empty() && key.name != "dst_port") {
            let mut with = object.clone();
            with[key.name] = if key.default == "none" { json!(null) } else { json!(key.default) };
            let read: T = serde_json::from_value(with).unwrap();
            assert_eq!(serde_json::to_value(read).unwrap(), object, "{}", key.name);
        }
    }

    #[test]
    fn the_lists_name_what_the_types_take() {
        let names = |keys: &[Key]| keys.iter().map(|key| key.name.to_owned()).collect::<Vec<_>>();
        assert_eq!(fields::<Switch>(), names(SWITCH));
        assert_eq!(fields::<Zone>(), names(CONNTRACK_ZONE));
        assert_eq!(fields::<Conntrack>(), [names(CONNTRACK), vec!["zone".to_owned()]].concat());
        assert_eq!(fields::<Port>(), names(PORT));
        assert_eq!(fields::<Tunnel>(), names(TUNNEL));
        let lists = ["vnis", "fdb", "port", "tunnel"].map(str::to_owned);
        assert_eq!(fields::<Bridge>(), [names(BRIDGE), lists.to_vec()].concat());
        let lists = ["members", "rule"].map(str::to_owned);
        assert_eq!(fields::<Group>(), [names(ACL_GROUP), lists.to_vec()].concat());
        assert_eq!(fields::<Rule>(), names(ACL_RULE));
    }

    #[test]
    fn the_lists_name_the_defaults_of_the_types() {
        defaults_hold::<Switch>(SWITCH, json!({}));
        defaults_hold::<Conntrack>(CONNTRACK, json!({}));
        defaults_hold::<Zone>(CONNTRACK_ZONE, json!({"id": 5}));
        defaults_hold::<Bridge>(BRIDGE, json!({"name": "br0"}));
        defaults_hold::<Port>(PORT, json!({"name": "p"}));
        defaults_hold::<Group>(ACL_GROUP, json!({"name": "g"}));
        defaults_hold::<Rule>(ACL_RULE, json!({"direction": "egress"}));
        let tunnel = json!({"name": "t", "type": "gre", "local": "10.0.0.1", "remote": "10.0.0.2"});
        defaults_hold::<Tunnel>(TUNNEL, tunnel);
    }
}
