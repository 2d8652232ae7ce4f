//! The names of a bridge's ports, for whoever reads or prints rules.

use weft_flow::text::PortNames;
use weft_wire::OfPort;

use crate::snapshot::{Bridge, Snapshot};

/// The ports of a published bridge.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// What is published.
    pub snapshot: &'a Snapshot,
    /// The bridge.
    pub bridge: &'a Bridge,
}

impl PortNames for Names<'_> {
    fn number(&self, name: &str) -> Option<OfPort> {
        let ports = self.bridge.ports.iter().filter_map(|&id| self.snapshot.port(id));
        ports.map(|port| &port.spec).find(|spec| &*spec.name == name).map(|spec| spec.ofport)
    }

    fn name(&self, port: OfPort) -> Option<&str> {
        self.bridge.by_ofport(self.snapshot, port).map(|port| &*port.spec.name)
    }
}
