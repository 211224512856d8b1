//! Decoding of files: UTF-8 text, or an error that names the format the file really has.
//!
//! A download often stores an error page, an archive or a Git LFS pointer in place of a list. Naming it saves the
//! operator a look into the file.

/// Decodes a file as UTF-8 text; a byte order mark stays.
///
/// # Errors
/// Fails if the file is not UTF-8, with a guess at its format and a fix.
pub fn text_of(octets: Vec<u8>) -> Result<String, String> {
    if let Some(kind) = foreign_kind(&octets) {
        return Err(kind.to_owned());
    }
    match String::from_utf8(octets) {
        Ok(text) => Ok(text),
        Err(error) => Err(not_utf8(error.as_bytes(), error.utf8_error().valid_up_to())),
    }
}

/// Recognises files that are not text by their first octets. Returns the format and a fix.
fn foreign_kind(octets: &[u8]) -> Option<&'static str> {
    /// The magic numbers of compressed files and other binary formats.
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "it is compressed with gzip: unpack it, as with `gzip -d`"),
        (b"\x28\xb5\x2f\xfd", "it is compressed with Zstandard: unpack it, as with `zstd -d`"),
        (b"\xfd7zXZ\0", "it is compressed with xz: unpack it, as with `xz -d`"),
        (b"BZh", "it is compressed with bzip2: unpack it, as with `bzip2 -d`"),
        (b"PK\x03\x04", "it is a ZIP archive: unpack it, as with `unzip`"),
        (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive: unpack it, as with `7z x`"),
        (b"\x7fELF", "it is a program, not text: name another file"),
        (b"%PDF-", "it is a PDF document, not text: name another file"),
        (b"\x89PNG\r\n\x1a\n", "it is an image, not text: name another file"),
    ];
    /// The number of leading octets that are tested for UTF-16, UTF-32 and zero octets.
    const LOOKED_AT: usize = 4_096;
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| octets.starts_with(magic)) {
        return Some(kind);
    }
    let start = &octets[..octets.len().min(LOOKED_AT)];
    // Pages of a browser or proxy, saved in place of a list.
    let markup = start.trim_ascii_start();
    let is_page = |tag: &[u8]| markup.get(..tag.len()).is_some_and(|from| from.eq_ignore_ascii_case(tag));
    if is_page(b"<!doctype html") || is_page(b"<html") {
        return Some("it is an HTML page: download the file itself");
    }
    if is_page(b"<?xml") {
        return Some("it is an XML document: download the file itself");
    }
    if is_page(b"version https://git-lfs.github.com/spec/") {
        return Some("it is a pointer of Git LFS in the place of the file: get the file, as with `git lfs pull`");
    }
    if is_error_of_server(markup) {
        return Some("it is the error message of a server in place of the file: download it again, as with `curl -f`");
    }
    if start.starts_with(b"\xff\xfe\0\0") || start.starts_with(b"\0\0\xfe\xff") {
        return Some("it is text in UTF-32: convert it, as with `iconv -f UTF-32 -t UTF-8`");
    }
    // ASCII text in UTF-16 has a zero in every other octet; which ones tells the byte order.
    let nulls = |first: usize| start.iter().skip(first).step_by(2).filter(|octet| **octet == 0).count();
    let half = start.len() / 2;
    if start.starts_with(b"\xff\xfe") || half > 1 && nulls(1) * 10 > half * 9 && nulls(0) == 0 {
        return Some("it is text in UTF-16: convert it, as with `iconv -f UTF-16LE -t UTF-8`");
    }
    if start.starts_with(b"\xfe\xff") || half > 1 && nulls(0) * 10 > half * 9 && nulls(1) == 0 {
        return Some("it is text in UTF-16: convert it, as with `iconv -f UTF-16BE -t UTF-8`");
    }
    if octets.last() == Some(&0) && octets.iter().skip_while(|octet| **octet != 0).all(|octet| *octet == 0) {
        return Some(
            "it is filled with zero octets (NUL), most likely by a crash of the machine: restore it from a copy",
        );
    }
    start.contains(&0).then_some("it is binary, not text: name another file")
}

/// Returns whether a text begins with an HTTP status, such as `404: Not Found`, or with a JSON error object. No list,
/// policy or configuration does.
fn is_error_of_server(text: &[u8]) -> bool {
    let is_status = matches!(text, [b'4' | b'5', b'0'..=b'9', b'0'..=b'9', after, b' ' | b'A'..=b'Z', ..] if matches!(after, b':' | b' '));
    let mut word = text.iter().filter(|octet| !octet.is_ascii_whitespace()).copied();
    let begins =
        |start: &[u8], word: &mut dyn Iterator<Item = u8>| start.iter().all(|octet| word.next() == Some(*octet));
    is_status
        || begins(b"{\"", &mut word)
            && [&b"message\":\""[..], b"error\":", b"errors\":"].iter().any(|key| begins(key, &mut word.clone()))
}

/// Returns the message for text that stops being UTF-8 at `at`: the position and a guess at the encoding.
fn not_utf8(octets: &[u8], at: usize) -> String {
    let before = &octets[..at];
    let line = 1 + before.iter().filter(|octet| **octet == b'\n').count();
    let start = before.iter().rposition(|octet| *octet == b'\n').map_or(0, |newline| newline + 1);
    let column = 1 + String::from_utf8_lossy(&before[start..]).chars().count();
    // Letters of Latin-1 are at 0xc0 and above, punctuation from 0xa0; text in it has few other octets beyond ASCII.
    let others = || octets.iter().filter(|octet| !octet.is_ascii());
    let letters = others().filter(|octet| **octet >= 0xa0).count();
    if letters * 10 >= others().count() * 9 {
        return format!(
            "not UTF-8 at line {line}, column {column}: it looks like Latin-1: save the file as UTF-8, as with `iconv -f LATIN1 -t UTF-8`"
        );
    }
    format!("not UTF-8 at line {line}, column {column}: save the file as UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_utf8_are_rejected_with_their_format() {
        let utf16 = |text: &str, big: bool| -> Vec<u8> {
            text.encode_utf16().flat_map(|unit| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect()
        };
        for (octets, expected) in [
            (b"a.test\n".to_vec(), Ok("a.test\n")),
            (Vec::new(), Ok("")),
            ("\u{feff}b\u{fc}cher.test".into(), Ok("\u{feff}b\u{fc}cher.test")),
            (b"\x1f\x8b\x08\0".to_vec(), Err("gzip")),
            (b"\x28\xb5\x2f\xfd\0".to_vec(), Err("Zstandard")),
            (b"PK\x03\x04\0".to_vec(), Err("ZIP archive")),
            (utf16("\u{feff}a.test\n", false), Err("UTF-16LE")),
            (utf16("\u{feff}a.test\n", true), Err("UTF-16BE")),
            (utf16("a.test\nb.test\n", false), Err("UTF-16LE")),
            (utf16("a.test\nb.test\n", true), Err("UTF-16BE")),
            (b"\n<!DOCTYPE html><html>".to_vec(), Err("HTML page")),
            (b"<?xml version=\"1.0\"?>\n".to_vec(), Err("XML document")),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n".to_vec(), Err("git lfs pull")),
            (b"404: Not Found".to_vec(), Err("error message of a server")),
            (b"502 Bad Gateway\n".to_vec(), Err("error message of a server")),
            (b"{\n  \"message\": \"Not Found\"\n}".to_vec(), Err("error message of a server")),
            (b"{\"error\":{\"code\":404}}".to_vec(), Err("error message of a server")),
            (b"{\"network\": {}}".to_vec(), Ok("{\"network\": {}}")),
            (b"404.test\n".to_vec(), Ok("404.test\n")),
            (b"127.0.0.1 a.test\n".to_vec(), Ok("127.0.0.1 a.test\n")),
            (b"500px.com\n".to_vec(), Ok("500px.com\n")),
            (b"\xff\xfe\0\0a\0\0\0".to_vec(), Err("UTF-32")),
            (b"a.test\0\x01\x02".to_vec(), Err("binary")),
            (vec![0; 512], Err("zero octets")),
            ([&b"a.test\n".repeat(1000)[..], &[0; 4096]].concat(), Err("zero octets")),
            (b"ok\nb\xfccher.test\n".to_vec(), Err("line 2, column 2: it looks like Latin-1")),
            (b"ok\n\x80\x81\x82\xff".to_vec(), Err("line 2, column 1: save the file as UTF-8")),
        ] {
            match (text_of(octets.clone()), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{octets:?}: {why}"),
                (found, expected) => panic!("{octets:?}: {found:?}, not {expected:?}"),
            }
        }
    }
}
