//! Lists of hostnames in other systems' formats, as hostgate's policies or lists: `hostgate import`.
//!
//! Pure: text in; patterns, what was left out and why, and what means something else here out. Each format has a reader in
//! its own file, which says where the format is documented. A reader hands entries to a [`collect::Collector`] and never
//! widens one without a remark; [`verify`] loads the outcome as `hostgate check` would.

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

/// How to import.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// The format; without it, it is guessed.
    pub(crate) format: Option<Format>,
    /// True if a bare name covers everything below as well.
    pub(crate) subdomains: bool,
    /// What entries do whose format does not say.
    pub(crate) unsaid: Option<Effect>,
}

/// What a file holds, in hostgate's terms.
#[derive(Debug)]
pub(crate) struct Imported {
    /// The format it was read in.
    pub(crate) format: Format,
    /// The guess, if the format was guessed.
    pub(crate) guess: Option<Guess>,
    /// The format that the file seems to be in, if another one was named and much of the file was left out.
    pub(crate) likely: Option<Guess>,
    /// Its patterns, and what is said about them.
    collected: collect::Collected,
}

/// The reason for which nothing is imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The file has no entry.
    #[error("the file holds no entry")]
    Empty,
    /// No format explains what the file holds.
    #[error("no format explains what it holds: name it with --as ({})", names(Format::ALL.iter()))]
    Unknown,
    /// Several formats explain what the file holds.
    #[error("it may be in several formats: {}: name the right one with --as", candidates(.0))]
    Several(Vec<Guess>),
    /// It is a policy file of hostgate.
    #[error("it is a policy file of hostgate already: put it into the policies directory")]
    Policy,
    /// It has no entry of the format that was named.
    #[error("as {format} it holds no entry{}", hint(.likely.as_ref()))]
    EmptyAs {
        /// The format.
        format: Format,
        /// What it seems to be.
        likely: Option<Guess>,
    },
    /// Its text cannot be read as what it is said to be.
    #[error("as {format}: {why}{}", hint(.likely.as_ref()))]
    Bad {
        /// The format.
        format: Format,
        /// What is wrong.
        why: String,
        /// What it seems to be.
        likely: Option<Guess>,
    },
}

/// Reads a text as a list of hostnames.
///
/// # Errors
/// It has no entry, its format cannot be told, or it is not in the format named.
pub(crate) fn import(text: &str, options: &Options) -> Result<Imported, ImportError> {
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
    let mut out = Collector::new(options.unsaid, options.subdomains);
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
    let is_mostly_left_out = collected.left_out.iter().map(|remark| remark.count).sum::<usize>() * 2 >= collected.read;
    let likely = if is_mostly_left_out { likely() } else { None };
    Ok(Imported { format, guess, likely, collected })
}

/// Returns the format that a text seems to be in, if it is another one than the one that was named.
fn likely(text: &str, named: Format) -> Option<Guess> {
    match detect(text) {
        Detected::One(guess) if guess.format != named => Some(guess),
        _ => None,
    }
}

/// Says which format a file seems to be in, for the end of a message.
fn hint(likely: Option<&Guess>) -> String {
    likely.map_or_else(String::new, |guess| format!("; {guess}"))
}

impl Imported {
    /// Returns how many patterns allow, deny, and do what neither the format nor the caller says.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let collect::Collected { allowed, denied, unsaid, .. } = &self.collected;
        (allowed.len(), denied.len(), unsaid.len())
    }

    /// Returns the entries that are left out, and why.
    pub(crate) fn left_out(&self) -> &[Remark] {
        &self.collected.left_out
    }

    /// Returns the entries that mean something else here.
    pub(crate) fn changed(&self) -> &[Remark] {
        &self.collected.changed
    }

    /// Returns how many patterns are left out because others say the same.
    pub(crate) fn repeated(&self) -> usize {
        self.collected.repeated
    }
}

/// Reads a text in a format.
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

/// Returns the lines of a text with their numbers, without space around them.
fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    (1..).zip(text.lines().map(str::trim))
}

/// Returns a line without a comment that begins with `#` at its start or behind a space, or with another mark at its start.
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

/// Returns the documents of YAML or JSON, and leaves its aliases out.
fn documents<'t>(text: &'t str, out: &mut Collector) -> Result<Vec<yaml::Item<'t>>, String> {
    let documents = yaml::read(text)?;
    for document in &documents {
        document.aliases(&mut |line| out.leave(line, "YAML aliases, which are not followed", "*"));
    }
    Ok(documents)
}

/// Returns the words of a value that begins on a line of `text`, with their lines.
fn words_with_lines<'v>(text: &str, first: u32, value: &'v str) -> Vec<(u32, &'v str)> {
    let before = usize::try_from(first).unwrap_or(usize::MAX).saturating_sub(1);
    let start: usize = text.split_inclusive('\n').take(before).map(str::len).sum();
    // Each word is looked for behind the one before it, so that the text is walked once; a word that is written in another
    // way there, as with escapes, ends that.
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

/// Returns names of formats for a message.
fn names<'f>(formats: impl Iterator<Item = &'f Format>) -> String {
    formats.map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

/// Returns guesses for a message.
fn candidates(guesses: &[Guess]) -> String {
    let each = guesses.iter().map(|guess| match guess.entries {
        0 => format!("`{}` ({})", guess.format, guess.format.entries()),
        entries => format!("`{}` ({entries} of {} entries)", guess.format, guess.of),
    });
    each.collect::<Vec<_>>().join(", ")
}

/// Returns JSON that the reader of YAML takes.
fn prepared(format: Format, text: &str) -> Cow<'_, str> {
    match format {
        Format::SandboxRuntime | Format::Docker | Format::Cilium | Format::OpenShell => yaml::without_tabs(text),
        _ => Cow::Borrowed(text),
    }
}
