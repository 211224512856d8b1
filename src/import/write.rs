//! Output of an import: patterns as a policy file or as a list file.

use std::fmt::Write as _;

use super::{Effect, Imported};
use crate::document::escaped;
use crate::policy::matching::pattern::Pattern;

/// The kind of file to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A policy file with one policy.
    Toml,
    /// A list file, which does not define whether it allows or denies.
    List,
}

/// A written file and its properties.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) text: String,
    pub(crate) target: Target,
    /// The common effect of its patterns; `None` if they differ or it is unknown.
    pub(crate) effect: Option<Effect>,
}

/// The reasons why a target cannot be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// There are no patterns to write.
    #[error("nothing is left to be written: every entry was left out")]
    Nothing,
    /// A list file cannot contain both patterns that allow and patterns that deny.
    #[error(
        "it allows {allowed} and denies {denied} patterns, and a list file can only do one of both: write a policy with `--to toml`"
    )]
    Mixed {
        /// The number of patterns that allow.
        allowed: usize,
        /// The number of patterns that deny.
        denied: usize,
    },
    /// The format does not define whether entries allow or deny.
    #[error(
        "the format does not say whether these names are allowed or denied, and a policy has to: add `--allow` or `--deny`, or write a list file with `--to list`"
    )]
    UnknownEffect,
    /// The file defines for some entries whether they allow or deny, and for others not. In one list file the wrong
    /// ones would be allowed or denied.
    #[error(
        "of {known} names it is said whether they are allowed or denied, and of {unknown} not: add `--allow` or `--deny` for those"
    )]
    PartlyUnknownEffect {
        /// The number of patterns with a known effect.
        known: usize,
        /// The number of patterns without a known effect.
        unknown: usize,
    },
}

impl WriteError {
    /// Returns whether other command line options avoid the error.
    pub(crate) const fn is_usage(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

impl Imported {
    /// Writes the patterns as `target`. Without a target, as a policy if their effect is known, else as a list file.
    ///
    /// The header names `source`, the file they come from; `id` is the id of the policy.
    ///
    /// # Errors
    /// Fails if the target cannot contain the patterns, or if there are none.
    pub(crate) fn write(&self, target: Option<Target>, source: &str, id: &str) -> Result<Written, WriteError> {
        let (allowed, denied, unknown) = self.counts();
        let known = allowed + denied;
        // A caller must not read patterns of unknown effect as allowed because others are.
        if known > 0 && unknown > 0 {
            return Err(WriteError::PartlyUnknownEffect { known, unknown });
        }
        let target = target.unwrap_or(if unknown > 0 { Target::List } else { Target::Toml });
        let effect = match (allowed, denied, unknown) {
            (0, 0, 0) => return Err(WriteError::Nothing),
            (_, 0, 0) => Some(Effect::Allow),
            (0, _, 0) => Some(Effect::Deny),
            _ => None,
        };
        let head = format!("# {} of {}, by hostgate import.\n", capitalised(self.format.entries()), escaped(source));
        let mut text = head;
        match target {
            Target::List if allowed > 0 && denied > 0 => return Err(WriteError::Mixed { allowed, denied }),
            Target::List => {
                let all = [&self.collected.allowed, &self.collected.denied, &self.collected.unknown];
                for pattern in all.into_iter().flatten() {
                    let _ = writeln!(text, "{pattern}");
                }
            }
            Target::Toml if unknown > 0 => return Err(WriteError::UnknownEffect),
            Target::Toml => {
                let _ = writeln!(text, "[policy.{}]", quoted_key(id));
                for (key, patterns) in
                    [("allowed_hostnames", &self.collected.allowed), ("denied_hostnames", &self.collected.denied)]
                {
                    add_list(&mut text, key, patterns);
                }
            }
        }
        Ok(Written { text, target, effect })
    }
}

/// Appends an array of patterns, unless it is empty.
fn add_list(text: &mut String, key: &str, patterns: &[Pattern]) {
    if patterns.is_empty() {
        return;
    }
    let _ = writeln!(text, "{key} = [");
    for pattern in patterns {
        let _ = writeln!(text, "  \"{pattern}\",");
    }
    text.push_str("]\n");
}

/// Returns an id as a TOML key: bare where that is allowed, else quoted.
fn quoted_key(id: &str) -> String {
    let is_bare = id.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
    if is_bare { id.to_owned() } else { format!("\"{id}\"") }
}

/// Returns words with the first letter in upper case.
fn capitalised(words: &str) -> String {
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + characters.as_str())
}
