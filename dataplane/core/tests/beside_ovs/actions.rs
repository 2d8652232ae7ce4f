//! Random actions, as text.

use crate::rig::dice::Dice;
use crate::rules::{Kind, LEARNED, TABLES};

/// A group: what hashes choose has one live bucket.
pub fn group(dice: &mut Dice, id: usize) -> String {
    let bucket = |dice: &mut Dice| bucket(dice, id);
    let body = match dice.below(5) {
        0 => format!("all,bucket={},bucket={}", bucket(dice), bucket(dice)),
        1 => format!("indirect,bucket={}", bucket(dice)),
        2 if dice.percent(30) => format!("select,bucket=weight:0,output:1,bucket=weight:5,{}", bucket(dice)),
        2 | 3 => {
            format!("select,selection_method=hash,bucket=weight:0,output:1,bucket=weight:5,{}", bucket(dice))
        }
        _ => {
            let watched = dice.pick(&[("98", 1), ("1", 2), ("99", 1)]);
            let (first, second) = (bucket(dice), bucket(dice));
            format!("ff,bucket=watch_port:{},{first},bucket=watch_port:{},{second}", watched.0, watched.1)
        }
    };
    format!("group_id={id},type={body}")
}

fn bucket(dice: &mut Dice, id: usize) -> String {
    let mut actions = vec![];
    for _ in 0..1 + dice.below(2) {
        actions.push(match dice.below(9) {
            0 => "set_field:02:00:00:00:00:09->eth_src".to_owned(),
            1 => "push_vlan:0x8100,set_field:4126->vlan_vid".to_owned(),
            2 => format!("set_field:{}->reg1", dice.below(4)),
            3 => format!("resubmit(,{})", 3 + dice.below(TABLES - 3)),
            4 if id > 1 => format!("group:{}", id - 1),
            5 => "dec_ttl".to_owned(),
            6 => "pop_vlan".to_owned(),
            _ => port(dice),
        });
    }
    actions.push(port(dice));
    actions.dedup();
    actions.join(",")
}

fn port(dice: &mut Dice) -> String {
    dice.pick(&[
        "output:1",
        "output:2",
        "output:3",
        "output:4",
        "output:11",
        "output:12",
        "output:5",
        "output:6",
        "in_port",
    ])
    .to_owned()
}

/// What a rule of `table` does.
pub fn list(dice: &mut Dice, kind: Kind, table: usize) -> String {
    if dice.percent(4) {
        return "drop".to_owned();
    }
    let mut actions = vec![];
    for _ in 0..1 + dice.below(4) {
        actions.push(action(dice, kind, table));
        if dice.percent(30) {
            actions.push(port(dice));
        }
    }
    if dice.percent(50) {
        actions.push(port(dice));
    } else if dice.percent(50) {
        actions.push(resubmit(dice, table));
    }
    actions.extend(instructions(dice, kind, table));
    actions.join(",")
}

/// What OpenFlow's instructions do besides, in their order.
fn instructions(dice: &mut Dice, kind: Kind, table: usize) -> Vec<String> {
    let mut found = vec![];
    if dice.percent(5) {
        found.push("clear_actions".to_owned());
    }
    if dice.percent(15) {
        let change = written(dice, kind);
        let end = dice.pick(&[
            "output:1",
            "output:2",
            "output:11",
            "group:1",
            "group:2",
            "resubmit(,5)",
            "in_port",
        ]);
        found.push(match dice.below(3) {
            0 => format!("write_actions({end})"),
            1 => format!("write_actions({change},{end})"),
            _ => format!("write_actions({change})"),
        });
    }
    if dice.percent(10) {
        found.push(format!("write_metadata:{}", dice.pick(&["1", "2/0x3", "0x300000001/0xf00000001"])));
    }
    if dice.percent(20) && table + 1 < TABLES {
        found.push(format!("goto_table:{}", table + 1 + dice.below(TABLES - table - 1)));
    }
    found
}

/// What an action set can have.
fn written(dice: &mut Dice, kind: Kind) -> String {
    match dice.below(9) {
        0 => "pop_vlan".to_owned(),
        1 => "push_vlan:0x8100".to_owned(),
        2 => "push_mpls:0x8847".to_owned(),
        3 => "set_field:02:00:00:00:00:08->eth_dst,set_field:02:00:00:00:00:07->eth_src".to_owned(),
        4 => "set_field:2->reg0".to_owned(),
        5 | 6 => headers(dice, kind),
        7 => "dec_ttl".to_owned(),
        _ => "pop_mpls:0x0800".to_owned(),
    }
}

fn resubmit(dice: &mut Dice, table: usize) -> String {
    let later = if table + 1 < TABLES { table + 1 + dice.below(TABLES - table - 1) } else { LEARNED };
    match dice.below(12) {
        0 => format!("resubmit({},{later})", 1 + dice.below(4)),
        1 => format!("resubmit(,{LEARNED})"),
        2 if dice.percent(10) => format!("resubmit(,{})", dice.below(table + 1)),
        _ => format!("resubmit(,{later})"),
    }
}

fn action(dice: &mut Dice, kind: Kind, table: usize) -> String {
    match dice.below(100) {
        0..22 => headers(dice, kind),
        22..40 => tags(dice),
        40..52 => registers(dice),
        52..62 => resubmit(dice, table),
        62..74 => outputs(dice),
        74..79 => format!("group:{}", 1 + dice.below(4)),
        79..85 => learn(dice),
        85..91 => {
            let inner = action(dice, kind, table);
            format!("clone({inner},{})", port(dice))
        }
        _ => choices(dice),
    }
}

fn outputs(dice: &mut Dice) -> String {
    let number = 1 + dice.below(4);
    match dice.below(9) {
        0 | 1 => "NORMAL".to_owned(),
        2 => "FLOOD".to_owned(),
        3 => "ALL".to_owned(),
        4 => "in_port".to_owned(),
        5 => format!("output(port={number},max_len={})", dice.pick(&[14, 20, 60, 64, 1000])),
        6 => "output:NXM_NX_REG0[0..15]".to_owned(),
        7 => "controller".to_owned(),
        _ => "output:99".to_owned(),
    }
}

fn tags(dice: &mut Dice) -> String {
    match dice.below(14) {
        0 => "push_vlan:0x8100".to_owned(),
        1 => "push_vlan:0x88a8,set_field:4196->vlan_vid".to_owned(),
        2 => "push_vlan:0x8100,set_field:4106->vlan_vid,set_field:3->vlan_pcp".to_owned(),
        3 | 4 => "pop_vlan".to_owned(),
        5 => "strip_vlan".to_owned(),
        6 => format!("mod_vlan_vid:{}", dice.pick(&[10, 20, 30])),
        7 => "mod_vlan_pcp:3".to_owned(),
        8 => "load:0x1014->NXM_OF_VLAN_TCI[]".to_owned(),
        9 => dice.pick(&["push_mpls:0x8847", "push_mpls:0x8848"]).to_owned(),
        10 => "push_mpls:0x8847,set_field:200->mpls_label,set_field:2->mpls_tc,set_mpls_ttl(9)".to_owned(),
        11 => dice.pick(&["pop_mpls:0x0800", "pop_mpls:0x8847", "pop_mpls:0x86dd"]).to_owned(),
        12 => "load:20->OXM_OF_VLAN_VID[0..11]".to_owned(),
        _ => "set_field:4116->vlan_vid".to_owned(),
    }
}

fn registers(dice: &mut Dice) -> String {
    let value = dice.below(5);
    match dice.below(16) {
        0..3 => format!("load:{value}->NXM_NX_REG{}[]", dice.below(3)),
        3 => format!("set_field:{value}->reg1"),
        4 => "set_field:0x3/0x1->reg2".to_owned(),
        5 => "move:NXM_NX_REG0[]->NXM_NX_REG1[]".to_owned(),
        6 => "move:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15]".to_owned(),
        7 => "move:NXM_OF_ETH_SRC[0..15]->NXM_NX_REG2[16..31]".to_owned(),
        8 => "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]".to_owned(),
        9 => format!("set_field:{value}->metadata"),
        10 => "set_field:7->tun_id".to_owned(),
        11 => "load:1->NXM_NX_PKT_MARK[]".to_owned(),
        12 => {
            "push:NXM_OF_ETH_SRC[],push:NXM_OF_ETH_DST[],pop:NXM_OF_ETH_SRC[],pop:NXM_OF_ETH_DST[]".to_owned()
        }
        13 => "push:NXM_NX_REG0[0..7],load:9->NXM_NX_REG0[],pop:NXM_NX_REG1[8..15]".to_owned(),
        14 => format!("load:{}->NXM_OF_IN_PORT[]", dice.below(5)),
        _ => "move:NXM_OF_VLAN_TCI[0..11]->NXM_NX_REG1[0..11]".to_owned(),
    }
}

/// Changes of headers that the match allows, or of Ethernet's.
fn headers(dice: &mut Dice, kind: Kind) -> String {
    let last = 1 + dice.below(9);
    let options: &[&str] = match kind {
        Kind::Arp => &[
            "set_field:2->arp_op",
            "set_field:10.0.0.9->arp_spa",
            "set_field:10.0.0.2->arp_tpa",
            "set_field:02:00:00:00:00:09->arp_sha",
            "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[],move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]",
            "move:NXM_OF_ARP_TPA[]->NXM_NX_REG0[]",
        ],
        Kind::Mpls => &[
            "set_field:101->mpls_label",
            "set_field:5->mpls_tc",
            "set_mpls_ttl(7)",
            "dec_mpls_ttl",
            "pop_mpls:0x8847",
            "pop_mpls:0x0800",
            "push_mpls:0x8847,set_field:300->mpls_label",
        ],
        Kind::Icmp => &["set_field:0->icmp_type", "set_field:3->icmp_type,set_field:1->icmp_code"],
        Kind::Icmp6 => &["set_field:129->icmpv6_type", "set_field:1->icmpv6_code"],
        Kind::Solicit => &["set_field:2001:db8::3->nd_target", "set_field:02:00:00:00:00:09->nd_sll"],
        Kind::Advert => &["set_field:2001:db8::3->nd_target", "set_field:02:00:00:00:00:09->nd_tll"],
        _ => &[],
    };
    if !options.is_empty() && dice.percent(60) {
        return dice.pick(options).to_owned();
    }
    match kind.ports() {
        Some(_) if dice.percent(15) => return dice.pick(&["mod_tp_src:2000", "mod_tp_dst:80"]).to_owned(),
        Some(name) if dice.percent(30) => {
            return match dice.below(3) {
                0 => format!("set_field:80->{name}_dst"),
                1 => format!("set_field:0x100/0xff00->{name}_src"),
                _ => format!("move:{0}_dst->{0}_src", name),
            };
        }
        Some("tcp") if dice.percent(10) => return "fin_timeout(idle_timeout=10)".to_owned(),
        _ => {}
    }
    if kind.is_ip() && dice.percent(80) {
        return network(dice, kind, last);
    }
    match dice.below(6) {
        0 => format!("set_field:02:00:00:00:00:0{last}->eth_src"),
        1 => format!("set_field:02:00:00:00:00:0{last}->eth_dst"),
        2 => "set_field:00:00:00:00:aa:00/00:00:00:00:ff:00->eth_src".to_owned(),
        3 => format!("mod_dl_dst:02:00:00:00:00:0{last}"),
        4 => format!("mod_dl_src:02:00:00:00:00:0{last}"),
        _ => "load:0x3->NXM_OF_ETH_DST[0..7]".to_owned(),
    }
}

fn network(dice: &mut Dice, kind: Kind, last: usize) -> String {
    let common = [
        "dec_ttl",
        "dec_ttl",
        "mod_nw_ttl:2",
        "mod_nw_tos:32",
        "mod_nw_ecn:2",
        "set_field:46->ip_dscp",
        "move:NXM_NX_IP_TTL[]->NXM_NX_REG0[0..7]",
        "dec_ttl(1,2)",
    ];
    match (dice.below(8), kind.is_ip4()) {
        (0, true) => format!("mod_nw_src:10.0.0.{last}"),
        (1, true) => format!("mod_nw_dst:10.0.1.{last}"),
        (2, true) => {
            dice.pick(&["set_field:0.0.7.0/0.0.255.0->ip_dst", "load:3->NXM_OF_IP_SRC[0..7]"]).to_owned()
        }
        (3, true) => "move:NXM_OF_IP_SRC[]->NXM_OF_IP_DST[]".to_owned(),
        (0, false) => format!("set_field:2001:db8::{last}->ipv6_src"),
        (1, false) => format!("set_field:2001:db8::{last}->ipv6_dst"),
        (2, false) => dice
            .pick(&["set_field:0x12345->ipv6_label", "set_field:::7:0:0:0/::ffff:0:0:0->ipv6_dst"])
            .to_owned(),
        (3, false) => "move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]".to_owned(),
        _ => dice.pick(&common).to_owned(),
    }
}

fn learn(dice: &mut Dice) -> String {
    let table = LEARNED;
    match dice.below(6) {
        0 => format!(
            "learn(table={table},priority=9,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])"
        ),
        1 => format!(
            "learn(table={table},priority=8,NXM_OF_VLAN_TCI[0..11],NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[],output:NXM_OF_IN_PORT[])"
        ),
        2 => format!(
            "learn(table={table},priority=7,reg1=3,load:NXM_OF_IN_PORT[]->NXM_NX_REG0[0..15],load:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],output:NXM_NX_REG0[])"
        ),
        3 => format!(
            "learn(table={table},priority=6,limit=2,result_dst=reg2[0],NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])"
        ),
        4 => format!(
            "learn(table={table},priority=5,eth_type=0x800,NXM_OF_IP_DST[]=NXM_OF_IP_SRC[],load:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],output:NXM_OF_IN_PORT[])"
        ),
        _ => format!(
            "learn(table={table},priority=4,idle_timeout=300,fin_idle_timeout=9,in_port=2,eth_type=0x800,nw_proto=6,load:1->NXM_NX_REG0[0..1],output:OXM_OF_IN_PORT[])"
        ),
    }
}

fn choices(dice: &mut Dice) -> String {
    match dice.below(9) {
        0 => "multipath(symmetric_l4,7,modulo_n,1,0,NXM_NX_REG0[])".to_owned(),
        1 => "bundle(eth_src,0,active_backup,ofport,members:2,3)".to_owned(),
        2 => "bundle_load(eth_src,0,active_backup,ofport,NXM_NX_REG0[0..15],members:99,3,4)".to_owned(),
        3 | 4 => format!("check_pkt_larger({})->NXM_NX_REG1[0]", dice.pick(&[59, 60, 64, 100])),
        5 => "note:00.11.22".to_owned(),
        6 => "exit".to_owned(),
        7 => "sample(probability=65535,collector_set_id=1)".to_owned(),
        _ => "set_queue:5,output:2,pop_queue".to_owned(),
    }
}
