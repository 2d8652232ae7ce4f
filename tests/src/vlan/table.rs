//! The truth table as text and as a value.
//!
//! The text has one block per ingress port; in a block a column is a frame that comes in and a row an egress port. It is
//! laid out for reading, and [`Table::parse`] reads back what [`Table`]'s `Display` writes.

use super::Tags;
use crate::cmd::{Error, Result};
use std::fmt::{self, Write as _};

/// A port of the table, its VLAN settings in the words of OVS's Port table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Port {
    /// The name that rows and blocks use.
    pub name: String,
    /// `vlan_mode`: access, trunk, native-tagged or native-untagged; None when it is not set.
    pub mode: Option<String>,
    /// `tag`, 0 to 4095.
    pub tag: Option<u16>,
    /// `trunks`; empty for all VLANs.
    pub trunks: Vec<u16>,
    /// `other_config:priority-tags`: no, if-nonzero or always.
    pub priority_tags: Option<String>,
}

/// What became of the frames that came in by one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The ingress port's name. It is not among the egress ports itself: a port of the same name is another one, set up alike.
    pub from: String,
    /// The frames that came in.
    pub frames: Vec<Tags>,
    /// Per frame: the VLAN in which its source was learned; None when the frame was not admitted.
    pub learned: Vec<Option<u16>>,
    /// Per egress port: its name and, per frame, the tags that it went out with; None when it did not go out.
    pub to: Vec<(String, Vec<Option<Tags>>)>,
}

/// The whole table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The ports, in the order of the rows.
    pub ports: Vec<Port>,
    /// One block per ingress port.
    pub blocks: Vec<Block>,
}

/// The settings only, as they are written in the file: `vlan_mode=trunk tag=10 trunks=1,2 priority-tags=always`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        words.extend(self.mode.iter().map(|mode| format!("vlan_mode={mode}")));
        words.extend(self.tag.iter().map(|tag| format!("tag={tag}")));
        if !self.trunks.is_empty() {
            let list: Vec<String> = self.trunks.iter().map(u16::to_string).collect();
            words.push(format!("trunks={}", list.join(",")));
        }
        words.extend(self.priority_tags.iter().map(|p| format!("priority-tags={p}")));
        f.write_str(&words.join(" "))
    }
}

impl Port {
    /// A port by name and settings, in the words of its `Display`.
    pub fn parse(name: &str, settings: &str) -> Result<Self> {
        let mut port = Port { name: name.to_owned(), ..Port::default() };
        for word in settings.split_whitespace() {
            match word.split_once('=') {
                Some(("vlan_mode", mode)) => port.mode = Some(mode.to_owned()),
                Some(("tag", tag)) => port.tag = Some(tag.parse()?),
                Some(("trunks", list)) => {
                    port.trunks = list.split(',').map(str::parse).collect::<Result<_, _>>()?
                }
                Some(("priority-tags", p)) => port.priority_tags = Some(p.to_owned()),
                _ => return Err(Error::new(format!("port {name}: `{word}` is no VLAN setting"))),
            }
        }
        Ok(port)
    }
}

fn cell<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

fn row(f: &mut fmt::Formatter<'_>, label: &str, cells: impl Iterator<Item = String>) -> fmt::Result {
    let mut line = format!("{label:<24}");
    for cell in cells {
        write!(line, " {cell:>7}")?;
    }
    writeln!(f, "{}", line.trim_end())
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for port in &self.ports {
            writeln!(f, "{}", format!("port {:<20} {port}", port.name).trim_end())?;
        }
        for block in &self.blocks {
            writeln!(f, "\nfrom {}", block.from)?;
            row(f, "frame", block.frames.iter().map(Tags::to_string))?;
            row(f, "learned", block.learned.iter().map(|vlan| cell(*vlan)))?;
            for (name, out) in &block.to {
                row(f, &format!("to {name}"), out.iter().map(|tags| cell(tags.as_ref())))?;
            }
        }
        Ok(())
    }
}

impl Table {
    /// Reads the text; `#` starts a comment line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut table = Table::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                table.parse_line(line).map_err(|e| Error::new(format!("line {}: {e}", number + 1)))?;
            }
        }
        Ok(table)
    }

    fn parse_line(&mut self, line: &str) -> Result<()> {
        let (keyword, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim_start();
        let (name, cells) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if keyword == "port" {
            self.ports.push(Port::parse(name, cells)?);
            return Ok(());
        }
        if keyword == "from" {
            let from = name.to_owned();
            self.blocks.push(Block { from, frames: Vec::new(), learned: Vec::new(), to: Vec::new() });
            return Ok(());
        }
        let block = self.blocks.last_mut().ok_or_else(|| Error::new("a row before the first `from`"))?;
        match keyword {
            "frame" => block.frames = rest.split_whitespace().map(str::parse).collect::<Result<_>>()?,
            "learned" => block.learned = cells_of(rest, block.frames.len())?,
            "to" => block.to.push((name.to_owned(), cells_of(cells, block.frames.len())?)),
            _ => return Err(Error::new(format!("`{keyword}` starts no line of the table"))),
        }
        Ok(())
    }

    /// The port of this name.
    pub fn port(&self, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| port.name == name)
    }
}

/// The cells of a row, `-` as None; there must be one per frame.
fn cells_of<T: std::str::FromStr<Err: fmt::Display>>(text: &str, frames: usize) -> Result<Vec<Option<T>>> {
    let parse = |cell: &str| match cell {
        "-" => Ok(None),
        value => value.parse().map(Some).map_err(|e| Error::new(format!("{value}: {e}"))),
    };
    let cells: Vec<Option<T>> = text.split_whitespace().map(parse).collect::<Result<_>>()?;
    if cells.len() == frames {
        return Ok(cells);
    }
    Err(Error::new(format!("{} cells for {frames} frames", cells.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "port a tag=10\nport t vlan_mode=trunk trunks=10,20 priority-tags=always\n\nfrom a\n\
                         frame u 0p5 20\nlearned 10 10 -\nto a u u -\nto t 10 10p5 -\n";

    #[test]
    fn the_text_round_trips() {
        let table = Table::parse(SMALL).unwrap();
        assert_eq!(table.blocks[0].learned, [Some(10), Some(10), None]);
        assert_eq!(table.blocks[0].to[1].1[1], Some("10p5".parse().unwrap()));
        assert_eq!(table.port("t").unwrap().trunks, [10, 20]);
        assert_eq!(Table::parse(&table.to_string()).unwrap(), table);
    }

    #[test]
    fn a_short_row_is_named_by_its_line() {
        let error = Table::parse("from a\nframe u 10\nto a u").unwrap_err().to_string();
        assert_eq!(error, "line 3: 1 cells for 2 frames");
    }
}
