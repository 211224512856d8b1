//! TOML documents with the place of everything in them, and the errors that point there.
//!
//! A [`Source`] is a text and where it came from. [`read`] parses it and hands out its root [`Table`]; the table's
//! getters note what is wrong instead of stopping, so that all errors of a file are told at once. Nothing here
//! touches the filesystem. This module is the home of the crates `toml` and `annotate-snippets`.

mod accept;
mod diagnostic;
mod escape;
mod place;
mod reader;
mod remark;
mod suggest;
mod text;

pub(crate) use accept::comment_lines;
pub use accept::{Accept, Accepts, At, Code, Language};
pub use diagnostic::{Diagnostic, Findings, Related, Severity, Unquoted, quoted};
pub use escape::{escaped, escaped_json, escaped_lines, shortened};
pub(crate) use place::line_ends;
pub use place::{Locator, Place, Source, Span};
pub use reader::{Element, Note, Placed, Table, read};
pub use remark::Remarks;
pub use suggest::closest;
pub use text::text_of;
