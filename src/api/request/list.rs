//! Lists of objects: filters and pages.

use std::borrow::Cow;
use std::cmp::Reverse;

use serde_json::Value;

use crate::api::objects::ApiKind;
use crate::api::request::call::JsonText;
use crate::api::request::error::ApiError;
use crate::bounds::MAX_PAGE_OCTETS;

/// The objects on a page by default, as in Runloop's API.
const DEFAULT_PAGE: usize = 20;
/// The objects on a page at most, as in Runloop's API.
const MAX_PAGE: usize = 5_000;

/// The filters and the page that a request asks for.
#[derive(Debug)]
pub(in crate::api) struct ListQuery {
    id: Option<String>,
    /// A part of the name, in lower case.
    name: Option<String>,
    /// A part of the id or the name, in lower case.
    search: Option<String>,
    status: Option<String>,
    /// The policy that devboxes have to be under.
    pub(in crate::api) policy: Option<String>,
    limit: usize,
    /// The last id of the previous page.
    starting_after: Option<String>,
    counts: bool,
}

/// An object as lists filter and sort it.
#[derive(Debug)]
pub(in crate::api) struct ListEntry<'s> {
    pub(in crate::api) is_of_api: bool,
    pub(in crate::api) id: &'s str,
    pub(in crate::api) name: Cow<'s, str>,
    pub(in crate::api) status: Cow<'s, str>,
}

impl<'s> ListEntry<'s> {
    /// Makes the entry of an object that a person wrote.
    pub(in crate::api) fn by_hand(id: &'s str, status: &'s str) -> Self {
        Self { is_of_api: false, id, name: id.into(), status: status.into() }
    }
}

/// The ids on one page.
#[derive(Debug)]
pub(in crate::api) struct ListPage<'s> {
    ids: Vec<&'s str>,
    has_more: bool,
    /// The number of matching objects; `None` if the request does not ask for it.
    total: Option<usize>,
}

impl ListQuery {
    /// Parses a query string; `statuses` are those that a filter may name. Unknown parameters are ignored, as the SDKs
    /// send those of later versions.
    ///
    /// # Errors
    /// A value is not valid.
    pub(in crate::api) fn parse(query: &str, statuses: &[&str]) -> Result<Self, ApiError> {
        let mut read = Self {
            id: None,
            name: None,
            search: None,
            status: None,
            policy: None,
            limit: DEFAULT_PAGE,
            starting_after: None,
            counts: true,
        };
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let wrong = |why: String| ApiError::bad(format!("{key}: `{}` is {why}", value.escape_debug()));
            match &*key {
                "id" => read.id = Some(value.into_owned()),
                "name" => read.name = Some(value.to_lowercase()),
                // Runloop matches parts of names; case is ignored here, as people search for what they remember.
                "search" => read.search = Some(value.to_lowercase()),
                "network_policy_id" => read.policy = Some(value.into_owned()),
                "starting_after" => read.starting_after = Some(value.into_owned()),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
                    read.limit = limit.ok_or_else(|| wrong(format!("no number from 1 to {MAX_PAGE}")))?;
                }
                "include_total_count" => {
                    read.counts = value.parse().map_err(|_| wrong("neither `true` nor `false`".to_owned()))?;
                }
                "status" if !statuses.is_empty() => {
                    if !statuses.contains(&&*value) {
                        return Err(wrong(format!("none: use one of {}", statuses.join(", "))));
                    }
                    read.status = Some(value.into_owned());
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// Returns the page: objects of the API first, newest first, as their ids sort by time. An id stays a valid position
    /// after its object is deleted, so that a client can delete what it lists.
    ///
    /// # Errors
    /// `starting_after` is not the id of an object of this kind.
    pub(in crate::api) fn page<'s>(
        &self,
        kind: ApiKind,
        entries: impl Iterator<Item = ListEntry<'s>>,
    ) -> Result<ListPage<'s>, ApiError> {
        let deleted = self.starting_after.as_deref().filter(|id| ApiKind::of_id(id) == Some(kind));
        let (mut start, mut matching) = (deleted.map(|id| Reverse((true, id))), Vec::new());
        for entry in entries {
            let rank = Reverse((entry.is_of_api, entry.id));
            if self.starting_after.as_deref() == Some(entry.id) {
                start = Some(rank);
            }
            if self.matches(&entry) {
                matching.push(rank);
            }
        }
        if let (Some(id), None) = (&self.starting_after, start) {
            let id = id.escape_debug();
            return Err(ApiError::bad(format!("starting_after: there is no `{id}`: use the last id of a page")));
        }
        // Counted before the position is applied: the total is that of the list, not of the rest of it.
        let total = self.counts.then_some(matching.len());
        matching.retain(|Reverse(rank)| start.is_none_or(|Reverse(start)| *rank < start));
        matching.sort_unstable();
        let has_more = matching.len() > self.limit;
        let ids = matching.into_iter().take(self.limit).map(|Reverse((_, id))| id).collect();
        Ok(ListPage { ids, has_more, total })
    }

    /// Returns whether all filters match.
    fn matches(&self, entry: &ListEntry<'_>) -> bool {
        let holds = |text: &str, part: &String| text.to_lowercase().contains(part);
        self.id.as_ref().is_none_or(|id| entry.id == id)
            && self.status.as_ref().is_none_or(|status| entry.status == *status)
            && self.name.as_ref().is_none_or(|part| holds(&entry.name, part))
            && self.search.as_ref().is_none_or(|part| holds(entry.id, part) || holds(&entry.name, part))
    }
}

impl ListPage<'_> {
    /// Renders the response with the views under `key`. It ends early, but after one object, once its text is longer than
    /// [`MAX_PAGE_OCTETS`].
    ///
    /// Each view is written before the next is made: as JSON values all of them take ten times the memory of the text.
    pub(in crate::api) fn render(&self, key: &str, view: impl Fn(&str) -> Option<Value>) -> JsonText {
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
        JsonText(text + &format!("],\"has_more\":{has_more},\"total_count\":{total}}}"))
    }
}

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
        let listed = rows.map(|(id, name, is_of_api)| {
            let status = if is_of_api { "up" } else { "down" };
            ListEntry { is_of_api, id, name: name.into(), status: status.into() }
        });
        let query = ListQuery::parse(query, &["up", "down"]).map_err(|error| error.message)?;
        let page = query.page(ApiKind::Blueprint, listed.into_iter()).map_err(|error| error.message)?;
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
        let page = |ids: &[&'static str], total| ListPage { ids: ids.to_vec(), has_more: true, total };
        let view = |id: &str| (id != "gone").then(|| json!({ "id": id }));
        let read = |text: JsonText| serde_json::from_str::<Value>(&text.0).unwrap();
        let of_all = read(page(&["a\"", "gone", "b"], Some(3)).render("boxes", view));
        assert_eq!(of_all, json!({ "boxes": [{ "id": "a\"" }, { "id": "b" }], "has_more": true, "total_count": 3 }));
        let of_none = read(page(&["gone"], None).render("boxes", view));
        assert_eq!(of_none, json!({ "boxes": [], "has_more": true, "total_count": null }));
    }

    #[test]
    fn a_page_ends_when_it_is_long_and_has_one_object_at_least() {
        let ids = |octets: usize| {
            let page = ListPage { ids: vec!["c", "b", "a"], has_more: false, total: Some(3) };
            let view = |id: &str| Some(json!({ "id": id, "x": "x".repeat(octets) }));
            let read: Value = serde_json::from_str(&page.render("boxes", view).0).unwrap();
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
