"""What no SDK shows: statuses, tokens, retries of one call, long polls and bodies, by requests made by hand."""

import http.client
import json
import sys
import threading
import time

from harness import ADMIN, HERE, VIEWER, Checks, Hostgate, equal, expect, until


def refused(answer, status, *parts):
    """Fails unless the answer has this status, and a message with these parts."""
    equal(answer[0], status, f"status ({answer[1]})")
    for part in parts:
        expect(part in answer[1]["message"], f"{part!r} is not in {answer[1]['message']!r}")


def description(checks, hostgate):
    """The OpenAPI document."""
    with checks.check("the description that is served is the one in the sources"):
        status, document = hostgate.call("GET", "/openapi.json")
        equal(status, 200, "status")
        equal(document, json.loads((HERE.parent.parent / "docs/src/openapi.json").read_text()), "document")
    with checks.check("every operation of it is 401 without a token; those that change something, 403 for a viewer"):
        for path, methods in document["paths"].items():
            for method in methods.keys() & {"get", "post"}:
                where, body = path.replace("{id}", "dbx_0"), "{}" if method == "post" else None
                if methods[method].get("security") == []:
                    equal(hostgate.call("GET", where, token=None)[0], 200, f"status of {where}")
                    continue
                refused(hostgate.call(method.upper(), where, body, token=None), 401)
                if method == "post" and not path.endswith("/wait_for_status"):
                    refused(hostgate.call("POST", where, body, token=VIEWER), 403)
                elif method == "get":
                    expect(hostgate.call("GET", where, token=VIEWER)[0] in (200, 404), f"a viewer cannot read {where}")


def access(checks, hostgate):
    """Who may do what."""
    policy = hostgate.create("network-policies", name="guarded", allowed_hostnames=["a.example"])
    path = f"/v1/network-policies/{policy['id']}"
    with checks.check("without a token, and with another one, everything is 401"):
        for token in (None, "", "x", ADMIN[:-1], ADMIN + "x", "viewer " + VIEWER):
            for method, where in (("GET", path), ("GET", "/v1/devboxes"), ("POST", path), ("POST", f"{path}/delete")):
                refused(hostgate.call(method, where, token=token), 401)
    with checks.check("a viewer reads, and changes nothing (403)"):
        equal(hostgate.call("GET", path, token=VIEWER), (200, policy), "reading")
        for where in (path, f"{path}/delete", "/v1/network-policies", "/v1/blueprints", "/v1/devboxes"):
            refused(hostgate.call("POST", where, {"name": "x"}, token=VIEWER), 403)
        equal(hostgate.call("GET", path), (200, policy), "reading afterwards")
    with checks.check("a devbox may not reach the API, with a token neither (403)"):
        devbox = hostgate.create("devboxes", name="inside")
        address = devbox["metadata"]["hostgate.address"]
        refused(hostgate.call("GET", path, source=address), 403)
        hostgate.call("POST", f"/v1/devboxes/{devbox['id']}/shutdown")
        equal(hostgate.call("GET", path, source=address)[0], 200, "status from an address that is no devbox's")
    with checks.check("a token that is taken out of the file is good for nothing"):
        file = hostgate.directory / "token"
        before = file.read_text()
        file.write_text(before + "another-token-of-the-tests\n")
        until("the new token is known", lambda: hostgate.call("GET", path, token="another-token-of-the-tests")[0] == 200)
        file.write_text(before)
        until("the old one is not", lambda: hostgate.call("GET", path, token="another-token-of-the-tests")[0] == 401)
        equal(hostgate.call("GET", path)[0], 200, "status of the others")
    hostgate.call("POST", f"{path}/delete")


def statuses(checks, hostgate):
    """What is refused, and how."""
    with checks.check("what does not exist is 404"):
        for where in ("/v1/network-policies/npol_0", "/v1/blueprints/bpt_0", "/v1/devboxes/dbx_0", "/v1/nothing", "/"):
            refused(hostgate.call("GET", where), 404)
        for where in ("/v1/network-policies/npol_0/delete", "/v1/blueprints/bpt_0/delete", "/v1/devboxes/dbx_0/shutdown"):
            refused(hostgate.call("POST", where), 404)
    with checks.check("a body that is no object, or has a field of another type, is 400 and says so"):
        for body, part in (("{", ""), ("[]", ""), ("{}", "name"), ({"name": 1}, "name"), ({"name": None}, "name"),
                           ({"name": "x", "allow_all": "yes"}, "allow_all"),
                           ({"name": "x", "allowed_hostnames": "a.example"}, "allowed_hostnames"),
                           ({"name": "x", "allowed_hostnames": ["a.example", 1]}, "allowed_hostnames"),
                           ({"name": "x", "allowed_cidrs": [{"cidr": "10.0.0.1/8"}]}, "10.0.0.1/8")):
            refused(hostgate.call("POST", "/v1/network-policies", body), 400, part)
        refused(hostgate.call("GET", "/v1/network-policies?limit=no"), 400, "limit")
        equal(hostgate.call("GET", "/v1/network-policies?name=x")[1]["network_policies"], [], "policies")
    with checks.check("null is as absent, and a name may be anything a person writes"):
        for name in ("a \"b\" \\ 'c' \u00fc \U0001f600 ]]] [x] #", "\"\"\"", "\'\'\'", "x" * 256):
            policy = hostgate.create("network-policies", name=name, description=None, allow_all=None,
                                     allowed_hostnames=None, allowed_cidrs=None)
            equal(policy["name"], name, "name")
            equal(hostgate.call("GET", f"/v1/network-policies/{policy['id']}")[1], policy, "the policy again")
            hostgate.call("POST", f"/v1/network-policies/{policy['id']}/delete", "{}")
    with checks.check("a body over 1 MiB is 413, with its length told before and without"):
        big = b'{"name": "' + b"x" * (1 << 20) + b'"}'
        refused(hostgate.call("POST", "/v1/network-policies", big), 413)
        connection = http.client.HTTPConnection(hostgate.host, int(hostgate.port), timeout=10)
        pieces = (big[at : at + 65536] for at in range(0, len(big), 65536))
        try:
            connection.request("POST", "/v1/network-policies", pieces, {"authorization": f"Bearer {ADMIN}"},
                               encode_chunked=True)
        except (BrokenPipeError, ConnectionResetError):
            pass  # cut off before all was sent; the answer lies there all the same
        equal(connection.getresponse().status, 413, "status")
        connection.close()
        equal(hostgate.call("GET", "/v1/network-policies")[0], 200, "status of the next request")


def retries(checks, hostgate):
    """Tries again of one call, told by their x-request-id."""
    again = {"x-request-id": "stainless-python-retry-0001"}
    with checks.check("a create that is tried again creates nothing more"):
        body = {"name": "once"}
        first = hostgate.call("POST", "/v1/network-policies", body, headers=again)
        equal(first[0], 200, "status")
        equal(hostgate.call("POST", "/v1/network-policies", body, headers=again), first, "the second try's answer")
        equal(len(hostgate.call("GET", "/v1/network-policies?name=once")[1]["network_policies"]), 1, "policies")
    with checks.check("tries at the same time create one devbox"):
        answers = []
        header = {"x-request-id": "stainless-python-retry-0002"}
        tries = [
            threading.Thread(target=lambda: answers.append(
                hostgate.call("POST", "/v1/devboxes/create_and_await_running", {"name": "one"}, headers=header)))
            for _ in range(8)
        ]
        for thread in tries:
            thread.start()
        for thread in tries:
            thread.join()
        equal({status for status, _ in answers}, {200}, "statuses")
        equal(len({view["id"] for _, view in answers}), 1, "devboxes")
        hostgate.call("POST", f"/v1/devboxes/{answers[0][1]['id']}/shutdown")
    with checks.check("a delete that is tried again has the first answer"):
        header = {"x-request-id": "stainless-python-retry-0003"}
        path = f"/v1/network-policies/{first[1]['id']}/delete"
        deleted = hostgate.call("POST", path, headers=header)
        equal(deleted[0], 200, "status")
        equal(hostgate.call("POST", path, headers=header), deleted, "the second try's answer")
        refused(hostgate.call("POST", path), 404)


def polls(checks, hostgate):
    """Long polls."""
    devbox = hostgate.create("devboxes", name="awaited")
    path = f"/v1/devboxes/{devbox['id']}"

    def wait(body):
        begin = time.monotonic()
        answer = hostgate.call("POST", f"{path}/wait_for_status", body)
        return *answer, time.monotonic() - begin

    with checks.check("a status that is there already is answered at once"):
        status, view, took = wait({"statuses": ["running", "failure", "shutdown"], "timeout_seconds": 30.0})
        equal((status, view["status"]), (200, "running"), "answer")
        expect(took < 2, f"it took {took:.2f} s")
        equal(wait({"statuses": ["running"]})[0], 200, "status without timeout_seconds")
    with checks.check("one that does not come is 408 after its time, a fraction of a second too"):
        for seconds in (0.31, 0.03811502456665039, 0, 1):
            status, body, took = wait({"statuses": ["failure"], "timeout_seconds": seconds})
            refused((status, body), 408)
            expect(seconds <= took < seconds + 2, f"it took {took:.2f} s instead of {seconds}")
    with checks.check("a status that is none is 400"):
        refused(wait({"statuses": ["ready"]})[:2], 400, "ready")
        refused(wait({"statuses": ["running"], "timeout_seconds": "soon"})[:2], 400, "timeout_seconds")
    with checks.check("who waits for the end is told when it comes"):
        answers = []
        thread = threading.Thread(target=lambda: answers.append(wait({"statuses": ["shutdown"], "timeout_seconds": 30})))
        begin = time.monotonic()
        thread.start()
        equal(hostgate.call("POST", f"{path}/shutdown")[0], 200, "status of the shutdown")
        thread.join()
        status, view, _ = answers[0]
        equal((status, view["status"]), (200, "shutdown"), "answer")
        expect(time.monotonic() - begin < 5, "it took long")


def blueprints(checks, hostgate):
    """What Runloop has no route for."""
    with checks.check("a blueprint that is given another runtime policy gives it to its devboxes at once"):
        old = hostgate.create("network-policies", name="old", allowed_hostnames=["old.example"])
        new = hostgate.create("network-policies", name="new", allowed_hostnames=["new.example"])
        launch = {"network_policy_id": old["id"], "launch_commands": ["true"]}
        blueprint = hostgate.create("blueprints", name="changing", launch_parameters=launch)
        devbox = hostgate.create("devboxes", name="inside", blueprint_name="changing")
        address = devbox["metadata"]["hostgate.address"]
        hostgate.may(address, ["old.example"], ["new.example"])
        path = f"/v1/blueprints/{blueprint['id']}"
        status, view = hostgate.call("POST", path, {"launch_parameters": {"network_policy_id": new["id"]}})
        equal(status, 200, f"status ({view})")
        equal(view["parameters"]["launch_parameters"], {**launch, "network_policy_id": new["id"]}, "launch_parameters")
        hostgate.may(address, ["new.example"], ["old.example"])
        view = hostgate.call("GET", f"/v1/devboxes/{devbox['id']}")[1]
        equal(view["launch_parameters"]["network_policy_id"], new["id"], "network_policy_id of the devbox")
    with checks.check("an update that changes nothing is done, and no change"):
        audit = hostgate.directory / "audit.jsonl"
        for kind, object in (("blueprints", blueprint), ("devboxes", devbox)):
            path = f"/v1/{kind}/{object['id']}"
            before, records = hostgate.call("GET", path), audit.read_text()
            for body in (None, "{}", "null", {"metadata": None}, {"name": before[1]["name"]}):
                equal(hostgate.call("POST", path, body), before, f"answer to {body}")
            equal(audit.read_text(), records, "the audit record")
    with checks.check("what is about running boxes is 404, and says so"):
        for route in ("execute_sync", "suspend", "snapshot_disk"):
            refused(hostgate.call("POST", f"/v1/devboxes/{devbox['id']}/{route}", {}), 404)
        hostgate.call("POST", f"/v1/devboxes/{devbox['id']}/shutdown")


def main():
    """Runs everything against one hostgate."""
    checks = Checks("wire")
    with checks.of(Hostgate()) as hostgate:
        for part in (description, access, statuses, retries, polls, blueprints):
            part(checks, hostgate)
    return checks.passed


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
