//! Names of ports, and how ports are written.

use weft_wire::OfPort;

use super::error::{Error, Problem};
use super::token::Token;

/// What ports are called. Whoever parses or prints hands it in; a reserved name (`LOCAL`) never gets here.
pub trait PortNames {
    /// The port of that name.
    fn number(&self, name: &str) -> Option<OfPort>;
    /// The name of that port.
    fn name(&self, port: OfPort) -> Option<&str>;
}

/// Ports have no names: only numbers are understood and printed (`ovs-ofctl --no-names`).
#[derive(Clone, Copy, Debug, Default)]
pub struct NoNames;

impl PortNames for NoNames {
    fn number(&self, _: &str) -> Option<OfPort> {
        None
    }

    fn name(&self, _: OfPort) -> Option<&str> {
        None
    }
}

/// What OpenFlow 1.1 and later add to a reserved port's number to get 32 bits.
const OFFSET_OF11: u32 = 0xffff_0000;

/// Reserved ports and their names (OpenFlow 1.5.1, section 7.2.1).
const RESERVED: [(&str, OfPort); 10] = [
    ("IN_PORT", OfPort::IN_PORT),
    ("TABLE", OfPort::TABLE),
    ("NORMAL", OfPort::NORMAL),
    ("FLOOD", OfPort::FLOOD),
    ("ALL", OfPort::ALL),
    ("CONTROLLER", OfPort::CONTROLLER),
    ("LOCAL", OfPort::LOCAL),
    ("ANY", OfPort::NONE),
    ("NONE", OfPort::NONE),
    ("UNSET", UNSET),
];

/// `OFPP_UNSET`: no output action in the action set.
const UNSET: OfPort = OfPort(0xfff7);

/// Reads a port: a number (16 bits, or 32 bits as OpenFlow 1.1 has them), a reserved name, or a name, quoted or not.
pub(super) fn parse(token: Token<'_>, ports: &dyn PortNames) -> Result<OfPort, Error> {
    lookup(token.text, ports).ok_or_else(|| token.error(Problem::UnknownPort))
}

/// The port that a text means, if any.
pub(super) fn lookup(text: &str, ports: &dyn PortNames) -> Option<OfPort> {
    if text.bytes().next()?.is_ascii_digit() && text.bytes().all(|digit| digit.is_ascii_digit()) {
        let number = text.parse::<u32>().ok()?;
        let number = if number >= OFFSET_OF11 + 0xff00 { number - OFFSET_OF11 } else { number };
        return number.try_into().ok().map(OfPort);
    }
    let reserved = RESERVED.iter().find(|(name, _)| text.eq_ignore_ascii_case(name));
    if let Some(&(_, port)) = reserved {
        return Some(port);
    }
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(name) => ports.number(&unescape(name)),
        None => ports.number(text),
    }
}

/// A quoted name without its backslashes.
fn unescape(name: &str) -> std::borrow::Cow<'_, str> {
    if !name.contains('\\') {
        return name.into();
    }
    let mut plain = String::with_capacity(name.len());
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        plain.push(if letter == '\\' { letters.next().unwrap_or('\\') } else { letter });
    }
    plain.into()
}

/// Writes a port: its reserved name, its own name (quoted unless it is letters and digits), or its number.
pub(super) fn print(out: &mut String, port: OfPort, ports: &dyn PortNames) {
    let reserved = |(_, reserved): &&(&str, OfPort)| *reserved == port;
    if let Some((name, _)) = RESERVED.iter().find(reserved) {
        out.push_str(name);
    } else if let Some(name) = ports.name(port) {
        print_name(out, name);
    } else {
        super::number::decimal(out, port.0.into());
    }
}

fn print_name(out: &mut String, name: &str) {
    let plain = name.starts_with(|first: char| first.is_ascii_alphabetic())
        && name.bytes().all(|letter| letter.is_ascii_alphanumeric());
    if plain {
        return out.push_str(name);
    }
    out.push('"');
    for letter in name.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Names;

    impl PortNames for Names {
        fn number(&self, name: &str) -> Option<OfPort> {
            ["eth0", "patch-int", "a,b"]
                .iter()
                .position(|known| *known == name)
                .map(|at| OfPort(at as u16 + 1))
        }

        fn name(&self, port: OfPort) -> Option<&str> {
            ["eth0", "patch-int", "a,b"].get(usize::from(port.0).checked_sub(1)?).copied()
        }
    }

    #[test]
    fn ports_are_numbers_reserved_names_or_names() {
        let cases = [
            ("1", Some(1)),
            ("eth0", Some(1)),
            ("\"patch-int\"", Some(2)),
            ("patch-int", Some(2)),
            ("\"a,b\"", Some(3)),
            ("local", Some(0xfffe)),
            ("65534", Some(0xfffe)),
            ("4294967294", Some(0xfffe)),
            ("any", Some(0xffff)),
            ("70000", None),
            ("-1", None),
            ("eth1", None),
            ("", None),
        ];
        for (text, port) in cases {
            assert_eq!(lookup(text, &Names), port.map(OfPort), "{text}");
        }
    }

    #[test]
    fn names_are_quoted_unless_they_are_letters_and_digits() {
        let text = |port| {
            let mut out = String::new();
            print(&mut out, OfPort(port), &Names);
            out
        };
        assert_eq!([1, 2, 4, 0xfff8, 0xffff].map(text), ["eth0", "\"patch-int\"", "4", "IN_PORT", "ANY"]);
    }
}
