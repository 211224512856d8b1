//! Writing to the terminal: the one place that prints.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::{FAILED, OK};
use crate::document::{Diagnostic, escaped, escaped_json};

/// Standard output and standard error, as the commands use them.
pub(super) struct Output {
    /// Where answers go.
    stdout: io::Stdout,
    /// Where errors go.
    stderr: Box<dyn Write>,
    /// Whether standard error may be coloured.
    color: bool,
    /// Why something could not be written.
    failed: Option<io::Error>,
}

impl Output {
    /// Looks whether standard error is a terminal that wants colour (no-color.org).
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let (stdout, stderr) = (io::stdout(), io::stderr());
        Self { color: wanted && stderr.is_terminal(), stdout, stderr: Box::new(stderr), failed: None }
    }

    /// Has errors go to standard error by way of `errors` from now on: a command that serves never waits for a reader.
    pub(super) fn send_errors_to(&mut self, errors: impl Write + 'static) {
        self.stderr = Box::new(errors);
    }

    /// Returns whether standard error may be coloured.
    pub(super) fn color(&self) -> bool {
        self.color
    }

    /// Writes a line to standard output; what files and clients chose in it can do nothing to the terminal.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.bytes(format!("{}\n", escaped(line.as_ref())).as_bytes());
    }

    /// Writes JSON to standard output, indented, with a line end.
    pub(super) fn json(&mut self, value: &impl Serialize) {
        match serde_json::to_string_pretty(value) {
            Ok(text) => self.bytes(format!("{}\n", escaped_json(&text)).as_bytes()),
            Err(error) => self.error(format!("json: {error}")),
        }
    }

    /// Writes bytes to standard output.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let written = self.stdout.write_all(bytes);
        self.note(written);
    }

    /// Notes that something could not be written. A reader that went away (`hostgate show | head`) wants no more.
    fn note(&mut self, written: io::Result<()>) {
        let failed = written.err().filter(|error| error.kind() != io::ErrorKind::BrokenPipe);
        self.failed = self.failed.take().or(failed);
    }

    /// Returns the exit code of a command that came to `code`: an answer that could not be written is none, and is said.
    pub(super) fn finish(&mut self, code: u8) -> u8 {
        let flushed = self.stdout.flush();
        self.note(flushed);
        let Some(error) = self.failed.take() else { return code };
        self.error(format!("the output cannot be written: {error}"));
        if code == OK { FAILED } else { code }
    }

    /// Writes one line to standard error.
    pub(super) fn error(&mut self, line: impl AsRef<str>) {
        // In one piece, so that lines of several commands at one terminal stay whole.
        let written = self.stderr.write_all(format!("hostgate: {}\n", escaped(line.as_ref())).as_bytes());
        self.note(written);
    }

    /// Writes diagnostics to standard error, as rustc does.
    pub(super) fn diagnostics(&mut self, diagnostics: &[Diagnostic]) {
        for diagnostic in diagnostics {
            let written = self.stderr.write_all(format!("{}\n\n", diagnostic.render(self.color)).as_bytes());
            self.note(written);
        }
    }

    /// Writes diagnostics to standard error that may be a log, whose readers may not see the files.
    pub(super) fn diagnostics_unquoted(&mut self, diagnostics: &[Diagnostic]) {
        let unquoted: Vec<Diagnostic> = diagnostics.iter().map(Diagnostic::without_quotes).collect();
        self.diagnostics(&unquoted);
    }

    /// Writes what the command line parser has to say, to the stream it belongs to.
    pub(super) fn clap(&mut self, error: &clap::Error) {
        let color = self.color;
        let stream: &mut dyn Write = if error.use_stderr() { &mut *self.stderr } else { &mut self.stdout };
        let text = error.render();
        let written = if color { write!(stream, "{}", text.ansi()) } else { write!(stream, "{text}") };
        self.note(written);
    }
}

/// Says how many there are of something: `1 error`, `2 errors`.
pub(super) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
