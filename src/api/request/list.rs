//! Lists: which objects, and which page of them.

use std::borrow::Cow;
use std::cmp::Reverse;

use serde_json::Value;

use crate::api::objects::kind::Kind;
use crate::api::request::call::Text;
use crate::api::request::error::ApiError;
use crate::bounds::MAX_PAGE_OCTETS;

/// What a list is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::api) struct Query {
    /// Only this id.
    id: Option<String>,
    /// Only names that hold this, in lower case.
    name: Option<String>,
    /// Only ids or names that hold this, in lower case.
    search: Option<String>,
    /// Only this status.
    status: Option<String>,
    /// Only what this policy applies to; for lists of devboxes.
    pub(in crate::api) policy: Option<String>,
    /// How many at most.
    limit: usize,
    /// The last id of the page before.
    starting_after: Option<String>,
    /// Whether the number of all is wanted.
    counts: bool,
}

/// An object that may be listed.
#[derive(Debug)]
pub(in crate::api) struct Listed<'s> {
    /// Whether the API made it; what people wrote comes last.
    pub(in crate::api) is_made: bool,
    /// Its id.
    pub(in crate::api) id: &'s str,
    /// Its name.
    pub(in crate::api) name: Cow<'s, str>,
    /// Its status.
    pub(in crate::api) status: Cow<'s, str>,
}

impl<'s> Listed<'s> {
    /// Returns one that a person wrote.
    pub(in crate::api) fn by_hand(id: &'s str, name: &'s str, status: &'s str) -> Self {
        Self { is_made: false, id, name: name.into(), status: status.into() }
    }
}

/// A page of a list.
#[derive(Debug)]
pub(in crate::api) struct Page<'s> {
    /// The ids on it.
    pub(in crate::api) ids: Vec<&'s str>,
    /// Whether there are more behind it.
    has_more: bool,
    /// How many match in all, if that is wanted.
    total: Option<usize>,
}

impl Query {
    /// Reads the query of a request; `statuses` are those that objects of the list can have.
    ///
    /// # Errors
    /// A value that cannot be meant.
    pub(in crate::api) fn parse(query: &str, statuses: &[&str]) -> Result<Self, ApiError> {
        let mut read = Self {
            id: None,
            name: None,
            search: None,
            status: None,
            policy: None,
            limit: USUAL_PAGE,
            starting_after: None,
            counts: true,
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "id" => read.id = Some(value.into_owned()),
                "name" => read.name = Some(value.to_lowercase()),
                "search" => read.search = Some(value.to_lowercase()),
                "network_policy_id" => read.policy = Some(value.into_owned()),
                "starting_after" => read.starting_after = Some(value.into_owned()),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    read.limit = limit.ok_or_else(|| {
                        let value = value.escape_debug();
                        ApiError::bad(format!("limit: `{value}` is no number from 1 to {MAX_PAGE}"))
                    })?;
                }
                "include_total_count" => {
                    read.counts = value.parse().map_err(|_| {
                        let value = value.escape_debug();
                        ApiError::bad(format!("include_total_count: `{value}` is neither `true` nor `false`"))
                    })?;
                }
                "status" if !statuses.is_empty() => {
                    if !statuses.contains(&&*value) {
                        let (value, known) = (value.escape_debug(), statuses.join(", "));
                        return Err(ApiError::bad(format!("status: `{value}` is none: use one of {known}")));
                    }
                    read.status = Some(value.into_owned());
                }
                // What is not known is not asked for.
                _ => {}
            }
        }
        Ok(read)
    }

    /// Chooses the page: newest first, as ids sort by time, and what people wrote at the end. An id of the kind is a
    /// position also once its object is gone: who deletes what is listed goes on behind it.
    ///
    /// # Errors
    /// The page is to start after what was never on one.
    pub(in crate::api) fn page<'s>(
        &self,
        kind: Kind,
        listed: impl Iterator<Item = Listed<'s>>,
    ) -> Result<Page<'s>, ApiError> {
        let gone = self.starting_after.as_deref().filter(|id| Kind::of(id) == Some(kind));
        let (mut start, mut matching) = (gone.map(|id| Reverse((true, id))), Vec::new());
        for listed in listed {
            let rank = Reverse((listed.is_made, listed.id));
            if self.starting_after.as_deref() == Some(listed.id) {
                start = Some(rank);
            }
            if self.matches(&listed) {
                matching.push(rank);
            }
        }
        if let (Some(id), None) = (&self.starting_after, start) {
            let id = id.escape_debug();
            return Err(ApiError::bad(format!("starting_after: there is no `{id}`: use the last id of a page")));
        }
        let total = self.counts.then_some(matching.len());
        matching.retain(|Reverse(rank)| start.is_none_or(|Reverse(start)| *rank < start));
        matching.sort_unstable();
        let has_more = matching.len() > self.limit;
        let ids = matching.into_iter().take(self.limit).map(|Reverse((_, id))| id).collect();
        Ok(Page { ids, has_more, total })
    }

    /// Returns whether an object is asked for.
    fn matches(&self, listed: &Listed<'_>) -> bool {
        let holds = |text: &str, part: &String| text.to_lowercase().contains(part);
        self.id.as_ref().is_none_or(|id| listed.id == id)
            && self.status.as_ref().is_none_or(|status| listed.status == *status)
            && self.name.as_ref().is_none_or(|part| holds(&listed.name, part))
            && self.search.as_ref().is_none_or(|part| holds(listed.id, part) || holds(&listed.name, part))
    }
}

impl Page<'_> {
    /// Makes the response: the views under `key`. Each is written when it is made, as a tree of all of them takes ten times
    /// the room of the text. The page ends early, with one object at least, when its text is longer than
    /// [`MAX_PAGE_OCTETS`].
    pub(in crate::api) fn answer(&self, key: &str, mut view: impl FnMut(&str) -> Option<Value>) -> Text {
        let mut text = format!("{{\"{key}\":[");
        let (mut has_more, mut separator) = (self.has_more, "");
        for id in &self.ids {
            if text.len() > MAX_PAGE_OCTETS {
                has_more = true;
                break;
            }
            let Some(view) = view(id) else { continue };
            text.push_str(separator);
            text.push_str(&view.to_string());
            separator = ",";
        }
        let total = self.total.map_or(Value::Null, Value::from);
        Text(text + &format!("],\"has_more\":{has_more},\"total_count\":{total}}}"))
    }
}

/// How many objects a page has unless told otherwise.
const USUAL_PAGE: usize = 20;

/// How many it may have.
const MAX_PAGE: usize = 5_000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Returns the ids of a page of five objects, and whether there are more, and how many in all.
    fn page(query: &str) -> Result<(Vec<&'static str>, bool, Option<usize>), String> {
        let rows = [
            ("bpt_1", "one", true),
            ("bpt_3", "Two", true),
            ("bpt_5", "two more", true),
            ("z", "z", false),
            ("hand", "two", false),
        ];
        let listed = rows.map(|(id, name, is_made)| Listed {
            is_made,
            ..Listed::by_hand(id, name, if is_made { "up" } else { "down" })
        });
        let query = Query::parse(query, &["up", "down"]).map_err(|error| error.message)?;
        let page = query.page(Kind::Blueprint, listed.into_iter()).map_err(|error| error.message)?;
        Ok((page.ids, page.has_more, page.total))
    }

    #[test]
    fn pages_are_newest_first_and_filtered() {
        let all = vec!["bpt_5", "bpt_3", "bpt_1", "z", "hand"];
        assert_eq!(page(""), Ok((all.clone(), false, Some(5))));
        assert_eq!(page("unknown=1&limit=2&include_total_count=false"), Ok((all[..2].to_vec(), true, None)));
        assert_eq!(page("limit=2&starting_after=bpt_3"), Ok((all[2..4].to_vec(), true, Some(5))));
        assert_eq!(page("limit=2&starting_after=hand"), Ok((vec![], false, Some(5))));
        assert_eq!(page("name=TWO"), Ok((vec!["bpt_5", "bpt_3", "hand"], false, Some(3))));
        assert_eq!(page("name=two&starting_after=bpt_5&limit=1"), Ok((vec!["bpt_3"], true, Some(3))));
        // The last one of a page need not match any more.
        assert_eq!(page("name=two&starting_after=z"), Ok((vec!["hand"], false, Some(3))));
        // Nor need it be there any more.
        assert_eq!(page("limit=1&starting_after=bpt_4"), Ok((vec!["bpt_3"], true, Some(5))));
        assert_eq!(page("starting_after=bpt_0"), Ok((vec!["z", "hand"], false, Some(5))));
        assert_eq!(page("search=bpt_&name=one"), Ok((vec!["bpt_1"], false, Some(1))));
        assert_eq!(page("search=han%64"), Ok((vec!["hand"], false, Some(1))));
        assert_eq!(page("id=bpt_3"), Ok((vec!["bpt_3"], false, Some(1))));
        assert_eq!(page("status=down&limit=1"), Ok((vec!["z"], true, Some(2))));
    }

    #[test]
    fn a_page_is_written_with_the_views_that_there_are() {
        let page = |ids: &[&'static str], total| Page { ids: ids.to_vec(), has_more: true, total };
        let view = |id: &str| (id != "gone").then(|| json!({ "id": id }));
        let read = |text: Text| serde_json::from_str::<Value>(&text.0).unwrap();
        let of_all = read(page(&["a\"", "gone", "b"], Some(3)).answer("boxes", view));
        assert_eq!(of_all, json!({ "boxes": [{ "id": "a\"" }, { "id": "b" }], "has_more": true, "total_count": 3 }));
        let of_none = read(page(&["gone"], None).answer("boxes", view));
        assert_eq!(of_none, json!({ "boxes": [], "has_more": true, "total_count": null }));
    }

    #[test]
    fn a_page_ends_when_it_is_long_and_has_one_object_at_least() {
        let ids = |octets: usize| {
            let page = Page { ids: vec!["c", "b", "a"], has_more: false, total: Some(3) };
            let view = |id: &str| Some(json!({ "id": id, "x": "x".repeat(octets) }));
            let read: Value = serde_json::from_str(&page.answer("boxes", view).0).unwrap();
            assert_eq!(read["total_count"], 3);
            (read["boxes"].as_array().unwrap().len(), read["has_more"].as_bool().unwrap())
        };
        assert_eq!(ids(MAX_PAGE_OCTETS), (1, true));
        assert_eq!(ids(MAX_PAGE_OCTETS / 2), (2, true));
        assert_eq!(ids(MAX_PAGE_OCTETS / 3), (3, false));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (query, expected) in [
            ("limit=0", "limit: `0` is no number from 1 to 5000"),
            ("limit=5001", "limit: `5001` is no"),
            ("limit=", "limit: `` is no"),
            ("starting_after=gone", "starting_after: there is no `gone`"),
            ("starting_after=dbx_9", "starting_after: there is no `dbx_9`"),
            ("include_total_count=1", "include_total_count: `1` is neither"),
            ("status=asleep", "status: `asleep` is none: use one of up, down"),
        ] {
            let told = page(query).unwrap_err();
            assert!(told.starts_with(expected), "{query}: {told}");
        }
    }
}
