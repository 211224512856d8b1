//! Detection of truncated object files, in each of which the API stores one object. A crash of the machine may leave a
//! part of a file, and a part that is valid TOML may allow more than the whole.
//!
//! The first line of a file that the API writes says that the last line is [`END`]. A file without such a first line
//! was written by a person, or by an earlier version, whose files have the table `[api.ID]` last.

use std::ops::Range;

use crate::document::comment_lines;

/// The last line of a file that the API writes.
pub(crate) const END: &str = "# end";
/// The end of the first line of a file that the API writes.
const HEAD: &str = " of the API. Its last line is \"# end\".";
/// The end of the first line that earlier versions wrote.
const OLD_HEAD: &str = " of the API.";
/// The help about a truncated file.
const HELP: &str =
    "most likely a crash of the machine cut it off: restore it from a copy, or remove it, which deletes the object";

/// Returns the error message and the help if a file is truncated; `None` if the file is whole.
pub(super) fn fault(text: &str) -> Option<(&'static str, &'static str)> {
    if text.trim().is_empty() {
        return Some(("the file is empty", HELP));
    }
    // After a crash some file systems leave zero octets where data was allocated but not written.
    if text.contains('\0') {
        return Some(("there are zero octets (NUL) in the file", HELP));
    }
    // `END` may be anywhere, as a person may have added lines after it.
    let is_cut = head(text).any(|(_, line)| line.ends_with(HEAD)) && comment_lines(text, END).next().is_none();
    is_cut.then_some((
        "the file ends before its last line, `# end`",
        "most likely a crash of the machine cut it off: restore it from a copy, or remove it, which deletes the object (if \
         you removed that line by hand, add it again)",
    ))
}

/// Returns the error message and the help for a file without the table `[api.ID]`, which is truncated if an earlier
/// version wrote it; `None` if none did.
pub(super) fn old_fault(text: &str) -> Option<(&'static str, &'static str)> {
    let is_cut = head(text).any(|(_, line)| line.ends_with(OLD_HEAD));
    is_cut.then_some((
        "the file ends before its table `[api.ID]`",
        "most likely a crash of the machine cut it off: restore it from a copy, or remove it, which deletes the object (if \
         you removed that table by hand, remove the first line too)",
    ))
}

/// Returns the text of a file with the first and last line that mark a complete file of the API; `what` names the kind
/// of object.
pub(crate) fn sealed(text: &str, what: &str) -> String {
    let text = unsealed(text);
    let line_end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("# A {what}{HEAD}\n{text}{line_end}{END}\n")
}

/// Returns the text of a file without the lines that [`sealed`] adds. The API uses it when it removes its object from a
/// file in which a person has written more.
pub(crate) fn unsealed(text: &str) -> String {
    let mut rest = String::with_capacity(text.len());
    let mut from = 0;
    for line in comment_lines(text, END) {
        rest.push_str(&text[from..line.start]);
        from = line.end;
    }
    rest.push_str(&text[from..]);
    let line = head(&rest).find(|(_, line)| line.ends_with(HEAD) || line.ends_with(OLD_HEAD)).map(|(range, _)| range);
    if let Some(line) = line {
        rest.replace_range(line, "");
    }
    rest
}

/// Returns the comment lines before the first table that begin as the API's first line does: the range and the text of
/// each.
fn head(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let rest = text.trim_start_matches('\u{feff}');
    let mut start = text.len() - rest.len();
    let lines = rest.split_inclusive('\n').map(move |line| {
        start += line.len();
        (start - line.len()..start, line.trim_end())
    });
    let comments = lines.take_while(|(_, line)| line.is_empty() || line.starts_with('#'));
    comments.filter(|(_, line)| line.starts_with("# A "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of the API without the first and the last line.
    const BODY: &str = "[policy.npol_1]\ndescription = \"\"\"\n# end\n\"\"\"\n\n[api.npol_1]\ncreate_time_ms = 1\n";

    #[test]
    fn truncated_object_files_are_detected() {
        let whole = sealed(BODY, "network policy");
        assert_eq!(fault(&whole), None, "{whole}");
        assert!(whole.starts_with("# A network policy of the API. ") && whole.ends_with("\n# end\n"), "{whole}");
        let first = whole.find('\n').unwrap();
        for cut in 0..whole.len() - "\n".len() {
            // A part of the first line is only a comment; the error for that is that the file holds no table.
            assert_eq!(fault(&whole[..cut]).is_some(), cut == 0 || cut >= first, "{cut}");
        }
        let zeros = whole.replace("create", "\0\0\0\0\0\0");
        assert_eq!(fault(&zeros).unwrap().0, "there are zero octets (NUL) in the file");
        assert_eq!(fault(" \n"), Some(("the file is empty", HELP)));
    }

    #[test]
    fn sealing_is_idempotent_and_unsealing_keeps_a_persons_lines() {
        let whole = sealed(BODY, "network policy");
        assert_eq!(sealed(&whole, "network policy"), whole);
        assert_eq!(unsealed(&whole), BODY);
        assert_eq!(fault(&format!("{whole}\n[policy.mine]\n")), None);
        assert_eq!(unsealed(&format!("# Ours.\n{whole}\n# More.\n")), format!("# Ours.\n{BODY}\n# More.\n"));
        let old = format!("# A network policy of the API.\n{BODY}");
        assert_eq!((unsealed(&old), sealed(&old, "network policy")), (BODY.to_owned(), whole.clone()));
        assert_eq!((fault(&old), fault(BODY), fault(&whole.replace('\n', "\r\n"))), (None, None, None));
        assert!(old_fault(&old).is_some() && old_fault(BODY).is_none() && old_fault(&whole).is_none());
    }
}
