#!/usr/bin/env python3
"""Measures hostgate beside its peers; README.md says how, and what the numbers mean. Start it by `run`."""

import argparse
import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import devboxes
import loads
import machine
import picture
import report
from servers import KEPT, LIMITS, RESOLVERS, SOURCES, Hostgate, Nsd, Plan, Relay, loopback

START = 120  # seconds a server may take to be ready
FAULTS = {
    "none": [{}],
    "slow": [{"delay": 50}],
    "lossy": [{"loss": 5}],
    "dead": [{"loss": 100}, {}],
}


class Bench:
    """One run: cores, directory, upstream, and what was measured."""

    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.server_core, self.load_core = options.cpus or machine.two_cores()
        self.loads = loads.Loads(options.programs, self.load_core)
        self.names = loads.make_names(1000)
        self.files = loads.Files(directory / "queries", self.names)
        self.count = 0
        self.upstream = None
        self.result = {"machine": machine.describe((self.server_core, self.load_core)), "parts": {}}

    def plan(self, names=None, upstreams=None, **chosen):
        """Returns a plan with a directory and a port of its own."""
        self.count += 1
        return Plan(
            directory=self.directory / f"server{self.count}",
            port=machine.free_port(),
            names=names or self.names,
            upstreams=upstreams or [self.upstream.plan.port],
            programs=self.options.programs,
            hostgate=self.options.hostgate,
            options=chosen,
        )

    @contextlib.contextmanager
    def running(self, kind, core=None, expect=(0, 1), **plan):
        """Runs a server until the block ends; gives None when it does not come up."""
        server = kind(self.plan(**plan), self.server_core if core is None else core)
        try:
            server.start()
            server.took = machine.wait_for(server.plan.port, f"up.{server.plan.names[-1]}", expect, START)
            if server.took is not None and expect == (0, 1) and kind in RESOLVERS.values():
                denied = machine.ask(server.plan.port, "never.evil.test", 2)
                if denied is None or denied[0] != 3:
                    print(f"{kind.__name__}: the policy does not hold: {denied}", file=sys.stderr)
                    server.took = None
            if server.took is None:
                print(f"{kind.__name__} is left out; it said: {server.log_tail()}", file=sys.stderr)
            yield server if server.took is not None else None
        finally:
            server.stop()

    def limits(self, stack):
        """Starts both limit programs."""
        answering = stack.enter_context(self.running(LIMITS["answering"], expect=(3, 0)))
        forwarding = stack.enter_context(self.running(LIMITS["forwarding"]))
        if not answering or not forwarding:
            raise SystemExit("the limit programs do not run")
        return {"answering": answering, "forwarding": forwarding}

    def chosen(self):
        """Returns the resolvers to compare, by name."""
        wanted = self.options.only or list(RESOLVERS)
        for name in wanted:
            if not RESOLVERS[name].is_installed():
                print(f"{name} is not installed", file=sys.stderr)
        return {name: RESOLVERS[name] for name in wanted if RESOLVERS[name].is_installed()}

    def one(self, server, case, files, asker=None):
        """Measures one server in one case for one round."""
        seconds = self.options.seconds
        if case in ("cached", "mix"):
            # What earlier misses pushed out of the cache is put back first.
            self.loads.flood(server.plan.port, files.directory / "cached", 0)
        path = files.of(case, seconds)
        received, before = machine.datagrams(), machine.cpu_seconds(server.process.pid)
        result = (asker or self.loads.flood)(server.plan.port, path, seconds)
        spent = machine.cpu_seconds(server.process.pid) - before
        # A query and its answer are two; four, when the upstream was asked.
        result["datagrams"] = (machine.datagrams() - received) / max(1, result["answered"])
        result["cpu_us"] = spent * 1e6 / max(1, result["answered"])
        result["busy"] = spent / max(result["seconds"], 1e-9)
        result["failed"] = 0.0 if type(server) in LIMITS.values() else loads.failures(case, result)
        return result

    def in_turns(self, servers, limits, cases, files=None, asker=None):
        """Measures all servers in all cases, in short rounds that take turns.

        Each turn begins and ends with the limit program; a server's multiple is its CPU per query over the mean of
        those two. `files` may differ by server. Returns rounds by case and name.
        """
        rounds = {case: {} for case in cases}
        for number in range(self.options.rounds):
            for case in cases:
                limit = limits["forwarding" if case == "miss" else "answering"]
                order = list(servers)
                random.Random(number).shuffle(order)
                first = self.one(limit, case, self.files, asker)
                turn = {
                    name: self.one(servers[name], case, files[name] if files else self.files, asker) for name in order
                }
                last = self.one(limit, case, self.files, asker)
                base = (first["cpu_us"] + last["cpu_us"]) / 2
                turn["limit"] = {**last, "cpu_us": base, "qps": (first["qps"] + last["qps"]) / 2}
                for name, result in turn.items():
                    result["multiple"] = result["cpu_us"] / base
                    rounds[case].setdefault(name, []).append(result)
            print(f"round {number + 1} of {self.options.rounds}", file=sys.stderr)
        return rounds

    def latencies(self, servers, limits, cases):
        """Returns latencies at the fixed rate, by case and name."""
        found = {}
        for case in cases:
            limit = limits["forwarding" if case == "miss" else "answering"]
            found[case] = {}
            for name, server in {"limit": limit, **servers}.items():
                if case in ("cached", "mix"):
                    self.loads.flood(server.plan.port, self.files.directory / "cached", 0)
                path = self.files.of(case, self.options.seconds * 2)
                seconds = self.options.seconds * 2
                found[case][name] = self.loads.paced(server.plan.port, path, seconds, self.options.rate)
        return found

    def table(self):
        """All servers at 1,000 hostnames: cost, throughput, latency, memory."""
        with contextlib.ExitStack() as stack:
            limits = self.limits(stack)
            servers = {name: stack.enter_context(self.running(kind)) for name, kind in self.chosen().items()}
            servers = {name: server for name, server in servers.items() if server}
            fresh = {name: machine.resident_mib(server.process.pid) for name, server in servers.items()}
            rounds = self.in_turns(servers, limits, self.options.cases)
            latencies = self.latencies(servers, limits, self.options.cases)
            memory = {
                name: {"fresh_mib": fresh[name], "loaded_mib": machine.resident_mib(server.process.pid)}
                for name, server in servers.items()
            }
        cases = {case: summary(rounds[case]) for case in self.options.cases}
        for case in cases:
            for name in cases[case]:
                cases[case][name]["latency"] = latencies[case][name]
        return {"cases": cases, "memory": memory}

    def scale_names(self):
        """Each server by itself with few and with many hostnames."""
        cases = [case for case in ("denied", "cached") if case in self.options.cases]
        found = {}
        for name, kind in self.chosen().items():
            sizes = self.options.names
            if kind is not Hostgate and not self.options.million_peers:
                sizes = [size for size in sizes if size < 1_000_000]
            with contextlib.ExitStack() as stack:
                limits = self.limits(stack)
                servers, files, memory = {}, {}, {}
                for size in sizes:
                    names = loads.make_names(size)
                    server = stack.enter_context(self.running(kind, names=names))
                    if server:
                        servers[size] = server
                        files[size] = loads.Files(self.directory / f"queries-{name}-{size}", names)
                        memory[size] = {"seconds": server.took, "mib": machine.resident_mib(server.process.pid)}
                rounds = self.in_turns(servers, limits, cases, files)
            found[name] = {
                "memory": memory,
                "cases": {case: summary(rounds[case]) for case in cases},
            }
        return found

    def faulty_upstreams(self):
        """Each server with an upstream that is slow, loses queries, or is one of two and silent: misses, paced."""
        found = {}
        for fault in self.options.faults:
            found[fault] = {}
            with contextlib.ExitStack() as stack:
                ports = []
                for options in FAULTS[fault]:
                    relay = Relay(self.plan(**options), self.load_core)
                    stack.callback(relay.stop)
                    relay.start()
                    ports.append(relay.plan.port)
                for name, kind in self.chosen().items():
                    with self.running(kind, upstreams=ports) as server:
                        if not server:
                            continue
                        seconds = self.options.seconds * 4
                        path = self.files.of("miss", seconds)
                        before = machine.cpu_seconds(server.process.pid)
                        result = self.loads.paced(server.plan.port, path, seconds, self.options.fault_rate)
                        spent = machine.cpu_seconds(server.process.pid) - before
                        result["cpu_us"] = spent * 1e6 / max(1, result["asked"])
                        result["failed"] = loads.failures("miss", result)
                        found[fault][name] = result
        return found

    def scale_policies(self):
        """Ours with one policy and with many, each with a client of its own; queries come from 1,000 addresses."""
        cases = [case for case in ("denied", "cached") if case in self.options.cases]
        with contextlib.ExitStack() as stack:
            limits = self.limits(stack)
            servers, memory = {}, {}
            for count in self.options.policies:
                # Readiness is asked for from 127.0.0.1, which is in no client, and so denied.
                server = stack.enter_context(self.running(Hostgate, expect=(3, 0), policies=count))
                if server:
                    servers[count] = server
                    memory[count] = {"seconds": server.took, "mib": machine.resident_mib(server.process.pid)}

            def ask(port, path, seconds):
                return self.loads.window(port, path, seconds, 200, SOURCES)

            rounds = self.in_turns(servers, limits, cases, asker=ask)
        return {"memory": memory, "cases": {case: summary(rounds[case]) for case in cases}}

    def records(self):
        """Ours with neither metrics nor decision log, with metrics fetched each second, and with both."""
        with contextlib.ExitStack() as stack:
            limits = self.limits(stack)
            admin, both = machine.free_port(), machine.free_port()
            servers = {
                "off": stack.enter_context(self.running(Hostgate)),
                "metrics": stack.enter_context(self.running(Hostgate, admin=admin)),
                "metrics and decision log": stack.enter_context(self.running(Hostgate, admin=both, decisions=True)),
            }
            servers = {name: server for name, server in servers.items() if server}
            stack.enter_context(fetching([admin, both]))
            log = servers["metrics and decision log"].plan.directory / "decisions.jsonl"
            stack.enter_context(emptying(log))
            rounds = self.in_turns(servers, limits, self.options.cases)
        return {"cases": {case: summary(rounds[case]) for case in self.options.cases}}

    def swaps(self):
        """Ours at a fixed rate, quiet, and with a policy file replaced each second: what is lost, wrong, or late."""
        seconds, admin = max(4.0, self.options.seconds * 4), machine.free_port()
        # In turns: allowed by the list, allowed by every version of the policy that is swapped, allowed by none.
        hot, denied = self.files.lines("cached"), self.files.lines("denied")
        lines = [
            line
            for number in range(3000)
            for line in (f"{hot[number % len(hot)]} 0", f"{KEPT[number % len(KEPT)]} A 0", f"{denied[number]} 3")
        ]
        path = self.files.write("swaps", lines)
        rounds = {"quiet": [], "swapping": []}
        with self.running(Hostgate, admin=admin, swapped=True) as server:
            if not server:
                return {"rate": self.options.swap_rate, "rounds": rounds}
            self.loads.paced(server.plan.port, path, 1, 5000)  # fills the cache
            count = iter(range(1, 1_000_000))
            for number in range(self.options.rounds):
                for name in rounds:
                    quiet = name == "quiet"
                    swapping = contextlib.nullcontext() if quiet else every(1, lambda: server.swap(next(count)))
                    before, unread = metric(admin, "hostgate_reloads_total"), machine.udp_drops(server.plan.port)
                    with swapping:
                        result = self.loads.paced(server.plan.port, path, seconds, self.options.swap_rate)
                    time.sleep(1)  # the last change may not be in force yet
                    result["swaps"] = metric(admin, "hostgate_reloads_total") - before
                    result["unread"] = machine.udp_drops(server.plan.port) - unread
                    result["lost"] = result["asked"] - result["answered"]
                    rounds[name].append(result)
                print(f"round {number + 1} of {self.options.rounds}", file=sys.stderr)
        return {"rate": self.options.swap_rate, "rounds": rounds}

    def reloads(self):
        """Ours: the load of many hostnames, and one changed file among many until it is in force, asked from outside.

        `files` are policies with a client each; all of them include the list of hostnames. A hostname is one pattern, and
        two in the setting with wildcards.
        """
        many, few, files = max(self.options.names), 1000, max(self.options.policies)
        settings = {
            "few": (few, {"wildcards": False}),
            "hostnames": (many, {"wildcards": False}),
            "with wildcards": (many, {"wildcards": True}),
            "files": (few, {"wildcards": False, "policies": files}),
            "both": (many, {"wildcards": False, "policies": files}),
        }
        found = {}
        for setting, (count, chosen) in settings.items():
            names, files = loads.make_names(count), chosen.get("policies", 0)
            # What is below a name is asked for, and by an address that is in no client where there are policies.
            expect = (0, 1) if chosen["wildcards"] else (3, 0)
            found[setting] = {"hostnames": count, "files": files, "seconds": []}
            for last in [False] * (self.options.rounds - 1) + [True]:
                with self.running(Hostgate, expect=expect, names=names, **chosen) as server:
                    if not server:
                        return found
                    found[setting]["seconds"].append(server.took)
                    if last:
                        time.sleep(1)
                        found[setting]["mib"] = machine.resident_mib(server.process.pid)
                        found[setting]["peak_mib"] = machine.peak_mib(server.process.pid)
                        found[setting]["ms"] = changes(server) if files else []
        return found

    def devboxes(self):
        """Ours: devboxes created over the API one after another, with many there and queries meanwhile."""
        with self.running(Hostgate, control=machine.free_port()) as server:
            if not server:
                return {}
            path, options = self.files.of("cached", 1), self.options
            return devboxes.measure(server, self.loads, path, options.devboxes, 1000, options.rate)

    def run(self):
        """Measures the parts that were asked for."""
        meanwhile = machine.Meanwhile((self.server_core, self.load_core))
        with self.running(Nsd, core=self.load_core, upstreams=[0]) as upstream:
            if not upstream:
                raise SystemExit("NSD does not run")
            self.upstream = upstream
            for part in self.options.parts:
                print(f"part {part}", file=sys.stderr)
                start = time.monotonic()
                self.result["parts"][part] = PARTS[part](self)
                self.result["parts"][part + "_seconds"] = round(time.monotonic() - start)
        self.result["meanwhile"] = meanwhile.shares()
        return self.result


PARTS = {
    "table": Bench.table,
    "names": Bench.scale_names,
    "upstreams": Bench.faulty_upstreams,
    "policies": Bench.scale_policies,
    "records": Bench.records,
    "swaps": Bench.swaps,
    "reload": Bench.reloads,
    "devboxes": Bench.devboxes,
}


def changes(server, rounds=20):
    """Changes one file after the other, each in another way than the one before, and returns for each how many milliseconds
    after it was closed, or renamed into place, its client got another answer."""
    count, taken = server.plan.options["policies"], []
    step = max(1, count // SOURCES)
    # What is written within two seconds before it is read is read again at the next look; that is no change of ours.
    time.sleep(3)
    for number in range(0, min(rounds, count // step)):
        policy, client = number * step, str(loopback("127.1.0.1", number))
        path = server.plan.directory / "policies" / f"p{policy}.toml"
        name, text = f"own0.p{policy}.test", path.read_text().replace('"own0.', '"other.')
        if machine.ask(server.plan.port, name, 2, client) != (0, 1):
            raise SystemExit(f"{name} is not allowed before it is changed")
        if number % 2:
            beside = path.with_name(".beside")
            beside.write_text(text)
            beside.rename(path)
        else:
            path.write_text(text)
        start = time.monotonic()
        while machine.ask(server.plan.port, name, 0.5, client) != (3, 0):
            if time.monotonic() > start + START:
                raise SystemExit(f"{path} is not in force after {START} s")
        taken.append((time.monotonic() - start) * 1000)
        time.sleep(0.2)
    return taken


def summary(rounds):
    """Returns medians over rounds, by name, with the spread of the multiple."""
    found = {}
    for name, results in rounds.items():
        multiples = [result["multiple"] for result in results]
        found[name] = {
            **{key: statistics.median(result[key] for result in results) for key in ("cpu_us", "qps", "busy", "datagrams")},
            "multiple": statistics.median(multiples),
            "least": min(multiples),
            "most": max(multiples),
            "failed": max(result["failed"] for result in results),
        }
    return found


@contextlib.contextmanager
def every(seconds, task):
    """Does a task every so often until the block ends."""
    done = threading.Event()

    def loop():
        while not done.wait(seconds):
            with contextlib.suppress(OSError):
                task()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def metric(port, name):
    """Returns the value of a metric without labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
        return int(re.search(rf"^{name} (\d+)", page.read().decode(), re.MULTILINE).group(1))


def fetching(ports):
    """Fetches the metrics each second, as Prometheus would, only more often."""

    def fetch():
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as page:
                page.read()

    return every(1, fetch)


def emptying(log):
    """Keeps the decision log's file below what a few seconds write."""
    return every(5, lambda: os.truncate(log, 0))


def versions(hostgate):
    """Returns the version each program tells; of hostgate, which grows daily, the start of the binary's SHA-256."""
    found = {"hostgate": hashlib.sha256(hostgate.read_bytes()).hexdigest()[:12]}
    for name, kind in {**RESOLVERS, "nsd": Nsd}.items():
        if kind.version and kind.is_installed():
            said = subprocess.run(kind.version, capture_output=True, text=True, check=False)
            number = re.search(r"\d+\.\d+(\.\d+)?", re.sub(r"\d+:\d+:\d+", "", said.stdout + said.stderr))
            found[name] = number.group() if number else "?"
    return found


def read_options():
    """Reads the command line."""

    def numbers(text):
        return [int(word) for word in text.split(",")]

    def words(known):
        def read(text):
            unknown = [word for word in text.split(",") if word not in known]
            if unknown:
                raise argparse.ArgumentTypeError(f"{unknown[0]}: not one of {', '.join(known)}")
            return text.split(",")

        return read

    a = argparse.ArgumentParser(prog="tests/bench/run", description="Measures hostgate beside its peers.")
    a.add_argument("--parts", type=words(PARTS), default=["table"], help=f"default: table; known: {', '.join(PARTS)}")
    a.add_argument("--all", action="store_true", help="all parts")
    a.add_argument("--only", type=words(RESOLVERS), help="resolvers, with commas between")
    a.add_argument("--cases", type=words(loads.CASES), default=loads.CASES)
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--seconds", type=float, default=1.0, help="load per server, case and round")
    a.add_argument("--quick", action="store_true", help="two rounds of half a second: to see that it runs")
    a.add_argument("--rate", type=int, default=10000, help="queries per second when latency is measured")
    a.add_argument("--names", type=numbers, default=[1000, 100_000, 1_000_000])
    a.add_argument("--million-peers", action="store_true", help="1,000,000 hostnames for the peers too")
    a.add_argument("--policies", type=numbers, default=[1, 100, 10_000])
    a.add_argument("--devboxes", type=int, default=10_000, help="devboxes that are there when more are created")
    a.add_argument("--faults", type=words(FAULTS), default=list(FAULTS))
    a.add_argument("--fault-rate", type=int, default=2000, help="queries per second with a faulty upstream")
    a.add_argument("--swap-rate", type=int, default=50_000, help="queries per second while a policy is swapped")
    a.add_argument("--cpus", type=numbers, help="core of the server, core of the load and upstream")
    a.add_argument("--json", type=Path, help="writes the results there")
    a.add_argument("--picture", type=Path, help="writes the table as SVG there")
    a.add_argument("--from", dest="earlier", type=Path, help="prints and draws results of an earlier --json instead")
    a.add_argument("--hostgate", type=Path, help="the binary to measure; default: built from here")
    a.add_argument("--programs", type=Path, help=argparse.SUPPRESS)
    options = a.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 0.5
    if options.all:
        options.parts = list(PARTS)
    return options


def main():
    """Measures, or reads what was measured; prints, and writes what was asked for."""
    options = read_options()
    if options.earlier:
        result = json.loads(options.earlier.read_text())
    else:
        # Also when told to end, every server is stopped.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if os.geteuid() == 0:
            os.nice(-10)  # programs beside the benchmark disturb less; all servers and loads inherit it
        directory = Path(tempfile.mkdtemp(prefix="hostgate-bench-"))
        directory.chmod(0o755)
        try:
            # A copy: whoever builds meanwhile does not change what is measured.
            options.hostgate = Path(shutil.copy(options.hostgate, directory / "hostgate"))
            result = Bench(options, directory).run()
            result["versions"] = versions(options.hostgate)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        result["settings"] = {
            key: getattr(options, key) for key in ("rounds", "seconds", "rate", "fault_rate")
        }
        result["date"] = time.strftime("%Y-%m-%d", time.gmtime())
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    # JSON has text for keys; what was just measured is printed as it would be read.
    result = json.loads(json.dumps(result))
    print(report.text(result))
    if options.picture:
        options.picture.write_text(picture.svg(result))


if __name__ == "__main__":
    main()
