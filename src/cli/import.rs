//! The command `hostgate import`: converts a list in another system's format into a policy or a list file.

use std::io::{self, Read as _};
use std::path::Path;

use super::output::Output;
use super::{FAILED, OK, USAGE};
use crate::bounds::MAX_FILE;
use crate::document::{quoted, text_of};
use crate::import::{Effect, ImportError, Imported, Options, Remark, Target, Written, import};
use crate::list_format::Format;
use crate::util::regular_file;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The file; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: String,
    /// The format of the file [default: guessed from its content].
    #[arg(long = "as", value_name = "FORMAT", value_parser = format_parser())]
    format: Option<String>,
    /// Let each bare name include all names below it, as most published lists of denied names mean it.
    #[arg(long)]
    subdomains: bool,
    /// Allow the names, if the format does not say whether they are allowed or denied.
    #[arg(long, conflicts_with = "deny")]
    allow: bool,
    /// Deny the names, if the format does not say whether they are allowed or denied.
    #[arg(long)]
    deny: bool,
    /// The kind of result: a policy (`toml`) or a list file (`list`) [default: a policy if it is known whether names are
    /// allowed or denied, else a list file].
    #[arg(long, value_name = "KIND", value_parser = ["toml", "list"])]
    to: Option<String>,
    /// The id of the resulting policy.
    #[arg(long, value_name = "ID", default_value = "imported", value_parser = parse_id)]
    id: String,
}

/// Imports the file and returns the exit code.
pub(super) fn run(arguments: &Arguments, output: &mut Output) -> u8 {
    let name = if arguments.file == "-" { "standard input" } else { &*arguments.file };
    let text = match read(&arguments.file) {
        Ok(text) => text,
        Err(why) => {
            output.error(format!("import: {name}: {why}"));
            return FAILED;
        }
    };
    let default_effect = match (arguments.allow, arguments.deny) {
        (true, _) => Some(Effect::Allow),
        (_, true) => Some(Effect::Deny),
        _ => None,
    };
    let format = arguments.format.as_deref().and_then(format_named);
    let imported = match import(&text, &Options { format, subdomains: arguments.subdomains, default_effect }) {
        Ok(imported) => imported,
        Err(error) => {
            output.error(format!("import: {name}: {error}"));
            return if matches!(error, ImportError::Unknown | ImportError::Several(_)) { USAGE } else { FAILED };
        }
    };
    report(&imported, name, output);
    let target = arguments.to.as_deref().map(|kind| if kind == "toml" { Target::Toml } else { Target::List });
    let written = match imported.write(target, name, &arguments.id) {
        Ok(written) => written,
        Err(error) => {
            output.error(format!("import: {name}: {error}"));
            return if error.is_usage() { USAGE } else { FAILED };
        }
    };
    if !verify(&written, &arguments.id, output) {
        return FAILED;
    }
    output.bytes(written.text.as_bytes());
    OK
}

/// Reads the file. The error says what is wrong with it and how to help it.
fn read(file: &str) -> Result<String, String> {
    let octets = if file == "-" {
        let mut octets = Vec::new();
        // One octet more than allowed, to tell an input of the maximum length from a longer one.
        let all = io::stdin().take(MAX_FILE + 1).read_to_end(&mut octets);
        all.map_err(|error| error.to_string())?;
        if u64::try_from(octets.len()).unwrap_or(u64::MAX) > MAX_FILE {
            return Err(format!("it is longer than {MAX_FILE} octets: split it"));
        }
        octets
    } else {
        regular_file::read(Path::new(file), MAX_FILE).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if file.contains("://") => {
                "it is a URL: download it first, as with `curl -fsS URL | hostgate import -`".to_owned()
            }
            io::ErrorKind::NotFound if file.contains(['*', '?']) => {
                "the file does not exist, and patterns are not expanded: name one file".to_owned()
            }
            io::ErrorKind::NotFound => "the file does not exist".to_owned(),
            io::ErrorKind::IsADirectory => format!("{error}: name the files in it one by one"),
            io::ErrorKind::InvalidInput => format!("{error}: pass it as standard input, `hostgate import - <FILE`"),
            io::ErrorKind::FileTooLarge => format!("{error}: split it"),
            _ => error.to_string(),
        })?
    };
    text_of(octets)
}

/// Writes to standard error how the file was read, which entries were left out, and which ones have another meaning
/// here.
fn report(imported: &Imported, name: &str, output: &mut Output) {
    // On standard error, as standard output is meant to be redirected to a file.
    let how = match imported.guess {
        Some(guess) if guess.entries > 0 => format!(" ({} of {} entries)", guess.entries, guess.of),
        _ => String::new(),
    };
    let format = imported.format;
    output.error(format!("{name}: read as {} (--as {format}){how}", format.entries()));
    for (title, remarks) in [("left out", imported.left_out()), ("different", imported.changed())] {
        for remark in remarks {
            output.error(format!("{title} {}: {}: {}", remark.count, remark.what, first(remark)));
        }
    }
    if let Some(likely) = &imported.likely {
        output.error(format!("{name}: {likely}"));
    }
    if imported.repeated() > 0 {
        output.error(format!("left out {}: patterns that others repeat or cover", imported.repeated()));
    }
    let (allowed, denied, unknown) = imported.counts();
    let counts = [(allowed, "allowed"), (denied, "denied"), (unknown, "neither said to be allowed nor denied")];
    let counts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
    if !counts.is_empty() {
        output.error(format!("patterns: {}", counts.join(", ")));
    }
    if unknown > 0 && allowed + denied == 0 {
        output.error("name the list in `allowed_hostnames_files` or `denied_hostnames_files` of a policy, or add --allow or --deny");
    }
}

/// Returns the first entries that a remark applies to.
fn first(remark: &Remark) -> String {
    let shown = remark.first.iter().map(|found| format!("line {} {}", found.line, quoted(&found.text)));
    let mut shown: Vec<String> = shown.collect();
    if remark.count > shown.len() {
        shown.push("...".to_owned());
    }
    shown.join(", ")
}

/// Loads the result as `hostgate check` would, writes its warnings, and returns whether it has no errors.
fn verify(written: &Written, id: &str, output: &mut Output) -> bool {
    /// The number of warnings that are shown.
    const SHOWN: usize = 5;
    let diagnostics = written.diagnostics(id, "written");
    let (errors, warnings): (Vec<_>, Vec<_>) = diagnostics.iter().partition(|diagnostic| diagnostic.is_error());
    for diagnostic in warnings.iter().chain(&errors).take(SHOWN) {
        output.error(format!("`hostgate check` says of it: {}", diagnostic.with_quotes()));
    }
    if warnings.len() > SHOWN {
        output.error(format!("`hostgate check` has {} more warnings", warnings.len() - SHOWN));
    }
    errors.is_empty()
}

/// Returns a parser for the names of formats. The help lists the main names; aliases are accepted, too.
fn format_parser() -> clap::builder::PossibleValuesParser {
    let values = Format::ALL
        .iter()
        .map(|format| clap::builder::PossibleValue::new(format.name()).aliases(format.aliases().iter().copied()));
    clap::builder::PossibleValuesParser::new(values)
}

/// Returns the format with this name or alias.
fn format_named(name: &str) -> Option<Format> {
    Format::ALL.into_iter().find(|format| format.name() == name || format.aliases().contains(&name))
}

/// Parses an id that a policy file may define.
fn parse_id(id: &str) -> Result<String, String> {
    let is_good = !id.is_empty()
        && id.len() <= 64
        && id.bytes().all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'_' | b'.'));
    if is_good && id != crate::policy::UNRESTRICTED {
        Ok(id.to_owned())
    } else {
        Err("use up to 64 letters, digits, `-`, `_` and `.`, other than `unrestricted`".to_owned())
    }
}
