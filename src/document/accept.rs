//! Accepted warnings: the comment `# hostgate: accept CODE: REASON` accepts a warning where it occurs.
//!
//! A comment applies to its own line or, if it is alone on its line, to the next line that is not a comment. An
//! accepted warning is kept with [`Severity::Accepted`], so that it can be listed.

use std::path::Path;
use std::sync::Arc;

use super::code::Code;
use super::diagnostic::{Diagnostic, Excerpt, Severity, Unquoted};
use super::place::{Place, Span};

/// The position of a warning, in the unit that its creator has.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// The line, counted from 1.
    Line(u32),
    /// The offset of the first byte.
    Offset(u32),
}

impl From<Span> for At {
    fn from(span: Span) -> Self {
        Self::Offset(span.start)
    }
}

/// A comment that accepts one kind of warning at one line.
#[derive(Debug)]
pub struct Accept {
    /// The code of the accepted warnings.
    pub code: Code,
    /// The reason, as written in the comment.
    pub reason: Arc<str>,
    /// The line that the comment applies to, from 1.
    pub line: u32,
    /// The bytes of that line.
    pub(super) span: Span,
    pub(super) comment: Comment,
}

/// The position of a comment.
#[derive(Clone, Debug)]
pub(super) struct Comment {
    pub(super) line: u32,
    pub(super) column: u32,
    pub(super) excerpt: Excerpt,
}

/// The accepting comments of a text, in order.
#[derive(Debug)]
pub struct Accepts {
    /// The file, and whether logs, status and API answers must not quote it.
    pub(super) file: (Arc<Path>, bool),
    /// The well-formed comments.
    pub(super) right: Vec<Accept>,
    /// The warnings about malformed comments.
    pub(super) wrong: Vec<Diagnostic>,
}

impl Accepts {
    pub(crate) fn path(&self) -> &Path {
        &self.file.0
    }

    /// Returns the comment that accepts warnings of `code` at a place.
    #[must_use]
    pub fn at(&self, code: Code, at: At) -> Option<&Accept> {
        let first = self.right.partition_point(|accept| match at {
            At::Line(line) => accept.line < line,
            At::Offset(offset) => accept.span.end < offset,
        });
        let here = self.right[first..].iter().take_while(|accept| match at {
            At::Line(line) => accept.line == line,
            At::Offset(offset) => accept.span.start <= offset,
        });
        here.into_iter().find(|accept| accept.code == code)
    }
}

impl Comment {
    /// Creates a warning about the comment.
    pub(super) fn warning(&self, (path, is_private): (&Arc<Path>, bool), message: String) -> Diagnostic {
        let Self { line, column, excerpt } = self.clone();
        let place = Place { path: Arc::clone(path), line, column };
        let unquoted = is_private.then(|| Box::new(Unquoted::of_private(Severity::Warning)));
        let warning = Diagnostic { place, excerpt: Some(excerpt), unquoted, ..Diagnostic::about_file(path, message) };
        Diagnostic { severity: Severity::Warning, ..warning }.code(Code::Accept)
    }
}
