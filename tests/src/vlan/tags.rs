//! The VLAN tags in front of a frame's own EtherType, and the frame that carries them (IEEE 802.1Q clause 9).

use crate::cmd::Error;
use std::fmt;
use std::str::FromStr;

/// TPID of a C-tag.
pub const CTAG: u16 = 0x8100;
/// TPID of an S-tag.
pub const STAG: u16 = 0x88a8;

/// One VLAN tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// 0x8100 or 0x88a8.
    pub tpid: u16,
    /// Priority code point, 0 to 7.
    pub pcp: u8,
    /// Drop eligible indicator.
    pub dei: bool,
    /// VLAN id, 0 (a priority tag) to 4095.
    pub vid: u16,
}

impl Tag {
    fn tci(self) -> u16 {
        u16::from(self.pcp) << 13 | u16::from(self.dei) << 12 | self.vid
    }

    fn from_wire(tpid: u16, tci: u16) -> Self {
        Tag { tpid, pcp: (tci >> 13) as u8, dei: tci & 0x1000 != 0, vid: tci & 0xfff }
    }
}

/// `10`, `10p5` (PCP 5), `10p5d` (DEI set), `s10` (TPID 0x88a8).
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.tpid == STAG { "s" } else { "" };
        write!(f, "{s}{}", self.vid)?;
        if self.pcp != 0 {
            write!(f, "p{}", self.pcp)?;
        }
        f.write_str(if self.dei { "d" } else { "" })
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::new(format!("`{text}` is no VLAN tag"));
        let (tpid, rest) = text.strip_prefix('s').map_or((CTAG, text), |rest| (STAG, rest));
        let (rest, dei) = rest.strip_suffix('d').map_or((rest, false), |rest| (rest, true));
        let (vid, pcp) = rest.split_once('p').unwrap_or((rest, "0"));
        let vid: u16 = vid.parse().map_err(|_| wrong())?;
        let pcp: u8 = pcp.parse().map_err(|_| wrong())?;
        if vid > 4095 || pcp > 7 {
            return Err(wrong());
        }
        Ok(Tag { tpid, pcp, dei, vid })
    }
}

/// A stack of tags, the outermost first; empty for an untagged frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tags(pub Vec<Tag>);

/// `u` for untagged, else the tags joined by `+`.
impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("u");
        }
        let tags: Vec<String> = self.0.iter().map(Tag::to_string).collect();
        f.write_str(&tags.join("+"))
    }
}

impl FromStr for Tags {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "u" {
            return Ok(Tags::default());
        }
        text.split('+').map(str::parse).collect::<Result<_, _>>().map(Tags)
    }
}

/// IPv4 10.0.0.1 -> 10.255.255.255, UDP 1 -> 2, no payload; both checksums right (that of UDP is left out, as 0).
const PAYLOAD: [u8; 30] = [
    0x08, 0x00, 0x45, 0x00, 0x00, 0x1c, 0x00, 0x00, 0x00, 0x00, 0x40, 0x11, 0x65, 0xd2, 0x0a, 0x00, 0x00,
    0x01, 0x0a, 0xff, 0xff, 0xff, 0x00, 0x01, 0x00, 0x02, 0x00, 0x08, 0x00, 0x00,
];

impl Tags {
    /// A broadcast frame with these tags and this source, of 60 bytes and a few more for the tags.
    pub fn frame(&self, source: [u8; 6]) -> Vec<u8> {
        let mut frame = [&[0xff; 6], &source[..]].concat();
        for tag in &self.0 {
            frame.extend(tag.tpid.to_be_bytes());
            frame.extend(tag.tci().to_be_bytes());
        }
        frame.extend(PAYLOAD);
        frame.resize(frame.len() + 18, 0);
        frame
    }

    /// The source address and the tags of a frame; None when it is too short for them.
    pub fn of(frame: &[u8]) -> Option<([u8; 6], Tags)> {
        let source = frame.get(6..12)?.try_into().ok()?;
        let mut tags = Vec::new();
        let mut rest = frame.get(12..)?;
        loop {
            let tpid = u16::from_be_bytes(rest.get(..2)?.try_into().ok()?);
            if tpid != CTAG && tpid != STAG {
                return Some((source, Tags(tags)));
            }
            tags.push(Tag::from_wire(tpid, u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?)));
            rest = rest.get(4..)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_and_bytes_round_trip() {
        for text in ["u", "0", "0p5", "10", "10p5d", "4095p7", "10+20", "s10p1+20d", "0+10"] {
            let tags: Tags = text.parse().unwrap();
            assert_eq!(tags.to_string(), text);
            let source = [2, 0, 0, 0, 0, 7];
            assert_eq!(Tags::of(&tags.frame(source)), Some((source, tags)));
        }
    }

    #[test]
    fn what_is_no_tag_is_refused() {
        for text in ["", "x", "4096", "10p8", "10+", "p5", "s"] {
            assert!(text.parse::<Tags>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_frame_ends_before_its_tags_do() {
        assert_eq!(Tags::of(&[0xff; 13]), None);
        let frame = "10".parse::<Tags>().unwrap().frame([2; 6]);
        assert_eq!(Tags::of(&frame[..16]), None);
    }
}
