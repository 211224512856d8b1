"""What the operating system knows: processes and what they cost, cores, ports, queries."""

import os
import random
import socket
import struct
import time
from pathlib import Path

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"  # servers live in sbin


def family(pid):
    """Returns a process and all below it."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        found.append(parent)
        for task in tasks(parent):
            try:
                todo += [int(word) for word in (task / "children").read_text().split()]
            except OSError:
                pass
    return found


def tasks(pid):
    """Returns the directories of a process's threads."""
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def tell(pid, number):
    """Sends a signal to a process that may be gone."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def cpu_seconds(pid):
    """Returns the CPU time of a process, its threads and children, user and system.

    /proc/PID/task/TID/schedstat counts nanoseconds; the ticks of /proc/PID/stat are samples, 4 or 10 ms each.
    """
    spent = 0
    for process in family(pid):
        for task in tasks(process):
            try:
                spent += int((task / "schedstat").read_text().split()[0])
            except (OSError, IndexError):
                pass
    return spent / 1e9


class Meanwhile:
    """What else went on: the share of the cores that programs beside this one, or neighbours (steal), took."""

    def __init__(self, cores):
        self.cores, self.clock = cores, time.monotonic()
        self.start = self.now()

    def now(self):
        """Returns busy and stolen time of the cores, and the time of this program and its finished children."""
        busy = stolen = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in {f"cpu{core}" for core in self.cores}:
                user, nice, system, _, _, irq, softirq, steal = map(int, fields[:8])
                busy += user + nice + system + irq + softirq
                stolen += steal
        times = os.times()
        ticks = os.sysconf("SC_CLK_TCK")
        return busy / ticks, stolen / ticks, sum(times[:4])

    def shares(self):
        """Returns the shares; the servers must have been stopped."""
        busy, stolen, ours = (after - before for after, before in zip(self.now(), self.start))
        room = (time.monotonic() - self.clock) * len(self.cores)
        return {"others": max(0.0, busy - ours) / room, "stolen": stolen / room}


def udp_drops(port):
    """Returns the number of datagrams that found the queues of a port on 127.0.0.1 full."""
    local = f"0100007F:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return sum(int(fields[-1]) for fields in lines if fields[1] == local)


def datagrams():
    """Returns the number of UDP datagrams that programs of this machine have received."""
    lines = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")]
    return int(lines[1][lines[0].index("InDatagrams")])


def resident_mib(pid):
    """Returns the resident memory of a process and its children."""
    return memory_mib(pid, "VmRSS:")


def peak_mib(pid):
    """Returns the most that was resident at once."""
    return memory_mib(pid, "VmHWM:")


def memory_mib(pid, key):
    """Returns the sum of a line of /proc/PID/status over a process and its children."""
    kib = 0
    for process in family(pid):
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in status.splitlines() if line.startswith(key))
    return kib / 1024


def free_port():
    """Returns a port on loopback that is free for UDP and TCP; below the range the kernel gives to clients."""
    for _ in range(1000):
        port = random.randrange(15000, 32000)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            try:
                udp.bind(("0.0.0.0", port))
                tcp.bind(("0.0.0.0", port))
                return port
            except OSError:
                continue
    raise SystemExit("no free port on loopback")


def ask(port, name, wait=0.5, source="127.0.0.1"):
    """Asks for a name's address, from an address; returns RCODE and number of answers, or None."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack("!6H", random.randrange(1 << 16), 0x0100, 1, 0, 0, 0) + labels + b"\0\0\1\0\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.settimeout(wait)
        udp.bind((source, 0))
        udp.connect(("127.0.0.1", port))
        try:
            udp.send(query)
            reply = udp.recv(4096)
        except OSError:
            return None
    return (reply[3] & 15, struct.unpack("!H", reply[6:8])[0]) if reply[:2] == query[:2] else None


def wait_for(port, name, expected, seconds):
    """Asks until the answer is the expected one; returns the seconds it took, or None."""
    start = time.monotonic()
    while time.monotonic() < start + seconds:
        if ask(port, name) == expected:
            return time.monotonic() - start
        time.sleep(0.02)
    return None


def two_cores():
    """Returns the first two cores this process may use."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("two cores are needed: one for the server, one for the load and the upstream")
    return allowed[:2]


def describe(cores):
    """Returns what the reader of a table has to know of the machine."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "unknown",
    )
    siblings = Path(f"/sys/devices/system/cpu/cpu{cores[0]}/topology/thread_siblings_list")
    try:
        shares = cores[1] in expand(siblings.read_text().strip())
    except OSError:
        shares = None
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines())
    release = Path("/etc/os-release").read_text()
    system = next((l.split("=")[1].strip('"') for l in release.splitlines() if l.startswith("PRETTY_NAME=")), "")
    return {
        "cpu": model,
        "virtual": "hypervisor" in Path("/proc/cpuinfo").read_text(),
        "cores": os.cpu_count(),
        "server_and_load_share_a_core": shares,
        "memory_gib": round(memory / 1048576, 1),
        "kernel": os.uname().release,
        "system": system,
    }


def expand(ranges):
    """Returns the numbers of a list such as `0-1,4`."""
    numbers = set()
    for part in ranges.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers
