//! `weftctl flow`, `group`, `meter` and `cache`: command lines, what they ask, and their text.
//!
//! Text goes to the switch in pieces of whole lines, so that a file needs no more memory than one piece.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use weft_config::control::{
    CachedFlow, Counted, FlowDump, FlowOp, FlowReply, FlowText, GroupDump, GroupStatus, MeterStatus, Op,
    Reply, RuleStatus, Verb,
};
use weft_wire::PortName;

use crate::args::Command;
use crate::request::{UsageError, value};

/// Octets of a piece: as JSON it is six times that at most, which fits a request.
const PIECE: usize = 128 << 10;

/// Rules, groups or meters, from the command line or a file.
#[derive(Args, Debug)]
pub struct Texts {
    pub bridge: String,
    /// One each, as ovs-ofctl(8) writes them; - reads them from standard input
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    pub texts: Vec<String>,
    /// Read them from a file: all of it is done at once, or nothing (- is standard input)
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// A whole table of rules.
#[derive(Args, Debug)]
pub struct Whole {
    pub bridge: String,
    /// The rules (- is standard input)
    pub file: PathBuf,
}

/// `weftctl flow`
#[derive(Subcommand, Debug)]
pub enum FlowCommand {
    /// Add rules, each in place of one with the same table, priority and match.
    Add(Texts),
    /// Give the rules that a match selects new actions.
    Mod {
        #[command(flatten)]
        texts: Texts,
        /// Only the rule with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// Delete the rules that a match selects; all of them when none is given.
    Del {
        #[command(flatten)]
        texts: Texts,
        /// Only the rule with exactly this match and priority
        #[arg(long)]
        strict: bool,
    },
    /// List rules with what they have counted.
    Dump {
        bridge: String,
        /// Only the rules that this match selects, as in table=0,tcp
        #[arg(value_name = "MATCH")]
        filter: Option<String>,
        /// Only the rules of this table
        #[arg(long, value_name = "TABLE")]
        table: Option<u16>,
        /// The rules of weft's own tables as well
        #[arg(long, conflicts_with = "table")]
        all: bool,
        /// Leave out counters and ages: what is printed can be added again
        #[arg(long)]
        no_stats: bool,
        #[command(flatten)]
        names: Names,
    },
    /// Make the rules equal to those of a file; rules that are already so keep their counters.
    Replace(Whole),
    /// Print what replace would change: + is added, - is removed.
    Diff(Whole),
}

/// How ports are printed.
#[derive(Args, Debug)]
pub struct Names {
    /// Print ports by name (the default)
    #[arg(long, overrides_with = "no_names")]
    pub names: bool,
    /// Print ports by number
    #[arg(long)]
    pub no_names: bool,
}

/// `weftctl group`
#[derive(Subcommand, Debug)]
pub enum GroupCommand {
    /// Add groups.
    Add(Texts),
    /// Change groups.
    Mod {
        #[command(flatten)]
        texts: Texts,
        /// Add those that don't exist
        #[arg(long)]
        may_create: bool,
    },
    /// Delete groups, and the rules that use them; all of them when none is given.
    Del(Texts),
    /// List groups with what they have counted.
    Dump {
        bridge: String,
        /// Leave out counters and ages
        #[arg(long)]
        no_stats: bool,
        #[command(flatten)]
        names: Names,
    },
    /// Put buckets into a group.
    InsertBuckets(Texts),
    /// Take buckets out of a group.
    RemoveBuckets(Texts),
}

/// `weftctl meter`
#[derive(Subcommand, Debug)]
pub enum MeterCommand {
    /// Add meters.
    Add(Texts),
    /// Change meters.
    Mod(Texts),
    /// Delete meters, and the rules that use them; all of them when none is given.
    Del(Texts),
    /// List meters with what they have counted.
    Dump {
        bridge: String,
        /// Leave out counters and ages
        #[arg(long)]
        no_stats: bool,
    },
}

/// `weftctl cache`
#[derive(Subcommand, Debug)]
pub enum CacheCommand {
    /// Show the cached flows of packets that come in by a port or tunnel.
    Show {
        port: String,
        /// Show so many flows at most
        #[arg(long, value_name = "FLOWS", default_value_t = 1000)]
        limit: u32,
    },
}

/// A text can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// By the system.
    #[error("{file}: can't read: {source}")]
    Io {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// It is no text.
    #[error("{file}: line {line} is not UTF-8 text")]
    NotText {
        /// The file.
        file: String,
        /// The line.
        line: usize,
    },
}

/// What a command asks for.
pub enum Asks {
    /// This, once; and then the rest of it.
    One(Op),
    /// To carry out a text that comes in pieces.
    Text(Source),
}

/// Where a text comes from.
pub struct Source {
    request: FlowText,
    reader: Option<Box<dyn BufRead>>,
    /// Ends of lines read so far.
    lines: usize,
}

/// What a command about flow tables asks for; none if it is another command.
pub fn asks(command: &Command) -> Result<Option<Asks>, crate::Error> {
    let (verb, texts) = match command {
        Command::Flow { command } => match command {
            FlowCommand::Add(texts) => (Verb::FlowAdd, texts),
            FlowCommand::Mod { texts, strict: false } => (Verb::FlowMod, texts),
            FlowCommand::Mod { texts, strict: true } => (Verb::FlowModStrict, texts),
            FlowCommand::Del { texts, strict: false } => (Verb::FlowDel, texts),
            FlowCommand::Del { texts, strict: true } => (Verb::FlowDelStrict, texts),
            FlowCommand::Replace(whole) => return whole_file(whole, Verb::FlowReplace).map(Some),
            FlowCommand::Diff(whole) => return whole_file(whole, Verb::FlowDiff).map(Some),
            FlowCommand::Dump { .. } => return Ok(Some(Asks::One(dump(command)?))),
        },
        Command::Group { command } => match command {
            GroupCommand::Add(texts) => (Verb::GroupAdd, texts),
            GroupCommand::Mod { texts, may_create: false } => (Verb::GroupMod, texts),
            GroupCommand::Mod { texts, may_create: true } => (Verb::GroupAddOrMod, texts),
            GroupCommand::Del(texts) => (Verb::GroupDel, texts),
            GroupCommand::InsertBuckets(texts) => (Verb::GroupInsertBuckets, texts),
            GroupCommand::RemoveBuckets(texts) => (Verb::GroupRemoveBuckets, texts),
            GroupCommand::Dump { bridge, names, .. } => {
                let dump = GroupDump { bridge: value("bridge", bridge)?, no_names: names.no_names };
                return Ok(Some(Asks::One(Op::Flow(FlowOp::Groups(dump)))));
            }
        },
        Command::Meter { command } => match command {
            MeterCommand::Add(texts) => (Verb::MeterAdd, texts),
            MeterCommand::Mod(texts) => (Verb::MeterMod, texts),
            MeterCommand::Del(texts) => (Verb::MeterDel, texts),
            MeterCommand::Dump { bridge, .. } => {
                let bridge = value("bridge", bridge)?;
                return Ok(Some(Asks::One(Op::Flow(FlowOp::Meters { bridge }))));
            }
        },
        Command::Cache { command: CacheCommand::Show { port, limit } } => {
            let port = value("port", port)?;
            return Ok(Some(Asks::One(Op::Flow(FlowOp::Cache { port, limit: *limit }))));
        }
        _ => return Ok(None),
    };
    given(texts, verb).map(Some)
}

fn dump(command: &FlowCommand) -> Result<Op, UsageError> {
    let FlowCommand::Dump { bridge, filter, table, all, no_stats, names } = command else {
        unreachable!("the caller has looked")
    };
    Ok(Op::Flow(FlowOp::Dump(FlowDump {
        bridge: value("bridge", bridge)?,
        filter: filter.clone().unwrap_or_default(),
        table: *table,
        all: *all,
        no_stats: *no_stats,
        no_names: names.no_names,
    })))
}

fn given(texts: &Texts, verb: Verb) -> Result<Asks, crate::Error> {
    let bridge: PortName = value("bridge", &texts.bridge)?;
    let standard_input = texts.texts.len() == 1 && texts.texts.iter().all(|text| text == "-");
    match &texts.file {
        Some(file) => open(bridge, verb, file),
        None if standard_input => open(bridge, verb, Path::new("-")),
        None => {
            let everything = matches!(verb, Verb::FlowDel | Verb::GroupDel | Verb::MeterDel);
            if texts.texts.is_empty() && !everything {
                return Err(UsageError::NoText.into());
            }
            if let Some(text) = texts.texts.iter().find(|text| text.contains(['\n', '\r'])) {
                return Err(UsageError::SeveralLines { text: text.clone() }.into());
            }
            let text = match verb {
                Verb::MeterDel | Verb::GroupDel if texts.texts.is_empty() => all(verb).to_owned(),
                _ => texts.texts.join("\n"),
            };
            let request = FlowText { bridge, verb, text, file: None, bundle: None, more: false };
            Ok(Asks::Text(Source { request, reader: None, lines: 0 }))
        }
    }
}

/// What deletes everything.
fn all(verb: Verb) -> &'static str {
    match verb {
        Verb::MeterDel => "meter=all",
        _ => "group_id=all",
    }
}

fn whole_file(whole: &Whole, verb: Verb) -> Result<Asks, crate::Error> {
    open(value("bridge", &whole.bridge)?, verb, &whole.file)
}

fn open(bridge: PortName, verb: Verb, file: &Path) -> Result<Asks, crate::Error> {
    let (name, reader): (_, Box<dyn BufRead>) = match file == Path::new("-") {
        true => ("standard input".to_owned(), Box::new(BufReader::new(io::stdin()))),
        false => {
            let name = file.display().to_string();
            let opened = File::open(file).map_err(|source| ReadError::Io { file: name.clone(), source })?;
            (name, Box::new(BufReader::new(opened)))
        }
    };
    let request = FlowText { bridge, verb, text: String::new(), file: Some(name), bundle: None, more: false };
    Ok(Asks::Text(Source { request, reader: Some(reader), lines: 0 }))
}

impl Source {
    /// The next piece to send; `bundle` is what the switch said to the last one.
    pub fn next(&mut self, bundle: Option<u64>) -> Result<FlowText, ReadError> {
        let mut piece = FlowText { bundle, ..self.request.clone() };
        if let Some(reader) = &mut self.reader {
            let file = piece.file.clone().unwrap_or_default();
            let io = |source| ReadError::Io { file: file.clone(), source };
            let mut octets = Vec::new();
            while octets.len() < PIECE / 2 {
                // A line that is longer is cut here, and refused there: it is longer than any may be.
                if read_line(reader.as_mut(), &mut octets).map_err(io)? == 0 {
                    break;
                }
            }
            piece.more = !reader.fill_buf().map_err(io)?.is_empty();
            let lines = |octets: &[u8]| octets.iter().filter(|octet| **octet == b'\n').count();
            let before = self.lines;
            self.lines += lines(&octets);
            piece.text = String::from_utf8(octets).map_err(|error| {
                let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
                ReadError::NotText { file: file.clone(), line: before + lines(good) + 1 }
            })?;
        }
        Ok(piece)
    }
}

/// Reads up to the end of a line, or half a piece of it.
fn read_line(reader: &mut dyn BufRead, octets: &mut Vec<u8>) -> io::Result<usize> {
    io::Read::take(reader, PIECE as u64 / 2 + 2).read_until(b'\n', octets)
}

/// What comes after an answer: the number of the text's bundle, or of the dump's rest.
pub fn goes_on(reply: &Reply) -> Option<u64> {
    match reply {
        Reply::Flow(FlowReply::Bundle { bundle }) => Some(*bundle),
        Reply::Flow(FlowReply::Rules { next, .. }) => *next,
        _ => None,
    }
}

/// The text for people.
pub fn render(command: &Command, reply: &FlowReply) -> String {
    let no_stats = match command {
        Command::Group { command: GroupCommand::Dump { no_stats, .. } }
        | Command::Meter { command: MeterCommand::Dump { no_stats, .. } } => *no_stats,
        _ => false,
    };
    match reply {
        FlowReply::Bundle { .. } => String::new(),
        FlowReply::Changed { added, replaced, removed } => match command {
            Command::Flow { .. } => changed(*added, *replaced, *removed),
            _ => String::new(),
        },
        FlowReply::Differences { differences } => crate::text::applied(differences),
        FlowReply::Rules { rules, .. } => rules.iter().map(rule).collect(),
        FlowReply::Groups { groups } => groups.iter().map(|one| group(one, no_stats)).collect(),
        FlowReply::Meters { meters } => meters.iter().map(|one| meter(one, no_stats)).collect(),
        FlowReply::Cached { flows } => flows.iter().map(cached).collect(),
    }
}

fn changed(added: u64, replaced: u64, removed: u64) -> String {
    let parts = [(added, "added"), (replaced, "replaced"), (removed, "removed")];
    let said: Vec<String> =
        parts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if said.is_empty() { "nothing changed\n".to_owned() } else { format!("{}\n", said.join(", ")) }
}

/// Weft's own rules say whose they are, behind what flow text has.
fn rule(rule: &RuleStatus) -> String {
    let owner = if rule.owner.is_empty() { String::new() } else { format!("  # {}", rule.owner) };
    format!("{}{owner}\n", rule.text)
}

fn counted(what: &str, counted: &Counted) -> String {
    format!("{what}n_packets={}, n_bytes={}", counted.packets, counted.bytes)
}

fn group(group: &GroupStatus, no_stats: bool) -> String {
    let mut text = format!("{}\n", group.text.trim_end());
    if !no_stats {
        let _ = write!(text, "  duration={}s, {}", group.duration_s, counted("", &group.counted));
        for (at, bucket) in group.buckets.iter().enumerate() {
            let _ = write!(text, "; {}", counted(&format!("bucket {at}: "), bucket));
        }
        text.push('\n');
    }
    text
}

fn meter(meter: &MeterStatus, no_stats: bool) -> String {
    let mut text = format!("{}\n", meter.text.trim_end());
    if !no_stats {
        let _ = write!(text, "  duration={}s, {}", meter.duration_s, counted("", &meter.counted));
        for (at, band) in meter.bands.iter().enumerate() {
            let _ = write!(text, "; {}", counted(&format!("band {at}: "), band));
        }
        text.push('\n');
    }
    text
}

fn cached(flow: &CachedFlow) -> String {
    let steps = if flow.steps.is_empty() { "nothing".to_owned() } else { flow.steps.join(", ") };
    format!(
        "worker={}, n_packets={}, n_bytes={}, age={}s, rules={}, {}\n  {steps}\n",
        flow.worker, flow.packets, flow.bytes, flow.age_s, flow.rules, flow.matches
    )
}
