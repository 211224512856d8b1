"""The files are the truth: what stands in them, who else writes them, and what is there after a restart and a crash."""

import http.client
import signal
import subprocess
import sys
import threading
import tomllib

from harness import BINARY, Checks, Hostgate, equal, expect, until

HAND_WRITTEN = """\
# Written by a person.
[policy.by-hand]
name = "by hand"
allowed_hostnames = ["hand.example"]

[client.old]
sources = ["127.86.0.1"]
policy = "by-hand"
"""


def everything(hostgate):
    """Returns all objects, by kind."""
    found = {}
    for kind in ("network-policies", "blueprints", "devboxes"):
        status, page = hostgate.call("GET", f"/v1/{kind}?limit=5000")
        equal(status, 200, f"status of listing {kind}")
        expect(not page["has_more"], "there is more")
        found[kind] = page[kind.replace("-", "_")]
    return found


def api_files(hostgate):
    """Returns the API's files, parsed: none may be half written."""
    return {path.stem: tomllib.loads(path.read_text()) for path in (hostgate.policies / "api").glob("*.toml")}


def written(checks, hostgate):
    """What the API writes, and what people do."""
    with checks.check("what the API creates is a file each, for people to read"):
        policy = hostgate.create("network-policies", name="a \"name\"", allowed_hostnames=["A.Example", "*.b.example"])
        blueprint = hostgate.create("blueprints", name="b", launch_parameters={"network_policy_id": policy["id"]})
        devbox = hostgate.create("devboxes", blueprint_id=blueprint["id"])
        files = api_files(hostgate)
        equal(set(files), {policy["id"], blueprint["id"], devbox["id"]}, "files")
        equal(files[policy["id"]]["policy"][policy["id"]]["name"], "a \"name\"", "name in the file")
        equal(files[blueprint["id"]]["blueprint"][blueprint["id"]]["runtime_policy"], policy["id"], "runtime_policy")
        client = files[devbox["id"]]["client"][devbox["id"]]
        equal(client["sources"], [devbox["metadata"]["hostgate.address"]], "sources")
    with checks.check("a file that a person edits says what the API shows"):
        path = hostgate.policies / "api" / f"{policy['id']}.toml"
        path.write_text("# edited\n" + path.read_text().replace("*.b.example", "*.c.example"))
        where = f"/v1/network-policies/{policy['id']}"
        until("the edit is shown", lambda: "*.c.example" in hostgate.call("GET", where)[1]["egress"]["allowed_hostnames"])
        hostgate.may(devbox["metadata"]["hostgate.address"], ["x.c.example"], ["x.b.example"])
    with checks.check("an object of a hand-written file is shown, used, and not changed; the error names its line"):
        (hostgate.policies / "hand.toml").write_text(HAND_WRITTEN)
        until("it is shown", lambda: hostgate.call("GET", "/v1/network-policies/by-hand")[0] == 200)
        for path, body in (("by-hand", {"name": "x"}), ("by-hand/delete", {})):
            status, answer = hostgate.call("POST", f"/v1/network-policies/{path}", body)
            equal(status, 400, "status")
            expect("hand.toml:2:" in answer["message"], answer["message"])
        equal((hostgate.policies / "hand.toml").read_text(), HAND_WRITTEN, "the file")
        used = hostgate.create("devboxes", launch_parameters={"network_policy_id": "by-hand"})
        hostgate.may(used["metadata"]["hostgate.address"], ["hand.example"], ["other.example"])
        status, answer = hostgate.call("POST", "/v1/devboxes", {"metadata": {"hostgate.address": "127.86.0.1"}})
        equal(status, 400, f"status of taking the address of a hand-written client ({answer})")
    return devbox["metadata"]["hostgate.address"]


def restarted(checks, hostgate, address):
    """A restart in order."""
    with checks.check("after a restart everything is there again, and in force"):
        before = everything(hostgate)
        expect(all(before.values()), "nothing to find again")
        hostgate.end()
        hostgate.start()
        equal(everything(hostgate), before, "objects")
        hostgate.may(address, ["x.c.example", "a.example"], ["x.b.example"])
    with checks.check("after a restart no address is given out twice"):
        taken = {box["metadata"].get("hostgate.address") for box in before["devboxes"] if box["status"] == "running"}
        new = hostgate.create("devboxes")["metadata"]["hostgate.address"]
        expect(new not in taken, f"{new} is another's")


def burst(hostgate, policy, acknowledged, enough):
    """Creates policies and devboxes until the connection breaks; tells when enough have been acknowledged."""
    number = 0
    while True:
        number += 1
        try:
            if number % 4 == 0:
                body = {"name": "burst", "allowed_hostnames": ["burst.example"]}
                answer = hostgate.call("POST", "/v1/network-policies", body)
            else:
                body = {"launch_parameters": {"network_policy_id": policy["id"]}}
                answer = hostgate.call("POST", "/v1/devboxes", body)
        except (OSError, http.client.HTTPException):
            return
        acknowledged.append(answer)
        if len(acknowledged) >= enough[0]:
            enough[1].set()


def killed(checks, hostgate):
    """A crash in the midst of changes."""
    policy = hostgate.create("network-policies", name="of the burst", allowed_hostnames=["burst.example"])
    for count in (3, 25, 60):
        with checks.check(f"killed after {count} of a burst of creates, it has whole files and all it acknowledged"):
            acknowledged, enough = [], (count, threading.Event())
            threads = [threading.Thread(target=burst, args=(hostgate, policy, acknowledged, enough)) for _ in range(4)]
            for thread in threads:
                thread.start()
            expect(enough[1].wait(20), f"{len(acknowledged)} creates in 20 s")
            hostgate.end(signal.SIGKILL)
            for thread in threads:
                thread.join()
            equal({status for status, _ in acknowledged}, {200}, "statuses")
            files = api_files(hostgate)
            command = [BINARY, "check", "--config", hostgate.directory / "hostgate.toml"]
            found = subprocess.run(command, capture_output=True, text=True, check=False)
            equal(found.returncode, 0, f"exit code of the check ({found.stdout}{found.stderr})")
            hostgate.start()
            for _, view in acknowledged:
                expect(view["id"] in files, f"{view['id']} has no file")
                kind = "network-policies" if view["id"].startswith("npol_") else "devboxes"
                equal(hostgate.call("GET", f"/v1/{kind}/{view['id']}"), (200, view), "the object again")
            boxes = [view for _, view in acknowledged if view["id"].startswith("dbx_")]
            hostgate.may(boxes[-1]["metadata"]["hostgate.address"], ["burst.example"], ["other.example"])
            shown = {box["id"] for box in everything(hostgate)["devboxes"]}
            equal(shown, {name for name in files if name.startswith("dbx_")} | {"old"}, "devboxes and their files")
            folder = hostgate.policies / "api"
            left = [path for path in folder.rglob("*") if path.is_file() and path.parent != folder]
            expect(len(left) <= 3, f"left behind: {left}")


def main():
    """Runs everything against one directory."""
    checks = Checks("files")
    with checks.of(Hostgate()) as hostgate:
        address = written(checks, hostgate)
        restarted(checks, hostgate, address)
        killed(checks, hostgate)
    return checks.passed


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
