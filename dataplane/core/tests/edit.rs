//! Edited packets against packets that etherparse has built with the new values, all checksums anew; and what no other
//! switch says: unfinished checksums, packets of several frames, room in front.

#![allow(clippy::unwrap_used, reason = "a test")]

use etherparse::{IpFragOffset, Ipv4Header, Ipv6FlowLabel, Ipv6Header, PacketBuilder, VlanId, VlanPcp};
use proptest::prelude::*;
use weft_core::edit::{Edit, Edits, apply};
use weft_core::key::{Ingress, PortId};
use weft_core::parse;
use weft_flow::{Field, Fields, Match, Subfield, Term};
use weft_io::offload::{self, GSO_TCPV4};
use weft_io::{FrameCache, FramePool, Offload, Packet};
use weft_wire::{DropReason, EtherType};

/// What differs from packet to packet.
#[derive(Clone, Debug)]
struct Values {
    macs: [[u8; 6]; 2],
    tag: (u16, u8),
    addresses: [u128; 2],
    tos: u8,
    ttl: u8,
    label: u32,
    ports: (u16, u16),
}

fn values() -> impl Strategy<Value = Values> {
    let link = (any::<[[u8; 6]; 2]>(), 0..4096u16, 0..8u8);
    (link, any::<[u128; 2]>(), any::<u8>(), 2..=255u8, 0..1u32 << 20, any::<(u16, u16)>()).prop_map(
        |((macs, vid, pcp), addresses, tos, ttl, label, ports)| Values {
            macs,
            tag: (vid, pcp),
            addresses,
            tos,
            ttl,
            label,
            ports,
        },
    )
}

/// What stays as it is.
#[derive(Clone, Copy, Debug)]
struct Form {
    tagged: bool,
    six: bool,
    transport: Transport,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Transport {
    Tcp,
    Udp,
    Icmp,
}

fn form() -> impl Strategy<Value = Form> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp), Just(Transport::Icmp)];
    (any::<bool>(), any::<bool>(), transport).prop_map(|(tagged, six, transport)| Form {
        tagged,
        six,
        transport,
    })
}

/// etherparse's packet.
fn built(form: Form, values: &Values, payload: &[u8]) -> Vec<u8> {
    let &Values { macs: [source, destination], tag, addresses, tos, ttl, label, ports } = values;
    let ip = if form.six {
        let header = Ipv6Header {
            traffic_class: tos,
            flow_label: Ipv6FlowLabel::try_new(label).unwrap(),
            hop_limit: ttl,
            source: addresses[0].to_be_bytes(),
            destination: addresses[1].to_be_bytes(),
            ..Ipv6Header::default()
        };
        etherparse::IpHeaders::Ipv6(header, Default::default())
    } else {
        let mut header = Ipv4Header::new(0, ttl, etherparse::ip_number::UDP, [0; 4], [0; 4]).unwrap();
        header.source = (addresses[0] as u32).to_be_bytes();
        header.destination = (addresses[1] as u32).to_be_bytes();
        (header.dscp, header.ecn) = ((tos >> 2).try_into().unwrap(), (tos & 3).try_into().unwrap());
        header.fragment_offset = IpFragOffset::ZERO;
        etherparse::IpHeaders::Ipv4(header, Default::default())
    };
    let builder = PacketBuilder::ethernet2(source, destination);
    let builder = if form.tagged {
        let tag = etherparse::SingleVlanHeader {
            pcp: VlanPcp::try_new(tag.1).unwrap(),
            drop_eligible_indicator: true,
            vlan_id: VlanId::try_new(tag.0).unwrap(),
            ether_type: etherparse::ether_type::IPV4,
        };
        builder.vlan(etherparse::VlanHeader::Single(tag)).ip(ip)
    } else {
        builder.ip(ip)
    };
    let mut octets = Vec::new();
    match form.transport {
        Transport::Tcp => builder.tcp(ports.0, ports.1, 1, 1000).write(&mut octets, payload).unwrap(),
        Transport::Udp => builder.udp(ports.0, ports.1).write(&mut octets, payload).unwrap(),
        // Types that etherparse doesn't take apart, and no neighbour discovery.
        Transport::Icmp if form.six => {
            let (kind, code) = (ports.0 as u8 | 0xc0, ports.1 as u8);
            builder.icmpv6_raw(kind, code, [1, 2, 3, 4]).write(&mut octets, payload).unwrap();
        }
        Transport::Icmp => {
            let (kind, code) = (ports.0 as u8 | 0xc0, ports.1 as u8);
            builder.icmpv4_raw(kind, code, [1, 2, 3, 4]).write(&mut octets, payload).unwrap();
        }
    }
    octets
}

fn set(fields: &[(Field, u128)]) -> Edit {
    let (mut masks, mut values) = (Fields::default(), Fields::default());
    for &(field, value) in fields {
        let field = Subfield::whole(field);
        field.set(&mut masks, u128::MAX);
        field.set(&mut values, value);
    }
    Edit::Set(Match::new(&masks, &values).terms().into())
}

fn mac(octets: [u8; 6]) -> u128 {
    octets.into_iter().fold(0, |value, octet| value << 8 | u128::from(octet))
}

/// All of `values`, as edits.
fn setting(form: Form, values: &Values) -> Vec<Edit> {
    let mut fields = vec![
        (Field::EthSrc, mac(values.macs[0])),
        (Field::EthDst, mac(values.macs[1])),
        (Field::NwTos, values.tos.into()),
        (Field::NwTtl, values.ttl.into()),
    ];
    if form.tagged {
        fields.extend([(Field::DlVlan, values.tag.0.into()), (Field::VlanPcp, values.tag.1.into())]);
    }
    if form.six {
        fields.extend([(Field::Ipv6Src, values.addresses[0]), (Field::Ipv6Dst, values.addresses[1])]);
        fields.push((Field::Ipv6Label, values.label.into()));
    } else {
        let address = |at: usize| u128::from(values.addresses[at] as u32);
        fields.extend([(Field::IpSrc, address(0)), (Field::IpDst, address(1))]);
    }
    let (first, second) = values.ports;
    fields.extend(match form.transport {
        Transport::Icmp => {
            [(Field::IcmpType, u128::from(first as u8 | 0xc0)), (Field::IcmpCode, u128::from(second as u8))]
        }
        _ => [(Field::TcpSrc, first.into()), (Field::TcpDst, second.into())],
    });
    vec![set(&fields)]
}

/// What is done to a packet before and after its edits.
type Around = (fn(&mut Packet), fn(&mut Packet));

/// Where packets come from.
struct Room {
    frames: FrameCache,
}

impl Room {
    fn new() -> Self {
        Room { frames: FramePool::new(FramePool::MIN_FRAMES).unwrap().cache() }
    }

    /// A packet whose octets from each of `cuts` on are in another frame.
    fn packet(&mut self, octets: &[u8], cuts: &[usize]) -> Packet {
        let ends = cuts.iter().copied().chain([octets.len()]);
        let mut start = 0;
        let mut pieces = Vec::new();
        for end in ends {
            let mut piece = self.frames.alloc().unwrap();
            piece.append(&octets[start..end]).unwrap();
            pieces.push(piece);
            start = end;
        }
        let mut pieces = pieces.into_iter();
        let mut packet = pieces.next().unwrap();
        pieces.for_each(|piece| packet.push_continuation(piece).unwrap());
        packet
    }

    /// What `octets` become, in frames that are cut so, with `prepare` done to the packet before and `finish` after.
    fn edited(
        &mut self,
        octets: &[u8],
        cuts: &[usize],
        edits: &[Edit],
        around: Around,
    ) -> Result<Vec<u8>, DropReason> {
        let mut packet = self.packet(octets, cuts);
        around.0(&mut packet);
        let outcome = apply(&Edits::new(edits), &mut packet, &mut self.frames);
        around.1(&mut packet);
        let edited = packet.segments().flatten().copied().collect();
        self.frames.free(packet);
        outcome.map(|()| edited)
    }

    fn plainly(&mut self, octets: &[u8], edits: &[Edit]) -> Result<Vec<u8>, DropReason> {
        self.edited(octets, &[], edits, (|_| {}, |_| {}))
    }
}

fn headers(form: Form) -> usize {
    let network = if form.six { 40 } else { 20 };
    let transport = if form.transport == Transport::Tcp { 20 } else { 8 };
    14 + if form.tagged { 4 } else { 0 } + network + transport
}

/// Leaves the checksum to be done, as a kernel does: the field holds the sum of the pseudo-header.
fn unfinish(packet: &mut Packet) {
    let found = offload::looks_partial(packet).unwrap();
    packet.request_checksum(found.start, found.checksum_offset()).unwrap();
}

/// The same octets with an unfinished checksum.
fn with_pseudo_header_sum(octets: &[u8]) -> Vec<u8> {
    let mut octets = octets.to_vec();
    let found = weft_io::transport::Transport::locate(&octets).unwrap();
    let pseudo = found.pseudo_header(&octets, found.len).unwrap();
    let at = found.start + found.checksum_offset();
    octets[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
    octets
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fields_that_are_set_make_the_packet_that_has_them_from_the_start(
        form in form(), before in values(), after in values(), payload in prop::collection::vec(any::<u8>(), 0..100)
    ) {
        let mut room = Room::new();
        let edited = room.plainly(&built(form, &before, &payload), &setting(form, &after)).unwrap();
        // UDP over IPv4 may have no checksum; etherparse writes one always.
        prop_assert_eq!(edited, built(form, &after, &payload));
    }

    #[test]
    fn an_unfinished_checksum_stays_unfinished_and_ends_right(
        mut form in form(), before in values(), after in values(), payload in prop::collection::vec(any::<u8>(), 0..100)
    ) {
        if form.transport == Transport::Icmp {
            form.transport = Transport::Udp;
        }
        let mut room = Room::new();
        let octets = with_pseudo_header_sum(&built(form, &before, &payload));
        // A sum of 0 would be UDP's "no checksum" to `looks_partial`.
        prop_assume!(octets != built(form, &before, &payload));
        let wanted = built(form, &after, &payload);
        let edits = setting(form, &after);
        let half = room.edited(&octets, &[], &edits, (unfinish, |_| {})).unwrap();
        let found = weft_io::transport::Transport::locate(&wanted).unwrap();
        let at = found.start + found.checksum_offset();
        let sum = u16::from_be_bytes([half[at], half[at + 1]]);
        prop_assert_eq!(sum % 0xffff, found.pseudo_header(&wanted, found.len).unwrap() % 0xffff);
        prop_assert_eq!(room.edited(&octets, &[], &edits, (unfinish, offload::finish_checksum)).unwrap(), wanted);
    }

    #[test]
    fn what_is_behind_the_first_frame_stays_and_headers_there_are_refused_or_left(
        form in form(), before in values(), after in values(), payload in prop::collection::vec(any::<u8>(), 20..100), cut in 14..120usize
    ) {
        let mut room = Room::new();
        let octets = built(form, &before, &payload);
        let cut = cut.min(octets.len());
        let outcome = room.edited(&octets, &[cut], &setting(form, &after), (|_| {}, |_| {}));
        if cut >= headers(form) {
            prop_assert_eq!(outcome.unwrap(), built(form, &after, &payload));
        } else if let Ok(edited) = outcome {
            prop_assert_eq!(&edited[cut..], &octets[cut..]);
        } else {
            prop_assert_eq!(outcome, Err(DropReason::Malformed));
        }
    }

    #[test]
    fn one_after_the_other_is_the_same_as_all_at_once(form in form(), before in values(), between in values(), after in values()) {
        let mut room = Room::new();
        let octets = built(form, &before, &[]);
        let both = [setting(form, &between), setting(form, &after)].concat();
        prop_assert_eq!(room.plainly(&octets, &both).unwrap(), built(form, &after, &[]));
        let first = room.plainly(&octets, &both[..1]).unwrap();
        prop_assert_eq!(room.plainly(&first, &both[1..]).unwrap(), built(form, &after, &[]));
    }

    #[test]
    fn any_octets_are_edited_without_a_panic_and_nothing_else_of_the_key_changes(
        mut octets in prop::collection::vec(any::<u8>(), 14..140), kind in 0..6usize, word in 0..16u8, mask: u64, value: u64
    ) {
        let kinds = [EtherType::IPV4, EtherType::IPV6, EtherType::ARP, EtherType::MPLS, EtherType::VLAN, EtherType(0x100)];
        octets[12..14].copy_from_slice(&kinds[kind].0.to_be_bytes());
        let len = octets.len();
        if kind == 0 && len > 34 {
            octets[14] = 0x45;
            octets[16..18].copy_from_slice(&(len as u16 - 14).to_be_bytes());
            octets[23] = [1, 6, 17, 58, 132][usize::from(octets[23]) % 5];
        }
        if kind == 1 && len > 54 {
            octets[18..20].copy_from_slice(&(len as u16 - 54).to_be_bytes());
            octets[20] = [0, 6, 17, 58, 43, 44][usize::from(octets[20]) % 6];
        }
        // The type of a message, and the bottom of a stack, decide what else there is.
        let mask = match word {
            8 => mask & 0xffff_ffff,
            11 => mask & !(1 << 40),
            15 => mask & !(1 << 40 | 1 << 8),
            _ => mask,
        };
        let edits = [Edit::Set([Term { word, mask, value: value & mask }].into())];
        let mut room = Room::new();
        let Ok(edited) = room.plainly(&octets, &edits) else { return Ok(()) };
        prop_assert_eq!(edited.len(), octets.len());
        let key = |octets: &[u8]| parse::full(octets, Ingress::port(PortId(1))).map(|key| key.0);
        if let (Some(before), Some(after)) = (key(&octets), key(&edited)) {
            for at in 0..16 {
                let mask = if at == usize::from(word) { mask } else { 0 };
                prop_assert_eq!(before[at] & !mask, after[at] & !mask, "word {}", at);
            }
        }
    }
}

const FORM: Form = Form { tagged: false, six: false, transport: Transport::Udp };

fn example() -> Values {
    Values {
        macs: [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]],
        tag: (100, 5),
        addresses: [0x0a00_0001, 0x0a00_0002],
        tos: 0x28,
        ttl: 64,
        label: 5,
        ports: (1000, 2000),
    }
}

#[test]
fn a_udp_checksum_that_is_not_there_is_not_made() {
    let mut octets = built(FORM, &example(), b"weft");
    octets[40..42].fill(0);
    let edited =
        Room::new().plainly(&octets, &[set(&[(Field::IpSrc, 0x0102_0304), (Field::UdpDst, 9)])]).unwrap();
    assert_eq!(edited[40..42], [0, 0]);
    assert_eq!((edited[26..30].to_vec(), edited[36..38].to_vec()), (vec![1, 2, 3, 4], vec![0, 9]));
}

#[test]
fn tags_and_labels_are_put_in_front_while_there_is_room() {
    let octets = built(FORM, &example(), b"weft");
    let mut room = Room::new();
    for (edit, pop) in [
        (Edit::PushVlan { tpid: EtherType::SVLAN, tci: 0x1064 }, Edit::PopVlan),
        (
            Edit::PushMpls { ether_type: EtherType::MPLS, entry: 0x0001_0140 },
            Edit::PopMpls { ether_type: EtherType::IPV4 },
        ),
    ] {
        let one = room.plainly(&octets, std::slice::from_ref(&edit)).unwrap();
        assert_eq!(one.len(), octets.len() + 4);
        assert_eq!(room.plainly(&one, &[pop]).unwrap(), octets);
        assert_eq!(
            room.plainly(&octets, &vec![edit.clone(); 25]).map(|octets| octets.len()),
            Ok(octets.len() + 100)
        );
        assert_eq!(room.plainly(&octets, &vec![edit; 1000]), Err(DropReason::NoHeadroom));
    }
}

#[test]
fn labels_go_between_tags_and_packet_and_an_unfinished_checksum_stays_where_it_is() {
    let form = Form { tagged: true, ..FORM };
    let octets = with_pseudo_header_sum(&built(form, &example(), b"weft"));
    let push = Edit::PushMpls { ether_type: EtherType::MPLS, entry: 0x0001_0140 };
    let edited = Room::new().edited(&octets, &[], &[push], (unfinish, offload::finish_checksum)).unwrap();
    let mut wanted = built(form, &example(), b"weft");
    wanted.splice(16..18, [0x88, 0x47, 0, 1, 1, 0x40]);
    assert_eq!(edited, wanted);
}

#[test]
fn a_packet_whose_time_is_up_is_dropped() {
    let mut room = Room::new();
    for six in [false, true] {
        let form = Form { six, ..FORM };
        let with = |ttl| built(form, &Values { ttl, ..example() }, b"weft");
        assert_eq!(room.plainly(&with(2), &[Edit::DecTtl]).unwrap(), with(1));
        assert_eq!(room.plainly(&with(1), &[Edit::DecTtl]), Err(DropReason::TtlExpired));
        assert_eq!(room.plainly(&with(0), &[Edit::DecTtl]), Err(DropReason::TtlExpired));
    }
    let label = |ttl: u32| Edit::PushMpls { ether_type: EtherType::MPLS, entry: 0x0001_0100 | ttl };
    let octets = built(FORM, &example(), b"weft");
    let labelled = room.plainly(&octets, &[label(2), Edit::DecMplsTtl]);
    assert_eq!(labelled, room.plainly(&octets, &[label(1)]));
    assert_eq!(room.plainly(&octets, &[label(1), Edit::DecMplsTtl]), Err(DropReason::TtlExpired));
}

#[test]
fn a_packet_is_cut_over_all_of_its_frames_and_keeps_the_checksum_of_the_whole() {
    let payload: Vec<u8> = (0..200).collect();
    let form = Form { transport: Transport::Tcp, ..FORM };
    let whole = built(form, &example(), &payload);
    let octets = with_pseudo_header_sum(&whole);
    let mut room = Room::new();
    let segment = |packet: &mut Packet| {
        let found = weft_io::transport::Transport::locate(packet.data()).unwrap();
        packet.request_checksum(found.start, found.checksum_offset()).unwrap();
        (packet.offload.gso_type, packet.offload.gso_size) = (GSO_TCPV4, 50);
    };
    let forgotten = |packet: &mut Packet| assert_eq!(packet.offload, Offload::default());
    for len in [14, 40, 80, 100, 150, 200, 253] {
        let cut = room.edited(&octets, &[100, 150, 200], &[Edit::Truncate(len)], (segment, forgotten));
        assert_eq!(cut.unwrap(), whole[..usize::from(len)], "{len}");
    }
    let uncut =
        room.edited(&octets, &[100, 150, 200], &[Edit::Truncate(254)], (segment, offload::finish_checksum));
    assert_eq!(uncut.unwrap(), whole);
    room.frames.go_home();
    assert_eq!(room.frames.pool().at_home(), room.frames.pool().frames());
}

#[test]
fn what_a_packet_does_not_have_is_not_edited() {
    let octets = built(FORM, &example(), b"weft");
    let edits = [
        set(&[(Field::DlVlan, 7), (Field::Ipv6Label, 7), (Field::NdTarget, 7), (Field::MplsLabel, 7)]),
        Edit::PopVlan,
        Edit::PopMpls { ether_type: EtherType::IPV6 },
        Edit::DecMplsTtl,
        Edit::Truncate(2000),
    ];
    assert_eq!(Room::new().plainly(&octets, &edits).unwrap(), octets);
    assert!(
        Edits::new(&[set(&[
            (Field::EthType, 7),
            (Field::TcpFlags, 7),
            (Field::TunSrc, 7),
            (Field::IpFrag, 1)
        ])])
        .is_empty()
    );
}
