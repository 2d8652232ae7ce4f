//! Values of fields, with and without masks, in each [`Format`], and subfields.

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_wire::OfPort;

use super::error::{Error, Problem};
use super::flags::{self, Flags};
use super::number;
use super::port::{self, PortNames};
use super::token::Token;
use crate::field::{Field, Format, Maskable, Subfield};

/// The field of that name in ovs-fields(7); names in extensible matches are for subfields only.
pub(super) fn field(name: &str) -> Option<Field> {
    Field::by_name(name).filter(|field| [field.info().name, field.info().alias].contains(&name))
}

/// Reads a value with an optional mask; `*` has an empty mask. Bits of the value outside the mask are kept.
pub(super) fn parse(field: Field, token: Token<'_>, ports: &dyn PortNames) -> Result<(u128, u128), Error> {
    if token.text == "*" {
        return Ok((0, 0));
    }
    let (value, mask) = parse_format(field, token, ports)?;
    if mask != 0 && mask != field.max() && field.info().maskable == Maskable::Whole {
        return token.fail(Problem::NotMaskable(field));
    }
    Ok((value, mask))
}

/// Reads a value without a mask.
pub(super) fn parse_whole(field: Field, token: Token<'_>, ports: &dyn PortNames) -> Result<u128, Error> {
    if token.text.contains('/') || token.text == "*" {
        return token.fail(Problem::Expected("a value without a mask"));
    }
    parse(field, token, ports).map(|(value, _)| value)
}

fn parse_format(field: Field, token: Token<'_>, ports: &dyn PortNames) -> Result<(u128, u128), Error> {
    match field.info().format {
        Format::Decimal | Format::Hex => parse_number(field, token),
        Format::Mac => masked(token, field.max(), mac),
        Format::Ipv4 => parse_address(token, 32, |token| {
            let address = token.text.parse::<Ipv4Addr>().map(|address| u32::from(address).into());
            address.map_err(|_| {
                token.error(Problem::Expected("an IPv4 address, such as 10.0.0.1 or 10.0.0.0/8"))
            })
        }),
        Format::Ipv6 => parse_address(token, 128, |token| {
            let address = token.text.parse::<Ipv6Addr>().map(u128::from);
            address
                .map_err(|_| token.error(Problem::Expected("an IPv6 address, such as fd00::1 or fd00::/8")))
        }),
        Format::Frag => flags::parse_fragment(token),
        Format::Port | Format::Port32 => {
            port::parse(token, ports).map(|port| (u128::from(port.0), field.max()))
        }
        Format::PacketType => packet_type(token).map(|value| (value, field.max())),
        format @ (Format::CtState | Format::TcpFlags | Format::TunFlags) => match Flags::of(format) {
            Some(flags) => flags.parse(token),
            None => parse_number(field, token),
        },
    }
}

/// What a value of the field is called in errors.
fn name(field: Field) -> &'static str {
    field.info().name
}

fn parse_number(field: Field, token: Token<'_>) -> Result<(u128, u128), Error> {
    let Some((value, mask)) = token.split_once("/") else {
        let value = match field.info().bits {
            64 => token.u64(name(field))?.into(),
            _ => token.number(name(field), largest(field))?,
        };
        return Ok((value, field.max()));
    };
    // A mask may be as wide as the octets that hold the field.
    let octets = u32::from(field.info().bits).next_multiple_of(8);
    let mask = match octets {
        64 => mask.u64("the mask")?.into(),
        octets => mask.number("the mask", u128::MAX >> (128 - octets))?,
    };
    let value = match octets {
        64 => value.u64(name(field))?.into(),
        _ => value.number(name(field), largest(field))?,
    };
    Ok((value, mask & field.max()))
}

fn masked(
    token: Token<'_>,
    exact: u128,
    part: impl Fn(Token<'_>) -> Result<u128, Error>,
) -> Result<(u128, u128), Error> {
    match token.split_once("/") {
        Some((value, mask)) => Ok((part(value)?, part(mask)?)),
        None => Ok((part(token)?, exact)),
    }
}

fn parse_address(
    token: Token<'_>,
    bits: u32,
    address: impl Fn(Token<'_>) -> Result<u128, Error>,
) -> Result<(u128, u128), Error> {
    let Some((value, mask)) = token.split_once("/") else {
        // A bare 0/0 stands for any.
        return Ok((address(token)?, u128::MAX >> (128 - bits)));
    };
    let length = !mask.is_empty() && mask.text.bytes().all(|digit| digit.is_ascii_digit());
    let mask = match length {
        true => {
            let length = mask.text.parse().ok().filter(|length| *length <= bits);
            let problem = Problem::OutOfRange { what: "the prefix length", min: 0, max: bits.into() };
            number::prefix_mask(length.ok_or_else(|| mask.error(problem))?, bits)
        }
        false => address(mask)?,
    };
    Ok((address(value)?, mask))
}

/// `02:00:00:00:00:01`
pub(super) fn mac(token: Token<'_>) -> Result<u128, Error> {
    let mut value = 0;
    let mut count = 0;
    for part in token.text.split(':') {
        let digits = (1..=2).contains(&part.len()) && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        let octet = u8::from_str_radix(part, 16).ok().filter(|_| digits);
        value = value << 8 | u128::from(octet.ok_or_else(|| not_mac(token))?);
        count += 1;
        if count > 6 {
            break;
        }
    }
    if count == 6 { Ok(value) } else { Err(not_mac(token)) }
}

fn not_mac(token: Token<'_>) -> Error {
    token.error(Problem::Expected("an Ethernet address, such as 02:00:00:00:00:01"))
}

/// `(1,0x800)`: a name space and a type in it.
fn packet_type(token: Token<'_>) -> Result<u128, Error> {
    let inner = token.strip_prefix("(").and_then(|token| token.strip_suffix(")"));
    let parts = inner.and_then(|inner| inner.split_once(","));
    let (space, kind) =
        parts.ok_or_else(|| token.error(Problem::Expected("a packet type, such as (1,0x800)")))?;
    let number = |part: Token<'_>| part.trim().u16("a number of a packet type").map(u128::from);
    Ok(number(space)? << 16 | number(kind)?)
}

/// Writes a value as actions have it: with its mask, unless that is all of the field.
pub(super) fn print(out: &mut String, field: Field, value: (u128, u128), ports: &dyn PortNames) {
    let (value, mask) = value;
    if mask == 0 {
        return out.push_str("ANY");
    }
    let exact = mask & field.max() == field.max();
    let (one, masked): (fn(&mut String, u128), _) = match field.info().format {
        Format::Port | Format::Port32 if exact => return port::print(out, OfPort(value as u16), ports),
        Format::Decimal | Format::Port | Format::Port32 => (number::decimal, Masked::Hex),
        Format::Hex => (number::hex, Masked::Hex),
        Format::Mac => (number::mac, Masked::Same),
        Format::Ipv4 => (number::ipv4, Masked::Prefix(32)),
        Format::Ipv6 => (number::ipv6, Masked::Prefix(128)),
        Format::Frag => return flags::print_fragment(out, value, mask),
        Format::PacketType => return print_packet_type(out, value),
        format @ (Format::CtState | Format::TcpFlags | Format::TunFlags) => match Flags::of(format) {
            Some(flags) => return flags.print(out, value, mask),
            None => (number::hex, Masked::Hex),
        },
    };
    one(out, value);
    if !exact {
        out.push('/');
        match masked {
            Masked::Hex => number::hex(out, mask),
            Masked::Same => one(out, mask),
            Masked::Prefix(bits) => match number::prefix(mask, bits) {
                Some(length) => number::decimal(out, length.into()),
                None => one(out, mask),
            },
        }
    }
}

/// How the mask behind a value is written.
enum Masked {
    Hex,
    Same,
    Prefix(u32),
}

/// `(1,0x800)`
pub(super) fn print_packet_type(out: &mut String, value: u128) {
    out.push('(');
    number::decimal(out, value >> 16 & 0xffff);
    out.push(',');
    number::hex(out, value & 0xffff);
    out.push(')');
}

/// The bits of a field that subfields may have: of `vlan_vid`, which is 13 bits wide as a value, not the bit that says
/// that a tag is there.
pub(super) fn all_of(field: Field) -> Subfield {
    let bits = if field == Field::VlanVid { 12 } else { field.info().bits };
    Subfield { field, offset: 0, bits }
}

/// Refuses a field that has no name in an extensible match: no message can name a part of it.
fn named(subfield: Subfield, token: Token<'_>) -> Result<Subfield, Error> {
    match subfield.field {
        Field::DlVlan | Field::DlVlanPcp => token.fail(Problem::Expected(
            "vlan_tci, vlan_vid or vlan_pcp: dl_vlan and dl_vlan_pcp have no NXM or OXM name",
        )),
        _ => Ok(subfield),
    }
}

/// The largest value of a field; the higher octet of `arp_op` is always 0.
fn largest(field: Field) -> u128 {
    if field == Field::ArpOp { 0xff } else { field.max() }
}

/// Reads `field[a..b]`, `field[n]`, `field[]` or `field`.
pub(super) fn parse_subfield(token: Token<'_>) -> Result<Subfield, Error> {
    parse_part(token).and_then(|subfield| named(subfield, token))
}

/// The same, in a match, where any field may be.
pub(super) fn parse_part(token: Token<'_>) -> Result<Subfield, Error> {
    let (name, bits) = match token.text.find('[') {
        Some(at) => token.split_at(at),
        None => (token, token.skip(token.text.len())),
    };
    let masked = || {
        name.text.strip_suffix("_W").filter(|name| name.starts_with(|first: char| first.is_ascii_uppercase()))
    };
    let field = Field::by_name(name.text).or_else(|| Field::by_name(masked()?));
    let field = field.ok_or_else(|| name.error(Problem::UnknownField))?;
    if bits.is_empty() {
        return Ok(all_of(field));
    }
    let syntax = || bits.error(Problem::Expected("[], [bit] or [first..last]"));
    let inner = bits.strip_prefix("[").and_then(|bits| bits.strip_suffix("]")).ok_or_else(syntax)?;
    if inner.is_empty() {
        return Ok(all_of(field));
    }
    let (first, last) = inner.split_once("..").unwrap_or((inner, inner));
    let bit = |part: Token<'_>| {
        let digits = !part.is_empty() && part.text.bytes().all(|digit| digit.is_ascii_digit());
        let number = if digits { part.text.parse::<u8>().ok() } else { return Err(syntax()) };
        number.filter(|bit| *bit < all_of(field).bits).ok_or_else(|| part.error(Problem::NoSuchBits(field)))
    };
    let (first, last) = (bit(first)?, bit(last)?);
    if first > last {
        return inner.fail(Problem::Expected("the lower bit first"));
    }
    Subfield::new(field, first, last - first + 1).ok_or_else(|| inner.error(Problem::NoSuchBits(field)))
}

/// Writes a subfield, its field by its extensible match name: `NXM_NX_REG0[0..15]`.
pub(super) fn print_subfield(out: &mut String, subfield: Subfield) {
    let info = subfield.field.info();
    let named = [info.nxm, info.oxm, info.name].into_iter().find(|name| !name.is_empty());
    out.push_str(named.unwrap_or_default());
    out.push('[');
    if subfield != all_of(subfield.field) {
        number::decimal(out, subfield.offset.into());
        if subfield.bits > 1 {
            out.push_str("..");
            number::decimal(out, u128::from(subfield.offset) + u128::from(subfield.bits) - 1);
        }
    }
    out.push(']');
}
