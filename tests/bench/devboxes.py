"""Devboxes created over the API, one after another, each asked from at once: is it in force when its call returns?"""

import http.client
import json
import threading
import time

import machine

TOKEN = "0123456789abcdef0123456789abcdef"
OWN = "own.devbox.test"  # allowed to devboxes alone
POOL = "127.88.0.0/16"


class Api:
    """A connection to the control API that is kept open."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def post(self, path, body):
        """Sends a request and returns what came back."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self.connection.request("POST", path, json.dumps(body), headers)
        answer = self.connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise SystemExit(f"POST {path}: {answer.status} {said[:300]}")
        return json.loads(said)


def prepare(api):
    """Makes the policy and the blueprint of all devboxes; returns the blueprint's id."""
    policy = api.post("/v1/network-policies", {"name": "bench", "allowed_hostnames": [OWN]})
    parameters = {"name": "bench", "launch_parameters": {"network_policy_id": policy["id"]}}
    return api.post("/v1/blueprints", parameters)["id"]


def create(api, port, blueprint, count):
    """Creates so many; returns the milliseconds of each call, and how many were not in force after it."""
    taken, wrong = [], 0
    for number in range(count):
        body = {"blueprint_id": blueprint, "name": f"box-{number}", "metadata": {"team": "bench"}}
        start = time.monotonic()
        made = api.post("/v1/devboxes", body)
        taken.append((time.monotonic() - start) * 1000)
        wrong += machine.ask(port, OWN, 2, made["metadata"]["hostgate.address"]) != (0, 1)
    return taken, wrong


def measure(server, loads, path, before, count, rate):
    """Creates `before` devboxes, and then `count` more while queries come at a rate; returns what that took."""
    api, port = Api(server.plan.options["control"]), server.plan.port
    blueprint = prepare(api)
    machine.ask(port, OWN, 2)
    empty = machine.resident_mib(server.process.pid)
    first, wrong = create(api, port, blueprint, before)
    time.sleep(3)
    full = machine.resident_mib(server.process.pid)
    meanwhile = {}
    seconds = max(5.0, count / 100)
    load = threading.Thread(target=lambda: meanwhile.update(loads.paced(port, path, seconds, rate)))
    load.start()
    time.sleep(0.5)
    taken, more = create(api, port, blueprint, count)
    load.join()
    return {
        "before": before,
        "octets": (full - empty) * 1048576 / max(1, before),
        "first_ms": first,
        "ms": taken,
        "wrong": wrong + more,
        "rate": rate,
        "load": meanwhile,
    }
