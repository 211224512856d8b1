//! The man pages in `man/`, generated from the definition of the command line. A test compares them with the files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Arguments;

/// The command that writes the pages to `man/`.
const WRITE: &str = "HOSTGATE_WRITE_MAN=yes cargo test --locked --lib man_pages";

/// The definition of the troff string for an apostrophe.
const APOSTROPHE: &str = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";

/// Generates the pages of a command and of its subcommands, keyed by file name.
fn add_pages(command: &Command, pages: &mut BTreeMap<String, String>) {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let man = Man::new(command.clone());
    let mut sections = Vec::new();
    man.render_name_section(&mut sections).unwrap();
    man.render_synopsis_section(&mut sections).unwrap();
    man.render_description_section(&mut sections).unwrap();
    man.render_options_section(&mut sections).unwrap();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut sections).unwrap();
    }
    // The title of clap_mangen omits an empty date, which would put the version in its place. Each of its sections
    // repeats the definition of the apostrophe.
    let sections = String::from_utf8(sections).unwrap().replace(APOSTROPHE, "");
    let version = env!("CARGO_PKG_VERSION");
    let mut page = format!("{APOSTROPHE}.TH {name} 1 \"\" \"hostgate {version}\" \"hostgate\"\n{sections}");
    if let Some(help) = command.get_after_help() {
        add_rest(&help.to_string(), &mut page);
    }
    pages.insert(format!("{name}.1"), page);
    for below in command.get_subcommands() {
        add_pages(below, pages);
    }
}

/// Appends the text after the options of `--help`: the examples verbatim, then the notes.
fn add_rest(help: &str, page: &mut String) {
    let mut in_notes = false;
    for paragraph in help.split("\n\n").map(escaped) {
        if let Some(examples) = paragraph.strip_prefix("Example:\n") {
            let _ = writeln!(page, ".SH EXAMPLES\n.nf\n{examples}\n.fi");
        } else if let Some(codes) = paragraph.strip_prefix("Exit code: ") {
            let _ = writeln!(page, ".SH EXIT STATUS\n{codes}");
            in_notes = false;
        } else {
            let _ = writeln!(page, "{}\n{paragraph}", if in_notes { ".PP" } else { ".SH NOTES" });
            in_notes = true;
        }
    }
}

/// Escapes `text` for troff.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\e").replace('-', r"\-").replace('\'', r"\(aq").replace("\n.", "\n\\&.")
}

/// Reads the files of a directory, keyed by name.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}: {WRITE}", directory.display()));
    let read = |path: &Path| (path.file_name().unwrap().display().to_string(), fs::read_to_string(path).unwrap());
    entries.map(|entry| read(&entry.unwrap().path())).collect()
}

#[test]
fn man_pages_equal_the_command_line() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let mut made = BTreeMap::new();
    add_pages(&command, &mut made);
    if std::env::var_os("HOSTGATE_WRITE_MAN").is_some() {
        for name in files(&directory).keys() {
            fs::remove_file(directory.join(name)).unwrap();
        }
        for (name, page) in &made {
            fs::write(directory.join(name), page).unwrap();
        }
    }
    let committed = files(&directory);
    let names = |pages: &BTreeMap<String, String>| pages.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&committed), names(&made), "man/ is out of date; write it again: {WRITE}");
    for (name, page) in &made {
        assert!(committed[name] == *page, "man/{name} is out of date; write it again: {WRITE}");
    }
}
