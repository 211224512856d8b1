//! Entries that were pasted into a policy from a list in another system's format.

use std::collections::BTreeMap;

use crate::document::{Span, Table};
use crate::list_format::{Format, of_pasted};

/// The refused entries of one array that are in another system's format: many of a format are told once.
#[derive(Default)]
pub(crate) struct Pasted(BTreeMap<Format, Entries>);

/// The entries of one format.
#[derive(Default)]
struct Entries {
    /// Where the first ones are, with what is wrong with each and the help.
    first: Vec<(Span, String, String)>,
    /// How many there are.
    count: usize,
}

impl Pasted {
    /// Entries of a format that are each told for itself, as they may be slips of the hand.
    const TOLD_SINGLY: usize = 2;

    /// Takes a refused entry with its error and help; returns whether it is in another system's format.
    pub(crate) fn takes(&mut self, text: &str, span: Span, error: impl FnOnce() -> (String, String)) -> bool {
        let Some(format) = of_pasted(text) else { return false };
        let entries = self.0.entry(format).or_default();
        entries.count += 1;
        if entries.first.len() < Self::TOLD_SINGLY {
            let (message, help) = error();
            entries.first.push((span, message, help));
        }
        true
    }

    /// Notes the errors.
    pub(crate) fn tell(self, table: &Table<'_>, key: &str) {
        for (format, Entries { first, count }) in self.0 {
            for (span, message, help) in first {
                if count <= Self::TOLD_SINGLY {
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
