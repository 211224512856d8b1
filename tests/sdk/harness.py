"""What the tests stand on: the real binary with its API on, a scripted upstream, a scripted builder, queries and checks.

    harness.py PROGRAM ARGUMENT...

runs a program against a hostgate of its own, with HOSTGATE_URL and HOSTGATE_TOKEN (HOSTGATE_VIEWER may only read) in
its environment, and exits as it does. All is on loopback; the addresses of devboxes and builds are loopback ones too,
so that a query can come from them.
"""

import contextlib
import http.client
import json
import os
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset

HERE = Path(__file__).resolve().parent
BINARY = Path(os.environ.get("HOSTGATE", HERE.parent.parent / "target/debug/hostgate")).resolve()
DEADLINE = 10  # seconds until a fact that does not come is a failure
GLOBAL = "93.184.215.14"  # what every name has; documentation addresses are not globally reachable, and filtered
ADMIN, VIEWER = "admin-token-of-the-tests", "viewer-token-of-the-tests"
CONFIGURATION = """\
policies = "policies"
denied_ttl = 5
without_policy = "unrestricted"

[[listen]]
address = "127.0.0.1:0"

[upstream]
servers = ["127.0.0.1:{upstream}"]

[admin]
listen = "off"

[control]
listen = "127.0.0.1:0"
token_file = "token"
devbox_pool = "127.88.0.0/16"
build_pool = "127.89.0.0/16"
audit = "audit.jsonl"
"""


class Failed(Exception):
    """A fact that does not hold."""


def expect(fact, what):
    """Fails with `what` unless `fact` holds."""
    if not fact:
        raise Failed(what)


def equal(found, wanted, what):
    """Fails unless both are the same."""
    expect(found == wanted, f"{what}: {found!r} instead of {wanted!r}")


def until(what, look):
    """Returns what `look` returns as soon as that is something."""
    end = time.monotonic() + DEADLINE
    while not (found := look()):
        expect(time.monotonic() < end, f"waited {DEADLINE} s in vain: {what}")
        time.sleep(0.005)
    return found


class Upstream:
    """Answers every A question with GLOBAL, others with no data, and remembers the names."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.names = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        """Answers until the process ends."""
        while True:
            wire, source = self.socket.recvfrom(4096)
            query = dns.message.from_wire(wire)
            question = query.question[0]
            name = question.name.to_text(omit_final_dot=True).lower()
            # hostgate's own question whether an upstream answers is no client's.
            if not name.startswith("hostgate-probe."):
                self.names.append(name)
            response = dns.message.make_response(query, recursion_available=True)
            if question.rdtype == dns.rdatatype.A:
                response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "A", GLOBAL))
            self.socket.sendto(response.to_wire(), source)


class Builds:
    """The other end of builder.py: each build waits until it is told how it ended."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen()
        self.builds = queue.Queue()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        """Reads the blueprint that each build was given."""
        while True:
            connection, _ = self.socket.accept()
            with connection.makefile("rb") as lines:
                self.builds.put(Build(connection, json.loads(lines.readline())))

    def next(self):
        """Returns the next build that began."""
        return self.builds.get(timeout=DEADLINE)


class Build:
    """A build under way."""

    def __init__(self, connection, blueprint):
        self.connection, self.blueprint = connection, blueprint
        self.address = blueprint["metadata"]["hostgate.address"]

    def end(self, code=0):
        """Ends it, the builder with this exit code."""
        self.connection.sendall(bytes([code]))
        self.connection.close()


class Hostgate:
    """A hostgate in a directory of its own, which outlives the process."""

    def __init__(self, builder=False):
        self.directory = Path(tempfile.mkdtemp(prefix="hgsdk-"))
        self.policies = self.directory / "policies"
        # Without a policy file or this folder, hostgate takes an empty directory for one that is not mounted.
        (self.policies / "api").mkdir(parents=True)
        self.upstream = Upstream()
        configuration = CONFIGURATION.format(upstream=self.upstream.port)
        if builder:
            path = self.directory / "builds"
            self.builds = Builds(path)
            words = [sys.executable, "-I", str(HERE / "builder.py"), str(path)]
            configuration += f"builder = {json.dumps(words)}\nbuilder_timeout = 60\n"
        (self.directory / "hostgate.toml").write_text(configuration)
        token = self.directory / "token"
        token.touch(mode=0o600)
        token.write_text(f"{ADMIN}\nviewer {VIEWER}\n")
        self.process = None

    def start(self):
        """Starts it, and waits until it serves."""
        self.log = self.directory / "log"
        begin = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                # It does not outlive the tests, however they end.
                ["setpriv", "--pdeathsig", "KILL", BINARY, "serve", "--config", self.directory / "hostgate.toml"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NO_COLOR": "1"},
            )

        def ready():
            text = self.log.read_bytes()[begin:].decode()
            expect(self.process.poll() is None, f"hostgate ended at its start:\n{text}")
            return text if "ready generation" in text else None

        text = until("hostgate is ready", ready)
        listening = dict(re.findall(r'listening transport="(\w+)" address="?([^"\s]+)"?', text))
        self.dns = listening["udp"].rsplit(":", 1)
        self.host, self.port = listening["control"].rsplit(":", 1)
        self.url = f"http://{self.host}:{self.port}"
        return self

    def end(self, how=signal.SIGTERM):
        """Ends the process; by SIGTERM it has to say that all was well."""
        self.process.send_signal(how)
        code = self.process.wait(DEADLINE)
        expect(how != signal.SIGTERM or code == 0, f"hostgate ended with {code}")

    def close(self):
        """Ends the process, if it runs, and removes the directory."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory)

    def ask(self, name, source, rdtype="A"):
        """Returns the response to a query that comes from `source`."""
        query = dns.message.make_query(name, rdtype, use_edns=True)
        return dns.query.udp(query, self.dns[0], port=int(self.dns[1]), timeout=DEADLINE, source=source)

    def rcode(self, name, source):
        """Returns what became of a query: an RCODE, or ALLOWED if the upstream's address came back."""
        response = self.ask(name, source)
        addresses = [data.to_text() for rrset in response.answer for data in rrset]
        return "ALLOWED" if addresses == [GLOBAL] else dns.rcode.to_text(response.rcode())

    def may(self, source, allowed, denied):
        """Fails unless `source` may look up exactly these names, and nothing of a denied one went upstream."""
        for name in allowed:
            equal(self.rcode(name, source), "ALLOWED", f"{name} from {source}")
        before = len(self.upstream.names)
        for name in denied:
            equal(self.rcode(name, source), "NXDOMAIN", f"{name} from {source}")
        equal(self.upstream.names[before:], [], "names that went upstream though denied")

    def call(self, method, path, body=None, token=ADMIN, source=None, headers=()):
        """Makes a request by hand; returns the status and the body, parsed if it is JSON."""
        connection = http.client.HTTPConnection(
            self.host, int(self.port), timeout=40, source_address=(source, 0) if source else None
        )
        with contextlib.closing(connection):
            own = {"authorization": f"Bearer {token}"} if token else {}
            if method != "GET":
                own["content-type"] = "application/json"
            data = json.dumps(body) if body is not None and not isinstance(body, (str, bytes)) else body
            connection.request(method, path, data, {**own, **dict(headers)})
            response = connection.getresponse()
            text = response.read()
            is_json = response.getheader("content-type", "").startswith("application/json")
            return response.status, json.loads(text) if is_json else text.decode()

    def create(self, kind, **fields):
        """Creates an object by hand and returns it."""
        status, view = self.call("POST", f"/v1/{kind}", fields)
        equal(status, 200, f"creating one of {kind}: {view}")
        return view


class Checks:
    """Runs checks one after another: a line for each that passed; the first failure ends it, with hostgate's log."""

    def __init__(self, title):
        self.title, self.hostgate, self.passed = title, None, 0

    @contextlib.contextmanager
    def of(self, hostgate):
        """Has this hostgate's log shown for failures within, and closes it."""
        self.hostgate = hostgate
        try:
            yield hostgate.start()
        except BaseException as error:
            self.tell("hostgate", error)
        finally:
            hostgate.close()

    @contextlib.contextmanager
    def check(self, rule):
        """One check, named by the rule that it looks at."""
        begin = time.monotonic()
        try:
            yield
        except Exception as error:
            self.tell(rule, error)
        self.passed += 1
        print(f"ok   {self.title}: {rule} ({(time.monotonic() - begin) * 1000:.0f} ms)", flush=True)

    def tell(self, rule, error):
        """Shows a failure and ends the program."""
        if isinstance(error, SystemExit):
            raise error
        print(f"FAIL {self.title}: {rule}: {type(error).__name__}: {error}", flush=True)
        log = self.hostgate.directory / "log"
        if log.exists():
            print("hostgate's log:", *log.read_text().splitlines()[-30:], sep="\n  ", flush=True)
        raise SystemExit(1) from error


def main(words):
    """Runs a program against a hostgate of its own."""
    hostgate = Hostgate()
    try:
        hostgate.start()
        environment = {
            **os.environ, "HOSTGATE_URL": hostgate.url, "HOSTGATE_TOKEN": ADMIN, "HOSTGATE_VIEWER": VIEWER,
            "HOSTGATE_DIRECTORY": str(hostgate.directory), "HOSTGATE_DNS": ":".join(hostgate.dns),
        }
        code = subprocess.run(words, env=environment, check=False).returncode
        if code == 0 and hostgate.process.poll() is not None:
            print(f"hostgate ended meanwhile, with {hostgate.process.returncode}")
            code = 1
        if code:
            print("hostgate's log:", *hostgate.log.read_text().splitlines()[-30:], sep="\n  ")
        return code
    finally:
        hostgate.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
