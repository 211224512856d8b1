#!/usr/bin/env python3
"""Runs the clients of clients.sh, prints what each says, and judges it: lines of `pass`, `FAIL` and `skip`, and a table.

  clients.py DIRECTORY

DIRECTORY is clients.sh's. A cell of the table is a client's exit code, what it says (the families of the addresses it
found, or its word for a failure), its own time with the start of the program, the time from its first to its last DNS
packet, and its questions; packets are those on the devbox's link. Each cell asks for a name of its own, so that no cache
answers and every packet has one cell.
"""
import concurrent.futures, contextlib, importlib.util, os, re, shutil, subprocess, sys, threading, time

from cells import ALL, NOTHING, QUICK, SLACK, Cell, clients, run_all
from link import DIRECTORY, NOERROR, NXDOMAIN, SERVFAIL, SITE4, Packets, Space, ask, failures, judged, until

HERE = os.path.dirname(os.path.abspath(__file__))
COLUMNS = ["allowed", "denied", "denied, search", "SERVFAIL", "silent", "3 s", "120 + 120"]


def matrix(space, those):
    """Returns the cells of the table: by client, one for each column."""
    cells = {}
    for number, client in enumerate(those):
        def cell(column, zone, want, questions, most, least=0, resolv=client.resolv):
            tag = f"c{number}-{column}"
            return Cell(f"{client.name}: {COLUMNS[column]}", client.argv(f"{tag}.{zone}.example"), tag, want, questions, most,
                        least, resolv, space)

        # A forwarder asks when and what it likes.
        is_stub = client.resolv == "stub"
        questions, searched = (client.questions, client.searched) if is_stub else (None, None)
        refused = client.refused or questions
        cells[client.name] = [
            cell(0, "ok", client.allowed, questions, QUICK),
            cell(1, "denied", client.denied, refused, QUICK),
            cell(2, "denied", client.denied, searched, QUICK, resolv=f"{client.resolv}.search"),
            cell(3, "servfail", client.failing, None, client.patience[0]),
            cell(4, "silent", client.failing, None, client.patience[1]),
            # What counts is the answer: it comes when the upstream gives it.
            cell(5, "slow", client.allowed if client.is_patient else (None, ""), None, 3 * client.rounds + SLACK, least=2.9),
            cell(6, "many", client.many, None, SLACK),
        ]
    return cells


def special(space, those):
    """Returns the cells of what else clients ask for."""
    names = {client.name: client for client in those}
    getent, cells = ["getent", "ahosts"], []

    def add(label, argv, want, questions=None, most=QUICK, resolv="stub", tag=None, least=0):
        if not shutil.which(argv[0]):
            return
        tag = tag or f"s{len(cells)}"
        cells.append(Cell(label, [part.replace("TAG", tag) for part in argv], tag, want, questions, most, least, resolv, space))

    def everybody(label, zone, want, questions=None, only=None, resolv="stub"):
        for client in those:
            if client.resolv == "stub" and (only is None or client.name in only):
                add(f"{client.name}: {label}", client.argv(f"TAG.{zone}"), want or client.allowed, questions, resolv=resolv)

    # Chromium and curl ask for HTTPS beside the addresses: it must neither fail nor be waited for.
    for program in ("dig", "kdig"):
        add(f"{program}: HTTPS", [program, "TAG.svc.example", "TYPE65"], (0, 'alpn="?h2'), 1)
        add(f"{program}: HTTPS, no such record", [program, "TAG.ok.example", "TYPE65"], (0, "NOERROR"), 1)
        add(f"{program}: HTTPS, denied", [program, "TAG.denied.example", "TYPE65"], (0, "NXDOMAIN"), 1)
        add(f"{program}: SVCB, denied", [program, "TAG._dns.denied.example", "TYPE64"], (0, "NXDOMAIN"), 1)
    # What browsers and systems ask for to find a way around their resolver.
    add("dig: the canary of Firefox", ["dig", "use-application-dns.net"], (0, "NXDOMAIN"), 1, tag="use-application-dns")
    add("dig: discovery of designated resolvers", ["dig", "_dns.resolver.arpa", "TYPE64"], (0, "NXDOMAIN"), 1, tag="_dns")
    few = ["glibc getent", "glibc curl", "node lookup", "node c-ares", "java", "go (podman)", "musl", "busybox nslookup", "dig", "host"]
    everybody("seven aliases", "chain.example", None, only=few)
    everybody("seven aliases in the wrong order", "tangled.example", None, only=few)
    everybody("trailing dot, search domains", "ok.example.", None, 2, [*few[:2], "node lookup", "java", "musl"], "stub.search")
    everybody("trailing dot, denied, search domains", "denied.example.", (2, ""), 2, ["glibc getent", "musl"], "stub.search")
    for client in ("glibc getent", "glibc curl", "node lookup", "node c-ares", "java", "musl", "busybox nslookup", "dig"):
        if client in names:
            argv = names[client].argv("TaG.Ok.ExAmPlE")
            tag = f"s{len(cells)}"
            add(f"{client}: mixed case", [part.replace("TaG", tag.upper()) for part in argv], names[client].allowed,
                names[client].questions, tag=tag)
    # The name as a person writes it; the policy has it so too.
    for client in ("glibc getent", "glibc curl", "glibc python3", "node lookup", "node c-ares"):
        if client in names:
            add(f"{client}: bücher", names[client].argv("TAG.bücher.example"), names[client].allowed)
    add("dig: bücher", ["dig", "+idnin", "TAG.bücher.example"], (0, "site"))
    # Of the addresses, one is private: the other one is had at once.
    mixed = (0, r"93\.184\.215\.14")
    for client in ("glibc getent", "glibc python3", "node lookup", "node c-ares", "java", "musl", "busybox nslookup"):
        if client in names:
            add(f"{client}: private AAAA beside a public A", names[client].argv("TAG.mixed.example"), mixed, 2)
    add("dig: private AAAA, why", ["dig", "TAG.mixed.example", "AAAA"],
        (0, r"EDE: 17 \(Filtered\): \(no data by policy box.*Ask the platform team\."), 1)
    add("dig: denied, why", ["dig", "TAG.denied.example"], (0, r"EDE: 15 \(Blocked\): \(denied by policy box.*Ask the platform team\."), 1)
    add("kdig: denied, why", ["kdig", "+edns", "TAG.denied.example"], (0, "(?i)EDE: 15 .*policy box"), 1)
    # Addresses by which programs look up names.
    reverse = [
        ("getent hosts", ["getent", "hosts", "203.0.113.TAG"]), ("dig -x", ["dig", "-x", "203.0.113.TAG"]),
        ("kdig -x", ["kdig", "-x", "203.0.113.TAG"]), ("host", ["host", "203.0.113.TAG"]),
        ("nslookup", ["nslookup", "203.0.113.TAG"]), ("busybox nslookup", ["busybox", "nslookup", "203.0.113.TAG"]),
        ("python3", [sys.executable, "-Ic", "import socket; print(socket.gethostbyaddr('203.0.113.TAG'))"]),
        ("node", ["node", "-e", "require('dns').reverse('203.0.113.TAG', (error, names) => console.log(error || names))"]),
    ]
    for number, (label, argv) in enumerate(reverse, 11):
        add(f"{label}: reverse", argv, (0, f"p{number}.ok.example"), 1, tag=str(number))
    for number, (label, argv) in enumerate(reverse[:2], 41):
        argv = [part.replace("203.0.113", "198.18.7") for part in argv]
        add(f"{label}: reverse, denied", argv, (0, "NXDOMAIN") if "dig" in label else (2, NOTHING), 1, tag=str(number))
    # By family, and what resolv.conf may say besides.
    for family, own in zip("46", space.site):
        add(f"getent ahostsv{family}", ["getent", f"ahostsv{family}", "TAG.ok.example"], (0, re.escape(own)))
        add(f"getent ahostsv{family}, denied", ["getent", f"ahostsv{family}", "TAG.denied.example"], (2, NOTHING))
        kind = "-type=a" if family == "4" else "-type=aaaa"
        for program in (["nslookup"], ["busybox", "nslookup"]):
            add(f"{' '.join(program)} {kind}", [*program, kind, "TAG.ok.example"], (0, re.escape(own)), 1)
            add(f"{' '.join(program)} {kind}, denied", [*program, kind, "TAG.denied.example"], (1, "NXDOMAIN"), 1)
    for option in OPTIONS:
        one = option.split()[0]
        add(f"getent, options {option}", [*getent, "TAG.ok.example"], (0, "site"), 1 if one == "no-aaaa" else 2, resolv=one)
        add(f"getent, options {option}, denied", [*getent, "TAG.denied.example"], (2, NOTHING), 1 if one == "no-aaaa" else 2, resolv=one)
        many = "120 addresses" if one == "no-aaaa" else ALL
        add(f"getent, options {option}, 120 + 120", [*getent, "TAG.many.example"], (0, many), resolv=one)
        # One question after the other: each takes its three seconds.
        is_single = one.startswith("single-request")
        add(f"getent, options {option}, 3 s", [*getent, "TAG.slow.example"], (0, "site"), None, (6 if is_single else 3) + SLACK, one, least=2.9)
    if space.host6:
        # The same devbox over IPv6 is a client whose policy has no AAAA.
        for client in ("glibc getent", "glibc curl", "node lookup", "node c-ares", "java", "go (podman)", "musl", "busybox nslookup", "dig"):
            if client in names:
                one = names[client]
                want = (one.allowed[0], one.allowed[1].replace("site", re.escape(SITE4)))
                add(f"{client}: over IPv6, no AAAA for it", one.argv("TAG.ok.example"), want, one.questions, resolv="six")
                add(f"{client}: over IPv6, denied", one.argv("TAG.denied.example"), one.denied, one.refused or one.questions, resolv="six")
    return cells


def installers(space):
    """Returns a cell for each package manager and a denied host, with what the guide has for them: each asks but once."""
    with open(f"{HERE}/../../docs/src/devboxes.md") as file:
        guide = file.read()
    settings = dict(pair.split("=") for pair in re.search(r"(?m)^ENV (.*)$", guide).group(1).split())
    options = re.findall(r"'([^ ']+ \"[^\"]*\";)'", guide)
    home = f"{DIRECTORY}/installers"
    os.makedirs(f"{home}/lists/partial")
    os.makedirs(f"{home}/archives/partial")
    os.makedirs(f"{home}/crate/src")
    os.makedirs(f"{home}/crate/.cargo")
    texts = {
        "sources.list": "deb [trusted=yes] http://apt.denied.example/debian stable main\n",
        "apt.conf": "\n".join([*options, f'Dir::Etc::SourceList "{home}/sources.list";', 'Dir::Etc::SourceParts "/dev/null";',
                               f'Dir::State "{home}";', f'Dir::Cache "{home}";', 'APT::Sandbox::User "root";']),
        "status": "",
        "crate/src/lib.rs": "",
        "crate/Cargo.toml": '[package]\nname = "x"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\nserde = "1"\n',
        "crate/.cargo/config.toml": '[source.crates-io]\nreplace-with = "d"\n'
                                    '[source.d]\nregistry = "sparse+http://cargo.denied.example/index/"\n',
    }
    for name, text in texts.items():
        with open(f"{home}/{name}", "w") as file:
            file.write(text)
    rustup = os.environ.get("RUSTUP_HOME", os.path.expanduser("~/.rustup"))
    settings |= {"APT_CONFIG": f"{home}/apt.conf", "RUSTUP_HOME": rustup}
    commands = {
        "apt": (["apt-get", "update"], 100, "Could not resolve"),
        "pip": ([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "-i", "https://pip.denied.example/", "x"], 1,
                "No matching distribution"),
        "npm": (["npm", "view", "--registry", "http://npm.denied.example", "x"], 1, "ENOTFOUND"),
        "cargo": (["cargo", "fetch", "--manifest-path", f"{home}/crate/Cargo.toml", "--config", f"{home}/crate/.cargo/config.toml"],
                  101, "Could not resolve"),
    }
    for name in [name for name in commands if not (importlib.util.find_spec("pip") if name == "pip" else shutil.which(commands[name][0][0]))]:
        print(f"skip clients: {name}: it is not installed")
        del commands[name]
    # Some ask twice in a row; it is a second or more until those that try again do.
    return [Cell(f"{name}: denied, with the guide's settings", argv, name, (code, text), None, 1.5, 0.0001, "stub", space, settings)
            for name, (argv, code, text) in commands.items()]


SERVERS = {"dnsmasq": "127.0.0.2", "unbound": "127.0.0.3", "resolved": "127.0.0.53"}
# Cells at once of those that take CPU time alone.
WIDTH = 3
# Seconds between the starts of those that wait: a hundred programs that start at once would take as long as a time-out.
PACE = 0.08
OPTIONS = ["edns0 trust-ad", "single-request", "single-request-reopen", "use-vc", "rotate", "no-aaaa"]


def resolv_confs(box, ops):
    texts = {"stub": f"nameserver {box.host4}\n", "ops": f"nameserver {ops.host4}\n"}
    texts |= {name: f"nameserver {server}\n" for name, server in SERVERS.items()}
    search = "search corp.example dev.example\noptions ndots:5\n"
    texts |= {f"{name}.search": text + search for name, text in texts.items()}
    texts |= {option.split()[0]: f"nameserver {box.host4}\noptions {option}\n" for option in OPTIONS}
    if box.host6:
        texts["six"] = f"nameserver {box.host6}\n"
    for name, text in texts.items():
        with open(f"{DIRECTORY}/resolv.{name}", "w") as file:
            file.write(text)


def edit(space, old, new):
    """Changes the policy file as an editor does."""
    path = f"{space.directory}/policies/p.toml"
    with open(path) as file:
        text = file.read()
    assert old in text
    with open(f"{DIRECTORY}/edited", "w") as file:
        file.write(text.replace(old, new, 1))
    os.rename(f"{DIRECTORY}/edited", path)


def cells_of(space, those, tag, zone, what, want, most=QUICK, resolv=None):
    """Returns a cell for each client; `want` says what is wanted of it."""
    return [Cell(f"{client.name}: {what}", client.argv(f"{tag}{number}.{zone}.example"), f"{tag}{number}", want(client), None,
                 most, 0, resolv or client.resolv, space) for number, client in enumerate(those)]


def new_allow(space, packets, those):
    """A name that was denied is allowed: each client has it with its next look-up, a cache after the denial's TTL."""
    left_out = ("glibc wget", "glibc git", "glibc ssh", "busybox wget", "kdig")
    chosen = [client for client in those if client.name not in left_out]
    # The same names before and after: their packets lie far apart.
    before = cells_of(space, chosen, "d", "late", "denied until now", lambda client: client.denied, 100)
    after = cells_of(space, chosen, "d", "late", "allowed a moment ago", lambda client: client.allowed, 100)
    for cell in run_all(before, WIDTH):
        cell.judge(packets)
    begun = time.monotonic()
    edit(space, "allowed_hostnames = [", 'allowed_hostnames = ["*.late.example", ')
    judged(bool(until(10, lambda: space.within(ask, space.host4, "x.late.example")[0] == NOERROR)), "a new allow is in force")
    print(f"a new allow: in force {1000 * (time.monotonic() - begun):.0f} ms after it was saved")
    for cell in run_all([cell for cell in after if cell.resolv == "stub"], WIDTH):
        cell.judge(packets)
    for cell in after:
        if cell.resolv != "stub":
            def is_there():
                cell.run()
                return cell.code == 0
            # `denied_ttl` is five seconds, which a resolver in between keeps the denial.
            until(max(0.0, begun + 8 - time.monotonic()), is_there)
            print(f"a new allow: {cell.label.split(':')[0]} has it {time.monotonic() - begun:.1f} s after it was saved")
            cell.judge(packets)


class Load:
    """Questions from several threads of the devbox, each one asked once and never again."""

    def __init__(self, space):
        self.space, self.results, self.is_over = space, [], threading.Event()
        self.threads = [threading.Thread(target=self.ask_on, args=(number,), daemon=True) for number in range(8)]
        for thread in self.threads:
            thread.start()

    def ask_on(self, thread):
        self.space.enter()
        number = 0
        while not self.is_over.wait(0.05):
            number += 1
            name, want = ("denied", NXDOMAIN) if number % 2 else ("ok", NOERROR)
            rcode, took = ask(self.space.host4, f"l{thread}-{number}.{name}.example", seconds=5)
            self.results.append((rcode == want, took))

    def end(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join()


def take_over(space):
    """Replaces hostgate twice while it is asked, and returns the last one."""
    load, successor = Load(space), None
    command = ["setpriv", "--pdeathsig", "KILL", os.environ["HOSTGATE"], "serve", "--takeover", "--config", f"{space.directory}/hostgate.toml"]
    for turn in ("first", "second"):
        asked = len(load.results)
        judged(bool(until(10, lambda: len(load.results) > asked + 50)), f"take-over: load before the {turn}")
        log = f"{DIRECTORY}/hostgate-{space.name}-{turn}.out"
        with open(log, "w") as file:
            predecessor, successor = successor, subprocess.Popen(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL)

        def is_ready():
            with open(log) as file:
                return " ready " in file.read()
        judged(bool(until(10, is_ready)), f"take-over: the {turn} successor serves")
        if predecessor:
            with contextlib.suppress(subprocess.TimeoutExpired):
                predecessor.wait(10)
            judged(predecessor.poll() == 0, "take-over: the predecessor ends with 0", str(predecessor.poll()))
    asked = len(load.results)
    until(10, lambda: len(load.results) > asked + 50)
    load.end()
    lost, worst = sum(not good for good, _ in load.results), max(took for _, took in load.results)
    judged(lost == 0 and len(load.results) > 150, "take-over: nothing is lost", f"{lost} of {len(load.results)}")
    print(f"take-over: {len(load.results)} questions, {lost} lost, the slowest {worst * 1000:.0f} ms")
    return successor


def outage(space, packets, those):
    """The upstream goes away and comes back: names asked meanwhile are answered as soon as others are."""
    chosen = [client for client in those if client.name in ("glibc getent", "node lookup", "musl", "busybox nslookup", "dig")]
    switch = f"{space.directory}/outage"
    judged(space.within(ask, space.host4, "before.ok.example")[0] == NOERROR, "outage: an answer before")
    open(switch, "w").close()
    for cell in run_all(cells_of(space, chosen, "o", "ok", "asked during an outage", lambda client: client.failing, 17, "ops"), 8):
        cell.judge(packets)
    rcode, took = space.within(ask, space.host4, "dead.ok.example")
    judged(rcode == SERVFAIL and took < 2, "outage: an upstream that is known to be dead fails at once", f"{rcode} after {took:.3f} s")
    print(f"outage: SERVFAIL after {took * 1000:.0f} ms once the upstream is known to be dead")
    os.remove(switch)
    begun = time.monotonic()
    # Nothing else is asked for, so it is this name that finds out.
    is_back = until(3, lambda: space.within(ask, space.host4, "o0.ok.example")[0] == NOERROR)
    judged(bool(is_back), "outage over: a name asked meanwhile is answered, by itself")
    print(f"outage over: a name asked meanwhile is answered {1000 * (time.monotonic() - begun):.0f} ms after the upstream came back")
    for name in ("fresh", "dead"):
        rcode, took = space.within(ask, space.host4, f"{name}.ok.example")
        judged(rcode == NOERROR and took < 2, f"outage over: `{name}` is answered at once", f"{rcode} after {took:.3f} s")
    packets.seen.clear()
    for cell in run_all(cells_of(space, chosen, "o", "ok", "asked again after the outage", lambda client: client.allowed, QUICK, "ops"), 8):
        cell.judge(packets)


def blink(space, packets, those):
    """The upstream is gone for a second and a half, as in a restart: who asks then is answered before stubs ask again."""
    chosen = [client for client in those if client.name in ("glibc getent", "node c-ares", "musl", "busybox nslookup", "dig")]
    switch = f"{space.directory}/outage"
    open(switch, "w").close()
    threading.Timer(1.5, os.remove, [switch]).start()
    for cell in run_all(cells_of(space, chosen, "b", "ok", "asked while the upstream restarts", lambda client: client.allowed, 4.5, "ops"), 8):
        cell.judge(packets)


def tick(space, is_over):
    """Asks for what is answered, so that the upstream is known to be alive while some names get no answer."""
    space.enter()
    number = 0
    while not is_over.wait(0.2):
        number += 1
        ask(space.host4, f"tick{number}.ok.example", seconds=2)


def main():
    box, ops = Space("box"), Space("ops")
    resolv_confs(box, ops)
    if not box.host6:
        print("skip clients: IPv6, there is none here")
    those, missing = clients()
    for client in missing:
        print(f"skip clients: {client.name}: {os.path.basename(client.command[0])} or what it asks is not installed")
    packets, ops_packets, is_over = Packets(box.link), Packets(ops.link), threading.Event()
    for client in those:
        if client.resolv != "stub":
            server = SERVERS[client.resolv]
            if not until(10, lambda: box.within(ask, server, "up.ok.example", 1)[0] == NOERROR):
                judged(False, f"{client.name}: it answers")
    ticker = threading.Thread(target=tick, args=(box, is_over), daemon=True)
    ticker.start()

    def operate():
        successor = take_over(ops)
        outage(ops, ops_packets, those)
        blink(ops, ops_packets, those)
        successor.terminate()
        judged(successor.wait(10) == 0, "hostgate ends with 0 when told to")

    table, others = matrix(box, those), special(box, those) + installers(box)
    every = [cell for column in zip(*table.values()) for cell in column] + others
    waiting, quick = [cell for cell in every if cell.most > SLACK], [cell for cell in every if cell.most <= SLACK]
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        parts = [pool.submit(run_all, waiting, len(waiting), PACE), pool.submit(operate), pool.submit(run_all, quick, WIDTH)]
        parts[2].result()
        print(f"{len(quick)} quick cells after {time.monotonic() - begun:.1f} s")
        new_allow(box, packets, those)
        print(f"new allow after {time.monotonic() - begun:.1f} s")
        for part in parts:
            part.result()
    is_over.set()
    ticker.join()
    rows = [["client", *COLUMNS]]
    rows += [[name, *(cell.judge(packets) for cell in cells)] for name, cells in table.items()]
    for cell in others:
        cell.judge(packets)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print("\nexit code, families of the addresses or word, ms of the program / of its packets, questions")
    for row in rows:
        print(" | ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())
    print(f"took {time.monotonic() - begun:.1f} s", flush=True)
    sys.exit(bool(failures))


main()
