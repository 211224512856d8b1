"""The clients of clients.py, and a run of one of them."""
import concurrent.futures, contextlib, dataclasses, ipaddress, os, re, shutil, subprocess, sys, time

from link import DIRECTORY, Space, judged

# No program of these waits so long for one name.
HUNG = 60
# Seconds from the first to the last packet where nothing is waited for: less than a time-out of musl (2.5) or glibc (5).
QUICK = 2.4
# The same beside three seconds of the upstream's for each question that waits for one before.
SLACK = 3


@dataclasses.dataclass
class Client:
    """A program that resolves names."""

    name: str
    # `{}` is the name.
    command: list
    # Exit codes and texts of what it says of a denial, a failure, and of the addresses of `many`.
    denied: tuple
    failing: tuple
    many: tuple = (0, "")
    # Of an allowed name; `site` is an address of the site.
    allowed: tuple = (0, "site")
    # Questions for an allowed name, a denied one where that differs, and a denied one with two search domains.
    questions: int = 2
    refused: int | None = None
    searched: int = 6
    # Seconds from the first to the last packet, when the upstream fails, and when it is silent.
    patience: tuple = (QUICK, 12)
    # Questions one after the other, of which each waits for an upstream that is slow.
    rounds: int = 1
    # Whether it waits five seconds, as stub resolvers do.
    is_patient: bool = True
    resolv: str = "stub"

    def argv(self, name):
        return [part.replace("{}", name) for part in self.command]


PYTHON = """import socket, sys
try: print(*dict.fromkeys(found[4][0] for found in socket.getaddrinfo(sys.argv[1], 80)))
except socket.gaierror as error: sys.exit(str(error))"""
LOOKUP = """require("dns").lookup(process.argv[1], {all: true}, (error, found) => {
  console.log(error ? error.code : found.map(one => one.address).join(" ")); process.exitCode = error ? 2 : 0 })"""
RESOLVE = """const dns = require("dns").promises, name = process.argv[1]
Promise.allSettled([dns.resolve4(name), dns.resolve6(name)]).then(both => {
  console.log(both.map(one => one.reason ? one.reason.code : one.value.join(" ")).join("\\n"))
  process.exitCode = both.some(one => one.value) ? 0 : 2 })"""

UNKNOWN, LATER = "Name or service not known", "Temporary failure in name resolution"
SITE_PAGE, PAGE_IS_NO_GIT = "hello from the rig", "is this a git repository"
# Without TCP as many as fit beside TC; else all of both families.
MANY, ALL = r"([2-9]\d|\d{3}) addresses", "240 addresses"
NOTHING = r"^\n0 addresses$"
# What a cell of the table says in its place.
WORDS = [(word, word) for word in ("NXDOMAIN", "SERVFAIL", "ENOTFOUND", "EAI_AGAIN", "TIMEOUT", "timed out", "no such host",
                                   "server misbehaving", "i/o timeout", "not known", "Temporary failure", "Try again",
                                   "Name does not resolve", "ould not resolve", "unable to resolve", "bad address")]
WORDS += [(SITE_PAGE, "page"), (PAGE_IS_NO_GIT, "page")]


def clients():
    """Returns the clients, and the names of those that are not installed."""
    getent = ["getent", "ahosts", "{}"]
    every = [
        Client("glibc getent", getent, (2, NOTHING), (2, NOTHING), (0, ALL)),
        Client("glibc python3", [sys.executable, "-Ic", PYTHON, "{}"], (1, UNKNOWN), (1, LATER), (0, ALL)),
        Client("glibc curl", ["curl", "-qsS", "-w", " %{remote_ip}", "http://{}/"], (6, "Could not resolve host"),
               (6, "Could not resolve host"), (0, SITE_PAGE)),
        Client("glibc wget", ["wget", "-nv", "-t", "1", "-O", "-", "http://{}/"], (4, "unable to resolve"),
               (4, "unable to resolve"), (0, SITE_PAGE), (0, SITE_PAGE)),
        Client("glibc git", ["git", "ls-remote", "http://{}/x"], (128, "Could not resolve host"),
               (128, "Could not resolve host"), (128, PAGE_IS_NO_GIT), (128, PAGE_IS_NO_GIT)),
        Client("glibc ssh", ["ssh", "-vF", "none", "-o", "BatchMode=yes", "{}"], (255, UNKNOWN), (255, LATER),
               (255, "Connecting to"), (255, "site")),
        Client("node lookup", ["node", "-e", LOOKUP, "{}"], (2, "ENOTFOUND"), (2, "EAI_AGAIN"), (0, ALL)),
        Client("node c-ares", ["node", "-e", RESOLVE, "{}"], (2, "ENOTFOUND\nENOTFOUND"), (2, "E(SERVFAIL|TIMEOUT)"), (0, ALL),
               searched=2, patience=(QUICK, 30)),
        Client("java", ["java", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", f"{DIRECTORY}/bin", "Resolve", "{}"],
               (2, UNKNOWN), (2, LATER), (0, ALL)),
        # Podman is a Go program, and its resolver can be told to be Go's. It connects three times.
        Client("go (podman)", ["podman", "--remote", "--url", "tcp://{}:9", "version"], (125, "no such host"),
               (125, "server misbehaving|i/o timeout"), (125, "dial tcp .* refused"), (125, r"dial tcp \[?site"),
               questions=6, searched=18, patience=(SLACK, 37)),
        # It takes SERVFAIL for a reason to ask until its time is over.
        Client("musl", [f"{DIRECTORY}/bin/musl-resolve", "{}"], (2, "Name does not resolve"), (2, "Try again"), (0, MANY),
               patience=(7, 7)),
        Client("busybox nslookup", ["busybox", "nslookup", "{}"], (1, "NXDOMAIN"), (1, "SERVFAIL|timed out"),
               (0, MANY), searched=2, patience=(7, 17)),
        Client("busybox wget", ["busybox", "wget", "-q", "-O", "-", "http://{}/"], (1, "bad address"), (1, "bad address"),
               (0, SITE_PAGE), (0, SITE_PAGE)),
        Client("dig", ["dig", "+search", "+noall", "+comments", "+answer", "{}"], (0, "NXDOMAIN"), (0, "SERVFAIL"),
               (0, "120 addresses"), questions=1, searched=3, patience=(QUICK, 17)),
        Client("kdig", ["kdig", "{}"], (0, "NXDOMAIN"), (0, "SERVFAIL"), (0, "120 addresses"), questions=1, searched=1,
               patience=(QUICK, 17)),
        Client("drill", ["drill", "{}"], (0, "NXDOMAIN"), (0, "SERVFAIL"), (0, MANY), questions=1, searched=1,
               patience=(QUICK, 17)),
        Client("host", ["host", "{}"], (1, "NXDOMAIN"), (1, "SERVFAIL"), (0, ALL), questions=3, refused=1, searched=3,
               patience=(QUICK, 17), rounds=3),
        Client("nslookup", ["nslookup", "{}"], (1, "NXDOMAIN"), (1, "SERVFAIL"), (0, ALL), refused=1, searched=3,
               patience=(QUICK, 17), rounds=2),
    ]
    for name, program in (("dnsmasq", "dnsmasq"), ("unbound", "unbound"), ("resolved", "resolved")):
        # Unbound drops an answer that took it longer than 1.9 s, and gives up earlier where others came fast, whoever it asks.
        every.append(Client(f"{name}, getent", getent, (2, NOTHING), (2, NOTHING), (0, ALL), resolv=name, patience=(7, 22),
                            is_patient=name != "unbound"))
    there, missing = [], []
    for client in every:
        program = client.command[0]
        is_there = shutil.which(program) and (client.resolv == "stub" or os.path.exists(f"{DIRECTORY}/{client.resolv}.out"))
        if client.name == "java":
            is_there = is_there and os.path.exists(f"{DIRECTORY}/bin/Resolve.class")
        (there if is_there else missing).append(client)
    return there, missing


@dataclasses.dataclass
class Cell:
    """One run of a client for one name."""

    label: str
    argv: list
    tag: str
    # The exit code, or none where it is not hostgate's affair, and what the output has to hold; a pattern.
    want: tuple
    # Questions, or none where their number is the client's affair.
    questions: int | None
    # The time from the first to the last packet.
    most: float
    least: float = 0
    resolv: str = "stub"
    space: Space | None = None
    environment: dict = dataclasses.field(default_factory=dict)
    code: int | str = ""
    output: str = ""
    took: float = 0

    def run(self):
        shell = f'mount --bind {DIRECTORY}/resolv.{self.resolv} /etc/resolv.conf && exec "$@"'
        command = ["ip", "netns", "exec", self.space.ns, "sh", "-c", shell, "sh", *self.argv]
        environment = {"PATH": os.environ["PATH"], "HOME": DIRECTORY, "LC_ALL": "C.UTF-8", "GODEBUG": "netdns=go", **self.environment}
        begun = time.monotonic()
        try:
            done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=HUNG, text=True, errors="replace")
            self.code, self.output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            self.code, self.output = "hung", (error.stdout or b"").decode(errors="replace")
        self.took = time.monotonic() - begun

    def addresses(self):
        """Returns the addresses in the output that are of the upstream's making."""
        found = set()
        for word in re.split(r"[\s\[\]()'\"]+", self.output):
            with contextlib.suppress(ValueError):
                found.add(ipaddress.ip_address(word.strip(".,;")))
        nets = [ipaddress.ip_network(net) for net in ("192.0.2.0/24", "2001:db8:113::/48", "93.184.215.14")]
        return [one for one in found if any(one in net for net in nets)]

    def said(self):
        """Returns what it says, for a cell of the table."""
        families = sorted({one.version for one in self.addresses()})
        if families:
            return "+".join(map(str, families))
        return next((said for word, said in WORDS if word in self.output), "-")

    def judge(self, packets):
        count, span = packets.of(self.tag)
        code, text = self.want
        site = "|".join(map(re.escape, self.space.site))
        text = text.replace("site", f"({site})")
        output = self.output + f"\n{len(self.addresses())} addresses"
        good = (code in (None, self.code) and re.search(text, output) and (self.questions is None or count == self.questions)
                and self.least <= span <= self.most)
        detail = (f"exit {self.code}, wanted {code} with `{text}`; {count} questions, wanted {self.questions}; "
                  f"{span:.3f} s, wanted {self.least} to {self.most}\n    " + output.strip().replace("\n", "\n    "))
        judged(bool(good), self.label, detail)
        return f"{self.code} {self.said()} {self.took * 1000:.0f}/{span * 1000:.0f} {count}q"


def run_all(cells, width, pace=0.0):
    """Runs the cells, so many at once; one begins at most each `pace` seconds."""
    def run(number, cell, begun=time.monotonic()):
        time.sleep(max(0.0, begun + number * pace - time.monotonic()))
        cell.run()

    with concurrent.futures.ThreadPoolExecutor(width) as pool:
        list(pool.map(run, range(len(cells)), cells))
    return cells
