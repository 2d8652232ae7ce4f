//! Text that changes rules, groups and meters: read as it comes, carried out when it is whole.

use std::time::Duration;

use weft_config::control::{Code, FlowReply, FlowText, MAX_BUNDLE, Refusal, Verb};
use weft_core::datapath::FlowError;
use weft_core::tables::{Change, Difference, Extent, Outcome};
use weft_flow::message::{FlowCommand, FlowMod, GroupCommand, MeterCommand};
use weft_flow::text::{self, FlowLine, PortNames};
use weft_wire::PortName;

use super::{Names, SESSIONS, refusal};
use crate::switch::Switch;

/// The most changes that one bundle takes.
const MAX_CHANGES: usize = 2 << 20;

/// A text of which the pieces so far have been read.
#[derive(Debug)]
pub(super) struct Bundle {
    bridge: PortName,
    verb: Verb,
    file: Option<String>,
    changes: Vec<Change>,
    /// The line of each change.
    lines: Vec<u32>,
    octets: usize,
    line: u32,
    pub touched: Duration,
}

/// What is wrong in a text, with its place.
struct Place<'a> {
    file: Option<&'a str>,
    line: Option<u32>,
}

impl Place<'_> {
    fn refuse(&self, error: impl std::fmt::Display) -> Refusal {
        let (file, line) = (self.file.map(|file| format!("{file}: ")), self.line);
        let line = line.map(|line| format!("line {line}: "));
        Refusal::new(
            Code::Refused,
            format!("{}{}{error}", file.unwrap_or_default(), line.unwrap_or_default()),
        )
    }
}

impl Switch {
    /// Takes a piece of text; the last one is carried out with all before it.
    pub(super) fn take_text(&mut self, piece: FlowText) -> Result<FlowReply, Refusal> {
        let mut bundle = match piece.bundle {
            Some(number) => self.flow_sessions.bundles.remove(&number).ok_or_else(|| {
                Refusal::new(
                    Code::NotFound,
                    format!("there is no bundle {number}: it may have waited too long"),
                )
            })?,
            None => Bundle::new(&piece),
        };
        let names = Names::of(self.bridge_of(&bundle.bridge)?.0);
        bundle.read(&piece.text, &names)?;
        if !piece.more {
            return self.carry_out(bundle, &names);
        }
        if self.flow_sessions.bundles.len() >= SESSIONS {
            let line = format!("{SESSIONS} bundles are being sent already: try again later");
            return Err(Refusal::new(Code::Busy, line));
        }
        bundle.touched = self.uptime();
        let number = piece.bundle.unwrap_or_else(|| self.flow_sessions.number());
        self.flow_sessions.bundles.insert(number, bundle);
        Ok(FlowReply::Bundle { bundle: number })
    }

    fn carry_out(&mut self, bundle: Bundle, names: &Names) -> Result<FlowReply, Refusal> {
        let (id, now) = (self.bridge_of(&bundle.bridge)?.1.id, self.uptime());
        let Bundle { verb, file, changes, lines, .. } = bundle;
        let outcome = match verb {
            Verb::FlowDiff => return self.differences(&bundle.bridge, flows(changes), names),
            Verb::FlowReplace => self.datapath.replace_flows(id, Extent::Users, &flows(changes), now),
            _ => self.datapath.change_flows(id, &changes, now),
        };
        let Outcome { added, replaced, removed, .. } = outcome.map_err(|error| match error {
            FlowError::Change(error) => {
                let several = file.is_some() || lines.len() > 1;
                let line = lines.get(error.index).copied().filter(|_| several);
                Place { file: file.as_deref(), line }.refuse(error.why)
            }
            error => refusal(error),
        })?;
        Ok(FlowReply::Changed { added: added as u64, replaced: replaced as u64, removed: removed as u64 })
    }

    fn differences(
        &self,
        bridge: &PortName,
        wanted: Vec<FlowMod>,
        names: &dyn PortNames,
    ) -> Result<FlowReply, Refusal> {
        let tables = self.bridge_of(bridge)?.1.flows.load();
        let mut differences = Vec::new();
        for difference in tables.diff(Extent::Users, &wanted) {
            let (rule, flow) = match difference {
                Difference::Missing(at) => (None, wanted.get(at)),
                Difference::Surplus(rule) => (Some(rule), None),
                Difference::Changed { rule, flow } => (Some(rule), wanted.get(flow)),
            };
            let removed = rule.map(|rule| text::print_flow(rule.line(), None, names));
            let added = flow.map(|flow| text::print_flow(FlowLine::from(flow), None, names));
            differences.extend(removed.map(|line| format!("-{line}")));
            differences.extend(added.map(|line| format!("+{line}")));
        }
        Ok(FlowReply::Differences { differences })
    }
}

fn flows(changes: Vec<Change>) -> Vec<FlowMod> {
    let flow = |change| match change {
        Change::Flow(flow) => Some(flow),
        _ => None,
    };
    changes.into_iter().filter_map(flow).collect()
}

impl Bundle {
    fn new(piece: &FlowText) -> Bundle {
        Bundle {
            bridge: piece.bridge.clone(),
            verb: piece.verb,
            file: piece.file.clone(),
            changes: Vec::new(),
            lines: Vec::new(),
            octets: 0,
            line: 0,
            touched: Duration::ZERO,
        }
    }

    /// Reads whole lines.
    fn read(&mut self, text: &str, names: &Names) -> Result<(), Refusal> {
        self.octets += text.len();
        if self.octets > MAX_BUNDLE {
            let line = format!("the text is too long: a bundle takes {} MiB", MAX_BUNDLE >> 20);
            return Err(Place { file: self.file.as_deref(), line: None }.refuse(line));
        }
        // An argument is one line, be it empty: it deletes everything.
        let single = self.file.is_none() && !text.contains('\n');
        let lines: Vec<&str> = if single { vec![text] } else { text.lines().collect() };
        for line in lines {
            self.line += 1;
            self.read_line(line, names)?;
            if self.changes.len() > MAX_CHANGES {
                let line = format!("the text has too many lines: a bundle takes {MAX_CHANGES} changes");
                return Err(Place { file: self.file.as_deref(), line: Some(self.line) }.refuse(line));
            }
            self.lines.resize(self.changes.len(), self.line);
            if single {
                self.line = 0;
            }
        }
        Ok(())
    }

    fn read_line(&mut self, line: &str, names: &Names) -> Result<(), Refusal> {
        let number = self.line;
        let read = match self.file {
            Some(_) => self.read_file_line(line, names),
            None => self.read_argument(line, names),
        };
        let file = self.file.as_deref();
        read.map_err(|mut error| {
            error.line = None;
            // The place reads as the error's own: "line 3, column 7: ...".
            let text = error.to_string();
            let several = file.is_some() || number > 1;
            let text = if several { format!("line {number}, {text}") } else { text };
            Place { file, line: None }.refuse(text)
        })?;
        let command = self
            .changes
            .last()
            .is_some_and(|change| matches!(change, Change::Flow(flow) if flow.command != FlowCommand::Add));
        if command && matches!(self.verb, Verb::FlowReplace | Verb::FlowDiff) {
            let place = Place { file, line: Some(number) };
            return Err(place.refuse("a command in front of a rule can't be here: expected rules only"));
        }
        Ok(())
    }

    /// A line by itself: no comment, no heading, no command in front.
    fn read_argument(&mut self, line: &str, names: &Names) -> Result<(), text::Error> {
        self.changes.push(match of(self.verb) {
            What::Flow(command) => Change::Flow(text::parse_flow(line, command, names)?),
            What::Group(command) => Change::Group(text::parse_group(line, command, names)?),
            What::Meter(command) => Change::Meter(text::parse_meter(line, command)?),
        });
        Ok(())
    }

    fn read_file_line(&mut self, line: &str, names: &Names) -> Result<(), text::Error> {
        match of(self.verb) {
            What::Flow(command) => {
                let changes = &mut self.changes;
                text::parse_flows_with(line.as_bytes(), command, names, |flow| {
                    changes.push(Change::Flow(flow))
                })
            }
            What::Group(command) => {
                let groups = text::parse_groups(line.as_bytes(), command, names)?;
                self.changes.extend(groups.into_iter().map(Change::Group));
                Ok(())
            }
            What::Meter(_) => {
                let line = line.split('#').next().unwrap_or_default().trim();
                if line.is_empty() { Ok(()) } else { self.read_argument(line, names) }
            }
        }
    }
}

/// A verb as the messages have it.
enum What {
    Flow(FlowCommand),
    Group(GroupCommand),
    Meter(MeterCommand),
}

fn of(verb: Verb) -> What {
    match verb {
        Verb::FlowAdd | Verb::FlowReplace | Verb::FlowDiff => What::Flow(FlowCommand::Add),
        Verb::FlowMod => What::Flow(FlowCommand::Modify),
        Verb::FlowModStrict => What::Flow(FlowCommand::ModifyStrict),
        Verb::FlowDel => What::Flow(FlowCommand::Delete),
        Verb::FlowDelStrict => What::Flow(FlowCommand::DeleteStrict),
        Verb::GroupAdd => What::Group(GroupCommand::Add),
        Verb::GroupMod => What::Group(GroupCommand::Modify),
        Verb::GroupAddOrMod => What::Group(GroupCommand::AddOrModify),
        Verb::GroupDel => What::Group(GroupCommand::Delete),
        Verb::GroupInsertBuckets => What::Group(GroupCommand::InsertBuckets),
        Verb::GroupRemoveBuckets => What::Group(GroupCommand::RemoveBuckets),
        Verb::MeterAdd => What::Meter(MeterCommand::Add),
        Verb::MeterMod => What::Meter(MeterCommand::Modify),
        Verb::MeterDel => What::Meter(MeterCommand::Delete),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use weft_wire::OfPort;

    use super::*;

    fn names() -> Names {
        let (name, number) = ("vm1".to_owned(), OfPort(3));
        let by_name = BTreeMap::from([(name.clone(), number)]);
        Names { by_name, by_number: BTreeMap::from([(number, name)]) }
    }

    fn bundle(verb: Verb, file: Option<&str>) -> Bundle {
        let Ok(bridge) = PortName::new("br0") else { unreachable!("a good name") };
        let (file, text) = (file.map(str::to_owned), String::new());
        Bundle::new(&FlowText { bridge, verb, text, file, bundle: None, more: false })
    }

    /// What the pieces are refused with.
    fn refused(verb: Verb, file: Option<&str>, pieces: &[&str]) -> String {
        let mut bundle = bundle(verb, file);
        let read = pieces.iter().try_for_each(|piece| bundle.read(piece, &names()));
        read.map_or_else(|refusal| refusal.message, |()| String::new())
    }

    #[test]
    fn each_change_knows_its_line_over_all_pieces() {
        let mut bundle = bundle(Verb::FlowAdd, Some("f"));
        for piece in ["# rules\n\nactions=drop\n", "delete tcp\n\n", "in_port=vm1 actions=drop # the last\n"]
        {
            bundle.read(piece, &names()).unwrap();
        }
        assert_eq!((bundle.changes.len(), bundle.lines), (3, vec![3, 4, 6]));
        let flows = flows(bundle.changes);
        let commands: Vec<FlowCommand> = flows.iter().map(|flow| flow.command).collect();
        assert_eq!(commands, [FlowCommand::Add, FlowCommand::Delete, FlowCommand::Add]);
    }

    #[test]
    fn errors_name_file_line_and_column_as_far_as_there_are_several() {
        let unknown = "'nosuch': no match field or setting of that name";
        assert_eq!(refused(Verb::FlowAdd, None, &["nosuch=1"]), format!("column 1: {unknown}"));
        let two = "actions=drop\ntcp,nosuch=1";
        assert_eq!(refused(Verb::FlowAdd, None, &[two]), format!("line 2, column 5: {unknown}"));
        let file = refused(Verb::FlowAdd, Some("f"), &["actions=drop\n\n", "nosuch=1\n"]);
        assert_eq!(file, format!("f: line 3, column 1: {unknown}"));
    }

    #[test]
    fn a_replacement_has_rules_and_no_commands() {
        let line = refused(Verb::FlowReplace, Some("f"), &["actions=drop\ndelete tcp\n"]);
        assert_eq!(line, "f: line 2: a command in front of a rule can't be here: expected rules only");
    }

    #[test]
    fn a_bundle_takes_so_many_octets_and_no_more() {
        let mut bundle = bundle(Verb::FlowAdd, Some("f"));
        bundle.octets = MAX_BUNDLE - 3;
        bundle.read("#a\n", &names()).unwrap();
        let line = bundle.read("\n", &names()).map_err(|refusal| refusal.message);
        assert_eq!(line, Err("f: the text is too long: a bundle takes 64 MiB".to_owned()));
    }

    #[test]
    fn no_text_deletes_everything_and_an_empty_file_nothing() {
        let mut argument = bundle(Verb::FlowDel, None);
        argument.read("", &names()).unwrap();
        assert_eq!((argument.changes.len(), flows(argument.changes)[0].table), (1, None));
        let mut file = bundle(Verb::FlowDel, Some("f"));
        file.read("", &names()).unwrap();
        assert!(file.changes.is_empty());
    }
}
