//! The TOML files of objects, read and changed in place.
//!
//! Comments, the order of keys and what people added stay; only the keys that are set change. Values are JSON. What TOML
//! cannot express, nulls in arrays and very large integers, is JSON text in a table with one key, [`MARK`].

mod comments;

use std::sync::Arc;

use serde_json::{Map, Value};
use toml_edit::{Array, Document, DocumentMut, InlineTable, Item, Table, TableLike};

use crate::api::objects::ApiKind;
use crate::api::request::error::ApiError;
use crate::policy::{ApiTable, unsealed};

/// The key of a table that holds a value as JSON text.
const MARK: &str = "$json";
/// The depth from which values are JSON text, as TOML parsers limit the depth.
const DEEPEST: usize = 16;
/// The length of a line above which an array has one line for each value.
const LONG_LINE: usize = 90;

/// The keys and values of a table.
pub(in crate::api) type Fields = Map<String, Value>;

/// The file of an object.
#[derive(Default)]
pub(in crate::api) struct ObjectFile(DocumentMut);

impl ObjectFile {
    /// Parses a file.
    ///
    /// # Errors
    /// The text is not TOML; that of a file in force always is.
    pub(in crate::api) fn parse(text: &str) -> Result<Self, ApiError> {
        text.parse().map(Self).map_err(|error: toml_edit::TomlError| ApiError::bad(error.message()))
    }

    /// Returns the keys and values of `[kind.id]`; `None` if there is no such table.
    pub(in crate::api) fn fields(&self, kind: &str, id: &str) -> Option<Fields> {
        find(self.0.as_table(), kind, id)
    }

    /// Sets a key of `[kind.id]`, which is added if it is not there; null removes the key.
    pub(in crate::api) fn set(&mut self, kind: &str, id: &str, key: &str, value: &Value) {
        let Some(table) = self.table(kind, id) else { return };
        if value.is_null() {
            table.remove(key);
            return;
        }
        match table.get_mut(key) {
            Some(old) if from_item(old) == *value => {}
            Some(Item::Value(old)) => {
                let decor = old.decor().clone();
                *old = old.as_array().and_then(|old| comments::keep(old, value)).unwrap_or_else(|| to_toml(value, 0));
                *old.decor_mut() = decor;
            }
            _ => {
                table.insert(key, Item::Value(to_toml(value, 0)));
            }
        }
    }

    /// Adds the table `[kind.id]` if it is not there.
    pub(in crate::api) fn add(&mut self, kind: &str, id: &str) {
        self.table(kind, id);
    }

    /// Removes the table `[kind.id]`. The comment above it stays, as the one above the first table is about the file.
    pub(in crate::api) fn remove(&mut self, kind: &str, id: &str) {
        let Some(tables) = self.0.get_mut(kind).and_then(Item::as_table_like_mut) else { return };
        let removed = tables.remove(id);
        if tables.is_empty() {
            self.0.remove(kind);
        }
        let above = removed.as_ref().and_then(Item::as_table).and_then(|table| table.decor().prefix()?.as_str());
        let Some(above) = above.filter(|above| above.contains('#')) else { return };
        let tables = self.0.iter_mut().filter_map(|(_, tables)| tables.as_table_mut());
        let mut tables = tables.flat_map(|tables| tables.iter_mut().filter_map(|(_, table)| table.as_table_mut()));
        if let Some(next) = tables.next() {
            let own = next.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().to_owned();
            next.decor_mut().set_prefix(format!("{above}{}", own.trim_start_matches('\n')));
        }
    }

    pub(in crate::api) fn text(&self) -> Arc<str> {
        self.0.to_string().into()
    }

    /// Returns the table `[kind.id]`, added if it is not there.
    fn table(&mut self, kind: &str, id: &str) -> Option<&mut dyn TableLike> {
        let tables = self.0.entry(kind).or_insert_with(|| {
            let mut tables = Table::new();
            tables.set_implicit(true);
            Item::Table(tables)
        });
        let table = tables.as_table_like_mut()?.entry(id).or_insert_with(|| Item::Table(Table::new()));
        table.as_table_like_mut()
    }
}

/// Returns the text of a file without some tables of an object of this kind, and without the API's comment. Returns
/// `None` if no other table is left; one that a person added stays.
///
/// # Errors
/// The text is not TOML; that of a file in force always is.
pub(in crate::api) fn without(
    text: &str,
    kind: ApiKind,
    tables: &[(&str, &str)],
) -> Result<Option<Arc<str>>, ApiError> {
    let mut file = ObjectFile::parse(&unsealed(text))?;
    let comment = format!("# A {} of the API.\n", kind.name());
    for (kind, id) in tables {
        if let Some(Item::Table(table)) = file.0.get_mut(kind).and_then(|tables| tables.get_mut(id)) {
            let above = table.decor().prefix().and_then(|above| above.as_str()).unwrap_or_default();
            let above = above.replacen(&comment, "", 1);
            table.decor_mut().set_prefix(above);
        }
        file.remove(kind, id);
    }
    let is_empty = file.0.is_empty();
    Ok((!is_empty).then(|| file.text().trim_start_matches('\n').into()))
}

/// Returns the keys and values of some tables `[kind.id]` of a file. It takes half the time of [`ObjectFile::parse`], as a
/// document to be changed keeps the format of every value.
pub(in crate::api) fn tables<const N: usize>(text: &str, kinds: [&str; N], id: &str) -> [Option<Fields>; N] {
    let document = Document::parse(text).ok();
    kinds.map(|kind| find(document.as_ref()?.as_table(), kind, id))
}

/// Returns the keys and values of an API table.
pub(in crate::api) fn api_fields(table: &ApiTable) -> Fields {
    let [fields] = tables(table.source().text(), ["api"], table.id());
    fields.unwrap_or_default()
}

/// Returns the fields of a JSON object; none if the value is absent or something else.
pub(in crate::api) fn object(value: Option<Value>) -> Fields {
    match value {
        Some(Value::Object(fields)) => fields,
        _ => Fields::new(),
    }
}

/// Returns the keys and values of `[kind.id]`.
fn find(root: &Table, kind: &str, id: &str) -> Option<Fields> {
    root.get(kind)?.as_table_like()?.get(id)?.as_table_like().map(fields_of)
}

/// Returns the keys and values of a table.
fn fields_of(table: &dyn TableLike) -> Fields {
    table.iter().map(|(key, item)| (key.to_owned(), from_item(item))).collect()
}

fn from_item(item: &Item) -> Value {
    match item {
        Item::None => Value::Null,
        Item::Value(value) => from_toml(value),
        Item::Table(table) => unmarked(fields_of(table)),
        Item::ArrayOfTables(tables) => tables.iter().map(|table| unmarked(fields_of(table))).collect(),
    }
}

/// Returns a value as JSON.
fn from_toml(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(integer) => Value::from(*integer.value()),
        // JSON has no NaN and no infinity; a person wrote those.
        toml_edit::Value::Float(float) => {
            serde_json::Number::from_f64(*float.value()).map_or_else(|| float.value().to_string().into(), Value::Number)
        }
        toml_edit::Value::Boolean(flag) => Value::from(*flag.value()),
        toml_edit::Value::Datetime(time) => Value::from(time.value().to_string()),
        toml_edit::Value::Array(array) => array.iter().map(from_toml).collect(),
        toml_edit::Value::InlineTable(table) => unmarked(fields_of(table)),
    }
}

/// Returns a table as a value, or the value that its JSON text is.
fn unmarked(fields: Fields) -> Value {
    let marked = match fields.get(MARK) {
        Some(Value::String(text)) if fields.len() == 1 => serde_json::from_str(text).ok(),
        _ => None,
    };
    marked.unwrap_or(Value::Object(fields))
}

/// Returns a JSON value as TOML; nulls in objects are absent.
fn to_toml(value: &Value, depth: usize) -> toml_edit::Value {
    match value {
        Value::Bool(flag) => (*flag).into(),
        Value::String(text) => text.into(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => integer.into(),
            (None, None) => number.as_f64().unwrap_or_default().into(),
            (None, Some(_)) => marked(value),
        },
        Value::Null => marked(value),
        Value::Array(_) | Value::Object(_) if depth >= DEEPEST => marked(value),
        // The whole array is marked: a table for each null would take a kilobyte of memory instead of five octets.
        Value::Array(values) if values.iter().any(is_beyond) => marked(value),
        Value::Array(values) => {
            let mut array: Array = values.iter().map(|value| to_toml(value, depth + 1)).collect();
            if depth == 0 && array.len() > 1 && array.to_string().len() > LONG_LINE {
                array.iter_mut().for_each(|value| value.decor_mut().set_prefix("\n    "));
                array.set_trailing_comma(true);
                array.set_trailing("\n");
            }
            array.into()
        }
        Value::Object(fields) if fields.contains_key(MARK) => marked(value),
        Value::Object(fields) => {
            let there = fields.iter().filter(|(_, value)| !value.is_null());
            let table: InlineTable = there.map(|(key, value)| (key.as_str(), to_toml(value, depth + 1))).collect();
            table.into()
        }
    }
}

/// Returns whether TOML cannot express a value.
fn is_beyond(value: &Value) -> bool {
    value.is_null() || value.as_u64().is_some_and(|number| i64::try_from(number).is_err())
}

/// Returns a table with the JSON text of a value.
fn marked(value: &Value) -> toml_edit::Value {
    InlineTable::from_iter([(MARK, value.to_string())]).into()
}

#[cfg(test)]
pub(in crate::api) mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Any JSON value.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(|float| serde_json::Number::from_f64(float).map_or(Value::Null, Value::Number)),
            any::<String>().prop_map(Value::from),
            "[ -~\\n\\r\\t\"'\\\\]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(24, 64, 6, |inner| {
            let key = prop_oneof![any::<String>(), Just(MARK.to_owned()), "[a-z.\"' ]{0,4}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(key, inner, 0..6).prop_map(Value::from_iter),
            ]
        })
    }

    /// Any fields of which many have these keys.
    pub(in crate::api) fn any_fields(keys: &'static [&'static str]) -> impl Strategy<Value = Fields> {
        let key = prop_oneof![8 => prop::sample::select(keys).prop_map(str::to_owned), 1 => any::<String>()];
        let likely = prop_oneof![
            Just(json!(["a.test", "*.b.test", "A.test"])),
            Just(json!([{ "cidr": "10.0.0.0/8", "ports": [{ "port": 1, "end_port": 2, "protocol": "TCP" }] }])),
            Just(json!({ "network_policy_id": "unrestricted", "launch_commands": ["x"] })),
            Just(json!({ "hostgate.address": "192.0.2.1" })),
            Just(json!("build-policy")),
            Just(json!(true)),
        ];
        let value = prop_oneof![any_json(), likely];
        prop::collection::btree_map(key, value, 0..6).prop_map(|fields| {
            let there = fields.into_iter().filter(|(_, value)| !value.is_null());
            there.collect()
        })
    }

    /// Returns what is wrong with the text of a policy file, warnings too but for what a policy may be warned of.
    pub(in crate::api) fn errors(text: &str) -> Vec<String> {
        use crate::policy::{Bindings, Library, ListText, Tree};
        let mut tree = Tree { root: "p".into(), ..Tree::default() };
        tree.files.insert(std::path::Path::new("p/x.toml"), Ok(text.into()));
        let mut lists = |_: &std::path::Path, _| Ok(ListText::Unchanged);
        let told = Library::start(&tree, &mut lists, &Bindings::default()).map_or_else(|told| told, |(_, told)| told);
        let told = told.into_iter().map(|told| told.to_string());
        let is_fine = |line: &String| {
            ["nothing refers to", "does not deny", "covered by", "strangers", "are denied everything"]
                .iter()
                .any(|part| line.contains(part))
        };
        told.filter(|line| !is_fine(line)).collect()
    }

    /// Takes nulls out of objects, outside of marked ones.
    fn without_nulls(value: &Value, depth: usize) -> Value {
        match value {
            Value::Array(_) | Value::Object(_) if depth >= DEEPEST => value.clone(),
            Value::Array(values) if values.iter().any(is_beyond) => value.clone(),
            Value::Array(values) => values.iter().map(|value| without_nulls(value, depth + 1)).collect(),
            Value::Object(fields) if fields.contains_key(MARK) => value.clone(),
            Value::Object(fields) => {
                let there = fields.iter().filter(|(_, value)| !value.is_null());
                there.map(|(key, value)| (key.clone(), without_nulls(value, depth + 1))).collect::<Fields>().into()
            }
            value => value.clone(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn any_object_survives(key in any::<String>(), value in any_json(), other in any_json()) {
            let mut file = ObjectFile::default();
            file.set("api", "x", "first", &json!(1));
            file.set("api", "x", &key, &other);
            file.set("api", "x", &key, &value);
            let text = file.text();
            let source = crate::document::Source::new(std::path::Path::new("x.toml"), Arc::clone(&text));
            let (_, diagnostics) = crate::document::read(&source, |root| root.tables("api").len());
            prop_assert!(diagnostics.is_empty(), "{}\n{:?}", text, diagnostics);
            let read = ObjectFile::parse(&text).unwrap().fields("api", "x").unwrap();
            let expected = without_nulls(&value, 0);
            prop_assert_eq!(read.get(&key).unwrap_or(&Value::Null), &expected, "{}", text);
        }
    }

    #[test]
    fn what_people_wrote_stays() {
        let text = "# Mine.\n[policy.npol_1] # here\nmode = \"audit\"\n# For builds.\nallowed_hostnames = [\n  \"a.test\", # why\n]  # list\nname = 'n' # a label\n\n[other]\nx = 1\n";
        let mut file = ObjectFile::parse(text).unwrap();
        file.set("policy", "npol_1", "allowed_hostnames", &json!(["a.test"]));
        file.set("policy", "npol_1", "name", &json!("m"));
        file.set("policy", "npol_1", "allow_all", &Value::Null);
        assert_eq!(&*file.text(), text.replace("'n'", "\"m\""));
        file.set("policy", "npol_1", "allowed_hostnames", &json!(["b.test"]));
        file.set("api", "npol_1", "update_time_ms", &json!(7));
        let expected = "# Mine.\n[policy.npol_1] # here\nmode = \"audit\"\n# For builds.\nallowed_hostnames = [\"b.test\"]  # list\n\
                        name = \"m\" # a label\n\n[other]\nx = 1\n\n[api.npol_1]\nupdate_time_ms = 7\n";
        assert_eq!(&*file.text(), expected);
        file.remove("policy", "npol_1");
        assert_eq!(file.fields("policy", "npol_1"), None);
        assert!(!file.text().contains("policy"), "{}", file.text());
    }

    #[test]
    fn what_stands_above_a_table_that_goes_stays() {
        let text =
            "# A devbox.\n[client.dbx_1]\nsources = [\"192.0.2.1\"]\n\n# Kept.\n[api.dbx_1]\nstatus = \"running\"\n";
        let mut file = ObjectFile::parse(text).unwrap();
        file.remove("client", "dbx_1");
        file.remove("client", "dbx_2");
        assert_eq!(&*file.text(), "# A devbox.\n# Kept.\n[api.dbx_1]\nstatus = \"running\"\n");
    }

    #[test]
    fn an_object_goes_without_what_people_wrote_beside_it() {
        let own = "# A network policy of the API.\n[policy.npol_1]\nallow_all = true\n\n[api.npol_1]\nx = 1\n";
        let tables = [("policy", "npol_1"), ("api", "npol_1")];
        let left = |text: &str| without(text, ApiKind::Policy, &tables).unwrap();
        assert_eq!(left(own), None);
        assert_eq!(left(&format!("# Ours.\n{own}# The end.\n")), None);
        for other in ["# Mine.\n[policy.mine]\nallow_all = true\n", "[[test]]\nname = \"a.test\"\n"] {
            assert_eq!(left(&format!("{own}\n{other}")).as_deref(), Some(other));
            assert_eq!(left(&format!("{other}\n{own}")).as_deref().map(str::trim_end), Some(other.trim_end()));
        }
        let between = own.replace("\n[api", "\n# Mine.\n[policy.mine]\n\n[api");
        assert_eq!(left(&between).as_deref(), Some("# Mine.\n[policy.mine]\n"));
    }

    #[test]
    fn long_lists_have_a_line_each() {
        let mut file = ObjectFile::default();
        let names: Vec<String> = (0..9).map(|number| format!("host-{number}.example.test")).collect();
        file.set("policy", "npol_1", "allowed_hostnames", &json!(names));
        let text = file.text();
        assert!(text.starts_with("[policy.npol_1]\nallowed_hostnames = [\n    \"host-0.example.test\",\n"), "{text}");
        assert!(text.ends_with("\"host-8.example.test\",\n]\n"), "{text}");
    }
}
