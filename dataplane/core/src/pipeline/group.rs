//! Groups, and the choices that hashes make.
//!
//! A hash is a function of fields that the key mask has, so that all packets of a cached flow choose the same. Which
//! bucket a hash falls on is weft's own affair: Open vSwitch's hashes differ from version to version.

use weft_flow::action::{Bundle, BundleAlgorithm, HashFields, Multipath, MultipathAlgorithm};
use weft_flow::message::{Bucket, GroupKind, Selection};
use weft_flow::{Field, Fields, Subfield};
use weft_wire::{DropReason, OfPort};

use super::trace::{Event, Tracer};
use super::{By, Here, Walk};
use crate::tables::Group;
use crate::verdict::Chosen;

impl<T: Tracer> Walk<'_, T> {
    /// `group:id`
    pub(super) fn group(&mut self, here: &Here<'_>, by: By<'_>, id: u32) -> Result<(), DropReason> {
        self.check_limits()?;
        self.note_group(here, id);
        let Some(group) = here.tables.group(id) else {
            self.refuse(DropReason::NoSuchGroup);
            return Ok(());
        };
        let buckets = &group.spec().buckets;
        match group.spec().kind {
            GroupKind::All | GroupKind::Indirect => {
                self.verdict.buckets.push(Chosen { group: std::sync::Arc::clone(group), bucket: None });
                for at in 0..buckets.len() {
                    self.bucket(here, by, (group, at))?;
                }
                Ok(())
            }
            GroupKind::FastFailover => {
                let live = (0..buckets.len()).find(|&at| self.is_live(here, &buckets[at], 0));
                self.chosen(here, by, (group, live))
            }
            // The choice is by what the packet carries.
            GroupKind::Select if !self.can_read_inside() => {
                self.refuse(DropReason::MplsUnparsed);
                Ok(())
            }
            GroupKind::Select => {
                let hash = self.selection_hash(&group.spec().selection);
                let live = self.best_live(here, buckets, hash);
                self.chosen(here, by, (group, live))
            }
        }
    }

    /// Another group of that number, or another one that its choice depends on, is a reason to walk again.
    fn note_group(&mut self, here: &Here<'_>, id: u32) {
        if self.verdict.groups.contains(&id) {
            return;
        }
        self.verdict.groups.push(id);
        let buckets = here.tables.group(id).map(|group| &group.spec().buckets[..]).unwrap_or_default();
        for watched in buckets.iter().filter_map(|bucket| bucket.watch_group) {
            self.note_group(here, watched);
        }
    }

    fn chosen(
        &mut self,
        here: &Here<'_>,
        by: By<'_>,
        (group, bucket): (&std::sync::Arc<Group>, Option<usize>),
    ) -> Result<(), DropReason> {
        // Ports that come back make another choice.
        self.verdict.deps.push(here.bridge.ports_dep);
        match bucket {
            Some(at) => {
                self.verdict.buckets.push(Chosen { group: std::sync::Arc::clone(group), bucket: None });
                self.bucket(here, by, (group, at))
            }
            None => {
                self.refuse(DropReason::NoLiveBucket);
                Ok(())
            }
        }
    }

    fn bucket(
        &mut self,
        here: &Here<'_>,
        by: By<'_>,
        (group, at): (&std::sync::Arc<Group>, usize),
    ) -> Result<(), DropReason> {
        let Some(bucket) = group.spec().buckets.get(at) else { return Ok(()) };
        self.tracer.event(Event::Bucket { group: group.spec().id, bucket: bucket.id });
        self.verdict.buckets.push(Chosen { group: std::sync::Arc::clone(group), bucket: Some(at) });
        self.depth += 1;
        let result = self.scoped(|walk| {
            let result = walk.execute_set(here, by, &bucket.actions);
            walk.contained(result)
        });
        self.depth -= 1;
        result
    }

    /// Whether a bucket's port or group is up; one that watches nothing is always live.
    fn is_live(&self, here: &Here<'_>, bucket: &Bucket, depth: u8) -> bool {
        let port_is_up = |port: OfPort| self.port_is_up(here, port);
        let group_is_live = |id: u32| {
            let group = here.tables.group(id).filter(|_| depth < 8);
            group.is_some_and(|group| {
                group.spec().buckets.iter().any(|bucket| self.is_live(here, bucket, depth + 1))
            })
        };
        match (bucket.watch_port, bucket.watch_group) {
            (None, None) => true,
            (port, group) => port.is_some_and(port_is_up) || group.is_some_and(group_is_live),
        }
    }

    fn port_is_up(&self, here: &Here<'_>, port: OfPort) -> bool {
        here.bridge.by_ofport(self.occasion.snapshot, port).is_some_and(|port| port.spec.up)
    }

    /// The live bucket with the highest weighted random value for this hash: when one goes, only its flows move.
    fn best_live(&self, here: &Here<'_>, buckets: &[Bucket], hash: u64) -> Option<usize> {
        let score = |bucket: &Bucket| {
            let random = mix(hash ^ mix(u64::from(bucket.id))) & 0xffff;
            random * u64::from(bucket.weight)
        };
        let live = buckets
            .iter()
            .enumerate()
            .filter(|(_, bucket)| bucket.weight > 0 && self.is_live(here, bucket, 0));
        live.max_by_key(|&(at, bucket)| (score(bucket), std::cmp::Reverse(at))).map(|(at, _)| at)
    }

    fn selection_hash(&self, selection: &Selection) -> u64 {
        match selection {
            Selection::Default => hash_fields(&self.fields, HashFields::SymmetricL4, 0),
            Selection::DpHash { param } => {
                hash_fields(&self.fields, HashFields::SymmetricL3L4Udp, *param as u32)
            }
            Selection::Hash { param, fields } => {
                let present = fields.iter().filter(|(field, _)| self.has(field.info().prerequisite));
                present.fold(mix(*param), |hash, &(field, mask)| {
                    add(hash, Subfield::whole(field).get(&self.fields) & mask)
                })
            }
        }
    }

    /// `multipath(..)`
    pub(super) fn multipath(&mut self, multipath: &Multipath) {
        let hash = hash_fields(&self.fields, multipath.fields, u32::from(multipath.basis)) as u32;
        let links = u32::from(multipath.max_link) + 1;
        let link = match multipath.algorithm {
            MultipathAlgorithm::ModuloN => hash % links,
            MultipathAlgorithm::HashThreshold => ((u64::from(hash) * u64::from(links)) >> 32) as u32,
            MultipathAlgorithm::HighestRandomWeight => highest(links, |link| weight(hash, link)),
            MultipathAlgorithm::IterHash => {
                let modulo = multipath.arg.checked_next_power_of_two().unwrap_or(u32::MAX).max(1);
                let mut random = hash;
                // At most half of the draws miss; after many the plain choice does.
                (0..64)
                    .find_map(|_| {
                        random = mix(u64::from(random)) as u32;
                        Some(random % modulo).filter(|&link| link < links)
                    })
                    .unwrap_or(hash % links)
            }
        };
        self.write_if_there(multipath.target, link.into());
    }

    /// The port that `bundle` chooses, and where its number goes if it isn't an output.
    pub(super) fn choose_slave(
        &mut self,
        here: &Here<'_>,
        bundle: &Bundle,
    ) -> (Option<OfPort>, Option<Subfield>) {
        self.verdict.deps.push(here.bridge.ports_dep);
        let mut live = bundle.ports.iter().enumerate().filter(|&(_, &port)| self.port_is_up(here, port));
        let port = match bundle.algorithm {
            BundleAlgorithm::ActiveBackup => live.next(),
            BundleAlgorithm::HighestRandomWeight => {
                let hash = hash_fields(&self.fields, bundle.fields, u32::from(bundle.basis)) as u32;
                live.max_by_key(|&(at, _)| (weight(hash, at as u32), std::cmp::Reverse(at)))
            }
        };
        (port.map(|(_, &port)| port), bundle.target)
    }
}

fn highest(count: u32, score: impl Fn(u32) -> u32) -> u32 {
    (0..count).max_by_key(|&at| (score(at), std::cmp::Reverse(at))).unwrap_or(0)
}

fn weight(hash: u32, link: u32) -> u32 {
    mix(u64::from(hash) << 32 | u64::from(link)) as u32
}

/// Spreads a value's bits (the finalizer of MurmurHash3).
fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    value = (value ^ value >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ value >> 33
}

fn add(hash: u64, value: u128) -> u64 {
    mix(hash ^ mix(value as u64 ^ mix((value >> 64) as u64)))
}

/// What `fields` of a packet hash to (ovs-actions(7), `multipath`). Symmetric ones are equal for both directions.
pub fn hash_fields(packet: &Fields, fields: HashFields, basis: u32) -> u64 {
    let get = |field| Subfield::whole(field).get(packet);
    let ether_type = get(Field::EthType);
    let ip = matches!(ether_type, 0x0800 | 0x86dd);
    let (source, destination) = if ether_type == 0x86dd {
        (get(Field::Ipv6Src), get(Field::Ipv6Dst))
    } else {
        (get(Field::IpSrc), get(Field::IpDst))
    };
    let protocol = get(Field::NwProto);
    let start = mix(u64::from(basis));
    let addresses = |hash| if ip { add(hash, source ^ destination) } else { hash };
    let ports = |hash, with_udp: bool| {
        let ported = protocol == 6 || protocol == 132 || with_udp && protocol == 17;
        let hash = if ip { add(hash, protocol) } else { hash };
        if ip && ported { add(hash, get(Field::TcpSrc) ^ get(Field::TcpDst)) } else { hash }
    };
    match fields {
        HashFields::EthSrc => add(start, get(Field::EthSrc)),
        HashFields::NwSrc => add(start, if ip { source } else { 0 }),
        HashFields::NwDst => add(start, if ip { destination } else { 0 }),
        HashFields::SymmetricL3 => addresses(start),
        HashFields::SymmetricL3L4 => ports(addresses(start), false),
        HashFields::SymmetricL3L4Udp => ports(addresses(start), true),
        HashFields::SymmetricL4 => {
            let ethernet = add(start, get(Field::EthSrc) ^ get(Field::EthDst));
            let tag = add(add(ethernet, get(Field::VlanTci) & 0x0fff), ether_type);
            ports(addresses(tag), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symmetric_hashes_are_equal_for_both_directions_and_spread() {
        let packet = |source: u128, destination: u128| {
            let mut fields = Fields::default();
            let values = [
                (Field::EthType, 0x0800),
                (Field::NwProto, 6),
                (Field::IpSrc, source),
                (Field::IpDst, destination),
                (Field::TcpSrc, source & 0xffff),
                (Field::TcpDst, destination & 0xffff),
            ];
            values.into_iter().for_each(|(field, value)| Subfield::whole(field).set(&mut fields, value));
            fields
        };
        let mut slots = [0; 8];
        for number in 0..8000 {
            let (there, back) = (packet(number, 0x0a00_0001), packet(0x0a00_0001, number));
            let hash = hash_fields(&there, HashFields::SymmetricL4, 7);
            assert_eq!(hash, hash_fields(&back, HashFields::SymmetricL4, 7));
            slots[hash as usize % 8] += 1;
        }
        assert!(slots.iter().all(|count| (800..1200).contains(count)), "{slots:?}");
    }
}
