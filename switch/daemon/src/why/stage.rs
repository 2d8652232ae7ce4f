//! Where on its way a packet is dropped for a reason, and what can be done about it.

use weft_wire::DropReason;

/// The table of drop reasons is written once, for people.
const OPERATIONS: &str = include_str!("../../../../docs/operations.md");

/// The part of the way.
pub(super) fn of(reason: DropReason) -> &'static str {
    use DropReason as Is;
    match reason {
        Is::RxTruncated | Is::RxTooBig | Is::RxNoFrame | Is::RxError | Is::Malformed | Is::NoBridge => {
            "receive"
        }
        Is::SlowPathLimit => "slow path",
        Is::TunnelUnknown | Is::TunnelKeyUnknown | Is::TunnelMalformed | Is::TunnelFragment => "tunnel in",
        Is::VniUnmapped
        | Is::TunnelTooBig
        | Is::TunnelNoRoute
        | Is::TunnelNoRemote
        | Is::TunnelRemotesFull
        | Is::NeighbourUnresolved => "tunnel out",
        Is::SpoofedMac
        | Is::SpoofedIp
        | Is::SpoofedArp
        | Is::SpoofedNd
        | Is::RogueRa
        | Is::RogueDhcp
        | Is::RogueDhcpv6 => "port security",
        Is::AclEgress | Is::AclIngress | Is::AclInvalid => "security groups",
        Is::NatExhausted
        | Is::ConnectionClash
        | Is::ConnectionGone
        | Is::HelperNoRoom
        | Is::FragmentOverlap
        | Is::FragmentTooSmall
        | Is::FragmentMalformed
        | Is::FragmentLimit
        | Is::FragmentTooMany
        | Is::FragmentExpired => "connection tracking",
        Is::TxTooBig
        | Is::TxRingFull
        | Is::TxError
        | Is::TxPortDown
        | Is::HandoverFull
        | Is::PortRemoved
        | Is::CopyNoFrame => "transmit",
        _ => "flow tables",
    }
}

/// What `docs/operations.md` says to do, or else what the reason means.
pub(super) fn advice(reason: DropReason) -> String {
    let start = format!("| `{}` |", reason.name());
    let row = OPERATIONS.lines().find(|line| line.starts_with(&start));
    let what_to_do = row.and_then(|row| row.trim_end().trim_end_matches('|').rsplit(" | ").next());
    what_to_do.map_or_else(|| reason.text().to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_advice_for_every_reason() {
        for &reason in DropReason::ALL {
            let advice = advice(reason);
            assert!(!advice.is_empty() && !advice.starts_with('|'), "{reason}: {advice}");
        }
        assert!(advice(DropReason::TxTooBig).contains("smaller MTU"));
    }
}
