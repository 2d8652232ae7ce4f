//! Fields whose bits have names: `ct_state=+trk-new`, `tcp_flags=syn|ack`, `tun_flags=+oam`, and `nw_frag=first`.

use super::error::{Error, Problem};
use super::number;
use super::token::Token;
use crate::field::Format;

/// Names of bits, least significant first.
pub(super) struct Flags {
    names: &'static [&'static str],
    /// The mask with which all flags are compared.
    pub all: u128,

    expected: &'static str,
}

static CT_STATE: Flags = Flags {
    names: &["new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat"],
    all: 0xff,

    expected: "a number or flags such as +trk-new; they are new, est, rel, rpl, inv, trk, snat and dnat",
};
static TCP_FLAGS: Flags = Flags {
    names: &["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]"],
    all: 0xfff,

    expected: "a number or flags such as +syn-ack; they are fin, syn, rst, psh, ack, urg, ece, cwr, ns, [200], [400] and [800]",
};
static TUN_FLAGS: Flags =
    Flags { names: &["oam"], all: 1, expected: "a number or flags such as +oam; oam is the only one" };

impl Flags {
    /// The flags of fields that are written so.
    pub fn of(format: Format) -> Option<&'static Flags> {
        match format {
            Format::CtState => Some(&CT_STATE),
            Format::TcpFlags => Some(&TCP_FLAGS),
            Format::TunFlags => Some(&TUN_FLAGS),
            _ => None,
        }
    }

    /// Reads `+a-b`, `a|b`, `value/mask` or a number; the result is value and mask.
    pub fn parse(&self, token: Token<'_>) -> Result<(u128, u128), Error> {
        if token.text.starts_with(['+', '-']) {
            return self.parse_signed(token);
        }
        if let Some((value, mask)) = token.split_once("/") {
            let bits = |part: Token<'_>| part.number("the number of flags", self.all);
            return Ok((bits(value)? & bits(mask)?, bits(mask)?));
        }
        let mut value = 0;
        let mut rest = Some(token);
        while let Some(flags) = rest {
            let (flag, tail) = flags.split_once("|").map_or((flags, None), |(flag, tail)| (flag, Some(tail)));
            value |= match flag.text.starts_with(|first: char| first.is_ascii_digit()) {
                true => flag.number("the number of flags", self.all)?,
                false => self.bit(flag)?,
            };
            rest = tail;
        }
        Ok((value, self.all))
    }

    fn parse_signed(&self, token: Token<'_>) -> Result<(u128, u128), Error> {
        let (mut value, mut mask) = (0, 0);
        let mut rest = token;
        while !rest.is_empty() {
            let set = rest.text.starts_with('+');
            let signless = rest.skip(1);
            let end = signless.text.find(['+', '-']).unwrap_or(signless.text.len());
            let (flag, tail) = signless.split_at(end);
            let bit = self.bit(flag)?;
            if mask & bit != 0 {
                return flag.fail(Problem::Twice);
            }
            mask |= bit;
            value |= if set { bit } else { 0 };
            rest = tail;
        }
        Ok((value, mask))
    }

    fn bit(&self, flag: Token<'_>) -> Result<u128, Error> {
        let at = self.names.iter().position(|name| *name == flag.text);
        at.map(|at| 1 << at).ok_or_else(|| flag.error(Problem::Expected(self.expected)))
    }

    /// Writes flags: `a|b` if all are said, else as [`Flags::print_signed`] does.
    pub fn print(&self, out: &mut String, value: u128, mask: u128) {
        if mask & self.all == self.all {
            return self.print_set(out, value);
        }
        self.print_signed(out, value, mask);
    }

    /// Writes flags as `+a-b`.
    pub fn print_signed(&self, out: &mut String, value: u128, mask: u128) {
        if mask == 0 {
            return out.push_str("0/0");
        }
        for (at, name) in self.names.iter().enumerate().filter(|(at, _)| mask >> at & 1 != 0) {
            out.push(if value >> at & 1 != 0 { '+' } else { '-' });
            out.push_str(name);
        }
    }

    fn print_set(&self, out: &mut String, value: u128) {
        if value == 0 {
            return out.push('0');
        }
        let set = self.names.iter().enumerate().filter(|(at, _)| value >> at & 1 != 0);
        for (count, (_, name)) in set.enumerate() {
            out.push_str(if count > 0 { "|" } else { "" });
            out.push_str(name);
        }
    }
}

/// What `nw_frag` is called: name, value, mask. Bit 0 is "a fragment", bit 1 "not the first".
const FRAGMENTS: [(&str, u128, u128); 7] = [
    ("no", 0, 3),
    ("first", 1, 3),
    ("later", 3, 3),
    ("no", 0, 1),
    ("yes", 1, 1),
    ("not_later", 0, 2),
    ("later", 2, 2),
];

/// Reads `nw_frag`'s value.
pub(super) fn parse_fragment(token: Token<'_>) -> Result<(u128, u128), Error> {
    let known = FRAGMENTS.iter().find(|(name, ..)| token.text.eq_ignore_ascii_case(name));
    let known = known.map(|&(_, value, mask)| (value, mask));
    known.ok_or_else(|| token.error(Problem::Expected("no, yes, first, later or not_later")))
}

/// Writes `nw_frag`'s value.
pub(super) fn print_fragment(out: &mut String, value: u128, mask: u128) {
    let known = FRAGMENTS.iter().find(|&&(_, v, m)| (v, m) == (value, mask & 3));
    match known {
        Some((name, ..)) => out.push_str(name),
        None => {
            number::hex(out, value);
            out.push('/');
            number::hex(out, mask);
        }
    }
}
