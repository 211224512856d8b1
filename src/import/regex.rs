//! Reader of regular expressions that match exactly one name or its subdomains, as Pi-hole
//! (<https://docs.pi-hole.net/regex/>), `AdGuard` and others publish them. All other expressions are left out.

use super::collect::{Collector, Effect, Scope};
use super::{lines, without_comment};

/// Reads expressions, one per line. The format does not define whether names are allowed or denied.
pub(super) fn read(text: &str, out: &mut Collector) {
    for (number, line) in lines(text) {
        let content = without_comment(line);
        if !content.is_empty() {
            take(number, None, content, out);
        }
    }
}

/// Adds an expression if it matches exactly one name or its subdomains.
pub(super) fn take(number: u32, effect: Option<Effect>, expression: &str, out: &mut Collector) {
    match name_of(expression) {
        Some((scope, name)) => out.take(number, effect, scope, &name),
        None => {
            out.leave_out(
                number,
                "regular expressions that are more than a plain name between `^` and `$`",
                expression,
            );
        }
    }
}

/// Returns the name that an expression matches, and the scope.
fn name_of(expression: &str) -> Option<(Scope, String)> {
    /// The expressions that may precede the name; the first one that matches counts.
    const STARTS: &[(&str, Scope)] = &[
        ("(^|\\.)", Scope::Both),
        ("(\\.|^)", Scope::Both),
        ("(?:^|\\.)", Scope::Both),
        ("(?:\\.|^)", Scope::Both),
        ("^(.+\\.)?", Scope::Both),
        ("^(.*\\.)?", Scope::Both),
        ("^(?:.+\\.)?", Scope::Both),
        ("^(?:.*\\.)?", Scope::Both),
        ("^([^.]+\\.)*", Scope::Both),
        ("^(?:[^.]+\\.)*", Scope::Both),
        ("^.+\\.", Scope::Below),
        ("^.*\\.", Scope::Below),
        (".*\\.", Scope::Below),
        ("\\.", Scope::Below),
        ("^[^.]+\\.", Scope::OneLabel),
        ("^[^\\.]+\\.", Scope::OneLabel),
        ("^", Scope::Exact),
    ];
    let inner = expression.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')).unwrap_or(expression);
    let inner = inner.strip_suffix('$')?;
    let (start, scope) = STARTS.iter().find(|(start, _)| inner.starts_with(start))?;
    let mut name = String::new();
    let mut rest = inner[start.len()..].chars();
    while let Some(character) = rest.next() {
        let literal = match character {
            '\\' => rest.next().filter(|escaped| matches!(escaped, '.' | '-' | '_'))?,
            // An unescaped dot matches any character.
            _ if character.is_ascii_alphanumeric() || matches!(character, '-' | '_') => character,
            _ => return None,
        };
        name.push(literal);
    }
    (!name.is_empty()).then_some((*scope, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expressions_for_exactly_one_name_are_imported() {
        let name = |scope, name: &str| Some((scope, name.to_owned()));
        for (expression, expected) in [
            (r"^ads\.example\.com$", name(Scope::Exact, "ads.example.com")),
            (r"/^ads\.example\.com$/", name(Scope::Exact, "ads.example.com")),
            (r"(^|\.)ads\.example$", name(Scope::Both, "ads.example")),
            (r"^(.+\.)?a-b\.example$", name(Scope::Both, "a-b.example")),
            (r"^.+\.ads\.example$", name(Scope::Below, "ads.example")),
            (r"\.ads\.example$", name(Scope::Below, "ads.example")),
            (r"^[^.]+\.ads\.example$", name(Scope::OneLabel, "ads.example")),
            (r"^ads.example$", None),
            (r"ads\.example$", None),
            (r"^ads\.example", None),
            (r"^ads[0-9]+\.example$", None),
            (r"^(ads|img)\.example$", None),
            (r"^$", None),
            (r"", None),
            (r"\", None),
            (r"^a\d$", None),
        ] {
            assert_eq!(name_of(expression), expected, "{expression}");
        }
    }
}
