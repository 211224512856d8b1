//! Comments on entries: the comment above a line, in which a policy author gives the reason for the entry there. The
//! JSON output of `hostgate show` has it as `reason`.

use super::source::Source;

/// The lines of a text, indexed to find the comments above them.
pub struct Remarks<'t> {
    lines: Vec<&'t str>,
}

impl<'t> Remarks<'t> {
    /// Splits a text into its lines.
    #[must_use]
    pub fn of(source: &'t Source) -> Self {
        Self { lines: source.text().lines().collect() }
    }

    /// Returns the comment directly above a line (counted from 1) as one line without `#`; `None` if there is none.
    /// Comments addressed to hostgate are left out.
    #[must_use]
    pub fn above(&self, line: u32) -> Option<String> {
        let above = usize::try_from(line).ok()?.checked_sub(1)?;
        let comment = |line: &&&str| line.trim_start().starts_with('#');
        let count = self.lines.get(..above)?.iter().rev().take_while(comment).count();
        let words =
            self.lines[above - count..above].iter().map(|line| line.trim_start().trim_start_matches('#').trim());
        let words: Vec<_> = words.filter(|words| !words.is_empty() && !words.starts_with("hostgate:")).collect();
        (!words.is_empty()).then(|| words.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn comment_directly_above_a_line_is_its_reason() {
        const TEXT: &str = "# head\n\nx = [\n  # One,\n  #   and more.\n  \"a\",\n  \"b\",\n# hostgate: accept x: y\n  # Two.\n\"c\"]\n#\nd = 1\n";
        let source = Source::new(Path::new("f"), TEXT);
        let remarks = Remarks::of(&source);
        for (line, expected) in [
            (1, None),
            (3, None),
            (6, Some("One, and more.")),
            (7, None),
            (10, Some("Two.")),
            (12, None),
            (99, None),
            (0, None),
        ] {
            assert_eq!(remarks.above(line).as_deref(), expected, "{line}");
        }
    }
}
