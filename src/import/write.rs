//! Patterns as a policy file or as a list file.

use std::fmt::Write as _;

use super::{Effect, Imported};
use crate::document::escaped;
use crate::policy::matching::pattern::Pattern;

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A policy file with one policy.
    Toml,
    /// A list file, which does not say whether it allows or denies.
    List,
}

/// A text that is written.
#[derive(Debug)]
pub(crate) struct Written {
    /// The text.
    pub(crate) text: String,
    /// What it is.
    pub(crate) target: Target,
    /// What its patterns do, where they all do the same.
    pub(crate) effect: Option<Effect>,
}

/// The reason for which a target cannot be written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WriteError {
    /// Nothing is left to be written.
    #[error("nothing is left to be written: every entry was left out")]
    Nothing,
    /// A list file cannot hold both kinds.
    #[error(
        "it allows {allowed} and denies {denied} patterns, and a list file can only do one of both: write a policy with `--to toml`"
    )]
    Mixed {
        /// Patterns that allow.
        allowed: usize,
        /// Patterns that deny.
        denied: usize,
    },
    /// The format does not say whether entries allow or deny.
    #[error(
        "the format does not say whether these names are allowed or denied, and a policy has to: add `--allow` or `--deny`, or write a list file with `--to list`"
    )]
    Unsaid,
    /// The file says of some entries whether they allow or deny, and of others not: in one list file those that deny would
    /// allow, or the other way round.
    #[error(
        "of {said} names it is said whether they are allowed or denied, and of {unsaid} not: add `--allow` or `--deny` for those"
    )]
    PartlyUnsaid {
        /// Patterns that allow or deny.
        said: usize,
        /// Patterns that the file does not say it of.
        unsaid: usize,
    },
}

impl WriteError {
    /// Returns whether other options mend it.
    pub(crate) const fn is_usage(&self) -> bool {
        !matches!(self, Self::Nothing)
    }
}

impl Imported {
    /// Writes the patterns: as `target`, or as a policy where it is known what they do and as a list file where it is not.
    ///
    /// `source` is the name of the file they come from, and `id` that of the policy.
    ///
    /// # Errors
    /// The target cannot hold them, or there are none.
    pub(crate) fn write(&self, target: Option<Target>, source: &str, id: &str) -> Result<Written, WriteError> {
        let (allowed, denied, unsaid) = self.counts();
        let said = allowed + denied;
        if said > 0 && unsaid > 0 {
            return Err(WriteError::PartlyUnsaid { said, unsaid });
        }
        let target = target.unwrap_or(if unsaid > 0 { Target::List } else { Target::Toml });
        let effect = match (allowed, denied, unsaid) {
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
                let all = [&self.collected.allowed, &self.collected.denied, &self.collected.unsaid];
                for pattern in all.into_iter().flatten() {
                    let _ = writeln!(text, "{pattern}");
                }
            }
            Target::Toml if unsaid > 0 => return Err(WriteError::Unsaid),
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

/// Adds an array of patterns, if there are any.
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

/// Returns an id as a key of TOML: bare where that is allowed.
fn quoted_key(id: &str) -> String {
    let is_bare = id.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_'));
    if is_bare { id.to_owned() } else { format!("\"{id}\"") }
}

/// Returns words with a capital letter at their start.
fn capitalised(words: &str) -> String {
    let mut characters = words.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + characters.as_str())
}
