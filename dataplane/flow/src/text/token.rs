//! Pieces of a line that know where they stand, and the grammar that all of flow text shares: `key`, `key=value`,
//! `key:value` and `key(value)`, separated by commas and white space.

use super::error::{Error, Problem};

/// What separates settings.
const SEPARATORS: &[char] = &[',', ' ', '\t', '\r', '\n'];

/// A piece of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token<'a> {
    pub text: &'a str,
    /// Octets before it in the line.
    pub at: usize,
}

impl<'a> Token<'a> {
    pub fn new(line: &'a str) -> Token<'a> {
        Token { text: line, at: 0 }
    }

    pub fn is_empty(self) -> bool {
        self.text.is_empty()
    }

    pub fn error(self, problem: Problem) -> Error {
        Error::new(self.at, self.text, problem)
    }

    pub fn fail<T>(self, problem: Problem) -> Result<T, Error> {
        Err(self.error(problem))
    }

    /// The parts before and from octet `mid` on; `mid` must be at a boundary of characters.
    pub fn split_at(self, mid: usize) -> (Token<'a>, Token<'a>) {
        let (head, tail) = self.text.split_at(mid);
        (Token { text: head, at: self.at }, Token { text: tail, at: self.at + mid })
    }

    /// Without its first `count` octets.
    pub fn skip(self, count: usize) -> Token<'a> {
        self.split_at(count).1
    }

    pub fn trim(self) -> Token<'a> {
        let start = self.text.len() - self.text.trim_start().len();
        let token = self.skip(start);
        Token { text: token.text.trim_end(), at: token.at }
    }

    /// What is before and behind the first `separator`.
    pub fn split_once(self, separator: &str) -> Option<(Token<'a>, Token<'a>)> {
        let mid = self.text.find(separator)?;
        let (head, tail) = self.split_at(mid);
        Some((head, tail.skip(separator.len())))
    }

    /// What is before and behind the first `->` outside quotes.
    pub fn split_arrow(self) -> Option<(Token<'a>, Token<'a>)> {
        let mid = self.unquoted(|rest| rest.starts_with("->"))?;
        let (head, tail) = self.split_at(mid);
        Some((head, tail.skip("->".len())))
    }

    /// Its parts between commas outside quotes, blanks and all.
    pub fn parts(self) -> impl Iterator<Item = Token<'a>> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let all = rest.take()?;
            let Some(end) = all.unquoted(|rest| rest.starts_with(',')) else { return Some(all) };
            let (part, tail) = all.split_at(end);
            rest = Some(tail.skip(1));
            Some(part)
        })
    }

    /// The first place outside quotes where the rest of the text is as wanted.
    pub fn unquoted(self, wanted: impl Fn(&str) -> bool) -> Option<usize> {
        let mut letters = self.text.char_indices();
        let mut within = false;
        while let Some((at, letter)) = letters.next() {
            if !within && wanted(self.text.get(at..)?) {
                return Some(at);
            }
            match letter {
                '"' => within = !within,
                '\\' if within => drop(letters.next()),
                _ => (),
            }
        }
        None
    }

    pub fn strip_prefix(self, prefix: &str) -> Option<Token<'a>> {
        self.text.starts_with(prefix).then(|| self.skip(prefix.len()))
    }

    pub fn strip_suffix(self, suffix: &str) -> Option<Token<'a>> {
        self.text.strip_suffix(suffix).map(|text| Token { text, at: self.at })
    }

    /// Its settings.
    pub fn items(self) -> Items<'a> {
        Items { rest: self }
    }

    /// Its parts between commas and blanks.
    pub fn words(self) -> impl Iterator<Item = Token<'a>> {
        let mut rest = self;
        std::iter::from_fn(move || {
            let start = rest.text.find(|c| !SEPARATORS.contains(&c))?;
            rest = rest.skip(start);
            let end = rest.unquoted(|rest| rest.starts_with(SEPARATORS)).unwrap_or(rest.text.len());
            let (word, tail) = rest.split_at(end);
            rest = tail;
            Some(word)
        })
    }

    /// A whole number in C's notation (`10`, `0xa`, `012`), at most `max`; `what` names it in errors.
    pub fn number(self, what: &'static str, max: u128) -> Result<u128, Error> {
        self.number_in(what, 0, max)
    }

    /// The same, at least `min`.
    pub fn number_in(self, what: &'static str, min: u128, max: u128) -> Result<u128, Error> {
        if self.is_empty() {
            return self.fail(Problem::Missing(what));
        }
        match integer(self.text) {
            Ok(value) if (min..=max).contains(&value) => Ok(value),
            Ok(_) | Err(NotInteger::TooLarge) => self.fail(Problem::OutOfRange { what, min, max }),
            Err(NotInteger::Syntax) => self.fail(Problem::NotNumber { min, max }),
        }
    }

    pub fn u8(self, what: &'static str) -> Result<u8, Error> {
        self.number(what, u8::MAX.into()).map(|value| value as u8)
    }

    pub fn u16(self, what: &'static str) -> Result<u16, Error> {
        self.number(what, u16::MAX.into()).map(|value| value as u16)
    }

    pub fn u32(self, what: &'static str) -> Result<u32, Error> {
        self.number(what, u32::MAX.into()).map(|value| value as u32)
    }

    /// 64 bits; `-1` and the like are two's complement, as `cookie=7/-1` has it.
    pub fn u64(self, what: &'static str) -> Result<u64, Error> {
        if let Some(positive) = self.strip_prefix("-") {
            return positive.number(what, i64::MAX as u128).map(|value| (value as u64).wrapping_neg());
        }
        self.number(what, u64::MAX.into()).map(|value| value as u64)
    }
}

/// Why a text is no number.
enum NotInteger {
    Syntax,
    TooLarge,
}

/// Reads a number of at most 128 bits in C's notation.
fn integer(text: &str) -> Result<u128, NotInteger> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Err(NotInteger::Syntax);
    }
    u128::from_str_radix(digits, radix).map_err(|_| NotInteger::TooLarge)
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub key: Token<'a>,
    /// Empty if there is none.
    pub value: Token<'a>,
    /// Key and value as they stand.
    pub whole: Token<'a>,
}

/// The settings of a text, one by one.
pub(super) struct Items<'a> {
    rest: Token<'a>,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.rest.text.find(|c| !SEPARATORS.contains(&c))?;
        let rest = self.rest.skip(start);
        let item = item(rest);
        // An error ends it.
        let used = item.as_ref().map_or(rest.text.len(), |item| item.whole.text.len());
        self.rest = rest.skip(used);
        Some(item)
    }
}

/// The setting that `rest` starts with.
fn item(rest: Token<'_>) -> Result<Item<'_>, Error> {
    let bytes = rest.text.as_bytes();
    let mut end = 0;
    while bytes.get(end).is_some_and(|byte| !b":=(, \t\r\n".contains(byte)) {
        end = if bytes[end] == b'"' { quoted(rest, end)? } else { end + 1 };
    }
    let (key, tail) = rest.split_at(end);
    let (start, end) = match tail.text.bytes().next() {
        Some(b':' | b'=') => (end + 1, value_end(rest, end + 1)?),
        Some(b'(') => {
            let close = closing(rest, end)?;
            if rest.text[close..].starts_with("->") {
                (end + 1, value_end(rest, close)?)
            } else {
                let value = rest.split_at(close - 1).0.skip(end + 1);
                return Ok(Item { key, value, whole: rest.split_at(close).0 });
            }
        }
        _ => (end, end),
    };
    let whole = rest.split_at(end).0;
    Ok(Item { key, value: whole.skip(start), whole })
}

/// Where a value that starts at `at` ends: at a separator outside parentheses and quotes.
fn value_end(token: Token<'_>, mut at: usize) -> Result<usize, Error> {
    let bytes = token.text.as_bytes();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b',' | b' ' | b'\t' | b'\r' | b'\n' => break,
            b'(' => at = closing(token, at)?,
            b'"' => at = quoted(token, at)?,
            _ => at += 1,
        }
    }
    Ok(at)
}

/// Just behind the parenthesis that closes the one at `at`.
fn closing(token: Token<'_>, mut at: usize) -> Result<usize, Error> {
    let (bytes, open) = (token.text.as_bytes(), at);
    let mut level = 0usize;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'(' => level += 1,
            b')' => level -= 1,
            b'"' => {
                at = quoted(token, at)?;
                continue;
            }
            _ => (),
        }
        at += 1;
        if level == 0 {
            return Ok(at);
        }
    }
    token.skip(open).fail(Problem::Unclosed(')'))
}

/// Just behind the quote that closes the one at `at`.
fn quoted(token: Token<'_>, at: usize) -> Result<usize, Error> {
    let bytes = token.text.as_bytes();
    let mut end = at + 1;
    while let Some(byte) = bytes.get(end) {
        match byte {
            b'"' => return Ok(end + 1),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
    token.skip(at).fail(Problem::Unclosed('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_split_outside_parentheses_and_quotes() {
        let line = Token::new("tcp, a=1 b:(2,3)x c(d(e,f),g),h(1)->i[0],\"p,q\",z=");
        let items: Vec<_> =
            line.items().map(|item| item.map(|item| (item.key.text, item.value.text))).collect();
        let expected = [
            ("tcp", ""),
            ("a", "1"),
            ("b", "(2,3)x"),
            ("c", "d(e,f),g"),
            ("h", "1)->i[0]"),
            ("\"p,q\"", ""),
            ("z", ""),
        ];
        assert_eq!(items, expected.map(Ok));
    }

    #[test]
    fn what_is_not_closed_is_an_error_and_ends_the_line() {
        for (line, column, close) in [("a=1,c(d(e)", 6, ')'), ("x=\"ab", 3, '"'), ("\"\\", 1, '"')] {
            let errors: Vec<_> = Token::new(line).items().filter_map(Result::err).collect();
            assert_eq!(errors.len(), 1, "{line}");
            assert_eq!((errors[0].column, &errors[0].problem), (column, &Problem::Unclosed(close)), "{line}");
        }
    }

    #[test]
    fn numbers_are_in_c_notation() {
        for (text, value) in [
            ("0", 0),
            ("10", 10),
            ("0x1F", 31),
            ("010", 8),
            ("0xffffffffffffffffffffffffffffffff", u128::MAX),
        ] {
            assert_eq!(Token::new(text).number("it", u128::MAX), Ok(value), "{text}");
        }
        for text in ["", "x", "0x", "08", "1.5", "-1", "+1", " 1", "0x1ffffffffffffffffffffffffffffffff"] {
            assert!(Token::new(text).number("it", u128::MAX).is_err(), "{text}");
        }
        assert_eq!(Token::new("-1").u64("it"), Ok(u64::MAX));
        assert_eq!(
            Token::new("300").u8("it").map_err(|error| error.to_string()),
            Err("column 1: '300': it is out of range: 0 to 255".to_owned())
        );
    }
}
