//! Import of hostname lists in other systems' formats, as policies or lists of hostgate: `hostgate import`.
//!
//! Pure functions from text to patterns, with remarks about entries that were left out or changed their meaning. Each
//! format has a reader in its own file, whose module doc links the format's documentation. A reader passes entries to a
//! [`collect::Collector`] and never widens an entry without a remark. [`verify`] loads the result as `hostgate check`
//! would.

mod adblock;
mod address;
mod cilium;
mod collect;
mod copilot;
mod dnscrypt;
mod dnsmasq;
mod docker;
mod domains;
mod gh_aw;
mod harden_runner;
mod hosts;
mod open_shell;
mod regex;
mod rpz;
mod rules;
mod sandbox_runtime;
mod squid;
#[cfg(test)]
mod tests;
mod unbound;
mod v2fly;
mod verify;
mod write;
mod yaml;

use std::borrow::Cow;

use crate::list_format::{Detected, Format, Guess, detect, is_policy, other_comment};

use collect::Collector;
pub(crate) use collect::{Effect, Remark};
pub(crate) use write::{Target, Written};

/// The options of an import.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// The format; `None` to detect it.
    pub(crate) format: Option<Format>,
    /// True if a bare name also covers all names below it.
    pub(crate) subdomains: bool,
    /// The effect of entries whose format does not define one; `None` if unknown.
    pub(crate) default_effect: Option<Effect>,
}

/// The content of an imported file as patterns of hostgate.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The format that the file was read in.
    pub(crate) format: Format,
    /// The evidence for the format, if it was detected.
    pub(crate) guess: Option<Guess>,
    /// The format that the file seems to be in, if another one was named and much of the file was left out.
    pub(crate) likely: Option<Guess>,
    /// The patterns, and the remarks about entries.
    collected: collect::Collected,
}

/// The reasons why nothing is imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The file has no entries.
    #[error("the file holds no entry")]
    Empty,
    /// No format explains the entries of the file.
    #[error("no format explains what it holds: name it with --as ({})", names(Format::ALL.iter()))]
    Unknown,
    /// Several formats explain the entries of the file.
    #[error("it may be in several formats: {}: name the right one with --as", candidates(.0))]
    Several(Vec<Guess>),
    /// The file is a policy file of hostgate already.
    #[error("it is a policy file of hostgate already: put it into the policies directory")]
    Policy,
    /// The file has no entry of the named format.
    #[error("as {format} it holds no entry{}", hint(.likely.as_ref()))]
    EmptyAs {
        format: Format,
        /// The format that the file seems to be in.
        likely: Option<Guess>,
    },
    /// The file is malformed in the named or detected format.
    #[error("as {format}: {why}{}", hint(.likely.as_ref()))]
    Bad {
        format: Format,
        /// The error of the format's reader.
        why: String,
        /// The format that the file seems to be in.
        likely: Option<Guess>,
    },
}

/// Reads a text as a list of hostnames.
///
/// # Errors
/// Fails if the text has no entry, if its format cannot be detected, or if it is malformed in that format.
pub(crate) fn import(text: &str, options: &Options) -> Result<Imported, ImportError> {
    // A byte order mark is not part of the first entry.
    let text = text.trim_start_matches('\u{feff}');
    let (format, guess) = match options.format {
        Some(format) => (format, None),
        None if is_policy(text) => return Err(ImportError::Policy),
        None => match detect(text) {
            Detected::One(guess) => (guess.format, Some(guess)),
            Detected::Several(guesses) => return Err(ImportError::Several(guesses)),
            Detected::Unknown => return Err(ImportError::Unknown),
            Detected::Empty => return Err(ImportError::Empty),
        },
    };
    let mut out = Collector::new(options.default_effect, options.subdomains);
    let likely = || if guess.is_none() { likely(text, format) } else { None };
    read(format, &prepared(format, text), &mut out).map_err(|why| ImportError::Bad {
        format,
        why,
        likely: likely(),
    })?;
    let collected = out.finish();
    if collected.read == 0 {
        return Err(match detect(text) {
            Detected::Empty => ImportError::Empty,
            _ => ImportError::EmptyAs { format, likely: likely() },
        });
    }
    // A wrong `--as` leaves most entries out, so the detected format is worth a hint then.
    let is_mostly_left_out = collected.left_out.iter().map(|remark| remark.count).sum::<usize>() * 2 >= collected.read;
    let likely = if is_mostly_left_out { likely() } else { None };
    Ok(Imported { format, guess, likely, collected })
}

/// Returns the format that a text seems to be in, if it differs from the named one.
fn likely(text: &str, named: Format) -> Option<Guess> {
    match detect(text) {
        Detected::One(guess) if guess.format != named => Some(guess),
        _ => None,
    }
}

/// Returns the end of a message that names the likely format; empty if there is none.
fn hint(likely: Option<&Guess>) -> String {
    likely.map_or_else(String::new, |guess| format!("; {guess}"))
}

impl Imported {
    /// Returns the numbers of patterns that allow, that deny, and whose effect is unknown.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let collect::Collected { allowed, denied, unknown, .. } = &self.collected;
        (allowed.len(), denied.len(), unknown.len())
    }

    /// Returns the remarks about entries that are left out.
    pub(crate) fn left_out(&self) -> &[Remark] {
        &self.collected.left_out
    }

    /// Returns the remarks about entries whose meaning changed.
    pub(crate) fn changed(&self) -> &[Remark] {
        &self.collected.changed
    }

    /// Returns the number of patterns that others make redundant.
    pub(crate) fn repeated(&self) -> usize {
        self.collected.repeated
    }
}

/// Passes the text to the reader of its format.
fn read(format: Format, text: &str, out: &mut Collector) -> Result<(), String> {
    match format {
        Format::Domains => domains::read(text, out),
        Format::Hosts => hosts::read(text, out),
        Format::Squid => squid::read(text, out),
        Format::Adblock => adblock::read(text, out),
        Format::Dnsmasq => dnsmasq::read(text, out),
        Format::Unbound => unbound::read(text, out),
        Format::Rpz => rpz::read(text, out),
        Format::Dnscrypt => dnscrypt::read(text, out),
        Format::HostPort => address::read_host_ports(text, out),
        Format::Url => address::read_urls(text, out),
        Format::Regex => regex::read(text, out),
        Format::V2fly => v2fly::read(text, out),
        Format::Clash => return rules::read_clash(text, out),
        Format::Surge => rules::read_surge(text, out),
        Format::SandboxRuntime => return sandbox_runtime::read(text, out),
        Format::HardenRunner => return harden_runner::read(text, out),
        Format::GhAw => return gh_aw::read(text, out),
        Format::Copilot => copilot::read(text, out),
        Format::Cilium => return cilium::read(text, out),
        Format::OpenShell => return open_shell::read(text, out),
        Format::Docker => return docker::read(text, out),
    }
    Ok(())
}

/// Returns the trimmed lines of a text with their numbers, from 1.
fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    (1..).zip(text.lines().map(str::trim))
}

/// Removes a comment: from `#` at the start or after a space, or the whole line if it starts with another comment mark.
fn without_comment(line: &str) -> &str {
    if other_comment(line.trim_start()).is_some() {
        return "";
    }
    let mut from = 0;
    while let Some(at) = line[from..].find('#').map(|at| from + at) {
        if at == 0 || line[..at].ends_with([' ', '\t']) {
            return line[..at].trim();
        }
        from = at + 1;
    }
    line.trim()
}

/// Parses the documents of YAML or JSON. Aliases are reported as left out.
fn documents<'t>(text: &'t str, out: &mut Collector) -> Result<Vec<yaml::Item<'t>>, String> {
    let documents = yaml::read(text)?;
    for document in &documents {
        document.aliases(&mut |line| out.leave_out(line, "YAML aliases, which are not followed", "*"));
    }
    Ok(documents)
}

/// Returns the words of a multi-line value with their line numbers; the value starts on line `first` of `text`.
fn words_with_lines<'v>(text: &str, first: u32, value: &'v str) -> Vec<(u32, &'v str)> {
    let before = usize::try_from(first).unwrap_or(usize::MAX).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    // Each word is searched after the previous one, so the text is walked once. A word that is spelt differently there,
    // as with escapes, ends the search.
    let (mut rest, mut number) = (&text[start..], first);
    let mut number_of = |word: &str| {
        let at = rest.find(word).unwrap_or(rest.len());
        if at < rest.len() {
            number += u32::try_from(rest[..at].bytes().filter(|octet| *octet == b'\n').count()).unwrap_or(0);
        }
        rest = rest.get(at + word.len()..).unwrap_or_default();
        number
    };
    let words = value.split([' ', '\t', '\n', '\r', ',']).filter(|word| !word.is_empty());
    words.map(|word| (number_of(word), word)).collect()
}

/// Joins the names of formats for a message.
fn names<'f>(formats: impl Iterator<Item = &'f Format>) -> String {
    formats.map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

/// Joins detected formats for a message.
fn candidates(guesses: &[Guess]) -> String {
    let each = guesses.iter().map(|guess| match guess.entries {
        0 => format!("`{}` ({})", guess.format, guess.format.entries()),
        entries => format!("`{}` ({entries} of {} entries)", guess.format, guess.of),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Returns JSON in a form that the YAML reader accepts.
fn prepared(format: Format, text: &str) -> Cow<'_, str> {
    match format {
        Format::SandboxRuntime | Format::Docker | Format::Cilium | Format::OpenShell => yaml::without_tabs(text),
        _ => Cow::Borrowed(text),
    }
}
