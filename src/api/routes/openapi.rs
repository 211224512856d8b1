//! The `OpenAPI` document: the operations of the table of routes, and the schemas of `components.json`.

use serde_json::{Value, json};

use super::{ApiRoute, RequestBody};

/// Returns the document in `OpenAPI` 3.1.
pub(super) fn document(routes: &[ApiRoute]) -> Value {
    let mut document: Value =
        serde_json::from_str(include_str!("components.json")).expect("a test parses the components");
    for route in routes {
        let path = &mut document["paths"][route.path];
        path[route.method] = operation(route, routes);
        // Once for both methods of a path.
        if route.path.contains("{id}") {
            path["parameters"] = json!([reference("parameters", "id")]);
        }
    }
    document
}

fn operation(route: &ApiRoute, routes: &[ApiRoute]) -> Value {
    let mut operation = json!({ "operationId": route.operation, "tags": [tag(route.path)], "summary": route.summary });
    if !route.description.is_empty() {
        operation["description"] = route.description.into();
    }
    if route.method == "post" {
        operation["parameters"] = json!([reference("parameters", "request_id")]);
    }
    if let Some(filters) = &route.filters {
        let common = ["name", "search"].into_iter().chain(filters.others.iter().copied());
        let common = common.chain(["limit", "starting_after", "include_total_count"]);
        let mut parameters: Vec<Value> = common.map(|name| reference("parameters", name)).collect();
        if !filters.statuses.is_empty() {
            parameters.push(json!({
                "name": "status", "in": "query", "required": false, "description": "Only objects with this status.",
                "schema": { "type": "string", "enum": filters.statuses },
            }));
        }
        operation["parameters"] = parameters.into();
    }
    let body = match route.body {
        RequestBody::None => None,
        RequestBody::Ignored => Some((json!({ "type": ["object", "null"] }), false)),
        RequestBody::Schema(name, is_required) => Some((reference("schemas", name), is_required)),
    };
    if let Some((schema, is_required)) = body {
        operation["requestBody"] =
            json!({ "required": is_required, "content": { "application/json": { "schema": schema } } });
    }
    if matches!(route.body, RequestBody::Ignored) {
        operation["requestBody"]["description"] = "Ignored; may be empty.".into();
    }
    let (schema, description) = route.response;
    let schema = if schema.is_empty() { json!({ "type": "object" }) } else { reference("schemas", schema) };
    operation["responses"] = errors(route);
    operation["responses"]["200"] =
        json!({ "description": description, "content": { "application/json": { "schema": schema } } });
    if route.operation.starts_with("create") {
        operation["responses"]["200"]["links"] = links(route, routes);
    }
    if route.path == "/openapi.json" {
        operation["security"] = json!([]);
    }
    operation
}

/// Returns the error responses of an operation. Which there are follows from its method and path.
fn errors(route: &ApiRoute) -> Value {
    let (is_change, has_id) = (route.method == "post", route.path.contains("{id}"));
    let is_public = route.path == "/openapi.json";
    let all = [
        ("400", "BadRequest", is_change || route.filters.is_some()),
        ("401", "Unauthorized", !is_public),
        ("403", "Forbidden", true),
        ("404", "NotFound", has_id),
        ("408", "Timeout", is_change),
        ("412", "Changed", is_change && route.path.ends_with("{id}")),
        // A GET with a body of more than a few KiB is refused, too, but no client sends one.
        ("413", "TooLarge", is_change),
        ("503", "Unavailable", true),
    ];
    let own = all.into_iter().filter(|(.., is_possible)| *is_possible);
    own.map(|(status, name, _)| (status.to_owned(), reference("responses", name)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Returns the links from a created object to the operations on it.
fn links(route: &ApiRoute, routes: &[ApiRoute]) -> Value {
    let with_id = routes.iter().filter(|other| other.path.contains("{id}") && tag(other.path) == tag(route.path));
    let links = with_id.map(|other| {
        let link = json!({
            "operationId": other.operation, "parameters": { "id": "$response.body#/id" }, "description": other.summary,
        });
        (other.operation.to_owned(), link)
    });
    links.collect::<serde_json::Map<_, _>>().into()
}

/// Returns the tag of the operations on one kind of object.
fn tag(path: &str) -> String {
    let collection = path.split('/').nth(2).unwrap_or("description");
    collection.replace('-', " ")
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::api::routes::routes;

    /// Adds all references in a value.
    fn references(value: &Value, all: &mut BTreeSet<String>) {
        match value {
            Value::Object(fields) => {
                all.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, all));
            }
            Value::Array(values) => values.iter().for_each(|value| references(value, all)),
            _ => {}
        }
    }

    /// The command that writes the document to docs/src/openapi.json.
    const WRITE: &str = "HOSTGATE_WRITE_OPENAPI=yes cargo test --locked --lib openapi";

    #[test]
    fn document_in_the_book_is_the_one_that_is_served() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/src/openapi.json");
        let text = serde_json::to_string_pretty(&document(&routes())).unwrap() + "\n";
        if std::env::var_os("HOSTGATE_WRITE_OPENAPI").is_some() {
            fs::write(&path, &text).unwrap();
        }
        assert!(fs::read_to_string(path).unwrap() == text, "docs/src/openapi.json is out of date: {WRITE}");
    }

    #[test]
    fn every_reference_has_a_target_and_every_component_a_reference() {
        let document = document(&routes());
        let mut used = BTreeSet::new();
        references(&document, &mut used);
        let components = document["components"].as_object().unwrap();
        let kinds = ["parameters", "responses", "schemas"];
        let names = kinds.map(|kind| {
            components[kind].as_object().unwrap().keys().map(move |name| format!("#/components/{kind}/{name}"))
        });
        assert_eq!(used, names.into_iter().flatten().collect());
    }

    #[test]
    fn every_route_has_an_operation_of_its_own_with_a_summary_and_a_response() {
        let routes = routes();
        let names: BTreeSet<_> = routes.iter().map(|route| route.operation).collect();
        assert_eq!(names.len(), routes.len());
        for route in &routes {
            assert!(!route.summary.is_empty() && !route.response.1.is_empty(), "{}", route.operation);
        }
        let document = document(&routes);
        let create = &document["paths"]["/v1/devboxes"]["post"]["responses"];
        assert_eq!(create["200"]["links"]["shutdownDevbox"]["parameters"]["id"], "$response.body#/id");
        let update = &document["paths"]["/v1/devboxes/{id}"];
        assert!(update["post"]["responses"]["412"].is_object() && update["get"]["responses"]["413"].is_null());
        assert_eq!(document["paths"]["/openapi.json"]["get"]["security"], json!([]));
    }
}
