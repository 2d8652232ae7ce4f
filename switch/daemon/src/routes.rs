//! Remote ends that rules send packets to: found when a packet asks, forgotten when none has gone there for a while.
//!
//! Tunnels with `remote=flow` only. Workers ask through [`weft_core::shared::Shared::wanted`]; what they use, they stamp.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use weft_core::shared::Wanted;
use weft_core::snapshot::{Remote, Routes};
use weft_io::netlink::Pair;

use crate::switch::Switch;

/// After how many seconds without a packet a remote end is forgotten.
const IDLE: u32 = 60;

impl Switch {
    /// Takes up what workers ask for. Whether there are remote ends that were not known.
    pub(crate) fn take_wanted(&mut self) -> bool {
        let second = self.second();
        let before = self.routes.len();
        while let Some(wanted) = self.datapath.shared().wanted.pop() {
            if let Some(pair) = self.pair_of(wanted)
                && self.routes.len() < Routes::LIMIT
            {
                self.routes.entry(pair).or_insert(second);
            }
        }
        let more = self.routes.len() != before;
        if more {
            self.ask_for_routes();
        }
        more
    }

    fn pair_of(&self, Wanted { tunnel, remote }: Wanted) -> Option<Pair> {
        let port = self.datapath.model().ports.iter().find(|port| port.id == tunnel)?;
        let tunnel = port.tunnel().filter(|tunnel| tunnel.remote == Remote::Flow)?;
        Some(Pair { local: tunnel.local, remote: remote? })
    }

    /// Forgets the remote ends that no tunnel leads to any more; to be published.
    pub(crate) fn forget_routes_without_tunnel(&mut self) {
        let tunnels = self.config.bridges.iter().flat_map(|bridge| &bridge.tunnels);
        let by_flow = tunnels.filter(|tunnel| tunnel.remote.address().is_none());
        let locals: BTreeSet<Ipv4Addr> = by_flow.map(|tunnel| tunnel.local).collect();
        let before = self.routes.len();
        self.routes.retain(|pair, _| locals.contains(&pair.local));
        if self.routes.len() != before {
            self.ask_for_routes();
        }
    }

    fn ask_for_routes(&mut self) {
        self.underlay.ask(self.routes.keys().copied().collect());
    }

    /// Forgets the remote ends that no packet has gone to for [`IDLE`] seconds.
    pub(crate) fn forget_routes(&mut self) {
        if self.routes.is_empty() {
            return;
        }
        let (second, epochs) = (self.second(), &self.datapath.shared().epochs);
        let snapshot = self.datapath.shared().published.load();
        let known = &snapshot.routes.known;
        let used = |pair: &Pair| {
            known.get(&(pair.local, pair.remote)).map_or(0, |(_, dep)| epochs.stamped(dep.cell))
        };
        let before = self.routes.len();
        self.routes.retain(|pair, asked| used(pair).max(*asked).saturating_add(IDLE) >= second);
        if self.routes.len() != before {
            self.ask_for_routes();
            self.publish();
        }
    }
}
