//! Reading files line by line, in bounded memory.

use std::io::{BufRead, ErrorKind};

use super::error::{Error, Problem};
use super::token::Token;
use crate::message::{FlowCommand, GroupCommand};

/// The longest line, in octets, its end not counted.
pub const MAX_LINE: usize = 64 * 1024;

/// Hands each line without comments and outer blanks to `take`, unless it is empty. Errors get the line's number.
pub(super) fn lines(
    mut reader: impl BufRead,
    mut take: impl FnMut(Token<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut buffer = Vec::new();
    let mut number = 0;
    loop {
        number += 1;
        buffer.clear();
        let whole = |problem| Error::new(0, "", problem).at_line(number);
        if !read_line(&mut reader, &mut buffer).map_err(whole)? {
            return Ok(());
        }
        let line = std::str::from_utf8(&buffer).map_err(|_| whole(Problem::NotText))?;
        let line = Token::new(line);
        let comment = line.unquoted(|rest| rest.starts_with('#')).unwrap_or(line.text.len());
        let line = line.split_at(comment).0.trim();
        if !line.is_empty() {
            take(line).map_err(|error| error.at_line(number))?;
        }
    }
}

/// Reads a line without its end; false at the end of the file. Of a line that is too long no more than a buffer is
/// kept.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, Problem> {
    let mut any = false;
    loop {
        let available = match reader.fill_buf() {
            Ok(available) => available,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Problem::Unreadable(error.kind())),
        };
        if available.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = available.iter().position(|octet| *octet == b'\n');
        let part = available.get(..end.unwrap_or(available.len())).unwrap_or_default();
        if line.len() + part.len() > MAX_LINE {
            return Err(Problem::LineTooLong { max: MAX_LINE });
        }
        line.extend_from_slice(part);
        let used = part.len() + usize::from(end.is_some());
        reader.consume(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Commands and what they are called at the start of a line.
const COMMANDS: [(&str, FlowCommand); 5] = [
    ("add", FlowCommand::Add),
    ("delete", FlowCommand::Delete),
    ("delete_strict", FlowCommand::DeleteStrict),
    ("modify", FlowCommand::Modify),
    ("modify_strict", FlowCommand::ModifyStrict),
];

/// Commands on groups, likewise.
const GROUP_COMMANDS: [(&str, GroupCommand); 6] = [
    ("add", GroupCommand::Add),
    ("delete", GroupCommand::Delete),
    ("modify", GroupCommand::Modify),
    ("add_or_mod", GroupCommand::AddOrModify),
    ("insert_bucket", GroupCommand::InsertBuckets),
    ("remove_bucket", GroupCommand::RemoveBuckets),
];

/// The command that a line starts with, if it may, and the rest of the line.
pub(super) fn command(line: Token<'_>, command: FlowCommand) -> (FlowCommand, Token<'_>) {
    if command == FlowCommand::Add { named(&COMMANDS, line, command) } else { (command, line) }
}

/// The same for a line about a group.
pub(super) fn group_command(line: Token<'_>, command: GroupCommand) -> (GroupCommand, Token<'_>) {
    if command == GroupCommand::Add { named(&GROUP_COMMANDS, line, command) } else { (command, line) }
}

/// The first command that starts with the line's first word, as in Open vSwitch: `del` is `delete`.
fn named<'a, T: Copy>(commands: &[(&str, T)], line: Token<'a>, default: T) -> (T, Token<'a>) {
    let end = line.text.find([',', ' ', '\t', '\r']).unwrap_or(line.text.len());
    let (word, rest) = line.split_at(end);
    let known = commands.iter().find(|(name, _)| !word.is_empty() && name.starts_with(word.text));
    known.map_or((default, line), |(_, command)| (*command, rest))
}

/// Whether a line is the heading of a dump: `NXST_FLOW reply (xid=0x4):`.
pub(super) fn is_heading(line: Token<'_>) -> bool {
    let headings = ["NXST_FLOW reply", "OFPST_FLOW reply", "NXST_GROUP_DESC reply", "OFPST_GROUP_DESC reply"];
    headings.iter().any(|heading| line.text.starts_with(heading))
}
