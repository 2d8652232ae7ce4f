//! TFTP (RFC 1350): the server answers a request from a port of its own choice (section 4).
//!
//! Open vSwitch takes any packet to the server's port for a request; here it has to be one.

use super::{Control, Expectation};

/// Whether a datagram to the server's port is a request to read or to write (RFC 1350, section 5): file name and mode, each
/// ended by a zero; options may follow (RFC 2347).
pub fn is_request(payload: &[u8]) -> bool {
    let [0, 1 | 2, rest @ ..] = payload else { return false };
    let mut texts = rest.split(|&octet| octet == 0);
    let is_text = |text: Option<&[u8]>| text.is_some_and(|text| !text.is_empty());
    // What a split ends with has no zero behind it.
    is_text(texts.next()) && is_text(texts.next()) && texts.next().is_some()
}

/// The answer to a request.
pub fn expectation(control: &Control) -> Expectation {
    control.towards_client(control.reply.dst_port, control.original.src_port)
}

#[cfg(test)]
mod tests {
    use weft_conntrack::{Family, Side, Tuple};

    use super::*;

    const CLIENT: u128 = 0x0a00_0001;
    const SERVER: u128 = 0x0a00_0002;
    const ORIGINAL: Tuple =
        Tuple { src: CLIENT, dst: SERVER, src_port: 5000, dst_port: 69, protocol: 17, family: Family::V4 };

    #[test]
    fn a_request_has_a_name_and_a_mode() {
        for request in
            [&b"\0\x01boot\0octet\0"[..], b"\0\x02x\0netascii\0", b"\0\x01x\0octet\0blksize\x001400\0"]
        {
            assert!(is_request(request), "{request:?}");
        }
        let data = b"\0\x03\0\x01abc\0d\0";
        for other in [
            &data[..],
            b"",
            b"\0",
            b"\0\x01",
            b"\0\x01boot",
            b"\0\x01boot\0octet",
            b"\0\x01\0octet\0",
            b"\x01\x01a\0b\0",
        ] {
            assert!(!is_request(other), "{other:?}");
        }
    }

    #[test]
    fn the_answer_comes_from_any_port_of_the_server_to_the_clients() {
        let expected = expectation(&Control { original: ORIGINAL, reply: ORIGINAL.reversed() });
        assert_eq!(
            expected.tuple,
            Tuple { src: SERVER, dst: CLIENT, src_port: 0, dst_port: 5000, ..ORIGINAL }
        );
        assert_eq!((expected.translation, expected.port), (None, 5000));
    }

    #[test]
    fn a_translated_clients_answer_goes_to_what_the_server_knows() {
        let reply = Tuple { dst: 9, dst_port: 6000, ..ORIGINAL.reversed() };
        let expected = expectation(&Control { original: ORIGINAL, reply });
        assert_eq!((expected.tuple.dst, expected.tuple.dst_port), (9, 6000));
        assert_eq!((expected.translation, expected.port), (Some((Side::Destination, CLIENT)), 5000));
        // A translated server's answer comes from what the client knows.
        let expected =
            expectation(&Control { original: ORIGINAL, reply: Tuple { src: 8, ..ORIGINAL.reversed() } });
        assert_eq!((expected.tuple.src, expected.translation), (8, Some((Side::Source, SERVER))));
    }
}
