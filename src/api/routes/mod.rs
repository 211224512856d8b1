//! The routes of the API: one table, from which the router and the `OpenAPI` document are made.

mod openapi;

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, any, get, post};

use crate::api::ApiState;
use crate::api::objects::blueprints::{self, BlueprintKind};
use crate::api::objects::devboxes::{self, DevboxKind};
use crate::api::objects::policies::{self, PolicyKind};
use crate::api::objects::{ApiObject, delete, list, retrieve, update};
use crate::api::request::call::{Call, Done, JsonText};
use crate::api::request::error::ApiError;
use crate::api::request::long_poll;
use crate::policy::Snapshot;

/// The description of lists' responses.
const PAGE: &str = "One page, the newest first.";
/// The description of the two operations that create a devbox.
const NEW_DEVBOX: &str = "The devbox gets its address from metadata[\"hostgate.address\"], or else from the server's pool; the \
     response has it there. Its policy is launch_parameters.network_policy_id, else that of its blueprint, else \
     none: unrestricted.";

/// A route: its handler, and its operation in the `OpenAPI` document.
struct ApiRoute {
    method: &'static str,
    path: &'static str,
    handler: MethodRouter<Arc<ApiState>>,
    operation: &'static str,
    summary: &'static str,
    /// More about the operation; empty if the summary says all.
    description: &'static str,
    body: RequestBody,
    /// The schema of the response, and its description.
    response: (&'static str, &'static str),
    /// The query parameters; `None` unless the route is a list.
    filters: Option<Filters>,
}

/// The body of a request.
enum RequestBody {
    None,
    /// The body is read, but has no fields: the Python SDK sends none, the TypeScript SDK an empty object.
    Ignored,
    /// The name of the schema, and whether the body is required.
    Schema(&'static str, bool),
}

/// The filters of a list besides name and search.
struct Filters {
    statuses: &'static [&'static str],
    /// The names of further parameters.
    others: &'static [&'static str],
}

impl ApiRoute {
    fn get(path: &'static str, handler: MethodRouter<Arc<ApiState>>, operation: &'static str) -> Self {
        let (summary, description, response, body) = ("", "", ("", ""), RequestBody::None);
        Self { method: "get", path, handler, operation, summary, description, body, response, filters: None }
    }

    fn post(path: &'static str, handler: MethodRouter<Arc<ApiState>>, operation: &'static str) -> Self {
        Self { method: "post", body: RequestBody::Ignored, ..Self::get(path, handler, operation) }
    }

    fn about(self, summary: &'static str, description: &'static str) -> Self {
        Self { summary, description, ..self }
    }

    fn body(self, schema: &'static str, is_required: bool) -> Self {
        Self { body: RequestBody::Schema(schema, is_required), ..self }
    }

    fn returns(self, schema: &'static str, description: &'static str) -> Self {
        Self { response: (schema, description), ..self }
    }

    fn filters<O: ApiObject>(self, others: &'static [&'static str]) -> Self {
        Self { filters: Some(Filters { statuses: O::STATUSES, others }), ..self }
    }
}

/// Returns the table of routes.
fn routes() -> Vec<ApiRoute> {
    let document = ApiRoute::get("/openapi.json", get(document), "retrieveDescription")
        .about("This description", "")
        .returns("", "An OpenAPI 3.1 document.");
    policy_routes().into_iter().chain(blueprint_routes()).chain(devbox_routes()).chain([document]).collect()
}

fn policy_routes() -> [ApiRoute; 5] {
    [
        ApiRoute::post("/v1/network-policies", change(policies::create), "createNetworkPolicy")
            .about(
                "Create a network policy",
                "A policy without lists and without allow_all denies everything. The answer comes after it \
                     is in force. Names are labels and may repeat.",
            )
            .body("NetworkPolicyCreate", true)
            .returns("NetworkPolicyView", "The policy, in force."),
        ApiRoute::get("/v1/network-policies", read(list::<PolicyKind>), "listNetworkPolicies")
            .about("List network policies", "")
            .filters::<PolicyKind>(&["only_id"])
            .returns("NetworkPolicyList", PAGE),
        ApiRoute::get("/v1/network-policies/{id}", read(retrieve::<PolicyKind>), "retrieveNetworkPolicy")
            .about("Retrieve a network policy", "")
            .returns("NetworkPolicyView", "The policy."),
        ApiRoute::post("/v1/network-policies/{id}", change(update::<PolicyKind>), "updateNetworkPolicy")
            .about(
                "Change a network policy",
                "A field that is absent or null stays as it is; a value replaces the whole field, lists too. \
                     Names that the policy has from an include or a list file do not become its own by being sent \
                     back. With hostgate_revision, as a view has it, a policy that was changed meanwhile is left \
                     alone (412). The answer comes after it is in force for every devbox and build under the \
                     policy.",
            )
            .body("NetworkPolicyUpdate", false)
            .returns("NetworkPolicyView", "The policy as it is in force now."),
        ApiRoute::post("/v1/network-policies/{id}/delete", change(delete::<PolicyKind>), "deleteNetworkPolicy")
            .about(
                "Delete a network policy",
                "Refused with 400 while a blueprint, a devbox or another policy uses it; the message names \
                     who.",
            )
            .returns("NetworkPolicyView", "The policy as it was."),
    ]
}

fn blueprint_routes() -> [ApiRoute; 6] {
    [
        ApiRoute::post("/v1/blueprints", change(blueprints::create), "createBlueprint")
            .about(
                "Create a blueprint",
                "network_policy_id is in force for the build alone; launch_parameters.network_policy_id for \
                     the devboxes made from the blueprint. The build is complete at once unless the server has a \
                     builder.",
            )
            .body("BlueprintCreate", true)
            .returns("BlueprintView", "The blueprint."),
        ApiRoute::get("/v1/blueprints", read(list::<BlueprintKind>), "listBlueprints")
            .about("List blueprints", "")
            .filters::<BlueprintKind>(&[])
            .returns("BlueprintList", PAGE),
        ApiRoute::get("/v1/blueprints/{id}", read(retrieve::<BlueprintKind>), "retrieveBlueprint")
            .about("Retrieve a blueprint", "")
            .returns("BlueprintView", "The blueprint."),
        ApiRoute::post("/v1/blueprints/{id}", change(update::<BlueprintKind>), "updateBlueprint")
            .about(
                "Change a blueprint",
                "Not in the modelled API. A field that is absent or null stays as it is. Devboxes that \
                     inherit the runtime policy have the new one at once.",
            )
            .body("BlueprintUpdate", false)
            .returns("BlueprintView", "The blueprint as it is in force now."),
        ApiRoute::post("/v1/blueprints/{id}/delete", change(delete::<BlueprintKind>), "deleteBlueprint")
            .about(
                "Delete a blueprint",
                "Refused with 400 while a devbox was made from it and runs; the message names it.",
            )
            .returns("", "An empty object."),
        ApiRoute::get("/v1/blueprints/{id}/logs", read(blueprints::logs), "listBlueprintLogs")
            .about("What a blueprint's build said", "")
            .returns("BlueprintLogs", "The lines."),
    ]
}

fn devbox_routes() -> [ApiRoute; 7] {
    [
        ApiRoute::post("/v1/devboxes", change(devboxes::create), "createDevbox")
            .about("Create a devbox", NEW_DEVBOX)
            .body("DevboxCreate", false)
            .returns("DevboxView", "The devbox; its policy is in force."),
        ApiRoute::get("/v1/devboxes", read(list::<DevboxKind>), "listDevboxes")
            .about("List devboxes", "")
            .filters::<DevboxKind>(&["network_policy_id"])
            .returns("DevboxList", PAGE),
        // The SDKs use this route from 1.32 on, without a fallback; older ones use `/v1/devboxes`.
        ApiRoute::post(
            "/v1/devboxes/create_and_await_running",
            change(devboxes::create),
            "createDevboxAndAwaitRunning",
        )
        .about("Create a devbox and wait until it runs", NEW_DEVBOX)
        .body("DevboxCreate", false)
        .returns("DevboxView", "The devbox; its policy is in force."),
        ApiRoute::get("/v1/devboxes/{id}", read(retrieve::<DevboxKind>), "retrieveDevbox")
            .about("Retrieve a devbox", "")
            .returns("DevboxView", "The devbox."),
        ApiRoute::post("/v1/devboxes/{id}", change(update::<DevboxKind>), "updateDevbox")
            .about(
                "Change a devbox's name or metadata",
                "A field that is absent or null stays as it is. Metadata is replaced whole; the address \
                     stays. The policy of a live devbox is changed by changing the policy.",
            )
            .body("DevboxUpdate", false)
            .returns("DevboxView", "The devbox."),
        ApiRoute::post("/v1/devboxes/{id}/wait_for_status", post(long_poll::wait), "waitForDevboxStatus")
            .about(
                "Wait until a devbox has one of some statuses",
                "Holds the request for timeout_seconds, 10 unless told and 30 at most, and then answers \
                     408.",
            )
            .body("WaitForStatus", true)
            .returns("DevboxView", "The devbox, in one of them."),
        ApiRoute::post("/v1/devboxes/{id}/shutdown", change(devboxes::shut_down), "shutdownDevbox")
            .about(
                "Shut a devbox down",
                "Its address is bound to nothing from then on, and denied. The devbox can still be \
                     retrieved.",
            )
            .returns("DevboxView", "The devbox, shut down."),
    ]
}

/// Returns the router. Each request carries its [`crate::api::auth::Principal`] as an extension.
pub(super) fn router(control: Arc<ApiState>) -> Router {
    let router = routes().into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler));
    router
        .route("/v1/devboxes/{id}/{*rest}", any(no_container))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(control)
}

/// Returns the handler of a change.
fn change<W, F>(work: W) -> MethodRouter<Arc<ApiState>>
where
    W: Fn(Arc<Call>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Done, ApiError>> + Send + 'static,
{
    post(move |call: Call| call.change(work))
}

/// Returns the handler of a request that reads the snapshot.
fn read<W, T>(work: W) -> MethodRouter<Arc<ApiState>>
where
    W: Fn(&Call, &Snapshot) -> Result<T, ApiError> + Clone + Send + Sync + 'static,
    T: Into<JsonText> + 'static,
{
    get(move |call: Call| call.read(work))
}

/// Responds with the `OpenAPI` document.
async fn document() -> impl IntoResponse {
    static DOCUMENT: LazyLock<String> = LazyLock::new(|| openapi::document(&routes()).to_string());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str())
}

async fn no_route() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "there is no such route: see /openapi.json")
}

/// Responds to Runloop's routes that need a container.
async fn no_container(Path((_, rest)): Path<(String, String)>) -> ApiError {
    let rest = rest.escape_debug();
    let message = format!("`{rest}` is not served: hostgate starts no containers, it answers for their addresses");
    ApiError::new(StatusCode::NOT_FOUND, message)
}

async fn no_method() -> ApiError {
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this route has no such method: see /openapi.json")
}
