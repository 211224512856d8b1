"""What is asked: names, query files, and the programs that ask them."""

import json
import math
import os
import random
import re
import subprocess
from pathlib import Path

SUFFIXES = ["com.test", "org.test", "io.test", "dev.test", "net.test"]
CASES = ["denied", "cached", "miss", "mix"]
MOST_PER_SECOND = 150_000  # misses in a file, for each second it is asked for: more than any server takes


def make_names(count):
    """Returns the hostnames of the policy, always the same ones."""
    dice = random.Random(7)
    return [f"h{number:07d}-{dice.randrange(36**4):x}.{SUFFIXES[number % 5]}" for number in range(count)]


class Files:
    """Query files in a directory: a line `NAME A` each, as dnsperf reads them."""

    def __init__(self, directory, names):
        self.directory, self.names = Path(directory), names
        self.directory.mkdir(parents=True)
        self.asked = 0
        dice = random.Random(11)
        hot = [f"w{number % 7}.{name} A" for number, name in enumerate(dice.choices(names, k=1000))]
        denied = [f"x{dice.randrange(10**9)}.evil{dice.randrange(10**5)}.test A" for _ in range(100_000)]
        self.write("cached", hot)
        self.write("denied", denied)
        # The mix, with None where a name goes that nobody has asked for.
        kinds = dice.choices(("cached", "denied", "miss"), (70, 25, 5), k=2 * MOST_PER_SECOND)
        self.mixed = [{"cached": dice.choice(hot), "denied": dice.choice(denied), "miss": None}[kind] for kind in kinds]

    def write(self, name, lines):
        """Writes a query file and returns its path."""
        path = self.directory / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def lines(self, name):
        """Returns the lines of a query file."""
        return (self.directory / name).read_text().splitlines()

    def missing(self, count):
        """Returns so many queries that nobody has asked yet."""
        first, names = self.asked, self.names
        self.asked += count
        return [f"u{number}.{names[number * 7919 % len(names)]} A" for number in range(first, self.asked)]

    def of(self, case, seconds):
        """Returns the file for a case; for a case with misses, a fresh one for one use."""
        if case == "miss":
            return self.write("miss", self.missing(int(MOST_PER_SECOND * seconds)))
        if case == "mix":
            lines = self.mixed * math.ceil(seconds)
            fresh = iter(self.missing(lines.count(None)))
            return self.write("mix", [line or next(fresh) for line in lines])
        return self.directory / case


class Loads:
    """The programs that ask, on the core for loads."""

    def __init__(self, programs, core):
        self.programs, self.core = programs, core

    def flood(self, port, path, seconds):
        """Asks as fast as 200 outstanding queries of 10 clients allow, by dnsperf; once through for `seconds` 0.

        More of them would overflow the receive buffers of servers that keep the default size.
        """
        command = ["dnsperf", "-s", "127.0.0.1", "-p", port, "-d", path, "-c", 10, "-q", 200, "-t", 2, "-b", 1024]
        command += ["-l", seconds] if seconds else ["-n", 1]
        said = self.run(command, 30 + seconds)

        def number(pattern):
            found = re.search(pattern, said)
            return float(found.group(1)) if found else 0.0

        codes = dict(re.findall(r"(NOERROR|NXDOMAIN|SERVFAIL|REFUSED) (\d+)", said))
        answered = number(r"Queries completed:\s+(\d+)")
        return {
            "qps": number(r"Queries per second:\s+([\d.]+)"),
            # Without those that were still under way when the time was over.
            "asked": answered + number(r"Queries lost:\s+(\d+)"),
            "answered": answered,
            "seconds": number(r"Run time \(s\):\s+([\d.]+)"),
            **{key: int(codes.get(key.upper(), 0)) for key in ("noerror", "nxdomain", "servfail", "refused")},
        }

    def paced(self, port, path, seconds, rate, sources=16):
        """Asks at a fixed rate and returns latencies in microseconds, by our own program."""
        return self.own(port, path, seconds, "rate", rate, sources)

    def window(self, port, path, seconds, outstanding, sources):
        """Keeps so many queries outstanding, from so many addresses, by our own program."""
        result = self.own(port, path, seconds, "window", outstanding, sources)
        result["qps"] = result["answered"] / max(result["seconds"], 1e-9)
        return result

    def own(self, port, path, seconds, *words):
        """Runs `load`."""
        return json.loads(self.run([self.programs / "load", port, path, seconds, *words], 30 + seconds))

    def run(self, command, most):
        """Runs a program on the core for loads, for `most` seconds at most."""
        command = ["taskset", "-c", str(self.core), *map(str, command)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=most, check=False)
        if done.returncode:
            raise SystemExit(f"{os.path.basename(command[3])}: {done.stderr.strip()}")
        return done.stdout


def failures(case, result):
    """Returns the share of queries that did not get the answer their case calls for."""
    good = result["nxdomain"] if case == "denied" else result["noerror"]
    if case == "mix":
        good += result["nxdomain"]
    return 1 - good / max(1, result["asked"])
