//! TOML documents whose values know their position, and the diagnostics that point there.
//!
//! A [`Source`] is a text with the path it came from. [`read`] parses it and passes its root [`Table`] on; the getters
//! of a table report errors and continue, so that all errors of a file are reported at once. Nothing here touches the
//! filesystem. This module is the home of the crates `toml`, `toml_parser` and
//! `annotate-snippets`.

mod accept;
mod accept_comments;
mod block_index;
mod code;
mod diagnostic;
mod escape;
mod findings;
mod place;
mod reader;
mod remark;
mod shape;
mod source;
mod suggest;
mod text;

pub use accept::{Accept, Accepts, At};
pub use accept_comments::Language;
pub(crate) use accept_comments::comment_lines;
pub use code::Code;
pub use diagnostic::{Diagnostic, Related, Severity, Unquoted, quoted};
pub use escape::{escaped, escaped_json, escaped_lines, shortened};
pub use findings::Findings;
pub(crate) use place::line_ends;
pub use place::{Locator, Place, Span};
pub use reader::{Element, Note, Placed, Table, read};
pub use remark::Remarks;
pub(crate) use shape::{Contents, Shape};
pub use source::Source;
pub use suggest::closest;
pub use text::text_of;
