"""Results as text: tables in Markdown, aligned so that they read well in a terminal too."""

import statistics

ORDER = ["limit", "hostgate", "unbound", "dnsdist", "dnsdist64", "recursor", "knot", "bind", "dnsmasq"]


def text(result):
    """Returns everything that was measured."""
    pieces = [heading(result)]
    for part, write in WRITERS.items():
        if part in result["parts"]:
            pieces.append(write(result["parts"][part]))
    return "\n".join(pieces)


def heading(result):
    """Returns machine, versions and settings."""
    m, s = result["machine"], result["settings"]
    shares = {True: "which are threads of one", False: "which are not threads of one", None: "whose kinship is unknown"}
    kind = "virtual machine" if m["virtual"] else "machine"
    lines = [
        f"{result['date']}: {m['cpu']}, {kind}, {m['cores']} cores, {m['memory_gib']} GiB, {m['system']}, "
        f"Linux {m['kernel']}.",
        f"Server on one core, load and upstream on another, {shares[m['server_and_load_share_a_core']]}.",
        f"Medians of {s['rounds']} rounds of {s['seconds']:g} s; latency at {s['rate']:,} queries/s.",
        f"Meanwhile other programs took {result['meanwhile']['others']:.0%} of the two cores, and the host "
        f"{result['meanwhile']['stolen']:.0%}: the less, the better the numbers.",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
    ]
    return "\n".join(lines) + "\n"


def table(part):
    """Returns the main table: a short one of multiples, then one for each case."""
    cases = part["cases"]
    names = [name for name in ORDER if any(name in rows for rows in cases.values())]
    rows = [[case, *(multiple(cases[case].get(name)) for name in names if name != "limit")] for case in cases]
    pieces = [
        "### CPU per query, as a multiple of the kernel's limit\n",
        grid(["case", *(name for name in names if name != "limit")], rows),
    ]
    for case, found in cases.items():
        rows = []
        for name in names:
            if name not in found:
                continue
            e, memory = found[name], part["memory"].get(name)
            t = e["latency"]
            rows.append([
                name,
                f"{e['multiple']:.2f} ({e['least']:.2f} to {e['most']:.2f})",
                f"{e['cpu_us']:.2f}",
                f"{e['qps']:,.0f}",
                f"{e['busy']:.0%}",
                *(f"{t[key]:,.0f}" for key in ("mean", "p50", "p99", "p999")),
                f"{memory['fresh_mib']:.0f} → {memory['loaded_mib']:.0f}" if memory else "",
                f"{e['datagrams']:.1f}",
                share(e["failed"]),
                share(t["late"] / max(1, t["asked"])),
            ])
        head = ["", "× limit (range)", "CPU µs/query", "queries/s", "core busy", "mean µs", "p50", "p99", "p99.9"]
        pieces.append(f"\n### {case}\n\n" + grid([*head, "MiB", "datagrams", "failed", "late"], rows))
    return "\n".join(pieces)


def names(part):
    """Returns what many hostnames cost."""
    rows = []
    for name, e in part.items():
        sizes = list(e["memory"])
        if not sizes:
            continue
        least = min(sizes, key=int)
        for size in sizes:
            memory = e["memory"][size]
            more, count = memory["mib"] - e["memory"][least]["mib"], int(size) - int(least)
            rows.append([
                name,
                f"{int(size):,}",
                *(relative(found, size, least) for found in e["cases"].values()),
                f"{memory['mib']:.0f}",
                f"{more * 1048576 / count:.0f}" if count else "",
                f"{memory['seconds']:.1f}",
            ])
    cases = list(next(iter(part.values()))["cases"]) if part else []
    head = ["", "hostnames", *(f"{case}: × limit (× few)" for case in cases), "MiB", "bytes/hostname", "start s"]
    return "\n### Many hostnames\n\n" + grid(head, rows)


def policies(part):
    """Returns what many policies cost."""
    least = min(part["memory"], key=int)
    rows = [
        [
            f"{int(count):,}",
            *(relative(found, count, least) for found in part["cases"].values()),
            f"{memory['mib']:.0f}",
            f"{memory['seconds']:.1f}",
        ]
        for count, memory in part["memory"].items()
    ]
    head = ["policies", *(f"{case}: × limit (× few)" for case in part["cases"]), "MiB", "start s"]
    return "\n### Many policies (hostgate)\n\n" + grid(head, rows)


def reload(part):
    """Returns how long a load and a changed file take, and the memory."""
    few, rows = part["few"], []
    for setting, e in part.items():
        seconds, ms = sorted(e["seconds"]), sorted(e["ms"])
        more = e["hostnames"] - few["hostnames"]
        # Files are no hostnames: their memory is told by itself.
        base = part["files"]["mib"] if e["files"] and "files" in part else few["mib"]
        rows.append([
            setting,
            f"{e['hostnames']:,}",
            f"{e['files']:,}",
            f"{seconds[len(seconds) // 2]:.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f})",
            f"{ms[len(ms) // 2]:.0f} ({ms[0]:.0f} to {ms[-1]:.0f})" if ms else "",
            f"{e['mib']:.0f}",
            f"{e['peak_mib']:.0f}",
            f"{(e['mib'] - base) * 1048576 / more:.0f}" if more else "",
        ])
    head = ["", "hostnames", "files", "load s (range)", "one change, ms (range)", "MiB", "peak MiB", "bytes/hostname"]
    return "\n### Load and reload (hostgate)\n\n" + grid(head, rows)


def created(part):
    """Returns how long devboxes took to create."""
    if not part:
        return "\n### Devboxes created over the API (hostgate)\n\nnot measured\n"
    load, rows = part["load"], []
    for title, ms in ((f"the first {part['before']:,}", part["first_ms"]), ("more, while queries come", part["ms"])):
        ms = sorted(ms)
        rows.append([
            title,
            f"{len(ms):,}",
            f"{len(ms) * 1000 / max(1e-9, sum(ms)):,.0f}",
            *(f"{ms[min(len(ms) - 1, int(len(ms) * part))]:.1f}" for part in (0.5, 0.99, 1)),
        ])
    head = ["", "created", "a second", "p50 ms", "p99", "max"]
    said = (
        f"\nNot in force when the call returned: {part['wrong']}. A devbox takes {part['octets']:,.0f} octets of memory. "
        f"Of {load['asked']:,} queries at {part['rate']:,}/s meanwhile {load['asked'] - load['answered']:,} were lost; "
        f"p50 {load['p50']:,.0f} µs, p99 {load['p99']:,.0f}.\n"
    )
    return "\n### Devboxes created over the API (hostgate)\n\n" + grid(head, rows) + "\n" + said


def upstreams(part):
    """Returns what clients see of a faulty upstream."""
    titles = {
        "none": "none (through the relay)",
        "slow": "50 ms slow",
        "lossy": "5 % of queries lost",
        "dead": "one of two silent",
    }
    rows = [
        [
            titles[fault],
            name,
            share(e["failed"]),
            share(e["servfail"] / max(1, e["asked"])),
            *(f"{e[key] / 1000:,.1f}" for key in ("mean", "p50", "p99", "p999", "max")),
            f"{e['cpu_us']:.1f}",
        ]
        for fault, found in part.items()
        for name, e in found.items()
    ]
    head = ["fault", "", "not NOERROR", "SERVFAIL", "mean ms", "p50", "p99", "p99.9", "max", "CPU µs/query"]
    return "\n### Misses with a faulty upstream\n\n" + grid(head, rows)


def swaps(part):
    """Returns what clients see of policies that are swapped under load."""
    rounds = part["rounds"]
    if not rounds["quiet"]:
        return "\n### Swaps under load (hostgate)\n\nnot measured\n"
    middle = lambda name, key: statistics.median(result[key] for result in rounds[name])  # noqa: E731
    total = lambda name, key: sum(result[key] for result in rounds[name])  # noqa: E731
    rows = [
        [
            name,
            *(f"{total(name, key):,}" for key in ("asked", "swaps", "lost", "unread", "wrong")),
            *(f"{middle(name, key):,.0f}" for key in ("p50", "p99", "p999", "max")),
            *(f"{middle(name, key) / max(1e-9, middle('quiet', key)):.2f}" for key in ("p99", "p999")),
            share(total(name, "late") / max(1, total(name, "asked"))),
        ]
        for name in rounds
    ]
    head = ["", "asked", "swaps", "lost", "of those, queue full", "wrong RCODE", "p50 µs", "p99", "p99.9", "max"]
    head += ["p99 × quiet", "p99.9 × quiet", "late"]
    title = f"\n### Swaps under load (hostgate, {part['rate']:,} queries/s)\n\n"
    return title + grid(head, rows)


def variants(title):
    """Returns a writer for one server in several settings, the first of which is the measure."""

    def write(part):
        cases = part["cases"]
        found = [name for name in next(iter(cases.values())) if name != "limit"]
        found.sort(key=["off", "metrics", "metrics and decision log"].index)
        rows = [[name, *(relative(cases[case], name, found[0]) for case in cases)] for name in found]
        return f"\n### {title}\n\n" + grid(["", *(f"{case}: × limit (× first)" for case in cases)], rows)

    return write


def multiple(entry):
    """Returns a multiple of the limit, or a dash."""
    return f"{entry['multiple']:.2f}" if entry else "–"


def relative(found, key, base):
    """Returns the multiple of the limit, and of the base's CPU per query."""
    if key not in found or base not in found:
        return "–"
    return f"{found[key]['multiple']:.2f} ({found[key]['multiple'] / found[base]['multiple']:.2f})"


def share(value):
    """Returns a share as a percentage; nothing for none."""
    return f"{value:.2%}" if value > 0 else "0"


def grid(head, rows):
    """Returns a Markdown table, columns padded."""
    columns = [[str(row[i]) for row in [head, *rows]] for i in range(len(head))]
    widths = [max(3, *map(len, column)) for column in columns]
    line = lambda cells: "| " + " | ".join(str(c).ljust(w) for c, w in zip(cells, widths)) + " |"  # noqa: E731
    return "\n".join([line(head), "|" + "|".join("-" * (w + 2) for w in widths) + "|", *map(line, rows)])


WRITERS = {
    "table": table,
    "names": names,
    "policies": policies,
    "reload": reload,
    "upstreams": upstreams,
    "records": variants("Metrics and decision log (hostgate)"),
    "swaps": swaps,
    "devboxes": created,
}
