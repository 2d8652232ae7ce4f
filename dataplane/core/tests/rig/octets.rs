//! Octets as text: in full, and as what differs from others.

use std::fmt::Write;

pub fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").unwrap();
        text
    })
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// `=`, or `FROM-TO:OCTETS`: what is at `before[FROM..TO]` is replaced.
pub fn difference(before: &[u8], after: &[u8]) -> String {
    if before == after {
        return "=".to_owned();
    }
    let alike = |pairs: &mut dyn Iterator<Item = (&u8, &u8)>| pairs.take_while(|(a, b)| a == b).count();
    let head = alike(&mut before.iter().zip(after));
    let tail = alike(&mut before[head..].iter().rev().zip(after[head..].iter().rev()));
    format!("{head}-{}:{}", before.len() - tail, hex(&after[head..after.len() - tail]))
}

pub fn changed(before: &[u8], difference: &str) -> Vec<u8> {
    let mut octets = before.to_vec();
    if let Some((place, new)) = difference.split_once(':') {
        let (from, to) = place.split_once('-').unwrap();
        octets.splice(from.parse::<usize>().unwrap()..to.parse().unwrap(), unhex(new));
    }
    octets
}
