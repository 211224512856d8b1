//! Entries of a policy that were pasted from a list in another system's format. Thousands of them get one error that
//! names the format and the converter.

use std::collections::BTreeMap;

use crate::document::{Span, Table};
use crate::list_format::{Format, of_pasted};

/// The refused entries of one array that are in another system's format, by format.
#[derive(Default)]
pub(crate) struct PastedEntries(BTreeMap<Format, Entries>);

/// The entries of one format.
#[derive(Default)]
struct Entries {
    /// The places of the first [`PastedEntries::REPORTED_SINGLY`] entries, with the error and the help of each.
    first: Vec<(Span, String, String)>,
    /// The number of entries.
    count: usize,
}

impl PastedEntries {
    /// The number of entries of a format up to which each is reported with its own error: so few may be typing errors
    /// instead of a pasted list.
    const REPORTED_SINGLY: usize = 2;

    /// Adds a refused entry with its error and help; returns `false` if it is not in another system's format.
    pub(crate) fn take(&mut self, text: &str, span: Span, error: impl FnOnce() -> (String, String)) -> bool {
        let Some(format) = of_pasted(text) else { return false };
        let entries = self.0.entry(format).or_default();
        entries.count += 1;
        if entries.first.len() < Self::REPORTED_SINGLY {
            let (message, help) = error();
            entries.first.push((span, message, help));
        }
        true
    }

    /// Reports the entries of `key` to `table`: one or two of a format with an error each, more with one error for all.
    pub(crate) fn report(self, table: &Table<'_>, key: &str) {
        for (format, Entries { first, count }) in self.0 {
            for (span, message, help) in first {
                if count <= Self::REPORTED_SINGLY {
                    table.error(span, message, Some(help));
                    continue;
                }
                let message =
                    format!("{count} entries of `{key}` are {}, of which this is the first", format.foreign_entries());
                let help = format!("put them into a file and convert it: `hostgate import --as {format} FILE`");
                table.error(span, message, Some(help));
                break;
            }
        }
    }
}
