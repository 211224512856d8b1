//! Warnings of list files. A policy that names a list can accept them, as a list that somebody else maintains has no
//! comments for hostgate.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use crate::document::{At, Code, Diagnostic, Placed, Source};

use super::super::compile::Lists;
use super::super::conflict::Files;
use crate::policy::load::list_references;
use crate::policy::model::spec::ListUse;

/// Adds the warnings of list files, and returns the comments that accept some of them: file, line and code.
pub(crate) fn of_lists(
    files: &Files,
    lists: &Lists,
    diagnostics: &mut Vec<Diagnostic>,
) -> HashSet<(Arc<Path>, u32, Code)> {
    let mut references: BTreeMap<&ListUse, Vec<(&Source, &Placed<ListUse>)>> = BTreeMap::new();
    for (source, reference) in files.values().flat_map(|file| list_references(file)) {
        references.entry(&reference.value).or_default().push((source, reference));
    }
    let mut accepted = HashSet::new();
    for (named, list) in lists {
        let references = references.get(named).map_or(&[][..], |references| references);
        let accepts = references.iter().filter_map(|(source, reference)| Some((source, reference, source.accepts()?)));
        let accepts: Vec<_> = accepts.collect();
        for warning in &list.warnings {
            let mut by = accepts.iter().filter_map(|(source, reference, accepts)| {
                let accept = accepts.at(warning.code?, At::from(reference.span)).filter(|_| warning.is_warning())?;
                accepted.insert((Arc::clone(source.path()), accept.line, accept.code));
                Some(&accept.reason)
            });
            // Every comment that accepts the warning counts as used; the reason of the first one is shown.
            let reason = by.next();
            by.for_each(drop);
            diagnostics.push(match reason {
                Some(reason) => warning.clone().accepted(reason),
                None => warning.clone(),
            });
        }
    }
    accepted
}
