//! Writing `ct(..)` and the `nat(..)` within it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::number;
use super::port::PortNames;
use super::print_actions::{self, close};
use super::value;
use crate::action::{Ct, CtHelper, CtZone, Nat, NatAddresses, NatChoice, NatKind};

/// Writes a `ct`.
pub(super) fn print(out: &mut String, ct: &Ct, ports: &dyn PortNames) {
    out.push_str("ct(");
    out.push_str(if ct.commit { "commit," } else { "" });
    out.push_str(if ct.force { "force," } else { "" });
    if let Some(table) = ct.table {
        out.push_str("table=");
        number::decimal(out, table.into());
        out.push(',');
    }
    match ct.zone {
        CtZone::Number(0) => (),
        CtZone::Number(zone) => {
            out.push_str("zone=");
            number::decimal(out, zone.into());
            out.push(',');
        }
        CtZone::Field(field) => {
            out.push_str("zone=");
            value::print_subfield(out, field);
            out.push(',');
        }
    }
    if let Some(nat) = &ct.nat {
        print_nat(out, nat);
    }
    if !ct.exec.is_empty() {
        out.push_str("exec(");
        print_actions::print(out, &ct.exec, ports);
        out.push_str("),");
    }
    out.push_str(match ct.helper {
        None => "",
        Some(CtHelper::Ftp) => "alg=ftp,",
        Some(CtHelper::Tftp) => "alg=tftp,",
    });
    close(out);
}

fn print_nat(out: &mut String, nat: &Nat) {
    out.push_str("nat");
    let Some(kind) = nat.kind else { return out.push(',') };
    out.push_str(match kind {
        NatKind::Source => "(src",
        NatKind::Destination => "(dst",
    });
    if let Some(addresses) = nat.addresses {
        out.push('=');
        print_addresses(out, addresses, nat.ports.is_some());
        if let Some((first, last)) = nat.ports {
            out.push(':');
            number::decimal(out, first.into());
            if first != last {
                out.push('-');
                number::decimal(out, last.into());
            }
        }
    }
    out.push_str(if nat.persistent { ",persistent" } else { "" });
    out.push_str(match nat.choice {
        None => "",
        Some(NatChoice::Hash) => ",hash",
        Some(NatChoice::Random) => ",random",
    });
    out.push_str("),");
}

fn print_addresses(out: &mut String, addresses: NatAddresses, brackets: bool) {
    match addresses {
        NatAddresses::V4(first, last) => {
            let print = |out: &mut String, address: Ipv4Addr| number::ipv4(out, u32::from(address).into());
            print(out, first);
            if first != last {
                out.push('-');
                print(out, last);
            }
        }
        NatAddresses::V6(first, last) => {
            let print = |out: &mut String, address: Ipv6Addr| {
                out.push_str(if brackets { "[" } else { "" });
                number::ipv6(out, address.into());
                out.push_str(if brackets { "]" } else { "" });
            };
            print(out, first);
            if first != last {
                out.push('-');
                print(out, last);
            }
        }
    }
}
