//! From a frame or a description to the key that a worker would have read.

use weft_flow::{Field, Fields, FlowKey, Match, Subfield};
use weft_wire::{OfPort, TunnelKind};

use crate::key::Ingress;
use crate::lane::LENGTH_WORD;
use crate::parse;
use crate::pipeline::execute::has;
use crate::snapshot::{Bridge, Port, Remote, Snapshot, TunnelKeys, TunnelSpec};

/// Which packet is traced.
#[derive(Clone, Copy, Debug)]
pub struct Description<'a> {
    /// The bridge that it comes in on.
    pub bridge: &'a Bridge,
    /// By which port; otherwise the match says it.
    pub in_port: Option<OfPort>,
    /// Its fields. With a frame: those of its tunnel.
    pub matches: &'a Match,
    /// Its octets: behind the tunnel header, if it comes in by a tunnel.
    pub frame: Option<&'a [u8]>,
}

/// Why a description is none of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DescribeError {
    /// Nobody said where it came in.
    #[error("in_port is missing: the port by which the packet comes in, by name or by number")]
    NoInPort,
    /// No such port.
    #[error("in_port: the bridge has no port {0}")]
    NoSuchPort(OfPort),
    /// The frame is too short.
    #[error(
        "the frame ends before its Ethernet header or its VLAN tag does: it has {0} octets, 14 (18 with a tag) are needed"
    )]
    TooShort(usize),
    /// A field that the frame has said already.
    #[error("{0}: the frame says it; a description beside a frame has in_port and tun_ fields only")]
    OfFrame(&'static str),
    /// A field that a packet doesn't come with.
    #[error("{0}: no packet comes with it; registers, metadata and connections are 0 when a packet comes in")]
    OfPipeline(&'static str),
    /// A tunnel's field, and no tunnel.
    #[error("{0}: in_port is no tunnel")]
    NoTunnel(&'static str),
    /// No such local tunnel end is published.
    #[error("the tunnel's local end is not known to the dataplane")]
    NoVtep,
}

/// The time to live of an IP packet whose description has none.
const TTL: u128 = 64;
/// Where a port lies in the pipeline's own words, and what a match may say of them.
const IN_PORT: Field = Field::InPort;
const TUNNEL_WORDS: [usize; 2] = [2, 14];

impl Description<'_> {
    /// The key of the packet.
    pub fn key(&self, snapshot: &Snapshot) -> Result<FlowKey, DescribeError> {
        let (mask, value) = (self.matches.mask(), self.matches.value());
        let said = |field| Subfield::whole(field).get(&mask) != 0;
        let named = said(IN_PORT).then(|| OfPort(Subfield::whole(IN_PORT).get(&value) as u16));
        let number = self.in_port.or(named).ok_or(DescribeError::NoInPort)?;
        let port = self.bridge.by_ofport(snapshot, number).ok_or(DescribeError::NoSuchPort(number))?;
        self.check(&mask, port)?;
        let ingress = ingress(snapshot, port)?;
        let mut fields = match self.frame {
            Some(frame) => {
                let mut key = parse::full(frame, ingress).ok_or(DescribeError::TooShort(frame.len()))?;
                key.0[LENGTH_WORD] |= snapshot.length_class(frame.len());
                Fields::of_packet(&key)
            }
            None => described(&mask, &value),
        };
        for word in TUNNEL_WORDS {
            fields.0[word] = value.0[word];
        }
        if let Some(tunnel) = port.spec.tunnel() {
            come_by(tunnel, &mut fields);
        }
        fields.0[0] = fields.0[0] & !0xffff | ingress.bits();
        Ok(fields.key())
    }

    fn check(&self, mask: &Fields, port: &Port) -> Result<(), DescribeError> {
        let own = |word: &usize| *word >= weft_flow::fields::KEY_WORDS;
        for &field in Field::ALL {
            let words = || field.info().segments.iter().map(|segment| usize::from(segment.word));
            if Subfield::whole(field).get(mask) == 0 || matches!(field, Field::InPort | Field::InPortOxm) {
                continue;
            }
            let name = field.info().name;
            if words().any(|word| TUNNEL_WORDS.contains(&word)) {
                if port.spec.tunnel().is_none() {
                    return Err(DescribeError::NoTunnel(name));
                }
            } else if words().any(|word| own(&word)) && field != Field::PacketType {
                return Err(DescribeError::OfPipeline(name));
            } else if self.frame.is_some() {
                return Err(DescribeError::OfFrame(name));
            }
        }
        Ok(())
    }
}

/// What a worker has as the ingress of packets from a port.
fn ingress(snapshot: &Snapshot, port: &Port) -> Result<Ingress, DescribeError> {
    let Some(tunnel) = port.spec.tunnel() else { return Ok(Ingress::port(port.spec.id)) };
    let udp_port = if tunnel.kind == TunnelKind::Vxlan { tunnel.udp_port } else { 0 };
    let same = |vtep: &&crate::snapshot::Vtep| {
        (vtep.local, vtep.kind, vtep.udp_port) == (tunnel.local, tunnel.kind, udp_port)
    };
    let vtep = snapshot.vteps.iter().find(same).ok_or(DescribeError::NoVtep)?;
    Ok(Ingress::vtep(vtep.id))
}

/// The fields that a description says; what it doesn't is 0, but for the time to live.
fn described(mask: &Fields, value: &Fields) -> Fields {
    let mut key = FlowKey::default();
    key.0.iter_mut().zip(value.0).for_each(|(word, own)| *word = own);
    let mut fields = Fields::of_packet(&key);
    let ttl = Subfield::whole(Field::NwTtl);
    if ttl.get(mask) == 0 && has(&fields, weft_flow::field::Prerequisite::Ip) {
        ttl.set(&mut fields, TTL);
    }
    fields
}

/// What the tunnel itself says, where the description doesn't.
fn come_by(tunnel: &TunnelSpec, fields: &mut Fields) {
    let mut default = |field, value: u128| {
        let whole = Subfield::whole(field);
        if whole.get(fields) == 0 {
            whole.set(fields, value);
        }
    };
    if let Remote::Fixed(remote) = tunnel.remote {
        default(Field::TunSrc, remote.to_bits().into());
    }
    default(Field::TunDst, tunnel.local.to_bits().into());
    if let TunnelKeys::Fixed(key) = tunnel.key {
        default(Field::TunId, key.into());
    }
}
