//! What holds of every diagnostic: it points into a text that was read, and can be shown.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hostgate::document::{Diagnostic, Place};

/// The files of a directory: their texts by their paths.
pub type Texts = BTreeMap<PathBuf, String>;

/// Checks diagnostics about the files of one of these directories.
///
/// # Panics
/// When one of them does not point into its text, or cannot be shown.
pub fn check<'d>(diagnostics: impl IntoIterator<Item = &'d Diagnostic> + Clone, texts: &[Texts]) {
    for diagnostic in diagnostics.clone() {
        let places = std::iter::once(&diagnostic.place).chain(diagnostic.related.iter().map(|related| &related.place));
        for place in places {
            assert!(texts.iter().any(|texts| lies_in(place, texts)), "{place} is nowhere: {diagnostic}");
        }
        let line = diagnostic.to_string();
        assert!(!line.contains(|character: char| character.is_control()), "{line:?}");
        assert!(!line.is_empty() && !diagnostic.message.is_empty());
        assert!(!diagnostic.message.ends_with('.'), "{line}");
    }
    // Drawing takes longer than all that comes before it.
    for diagnostic in diagnostics.into_iter().take(4) {
        let shown = diagnostic.render(diagnostic.message.len().is_multiple_of(2));
        assert!(shown.contains(&*diagnostic.place.path.to_string_lossy()), "{shown}");
    }
}

/// Returns whether a place is a file as a whole, or a character of its text, or the end of one of its lines.
fn lies_in(place: &Place, texts: &Texts) -> bool {
    // Presets are built in.
    if (place.line, place.column) == (0, 0) || place.path.starts_with(hostgate::policy::BUILT_IN) {
        return true;
    }
    let Some(text) = texts.get(Path::new(&*place.path)) else { return false };
    let (Ok(line), Ok(column)) = (usize::try_from(place.line), usize::try_from(place.column)) else { return false };
    let Some(line) = line.checked_sub(1).and_then(|line| text.split('\n').nth(line)) else { return false };
    (1..=line.chars().count() + 1).contains(&column)
}
