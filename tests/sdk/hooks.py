"""What schemathesis may not do: wait for long, or repeat the id of another request."""

import uuid

import schemathesis


@schemathesis.hook
def before_call(context, case, kwargs):
    """Gives each request an id of its own, as a repeated one gets the first one's answer, and shortens waits."""
    if case.headers and "x-request-id" in case.headers:
        case.headers["x-request-id"] = str(uuid.uuid4())
    if case.operation.path.endswith("/wait_for_status") and isinstance(case.body, dict):
        seconds = case.body.get("timeout_seconds", 10)
        if seconds is None or isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and seconds > 0.05:
            case.body["timeout_seconds"] = 0.05
