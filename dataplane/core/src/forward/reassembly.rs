//! Fragments at the forwarder: they wait until their packet is whole, and then each goes its way.
//!
//! A fragment's walk ends where it asks for a connection, before anything was done to it; the fragment is kept as it came. When the
//! last one has come, each walks again, from the start and by the configuration of that moment, in the order in which they came;
//! the tracker is asked once ([`Datagram`]). None of this is cached.

use weft_io::Packet;
use weft_wire::DropReason;

use super::{Decision, Ended, Forwarder};
use crate::decap::TUNNEL_WORDS;
use crate::fragments::{Origin, Outcome};
use crate::key::{FlowKey, Ingress, KEY_WORDS, PortId};
use crate::lane::LENGTH_WORD;
use crate::parse;
use crate::pipeline::Datagram;
use crate::shared::Now;

/// What is to be known of a fragment that waits.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Its key, of which the tunnel's words are still needed.
    key: FlowKey,
    /// By whose queue it came in.
    port: PortId,
    /// Who answers for its drop.
    ingress: PortId,
}

impl Forwarder {
    /// What becomes of a packet of `key` that came in by the queue of `port`, and whose walk has left nothing to be done.
    #[cold]
    pub fn end(&mut self, ended: Ended, packet: Packet, (key, port): (&FlowKey, PortId)) {
        let scope = match ended {
            Ended::Dropped(reason) => return self.drop(port, reason, packet),
            Ended::Waits(scope) => scope,
        };
        let waits = Waits { key: *key, port, ingress: self.verdict.tunnel.unwrap_or(port) };
        let origin = Origin { ingress: Ingress::of(key), scope };
        match self.fragments.put(packet, waits, origin, self.now) {
            Outcome::Held => {}
            Outcome::Refused(packet, waits, reason) => self.drop_fragment(packet, &waits, reason),
            Outcome::Whole(whole) => {
                let datagram = Datagram::new(&whole);
                while let Some((packet, waits)) = self.fragments.take(&whole) {
                    self.go_on(packet, &waits, &datagram);
                }
            }
        }
        self.show_held();
    }

    /// Drops the fragments that have waited too long.
    pub fn expire_fragments(&mut self, now: Now) {
        while let Some((packet, waits)) = self.fragments.take_expired(now.uptime) {
            self.drop_fragment(packet, &waits, DropReason::FragmentExpired);
        }
    }

    /// Says how many packets wait.
    pub fn show_held(&self) {
        let held = self.held.len() + self.fragments.statistics().held;
        self.counters.worker.held.set(held as u64);
    }

    /// One of the fragments of a packet that is whole.
    fn go_on(&mut self, packet: Packet, waits: &Waits, whole: &Datagram) {
        let Some(key) = self.key_of(&packet, &waits.key) else {
            return self.drop_fragment(packet, waits, DropReason::FragmentMalformed);
        };
        match self.charged(|forward| forward.walk(&key, &packet, Some(whole))) {
            Ok(Decision { program, deps, links, .. }) => {
                // It is the only one; the program lingers until it is through.
                self.release(program);
                self.shared.epochs.stamp(deps[0].cell, self.second);
                let bytes = packet.total_len();
                self.run(program, &links, packet, (waits.port, bytes));
            }
            Err(Ended::Dropped(reason)) => self.drop_fragment(packet, waits, reason),
            Err(Ended::Waits(_)) => self.drop_fragment(packet, waits, DropReason::FragmentExpired),
        }
    }

    /// Its key, unmasked: rules may read more of it than they did when it came.
    fn key_of(&self, packet: &Packet, old: &FlowKey) -> Option<FlowKey> {
        let total = packet.total_len();
        let mut words = parse::words::<KEY_WORDS>(packet.data(), total, Ingress::of(old))?;
        TUNNEL_WORDS.into_iter().for_each(|word| words[word] = old.0[word]);
        words[LENGTH_WORD] |= self.snapshot.length_class(total);
        Some(FlowKey(words))
    }

    fn drop_fragment(&mut self, packet: Packet, waits: &Waits, reason: DropReason) {
        if waits.ingress != waits.port {
            let counters = self.counters.port(waits.ingress);
            counters.rx_packets.add(1);
            counters.rx_bytes.add(packet.total_len() as u64);
        }
        self.drop(waits.ingress, reason, packet);
    }
}
