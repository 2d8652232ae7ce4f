//! Reading `bundle(..)`, `bundle_load(..)` and `multipath(..)`.

use super::actions::target;
use super::error::{Error, Problem};
use super::port::{self, PortNames};
use super::token::{Item, Token};
use crate::action::{Action, Bundle, BundleAlgorithm, HashFields, Multipath, MultipathAlgorithm};

/// Ports of a bundle, at most.
const MAX_MEMBERS: usize = 2048;

/// What is hashed, and its name.
pub(super) const HASHES: [(&str, HashFields); 7] = [
    ("eth_src", HashFields::EthSrc),
    ("symmetric_l4", HashFields::SymmetricL4),
    ("symmetric_l3l4", HashFields::SymmetricL3L4),
    ("symmetric_l3l4+udp", HashFields::SymmetricL3L4Udp),
    ("nw_src", HashFields::NwSrc),
    ("nw_dst", HashFields::NwDst),
    ("symmetric_l3", HashFields::SymmetricL3),
];

/// How a bundle chooses, and its name.
pub(super) const BUNDLES: [(&str, BundleAlgorithm); 2] =
    [("active_backup", BundleAlgorithm::ActiveBackup), ("hrw", BundleAlgorithm::HighestRandomWeight)];

/// How a multipath chooses, and its name.
pub(super) const MULTIPATHS: [(&str, MultipathAlgorithm); 4] = [
    ("modulo_n", MultipathAlgorithm::ModuloN),
    ("hash_threshold", MultipathAlgorithm::HashThreshold),
    ("hrw", MultipathAlgorithm::HighestRandomWeight),
    ("iter_hash", MultipathAlgorithm::IterHash),
];

/// The name of a choice.
pub(super) fn name_of<T: PartialEq>(names: &[(&'static str, T)], choice: T) -> &'static str {
    names.iter().find(|(_, known)| *known == choice).map_or("", |(name, _)| name)
}

fn by_name<T: Copy>(names: &[(&str, T)], token: Token<'_>, expected: &'static str) -> Result<T, Error> {
    let known = names.iter().find(|(name, _)| token.text.eq_ignore_ascii_case(name));
    known.map(|(_, choice)| *choice).ok_or_else(|| token.error(Problem::Expected(expected)))
}

fn hash_fields(token: Token<'_>) -> Result<HashFields, Error> {
    let expected =
        "eth_src, symmetric_l4, symmetric_l3l4, symmetric_l3l4+udp, nw_src, nw_dst or symmetric_l3";
    by_name(&HASHES, token, expected)
}

/// Reads a bundle; `load` writes the choice to a field.
pub(super) fn bundle(item: &Item<'_>, load: bool, ports: &dyn PortNames) -> Result<Action, Error> {
    let mut words = item.value.words();
    let mut next = |what| words.next().ok_or_else(|| item.value.error(Problem::Missing(what)));
    let fields = hash_fields(next("what to hash")?)?;
    let basis = next("the basis")?.u16("the basis")?;
    let algorithm = by_name(&BUNDLES, next("the algorithm")?, "active_backup or hrw")?;
    let kind = next("ofport")?;
    if !kind.text.eq_ignore_ascii_case("ofport") {
        return kind.fail(Problem::Expected("ofport"));
    }
    let target = if load { Some(target(next("the destination")?)?) } else { None };
    let first = next("members:")?;
    let head = ["members:", "slaves:"].into_iter().find_map(|word| {
        first.text.get(..word.len()).filter(|head| head.eq_ignore_ascii_case(word)).map(str::len)
    });
    let head = head.ok_or_else(|| first.error(Problem::Expected("members: and ports")))?;
    let mut members = Vec::new();
    for word in std::iter::once(first.skip(head)).chain(words) {
        let text = word.text.trim_start_matches('[');
        let word = Token { text: text.trim_end_matches(']'), at: word.at + word.text.len() - text.len() };
        if word.is_empty() {
            continue;
        }
        if members.len() == MAX_MEMBERS {
            return word.fail(Problem::TooMany { what: "members", max: MAX_MEMBERS });
        }
        members.push(port::parse(word, ports)?);
    }
    Ok(Action::Bundle(Box::new(Bundle { fields, basis, algorithm, ports: members.into(), target })))
}

/// Reads a multipath.
pub(super) fn multipath(item: &Item<'_>) -> Result<Action, Error> {
    let mut words = item.value.words();
    let mut next = |what| words.next().ok_or_else(|| item.value.error(Problem::Missing(what)));
    let fields = hash_fields(next("what to hash")?)?;
    let basis = next("the basis")?.u16("the basis")?;
    let expected = "modulo_n, hash_threshold, hrw or iter_hash";
    let algorithm = by_name(&MULTIPATHS, next("the algorithm")?, expected)?;
    let links = next("the number of links")?;
    let count = links.number_in("the number of links", 1, 65536)?;
    let arg = next("the argument")?.u32("the argument")?;
    let target = target(next("the destination")?)?;
    if count - 1 > target.max() {
        return links.fail(Problem::OutOfRange {
            what: "the number of links",
            min: 1,
            max: target.max() + 1,
        });
    }
    if let Some(more) = words.next() {
        return more.fail(Problem::Trailing("multipath"));
    }
    Ok(Action::Multipath(Box::new(Multipath {
        fields,
        basis,
        algorithm,
        max_link: (count - 1) as u16,
        arg,
        target,
    })))
}
