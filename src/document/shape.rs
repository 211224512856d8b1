//! The shape of a TOML text: the number of things that parsing it would make, counted without making them.
//!
//! The parser's own lexer gives the tokens, so strings and comments are told apart as the parser does. The counts are
//! upper bounds for every text, also for one with syntax errors.

use toml_parser::Source;
use toml_parser::lexer::TokenKind;

/// The counts of one text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The octets of the text.
    pub(crate) octets: u64,
    /// The lexical tokens, including white space and line ends.
    pub(crate) tokens: u64,
    /// The dots of keys and headers beyond the first of each; they open tables within tables in the parsed document.
    pub(crate) dots: u64,
    /// The opening brackets and braces.
    pub(crate) brackets: u64,
    /// The equals signs, each of which makes an entry of a table, or an error.
    pub(crate) entries: u64,
    /// The values and keys.
    pub(crate) values: u64,
    /// The values below headers of the kinds that the caller calls small.
    pub(crate) small: Contents,
    /// All other values.
    pub(crate) large: Contents,
}

/// The counts of values by their type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// The tables: headers, inline tables and dotted keys.
    pub(crate) tables: u64,
    /// The arrays.
    pub(crate) arrays: u64,
    /// The strings.
    pub(crate) strings: u64,
}

impl Shape {
    /// Counts what a text has. `is_small` is asked about the first key of each header, or of each key before the first
    /// header.
    pub(crate) fn of(text: &str, is_small: impl Fn(&str) -> bool) -> Self {
        let mut scan = Scan { shape: Self::default(), open: Vec::new(), is_regular: true, is_small: false };
        scan.shape.octets = u64::try_from(text.len()).unwrap_or(u64::MAX);
        let mut line = Line::Start;
        let (mut is_value, mut is_dotted, mut has_header) = (false, false, false);
        // Whether the key has a dot already.
        let mut has_dot = false;
        for token in Source::new(text).lex() {
            scan.shape.tokens += 1;
            match token.kind() {
                TokenKind::Whitespace | TokenKind::Comment | TokenKind::Eof => {}
                TokenKind::Newline => {
                    (line, is_value, is_dotted, has_dot) = (Line::Start, false, false, false);
                }
                TokenKind::LeftSquareBracket => {
                    scan.shape.brackets += 1;
                    match line {
                        Line::Start => {
                            // Either an array of arrays, which no policy file has, or the bracket before is not closed
                            // and the parser takes this for a header.
                            scan.is_regular &= scan.open.is_empty();
                            (line, has_header) = (Line::Header, true);
                        }
                        Line::Header => {}
                        Line::Rest => scan.contents().arrays += 1,
                    }
                    scan.open(TokenKind::RightSquareBracket);
                }
                TokenKind::LeftCurlyBracket => {
                    scan.shape.brackets += 1;
                    scan.contents().tables += 1;
                    scan.open(TokenKind::RightCurlyBracket);
                    (line, is_value, is_dotted, has_dot) = (Line::Rest, false, false, false);
                }
                kind @ (TokenKind::RightSquareBracket | TokenKind::RightCurlyBracket) => scan.close(kind),
                TokenKind::Comma => (is_value, is_dotted, has_dot) = (false, false, false),
                TokenKind::Equals => {
                    scan.shape.entries += 1;
                    is_value = true;
                }
                TokenKind::Dot => {
                    scan.shape.dots += u64::from(has_dot);
                    has_dot = true;
                    if !is_value && !is_dotted {
                        is_dotted = true;
                        scan.contents().tables += 1;
                    }
                }
                kind => {
                    scan.shape.values += 1;
                    let key = || text.get(token.span().start()..token.span().end()).is_some_and(&is_small);
                    match line {
                        Line::Header => {
                            scan.is_small = key();
                            scan.contents().tables += 1;
                            // The dots of a header make no table beside it.
                            (line, is_dotted) = (Line::Rest, true);
                        }
                        Line::Start if !has_header && scan.open.is_empty() => {
                            scan.is_small = key();
                            line = Line::Rest;
                        }
                        Line::Start | Line::Rest => line = Line::Rest,
                    }
                    if kind != TokenKind::Atom {
                        scan.contents().strings += 1;
                    }
                }
            }
        }
        scan.shape
    }

    /// Returns the number of tables.
    pub(crate) fn tables(&self) -> u64 {
        self.small.tables + self.large.tables
    }
}

/// The position within a line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Before the first token that is no white space.
    Start,
    /// After the bracket that begins a header, before its key.
    Header,
    /// Anywhere else.
    Rest,
}

/// The state of a count.
struct Scan {
    shape: Shape,
    /// The closing brackets that are missing so far.
    open: Vec<TokenKind>,
    /// Whether all brackets have matched so far. If not, the parser may see other headers, so everything that follows
    /// counts as large.
    is_regular: bool,
    /// Whether the last header is one of the small kinds.
    is_small: bool,
}

impl Scan {
    /// Returns the counts to which a value at this position belongs.
    fn contents(&mut self) -> &mut Contents {
        if self.is_small && self.is_regular { &mut self.shape.small } else { &mut self.shape.large }
    }

    /// Notes an opening bracket. Beyond the parser's limit of nested values, a text counts as irregular.
    fn open(&mut self, closing: TokenKind) {
        /// The most values within one another that the parser reads.
        const NESTED: usize = 80;
        if self.open.len() < NESTED { self.open.push(closing) } else { self.is_regular = false }
    }

    /// Notes a closing bracket.
    fn close(&mut self, kind: TokenKind) {
        self.is_regular &= self.open.pop() == Some(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the counts of a text in which clients are small.
    fn shape(text: &str) -> Shape {
        Shape::of(text, |key| key == "client")
    }

    #[test]
    fn every_way_to_write_a_table_is_counted() {
        const CASES: &[(&str, u64)] = &[
            ("", 0),
            ("[policy.a]\n[policy.b]\n", 2),
            ("[policy]\na = {}\nb = {}\n", 3),
            ("policy = { a = {}, b = { name = 'x' } }", 3),
            ("policy.a.name = 'x'\npolicy.b.name = 'y'\n", 2),
            ("[[test]]\n[[test]]\n", 2),
            ("a = '[policy.x]'\nb = \"\"\"\n[policy.y]\n{}{}\"\"\" # {}\n", 0),
            ("a = 1.5\nb = [[1], ['x.y']]\n", 0),
            ("a = [\n[policy.x]\n[policy.y]\n", 2),
            ("a = [\npolicy.x.name = 'x'\npolicy.y.name = 'y'\n", 2),
        ];
        for (text, expected) in CASES {
            assert_eq!(shape(text).tables(), *expected, "{text}");
        }
    }

    #[test]
    fn only_tables_below_a_small_header_are_small() {
        const CASES: &[(&str, u64, u64)] = &[
            ("[client.a]\nsources = ['x']\n[policy.b]\n", 1, 1),
            ("[client]\na = {}\nb = {}\n[policy]\nc = {}", 3, 2),
            ("client.a.policy = 'x'\npolicy.b.name = 'y'", 1, 1),
            ("[ 'client' . a ]", 0, 1),
            // After brackets that do not match, the parser may see other headers.
            ("[policy]\nx = [ }\n[client]\na = {}\n", 0, 3),
            ("[policy]\nx = [\n[client],\n[policy.b]\n", 0, 3),
            ("[policy\n[client.a]\n", 0, 2),
            ("[client.a]]\n[client.b]\n", 1, 1),
        ];
        for (text, small, large) in CASES {
            let found = shape(text);
            assert_eq!((found.small.tables, found.large.tables), (*small, *large), "{text}");
        }
    }

    #[test]
    fn values_entries_and_dots_are_counted() {
        let found = shape("[policy.a.b]\nallowed_hostnames = [\"a.b\", 'c']\nx.y = 1\n");
        assert_eq!((found.dots, found.brackets, found.entries, found.values), (1, 2, 2, 9));
        assert_eq!(found.large, Contents { tables: 2, arrays: 1, strings: 2 });
        assert_eq!(found.octets, 54);
        assert_eq!(shape("a\nb\n").tokens, 5, "the end is a token");
    }
}
