//! How numbers, addresses and times are written.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// `10`
pub(super) fn decimal(out: &mut String, value: u128) {
    // A String takes all that is written.
    let _ = write!(out, "{value}");
}

/// `0xa`, but `0`
pub(super) fn hex(out: &mut String, value: u128) {
    let _ = if value == 0 { out.write_char('0') } else { write!(out, "{value:#x}") };
}

/// `0x00a`: so many digits at least.
pub(super) fn hex_padded(out: &mut String, value: u128, digits: usize) {
    let _ = write!(out, "0x{value:0digits$x}");
}

/// `11.22.0f`
pub(super) fn octets(out: &mut String, octets: &[u8]) {
    for (at, octet) in octets.iter().enumerate() {
        let _ = write!(out, "{}{octet:02x}", if at > 0 { "." } else { "" });
    }
}

/// `02:00:00:00:00:01`
pub(super) fn mac(out: &mut String, value: u128) {
    let _ = write!(out, "{}", weft_wire::Mac::from_u64(value as u64));
}

/// `10.0.0.1`
pub(super) fn ipv4(out: &mut String, value: u128) {
    let _ = write!(out, "{}", Ipv4Addr::from(value as u32));
}

/// `2001:db8::1`, as `inet_ntop` writes it: unlike Rust, with a dotted IPv4 address behind 96 zero bits.
pub(super) fn ipv6(out: &mut String, value: u128) {
    let _ = if value >> 32 == 0 && value >> 16 != 0 {
        write!(out, "::{}", Ipv4Addr::from(value as u32))
    } else {
        write!(out, "{}", Ipv6Addr::from(value))
    };
}

/// The prefix length of a mask of `bits` bits, if it is one.
pub(super) fn prefix(mask: u128, bits: u32) -> Option<u32> {
    let length = (mask << (128 - bits)).leading_ones();
    (prefix_mask(length, bits) == mask).then_some(length)
}

/// The mask of `bits` bits with that prefix length.
pub(super) fn prefix_mask(length: u32, bits: u32) -> u128 {
    let whole = u128::MAX >> (128 - bits);
    whole & !whole.checked_shr(length).unwrap_or(0)
}

/// `1s`, `1.200s`, `1.2345s`: three decimals if they say it all.
pub(super) fn duration(out: &mut String, duration: Duration) {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    let _ = write!(out, "{seconds}");
    if nanos % 1_000_000 != 0 {
        let text = format!("{nanos:09}");
        let _ = write!(out, ".{}", text.trim_end_matches('0'));
    } else if nanos != 0 {
        let _ = write!(out, ".{:03}", nanos / 1_000_000);
    }
    out.push('s');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(print: impl Fn(&mut String)) -> String {
        let mut out = String::new();
        print(&mut out);
        out
    }

    #[test]
    fn durations_have_as_many_decimals_as_needed() {
        for (nanos, expected) in [
            (2_000_000_000, "2s"),
            (1_200_000_000, "1.200s"),
            (1_000_500_000, "1.0005s"),
            (7, "0.000000007s"),
        ] {
            assert_eq!(text(|out| duration(out, Duration::from_nanos(nanos))), expected);
        }
    }

    #[test]
    fn ipv6_addresses_are_written_as_the_c_library_does() {
        for (value, expected) in [
            (0, "::"),
            (1, "::1"),
            (0x0a00_0001, "::10.0.0.1"),
            (0xffff_0a00_0001, "::ffff:10.0.0.1"),
            (0x2001_0db8_0000_0000_0001_0000_0000_0001, "2001:db8::1:0:0:1"),
        ] {
            assert_eq!(text(|out| ipv6(out, value)), expected);
        }
    }

    #[test]
    fn prefixes_and_masks_fit() {
        for bits in [32, 128] {
            for length in 0..=bits {
                assert_eq!(prefix(prefix_mask(length, bits), bits), Some(length));
            }
        }
        assert_eq!((prefix(0xff00_ff00, 32), prefix(1, 128)), (None, None));
    }
}
