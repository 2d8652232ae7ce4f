//! How many fragments may wait, of what size, and how long.

use std::time::Duration;

/// Limits. See [`Settings::bounded`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Fragments held, of all packets: 1 to [`Settings::MOST`].
    pub fragments: u16,
    /// The same of one ingress.
    pub fragments_per_ingress: u16,
    /// Packets whose fragments are held.
    pub packets: u16,
    /// Fragments of one packet.
    pub fragments_per_packet: u16,
    /// The least size in octets, with its IP header, of a fragment over IPv4 that is not the last; at least
    /// [`Settings::LEAST`].
    pub least_v4: u16,
    /// The same over IPv6.
    pub least_v6: u16,
    /// How long a packet's fragments wait, from the first that came.
    pub age: Duration,
}

impl Settings {
    /// Of what Open vSwitch allows, the most fragments (`ipf-set-max-nfrags`).
    pub const MOST: u16 = 5000;
    /// The smallest of least sizes (`ipf-set-min-frag`): all transport headers are in the first fragment.
    pub const LEAST: u16 = 400;

    /// With each limit within its range.
    #[must_use]
    pub fn bounded(self) -> Self {
        let fragments = self.fragments.clamp(1, Self::MOST);
        Settings {
            fragments,
            fragments_per_ingress: self.fragments_per_ingress.clamp(1, fragments),
            packets: self.packets.clamp(1, fragments),
            fragments_per_packet: self.fragments_per_packet.clamp(1, fragments),
            least_v4: self.least_v4.max(Self::LEAST),
            least_v6: self.least_v6.max(Self::LEAST),
            age: self.age,
        }
    }
}

impl Default for Settings {
    /// As in Open vSwitch; what it doesn't limit: half of the fragments for one ingress, 64 of them for one packet, 500 packets.
    fn default() -> Self {
        Settings {
            fragments: 1000,
            fragments_per_ingress: 500,
            packets: 500,
            fragments_per_packet: 64,
            least_v4: 1200,
            least_v6: 1280,
            age: Duration::from_secs(15),
        }
    }
}
