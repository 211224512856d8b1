"""The servers that are compared: how each is configured for one and the same policy, started and stopped.

The policy: the names in `Plan.names`, and everything below them, are forwarded; the rest is NXDOMAIN. No server logs
queries, validates DNSSEC, or asks anybody but the upstreams of the plan. A setting that is not the package's default
says why.
"""

import ipaddress
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import devboxes
import machine


@dataclass
class Plan:
    """What a server is to do."""

    directory: Path
    port: int
    names: list
    upstreams: list  # ports on loopback
    programs: Path  # where the compiled programs are
    hostgate: Path
    options: dict = field(default_factory=dict)  # for hostgate: policies, wildcards, decisions, admin, swapped, control


class Server:
    """A server process on the core for servers."""

    binary = ""  # what has to be installed
    version = []  # the command that tells its version

    def __init__(self, plan, cpu):
        self.plan, self.cpu, self.process = plan, cpu, None
        plan.directory.mkdir(parents=True)

    def start(self):
        """Writes the configuration and starts the process."""
        words = [str(word) for word in self.command()]
        with open(self.plan.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["taskset", "-c", str(self.cpu), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def stop(self):
        """Ends this process, and nothing but it and its children."""
        if self.process is None:
            return
        for pid in reversed(machine.family(self.process.pid)):
            machine.tell(pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in reversed(machine.family(self.process.pid)):
                machine.tell(pid, signal.SIGKILL)
            self.process.wait(10)

    def write(self, name, text):
        """Writes a file beside the configuration and returns its path."""
        path = self.plan.directory / name
        path.write_text(text)
        return path

    def command(self):
        """Writes the configuration and returns the command that uses it."""
        raise NotImplementedError

    def log_tail(self):
        """Returns the end of what the server said."""
        path = self.plan.directory / "log"
        return path.read_text(errors="replace")[-600:] if path.exists() else ""

    @classmethod
    def is_installed(cls):
        """Returns whether the program is there."""
        return not cls.binary or shutil.which(cls.binary, path=machine.PATH) is not None


class Hostgate(Server):
    """Ours: a list file with two patterns a name, as `name` alone would not let through what is below it."""

    def command(self):
        plan = self.plan
        policies, count = plan.directory / "policies", plan.options.get("policies", 0)
        policies.mkdir()
        form = "{0}\n*.{0}\n" if plan.options.get("wildcards", True) else "{0}\n"
        (policies / "names.txt").write_text("".join(form.format(name) for name in plan.names))
        # What is measured is forwarding: no client may look up so many new names by default.
        base = '[policy.base]\nallowed_hostnames_files = ["names.txt"]\nbudget = "off"\n'
        if plan.options.get("swapped"):
            base += 'include = ["swapped"]\n'
            self.swap(0)
        if not count:
            base += '[client.all]\nsources = ["127.0.0.0/8"]\npolicy = "base"\n'
        (policies / "base.toml").write_text(base)
        # A policy is a file with five hostnames of its own and a client. The load comes from SOURCES addresses, which
        # are shared out evenly; where there are more policies than that, the others have clients that do not ask.
        for number in range(count):
            own = ", ".join(f'"own{k}.p{number}.test"' for k in range(5))
            asking = [source for source in range(SOURCES) if source * max(1, count // SOURCES) % count == number]
            sources = [loopback("127.1.0.1", source) for source in asking] or [loopback("127.2.0.1", number)]
            listed = ", ".join(f'"{source}"' for source in sources)
            (policies / f"p{number}.toml").write_text(
                f'[policy.p{number}]\ninclude = ["base"]\nallowed_hostnames = [{own}]\nbudget = "off"\n'
                f"[client.c{number}]\nsources = [{listed}]\npolicy = \"p{number}\"\n"
            )
        servers = ", ".join(f'"127.0.0.1:{port}"' for port in plan.upstreams)
        text = (
            f'policies = "policies"\nlog = "warn"\n[[listen]]\naddress = "127.0.0.1:{plan.port}"\n'
            f"[upstream]\nservers = [{servers}]\n"
            # Room for all misses of a run, as the others have.
            f"[cache]\nsize_mib = 256\n[admin]\n"
        )
        admin = plan.options.get("admin")
        text += f'listen = "127.0.0.1:{admin}"\n' if admin else 'listen = "off"\n'
        if plan.options.get("decisions"):
            text += '[decisions]\npath = "decisions.jsonl"\n'
        control = plan.options.get("control")
        if control:
            self.write("token", devboxes.TOKEN + "\n").chmod(0o600)
            # Whoever is in 127.0.0.0/8 is a client here.
            text += f'[control]\nlisten = "127.0.0.1:{control}"\ntoken_file = "token"\nallow_clients = true\n'
            text += f'devbox_pool = "{devboxes.POOL}"\n'
        return [plan.hostgate, "serve", "--config", self.write("hostgate.toml", text)]

    def swap(self, number):
        """Puts another version of a policy in place: KEPT is in all of them, the rest in none but this."""
        listed = ", ".join(f'"{name}"' for name in [*KEPT, *(f"n{k}.swap{number % 2}.test" for k in range(100))])
        beside = self.write("beside", f"[policy.swapped]\nallowed_hostnames = [{listed}]\n")
        beside.rename(self.plan.directory / "policies" / "swapped.toml")


class LimitAnswer(Server):
    """The kernel's limit of answering."""

    def command(self):
        return [self.plan.programs / "limit", "answer", self.plan.port]


class LimitForward(Server):
    """The kernel's limit of forwarding."""

    def command(self):
        return [self.plan.programs / "limit", "forward", self.plan.port, self.plan.upstreams[0]]


class Unbound(Server):
    """local-zone per name; the iterator alone, as nobody else validates."""

    binary, version = "unbound", ["unbound", "-V"]

    def command(self):
        plan = self.plan
        zones = "".join(f'  local-zone: "{name}" transparent\n' for name in plan.names)
        forward = "".join(f"  forward-addr: 127.0.0.1@{port}\n" for port in plan.upstreams)
        path = self.write(
            "unbound.conf",
            f"""server:
  interface: 127.0.0.1@{plan.port}
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  num-threads: 1
  module-config: "iterator"
  msg-cache-size: 128m
  rrset-cache-size: 256m
  outgoing-range: 8192
  num-queries-per-thread: 4096
  minimal-responses: yes
  use-syslog: no
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{plan.directory}"
  pidfile: ""
  local-zone: "." always_nxdomain
{zones}remote-control:
  control-enable: no
forward-zone:
  name: "."
{forward}""",
        )
        return ["unbound", "-d", "-c", path]


class Dnsdist(Server):
    """A suffix tree and the packet cache; a datagram a system call, as it is by default."""

    batch = 1
    binary, version = "dnsdist", ["dnsdist", "--version"]

    def command(self):
        plan = self.plan
        self.write("names", "\n".join(plan.names))
        upstreams = "".join(
            f"newServer({{address='127.0.0.1:{port}', name='u{port}', checkType='A', checkName='up.test.'}})\n"
            for port in plan.upstreams
        )
        path = self.write(
            "dnsdist.conf",
            f"""setLocal('127.0.0.1:{plan.port}')
setUDPMultipleMessagesVectorSize({self.batch})
setMaxUDPOutstanding(65535)
setSecurityPollSuffix('')
{upstreams}local allowed = newSuffixMatchNode()
for name in io.lines('{plan.directory}/names') do allowed:add(newDNSName(name)) end
addAction(NotRule(SuffixMatchNodeRule(allowed)), RCodeAction(DNSRCode.NXDOMAIN))
getPool(''):setCache(newPacketCache(1000000))
""",
        )
        return ["dnsdist", "--supervised", "--disable-syslog", "-C", path]


class DnsdistBatched(Dnsdist):
    """The same with recvmmsg and sendmmsg: cheaper in most cases, dearer where it asks upstream, so both are shown."""

    batch = 64


class Recursor(Server):
    """PowerDNS Recursor: a response policy zone that lets the names through and denies `*`."""

    binary, version = "pdns_recursor", ["pdns_recursor", "--version"]

    def command(self):
        plan = self.plan
        entries = "".join(f"{name} CNAME rpz-passthru.\n*.{name} CNAME rpz-passthru.\n" for name in plan.names)
        zone = self.write("policy.zone", f"$ORIGIN policy.\n{SOA}{entries}* CNAME .\n")
        lua = self.write("policy.lua", f"rpzFile('{zone}', {{policyName='policy'}})\n")
        forward = ";".join(f"127.0.0.1:{port}" for port in plan.upstreams)
        self.write(
            "recursor.conf",
            f"""local-address=127.0.0.1
local-port={plan.port}
forward-zones-recurse=.={forward}
lua-config-file={lua}
socket-dir={plan.directory}
dont-query=
dnssec=off
threads=1
pdns-distributes-queries=no
max-mthreads=16384
max-cache-entries=2000000
max-packetcache-entries=1000000
security-poll-suffix=
setuid=
setgid=
write-pid=no
daemon=no
loglevel=3
""",
        )
        return ["pdns_recursor", f"--config-dir={plan.directory}"]


class Knot(Server):
    """Knot Resolver: its suffix policy with STUB, one process, cache of its own."""

    binary, version = "kresd", ["kresd", "--version"]

    def command(self):
        plan = self.plan
        self.write("names", "\n".join(plan.names))
        stub = ", ".join(f"'127.0.0.1@{port}'" for port in plan.upstreams)
        path = self.write(
            "kresd.conf",
            f"""net.listen('127.0.0.1', {plan.port}, {{ kind = 'dns' }})
cache.open(512 * MB, 'lmdb://{plan.directory}/cache')
trust_anchors.remove('.')
local allowed = {{}}
for name in io.lines('{plan.directory}/names') do allowed[#allowed + 1] = todname(name) end
policy.add(policy.suffix(policy.STUB({{{stub}}}), allowed))
policy.add(policy.all(policy.DENY))
""",
        )
        return ["kresd", "-n", "-c", path, plan.directory]


class Bind(Server):
    """BIND: two response policy zones (in one, an allowed a.b.test makes b.test a node that `*` no longer covers)."""

    binary, version = "named", ["named", "-v"]

    def command(self):
        plan = self.plan
        entries = "".join(f"{name} CNAME rpz-passthru.\n*.{name} CNAME rpz-passthru.\n" for name in plan.names)
        self.write("pass.zone", f"{SOA}{entries}")
        self.write("deny.zone", f"{SOA}* CNAME .\n")
        forward = " ".join(f"127.0.0.1 port {port};" for port in plan.upstreams)
        path = self.write(
            "named.conf",
            f"""options {{
  directory "{plan.directory}"; session-keyfile "{plan.directory}/session.key"; pid-file none;
  listen-on port {plan.port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
  recursion yes; allow-query {{ any; }}; forward only; forwarders {{ {forward} }};
  dnssec-validation no; minimal-responses yes; recursive-clients 20000; max-cache-size 512m;
  response-policy {{ zone "pass.policy"; zone "deny.policy"; }} qname-wait-recurse no;
}};
controls {{ }};
zone "pass.policy" {{ type primary; file "pass.zone"; }};
zone "deny.policy" {{ type primary; file "deny.zone"; }};
""",
        )
        return ["named", "-g", "-n", "1", "-c", path]


class Dnsmasq(Server):
    """dnsmasq: NXDOMAIN for all, a server line per name; its cache holds 10,000 names at most."""

    binary, version = "dnsmasq", ["dnsmasq", "--version"]

    def command(self):
        plan = self.plan
        servers = "".join(f"server=/{name}/127.0.0.1#{port}\n" for name in plan.names for port in plan.upstreams)
        path = self.write(
            "dnsmasq.conf",
            f"""port={plan.port}
listen-address=127.0.0.1
bind-interfaces
no-resolv
no-hosts
user=root
cache-size=10000
dns-forward-max=10000
address=/#/
{servers}""",
        )
        return ["dnsmasq", "-k", "-C", path, f"--pid-file={plan.directory}/pid"]


class Nsd(Server):
    """The upstream: everything below `test` has one address, for a day.

    The address is globally reachable on purpose: hostgate removes others from answers, which would be another test.
    Nobody connects to it. Responses are minimal, so that forwarders and recursors give answers of one size.
    """

    binary, version = "nsd", ["nsd", "-v"]

    def command(self):
        plan = self.plan
        self.write("root.zone", f"$ORIGIN .\n{SOA}*.test. A 1.2.3.4\n")
        path = self.write(
            "nsd.conf",
            f"""server:
  ip-address: 127.0.0.1@{plan.port}
  server-count: 1
  username: ""
  zonesdir: "{plan.directory}"
  xfrdir: "{plan.directory}"
  xfrdfile: "{plan.directory}/xfrd"
  zonelistfile: "{plan.directory}/zones"
  database: ""
  pidfile: "{plan.directory}/pid"
  rrl-ratelimit: 0
  minimal-responses: yes
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: root.zone
""",
        )
        return ["nsd", "-d", "-c", path]


class Relay(Server):
    """An upstream with faults, before the real one: `delay` in ms, `loss` in percent."""

    def command(self):
        options = self.plan.options
        return [
            self.plan.programs / "relay",
            self.plan.port,
            self.plan.upstreams[0],
            options.get("delay", 0),
            options.get("loss", 0),
        ]


SOA = "$TTL 86400\n@ SOA localhost. localhost. 1 3600 600 86400 300\n  NS localhost.\n"

KEPT = [f"kept{number}.test" for number in range(100)]  # allowed in every version of the policy that is swapped

SOURCES = 1000  # addresses the load has with many policies; from 127.1.0.1 on, as load.c does


def loopback(first, number):
    """Returns the address so many after the first."""
    return ipaddress.IPv4Address(first) + number


RESOLVERS = {
    "hostgate": Hostgate,
    "unbound": Unbound,
    "dnsdist": Dnsdist,
    "dnsdist64": DnsdistBatched,
    "recursor": Recursor,
    "knot": Knot,
    "bind": Bind,
    "dnsmasq": Dnsmasq,
}
LIMITS = {"answering": LimitAnswer, "forwarding": LimitForward}
os.environ["PATH"] = machine.PATH
