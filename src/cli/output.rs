//! Output to the terminal; no other module prints.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::{FAILED, OK};
use crate::document::{Diagnostic, escaped, escaped_json};

/// Standard output and standard error of a command.
pub(super) struct Output {
    /// The stream for answers.
    stdout: io::Stdout,
    /// The stream for errors and remarks.
    stderr: Box<dyn Write>,
    /// Set if standard error may be coloured.
    color: bool,
    /// The first error of writing.
    failed: Option<io::Error>,
}

impl Output {
    /// Makes the output, with colour if standard error is a terminal and `NO_COLOR` is not set (no-color.org).
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (stdout, stderr) = (io::stdout(), io::stderr());
        Self { color: wanted && stderr.is_terminal(), stdout, stderr: Box::new(stderr), failed: None }
    }

    /// Redirects errors to `errors`. A command that serves must not wait for the reader of standard error.
    pub(super) fn send_errors_to(&mut self, errors: impl Write + 'static) {
        self.stderr = Box::new(errors);
    }

    /// Returns whether standard error may be coloured.
    pub(super) fn color(&self) -> bool {
        self.color
    }

    /// Writes a line to standard output, escaped so that text of files and clients cannot control the terminal.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.bytes(format!("{}\n", escaped(line.as_ref())).as_bytes());
    }

    /// Writes a value to standard output as indented JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.bytes(format!("{}\n", escaped_json(&text)).as_bytes()),
            Err(error) => self.error(format!("json: {error}")),
        }
    }

    /// Writes bytes to standard output unchanged.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let written = self.stdout.write_all(bytes);
        self.note(written);
    }

    /// Remembers an error of writing, except for a closed pipe: the reader (`hostgate show | head`) wants no more.
    fn note(&mut self, written: io::Result<()>) {
        let failed = written.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        self.failed = self.failed.take().or(failed);
    }

    /// Returns the final exit code for a command that ended with `code`: a failure if the output could not be written.
    pub(super) fn finish(&mut self, code: u8) -> u8 {
        let flushed = self.stdout.flush();
        self.note(flushed);
        let Some(error) = self.failed.take() else { return code };
        self.error(format!("the output cannot be written: {error}"));
        if code == OK { FAILED } else { code }
    }

    /// Writes a line to standard error.
    pub(super) fn error(&mut self, line: impl AsRef<str>) {
        // In one write, so that lines of several commands at one terminal do not mix.
        let written = self.stderr.write_all(format!("hostgate: {}\n", escaped(line.as_ref())).as_bytes());
        self.note(written);
    }

    /// Writes diagnostics to standard error in the style of rustc.
    pub(super) fn diagnostics(&mut self, diagnostics: &[Diagnostic]) {
        for diagnostic in diagnostics {
            let written = self.stderr.write_all(format!("{}\n\n", diagnostic.render(self.color)).as_bytes());
            self.note(written);
        }
    }

    /// Writes diagnostics without quotes from files, for a standard error whose readers may not be allowed to see the
    /// files.
    pub(super) fn diagnostics_unquoted(&mut self, diagnostics: &[Diagnostic]) {
        let unquoted: Vec<Diagnostic> = diagnostics.iter().map(Diagnostic::without_quotes).collect();
        self.diagnostics(&unquoted);
    }

    /// Writes the output of the command line parser to the stream that it is meant for.
    pub(super) fn clap(&mut self, error: &clap::Error) {
        let color = self.color;
        let stream: &mut dyn Write = if error.use_stderr() { &mut *self.stderr } else { &mut self.stdout };
        let text = error.render();
        let written = if color { write!(stream, "{}", text.ansi()) } else { write!(stream, "{text}") };
        self.note(written);
    }
}

/// Formats a number with a noun: `1 error`, `2 errors`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
