//! TOML documents whose values know their position, and the diagnostics that point there.
//!
//! A [`Source`] is a text with the path it came from. [`read`] parses it and passes its root [`Table`] on; the getters
//! of a table report errors and continue, so that all errors of a file are reported at once. Nothing here touches the
//! filesystem. This module is the home of the crates `toml` and `annotate-snippets`.

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
