//! FTP: where the next data connection goes to. RFC 959 (`PORT`, and 227 as the answer to `PASV`), RFC 2428 (`EPRT`, and 229 as
//! the answer to `EPSV`).
//!
//! As Open vSwitch (lib/conntrack.c, `process_ftp_ctl_v4` and `_v6`): a command or answer counts at the start of a packet's
//! data, of which the first 128 octets are read; an address has to be that of the host that gives it, as itself or as its
//! peer knows it. Where it differs:
//! * the client alone can give `PORT` and `EPRT`, the server alone 227 and 229;
//! * the text has to be whole: a number has to be followed by what ends it, and what is cut in the middle is not read at all;
//! * [`Lines`] knows whether a packet's data starts a line, so that nobody can have the middle of a line read as one (the kernel's
//!   helper does that).

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use arrayvec::ArrayVec;
use weft_conntrack::{Direction, Family, is_behind};

use super::{Control, Expectation};

/// So many octets of a packet's data are looked at.
const READ: usize = 128;

/// What a packet says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// `PORT`: the client's address and port, six numbers.
    Port,
    /// `EPRT`: the same as text.
    ExtendedPort,
    /// 227: the server's address and port, six numbers.
    Passive,
    /// 229: the server's port.
    ExtendedPassive,
}

impl Command {
    /// Who can say it.
    const fn speaker(self) -> Direction {
        match self {
            Command::Port | Command::ExtendedPort => Direction::Original,
            Command::Passive | Command::ExtendedPassive => Direction::Reply,
        }
    }
}

/// Where a data connection will go to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// How it was said.
    pub command: Command,
    /// Whose address, if one was given.
    pub address: Option<u128>,
    /// Which port, never 0.
    pub port: u16,
    /// Where the text of address and port stands in the data.
    pub span: Range<usize>,
    /// What stands between the two in `EPRT`.
    delimiter: u8,
}

/// What was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reading {
    /// No command that matters, or one that is cut off.
    Nothing,
    /// A data connection.
    Announcement(Announcement),
    /// A command that matters and makes no sense. Open vSwitch calls the packet invalid.
    Malformed,
}

/// The text of address and port; the longest is an IPv6 address with its delimiter and port.
pub type Text = ArrayVec<u8, 48>;

/// Reads the data of a packet of a control connection.
pub fn read(direction: Direction, family: Family, data: &[u8]) -> Reading {
    let data = data.get(..READ).unwrap_or(data);
    let line_end = data.iter().position(|&octet| octet == b'\n' || octet == b'\r');
    let line = data.get(..line_end.unwrap_or(data.len())).unwrap_or(data);
    let Some(command) = command(family, line).filter(|command| command.speaker() == direction) else {
        return Reading::Nothing;
    };
    // The rest of a line that is cut may change what it says.
    if line_end.is_none() {
        return Reading::Nothing;
    }
    let mut reader = Reader { line, at: 4 };
    let announced = match command {
        Command::Port => reader.six_numbers(command).filter(|_| reader.rest().is_empty()),
        Command::Passive => reader.seek_numbers().and_then(|()| reader.six_numbers(command)),
        Command::ExtendedPort => reader.extended_port(family),
        Command::ExtendedPassive => reader.extended_passive(),
    };
    announced.map_or(Reading::Malformed, Reading::Announcement)
}

/// Four letters or digits, and a space.
fn command(family: Family, line: &[u8]) -> Option<Command> {
    let (word, space) = line.split_first_chunk::<4>()?;
    match (word.to_ascii_uppercase().as_slice(), space.first(), family) {
        (b"PORT", Some(b' '), Family::V4) => Some(Command::Port),
        (b"EPRT", Some(b' '), _) => Some(Command::ExtendedPort),
        (b"227 ", _, Family::V4) => Some(Command::Passive),
        (b"229 ", _, _) => Some(Command::ExtendedPassive),
        _ => None,
    }
}

impl Announcement {
    /// The data connection; `None` if the address is not that of the host that gave it.
    pub fn expectation(&self, control: &Control) -> Option<Expectation> {
        let own = match self.command.speaker() {
            Direction::Original => [control.original.src, control.reply.dst],
            Direction::Reply => [control.reply.src, control.original.dst],
        };
        self.address.is_none_or(|address| own.contains(&address)).then(|| match self.command.speaker() {
            Direction::Original => control.towards_client(self.port, self.port),
            Direction::Reply => control.towards_server(self.port),
        })
    }

    /// The text that has to stand there for the peer, if it is another: the address as the peer knows it.
    pub fn translated(&self, control: &Control) -> Option<Text> {
        let shown = match self.command.speaker() {
            Direction::Original => control.reply.dst,
            Direction::Reply => control.original.dst,
        };
        let address = self.address.filter(|&address| address != shown).map(|_| shown)?;
        self.text(address, control.original.family)
    }

    /// The text for an address, with the port as it is.
    fn text(&self, address: u128, family: Family) -> Option<Text> {
        let mut text = Text::new();
        let ([high, low], delimiter) = (self.port.to_be_bytes(), char::from(self.delimiter));
        let (v4, v6) = (Ipv4Addr::from(address as u32), Ipv6Addr::from(address));
        let written = match (self.command, family) {
            (Command::Port | Command::Passive, _) => {
                let [a, b, c, d] = v4.octets();
                write!(text, "{a},{b},{c},{d},{high},{low}")
            }
            (Command::ExtendedPort, Family::V4) => write!(text, "{v4}{delimiter}{}", self.port),
            (Command::ExtendedPort, Family::V6) => write!(text, "{v6}{delimiter}{}", self.port),
            (Command::ExtendedPassive, _) => return None,
        };
        written.ok().map(|()| text)
    }
}

/// Reads a line from left to right.
struct Reader<'a> {
    line: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &[u8] {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn octet(&mut self) -> Option<u8> {
        let octet = *self.line.get(self.at)?;
        self.at += 1;
        Some(octet)
    }

    /// Octets as long as they are such.
    fn span(&mut self, is: impl Fn(&u8) -> bool) -> &str {
        let start = self.at;
        self.at += self.rest().iter().take_while(|octet| is(octet)).count();
        let octets = self.line.get(start..self.at).unwrap_or_default();
        // Only ASCII is asked for.
        std::str::from_utf8(octets).unwrap_or_default()
    }

    /// A number of at most `most` that has no sign.
    fn number(&mut self, most: u32) -> Option<u32> {
        let digits = self.span(u8::is_ascii_digit);
        digits.parse().ok().filter(|&number| number <= most)
    }

    /// A port that isn't 0.
    fn port(&mut self) -> Option<u16> {
        let port = self.number(u16::MAX.into())?;
        u16::try_from(port).ok().filter(|&port| port != 0)
    }

    /// To the numbers of a 227: behind the first parenthesis, or the first digit.
    fn seek_numbers(&mut self) -> Option<()> {
        let rest = self.rest();
        let bracket = rest.iter().position(|&octet| octet == b'(').map(|at| at + 1);
        self.at += bracket.or_else(|| rest.iter().position(u8::is_ascii_digit))?;
        Some(())
    }

    /// `h1,h2,h3,h4,p1,p2`
    fn six_numbers(&mut self, command: Command) -> Option<Announcement> {
        self.span(|&octet| octet == b' ');
        let (start, mut numbers) = (self.at, [0; 6]);
        for (index, place) in numbers.iter_mut().enumerate() {
            if index > 0 && self.octet()? != b',' {
                return None;
            }
            *place = u8::try_from(self.number(255)?).ok()?;
        }
        let [a, b, c, d, high, low] = numbers;
        let port = u16::from_be_bytes([high, low]);
        let address = Some(u128::from(u32::from_be_bytes([a, b, c, d])));
        let announcement = Announcement { command, address, port, span: start..self.at, delimiter: b',' };
        (port != 0).then_some(announcement)
    }

    /// `|1|10.0.0.1|1025|` or `|2|fd00::1|1025|`, with any delimiter.
    fn extended_port(&mut self, family: Family) -> Option<Announcement> {
        self.span(|&octet| octet == b' ');
        let delimiter = self.octet().filter(u8::is_ascii_punctuation)?;
        let version = match family {
            Family::V4 => b'1',
            Family::V6 => b'2',
        };
        let between = |octet: Option<u8>| octet.filter(|&octet| octet == delimiter);
        if self.octet()? != version {
            return None;
        }
        between(self.octet())?;
        let start = self.at;
        let text = self.span(|&octet| octet != delimiter && octet.is_ascii_graphic());
        let address = match family {
            Family::V4 => text.parse::<Ipv4Addr>().ok()?.to_bits().into(),
            Family::V6 => text.parse::<Ipv6Addr>().ok()?.to_bits(),
        };
        between(self.octet())?;
        let port = self.port()?;
        let span = start..self.at;
        between(self.octet())?;
        Some(Announcement { command: Command::ExtendedPort, address: Some(address), port, span, delimiter })
    }

    /// `... (|||6446|)`, with any delimiter.
    fn extended_passive(&mut self) -> Option<Announcement> {
        self.at += self.rest().iter().position(|&octet| octet == b'(')? + 1;
        let delimiter = self.octet().filter(u8::is_ascii_punctuation)?;
        let is_delimiter = |octet: u8| octet == delimiter;
        (self.octet().is_some_and(is_delimiter) && self.octet().is_some_and(is_delimiter)).then_some(())?;
        let (start, port) = (self.at, self.port()?);
        let span = start..self.at;
        (self.octet().is_some_and(is_delimiter) && self.octet()? == b')').then_some(())?;
        Some(Announcement { command: Command::ExtendedPassive, address: None, port, span, delimiter })
    }
}

/// Where each direction's last two lines started: the next one, and the one before it, which may come again.
///
/// As the kernel's helper, it starts with the first data that ends a line: a side's very first line is not known to be one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lines(pub [[Option<u32>; 2]; 2]);

impl Lines {
    /// Whether data numbered `seq` (by its sender) starts a line; takes note of where the next one does.
    pub fn starts_line(&mut self, direction: Direction, seq: u32, data: &[u8]) -> bool {
        let [original, reply] = &mut self.0;
        let places = if direction == Direction::Original { original } else { reply };
        let starts = places.contains(&Some(seq));
        if data.ends_with(b"\n") {
            let next = seq.wrapping_add(data.len() as u32);
            let [_, newest] = *places;
            if newest.is_none_or(|newest| is_behind(next, newest)) {
                *places = [newest, Some(next)];
            }
        }
        starts
    }
}

#[cfg(test)]
#[path = "ftp_tests.rs"]
mod tests;
