//! Whose packets a question is about: what comes in by some ports, and what has some addresses.
//!
//! A flow's key has only the bits that tables read. So a flow concerns an address if its key has it; and, where the key
//! doesn't say, if it came in by a port behind which the address is.

use weft_flow::{FlowKey, KeyMask, Match};

use crate::key::PortId;

/// What packets of the subject look like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern {
    /// Its addresses: a key must have them, unless the packet came in where the subject is.
    pub addresses: Match,
    /// All of it: no bit that the key has may contradict it.
    pub whole: Match,
    /// Whether the subject is who sends these packets.
    pub sends: bool,
}

/// See the module's text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Subject {
    /// Ports by which the subject's packets come in.
    pub ports: Vec<PortId>,
    /// Whether all that comes in by those ports is meant.
    pub whole_ports: bool,
    /// What else is meant: what fits one of these.
    pub patterns: Vec<Pattern>,
}

impl Subject {
    /// Whether packets that came in by `port`, and of which the bits of `mask` are known, concern the subject.
    pub fn concerns(&self, port: PortId, key: &FlowKey, mask: &KeyMask) -> bool {
        let at_home = self.ports.contains(&port);
        if at_home && self.whole_ports {
            return true;
        }
        self.patterns.iter().any(|pattern| match compare(&pattern.whole, key, mask) {
            Fit::No => false,
            Fit::Whole => true,
            Fit::Unknown => at_home && pattern.sends || compare(&pattern.addresses, key, mask) == Fit::Whole,
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fit {
    /// A bit that is known is another one.
    No,
    /// No bit that is known contradicts.
    Unknown,
    /// All bits are known, and right.
    Whole,
}

fn compare(wanted: &Match, key: &FlowKey, mask: &KeyMask) -> Fit {
    let mut fit = Fit::Whole;
    for term in wanted.terms() {
        let word = usize::from(term.word);
        let (is, known) = match (key.0.get(word), mask.0.get(word)) {
            (Some(is), Some(bits)) => (*is, term.mask & bits),
            _ => (0, 0),
        };
        if (is ^ term.value) & known != 0 {
            return Fit::No;
        }
        if known != term.mask {
            fit = Fit::Unknown;
        }
    }
    fit
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_flow::{Field, Fields, Subfield};

    fn key(fields: &[(Field, u128)]) -> (FlowKey, KeyMask) {
        let (mut value, mut mask) = (Fields::default(), Fields::default());
        for &(field, wanted) in fields {
            Subfield::whole(field).set(&mut value, wanted);
            Subfield::whole(field).set(&mut mask, field.max());
        }
        let mut bits = KeyMask::default();
        bits.0.iter_mut().zip(mask.0).for_each(|(place, word)| *place = word);
        (value.key(), bits)
    }

    #[test]
    fn an_address_is_concerned_where_the_key_has_it_or_where_it_is_at_home() {
        let from = Match::any().with(Field::EthSrc, 7);
        let pattern = Pattern { addresses: from.clone(), whole: from, sends: true };
        let subject = Subject { ports: vec![PortId(1)], whole_ports: false, patterns: vec![pattern] };
        let concerns = |port, fields: &[(Field, u128)]| {
            let (key, mask) = key(fields);
            subject.concerns(PortId(port), &key, &mask)
        };
        assert!(concerns(2, &[(Field::EthSrc, 7)]), "the key has it");
        assert!(!concerns(1, &[(Field::EthSrc, 8)]), "another one at the same port");
        assert!(concerns(1, &[(Field::EthDst, 9)]), "the key doesn't say, and it is at home there");
        assert!(!concerns(2, &[(Field::EthDst, 9)]), "anybody's");
    }

    #[test]
    fn a_connection_is_concerned_as_soon_as_its_addresses_are_known() {
        let addresses = Match::any().with(Field::IpSrc, 1).with(Field::IpDst, 2);
        let whole = addresses.with(Field::TcpDst, 80);
        let patterns = vec![Pattern { addresses, whole, sends: true }];
        let subject = Subject { patterns, ..Subject::default() };
        let concerns = |fields: &[(Field, u128)]| {
            let (key, mask) = key(fields);
            subject.concerns(PortId(9), &key, &mask)
        };
        let ends = [(Field::IpSrc, 1), (Field::IpDst, 2)];
        assert!(concerns(&ends), "the table reads no ports");
        assert!(concerns(&[ends[0], ends[1], (Field::TcpDst, 80)]));
        assert!(!concerns(&[ends[0], ends[1], (Field::TcpDst, 81)]));
        assert!(!concerns(&ends[..1]), "half of it is anybody's");
    }

    #[test]
    fn a_port_is_concerned_by_all_that_comes_in_there() {
        let subject = Subject { ports: vec![PortId(1)], whole_ports: true, patterns: Vec::new() };
        let (key, mask) = key(&[(Field::EthSrc, 8)]);
        assert!(subject.concerns(PortId(1), &key, &mask) && !subject.concerns(PortId(2), &key, &mask));
    }
}
