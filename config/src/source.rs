//! TOML text to [`Config`] and back. Every error names the file, the line, the key and the legal range, in one line.

use std::fmt;
use std::ops::Range;

use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::Config;
use crate::validate::{Invalid, KeyPath, Step};

/// Why a text is not a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// The line, from 1; absent when the error belongs to no line.
    pub line: Option<usize>,
    /// The key; empty when the text is not TOML at all.
    pub at: KeyPath,
    /// What is wrong, with the legal range.
    pub problem: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(out, ":{line}")?;
        }
        out.write_str(": ")?;
        if !self.at.0.is_empty() {
            write!(out, "{}: ", self.at)?;
        }
        one_line(&self.problem).fmt(out)
    }
}

/// The text with its control characters escaped: an error stays one line whatever it quotes.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }).collect()
}

impl Config {
    /// Parses and validates; `file` is how errors call the text.
    pub fn from_toml(text: &str, file: &str) -> Result<Config, ConfigError> {
        let source = Source { text, file };
        let tree = DeTable::parse(text)
            .map_err(|error| source.error(error.span(), KeyPath::default(), error.message()))?;
        let deserializer = toml::de::Deserializer::from(tree.clone());
        let config: Config = serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let at = named_path(error.path(), tree.get_ref());
            source.error(error.inner().span(), at, error.inner().message())
        })?;
        config.validate().map_err(|error| source.invalid(error, tree.get_ref()))?;
        Ok(config)
    }

    /// The text that [`Config::from_toml`] reads back to the same configuration; what is as by default is left out.
    pub fn to_toml(&self) -> String {
        match toml::to_string(self) {
            Ok(text) => text,
            Err(error) => unreachable!("every value of a configuration is a TOML value: {error}"),
        }
    }
}

struct Source<'a> {
    text: &'a str,
    file: &'a str,
}

impl Source<'_> {
    fn error(&self, span: Option<Range<usize>>, at: KeyPath, problem: &str) -> ConfigError {
        let line = span.map(|span| self.line(span.start));
        ConfigError { file: self.file.to_owned(), line, at, problem: problem.to_owned() }
    }

    fn invalid(&self, error: Invalid, tree: &DeTable<'_>) -> ConfigError {
        let span = locate(&error.at, tree);
        self.error(span, error.at, &error.problem.to_string())
    }

    fn line(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        1 + before.iter().filter(|&&octet| octet == b'\n').count()
    }
}

/// The path with the tables of arrays called by their names.
fn named_path(path: &serde_path_to_error::Path, tree: &DeTable<'_>) -> KeyPath {
    let mut steps = Vec::new();
    let mut here = Some(Node::Table(tree));
    for segment in path.iter() {
        match segment {
            Segment::Map { key } => {
                here = here.and_then(|node| node.key(key)).map(|(_, node)| node);
                steps.push(Step::Key(key.clone()));
            }
            Segment::Seq { index } => {
                here = here.and_then(|node| node.index(*index));
                let name = here.as_ref().and_then(Node::name).unwrap_or_else(|| index.to_string());
                steps.push(Step::Item(*index, name));
            }
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    KeyPath(steps)
}

/// Where the deepest part of the path that the text has is.
fn locate(at: &KeyPath, tree: &DeTable<'_>) -> Option<Range<usize>> {
    let mut here = Node::Table(tree);
    let mut span = None;
    for step in &at.0 {
        let next = match step {
            Step::Key(key) => here.key(key),
            Step::Item(index, _) => here.index(*index).map(|node| (node.span(), node)),
        };
        let Some((found, node)) = next else { break };
        span = found.or(span);
        here = node;
    }
    span
}

/// A place in the parsed text.
enum Node<'a> {
    Table(&'a DeTable<'a>),
    Value(&'a Spanned<DeValue<'a>>),
}

impl<'a> Node<'a> {
    fn table(&self) -> Option<&'a DeTable<'a>> {
        match self {
            Node::Table(table) => Some(table),
            Node::Value(value) => value.get_ref().as_table(),
        }
    }

    fn key(&self, key: &str) -> Option<(Option<Range<usize>>, Node<'a>)> {
        let (name, value) = self.table()?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((Some(name.span()), Node::Value(value)))
    }

    fn index(&self, index: usize) -> Option<Node<'a>> {
        match self {
            Node::Table(_) => None,
            Node::Value(value) => value.get_ref().as_array()?.get(index).map(Node::Value),
        }
    }

    fn span(&self) -> Option<Range<usize>> {
        match self {
            Node::Table(_) => None,
            Node::Value(value) => Some(value.span()),
        }
    }

    fn name(&self) -> Option<String> {
        let (_, value) = self.table()?.iter().find(|(name, _)| name.get_ref() == "name")?;
        value.get_ref().as_str().map(|name| name.chars().take(40).collect())
    }
}
