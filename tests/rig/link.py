"""The link of a devbox: its addresses, questions asked from within it, and the DNS packets on it. For clients.py."""
import collections, concurrent.futures, contextlib, ctypes, random, socket, struct, sys, threading, time

# The directory of clients.sh: the namespaces' addresses, hostgate's files, what programs wrote.
DIRECTORY = sys.argv[1]
A, NOERROR, SERVFAIL, NXDOMAIN = 1, 0, 2, 3
# Where allowed names lead: addresses of the devbox itself, where a web server is.
SITE4, SITE6 = "192.0.2.200", "2001:db8:113::200"
SO_TIMESTAMPNS, CLONE_NEWNET = 35, 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
PRINTING = threading.Lock()
failures = []


def judged(good, label, detail=""):
    """Prints whether a check passed."""
    with PRINTING:
        if not good:
            failures.append(label)
        print(f"{'pass' if good else 'FAIL'} clients: {label}" + (f": {detail}" if detail and not good else ""), flush=True)


def until(seconds, fact):
    """Repeats `fact` until it is true; returns what it came to."""
    end = time.monotonic() + seconds
    while not (value := fact()) and time.monotonic() < end:
        time.sleep(0.02)
    return value


class Space:
    """A devbox: its namespace, and the addresses at both ends of its link."""

    def __init__(self, name):
        self.name, self.directory = name, f"{DIRECTORY}/{name}"
        with open(f"{DIRECTORY}/{name}.vars") as file:
            values = dict(line.strip().removeprefix(f"{name}_").split("=", 1) for line in file)
        self.ns, self.link = values["NS"], values["LINK"]
        self.host4, self.host6 = values["HOST4"], values["HOST6"]
        self.site = [SITE4, SITE6] if self.host6 else [SITE4]

    def enter(self):
        """Moves this thread into the namespace: what sockets it makes from now on are the devbox's."""
        with open(f"/run/netns/{self.ns}") as file:
            if LIBC.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    def within(self, work, *arguments):
        """Does `work` in a thread of its own in the devbox."""
        with concurrent.futures.ThreadPoolExecutor(1, initializer=self.enter) as pool:
            return pool.submit(work, *arguments).result()


def query(name, number):
    question = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\x00"
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question + struct.pack("!2H", A, 1)


def ask(server, name, seconds=8):
    """Asks once for an address, in the thread's namespace, and returns the RCODE and how long it took; no RCODE is no answer."""
    number, begun = random.getrandbits(16), time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(seconds)
        client.connect((server, 53))
        client.send(query(name, number))
        try:
            reply = client.recv(4096)
        except OSError:
            return None, time.monotonic() - begun
    assert struct.unpack_from("!H", reply)[0] == number
    return reply[3] & 15, time.monotonic() - begun


class Packets(threading.Thread):
    """The DNS packets on a link, each with the first label of its question."""

    def __init__(self, link):
        super().__init__(daemon=True)
        self.seen = collections.defaultdict(list)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((link, 3))
        self.start()

    def run(self):
        while True:
            packet, ancillary, *_ = self.socket.recvmsg(65535, 64)
            seconds, nanoseconds = struct.unpack("qq", ancillary[0][2][:16])
            # What cannot be read is no question or answer: part of a stream, or of another protocol.
            with contextlib.suppress(IndexError, struct.error):
                self.note(packet, seconds + nanoseconds / 1e9)

    def note(self, packet, at):
        version = packet[0] >> 4
        if version == 4:
            protocol, payload = packet[9], packet[(packet[0] & 15) * 4:struct.unpack_from("!H", packet, 2)[0]]
        else:
            protocol, payload = packet[6], packet[40:40 + struct.unpack_from("!H", packet, 4)[0]]
        if 53 not in struct.unpack_from("!2H", payload):
            return
        if protocol == socket.IPPROTO_UDP:
            messages = [payload[8:]]
        elif protocol == socket.IPPROTO_TCP:
            messages, stream = [], payload[(payload[12] >> 4) * 4:]
            while len(stream) > 14:
                size = struct.unpack_from("!H", stream)[0]
                messages.append(stream[2:2 + size])
                stream = stream[2 + size:]
        else:
            return
        for message in messages:
            end = 13 + message[12]
            self.seen[message[13:end].decode().lower()].append((at, not message[2] & 0x80))

    def of(self, tag):
        """Returns the number of questions with this first label, and the time from the first to the last packet."""
        times = [at for at, _ in self.seen[tag]]
        return sum(is_query for _, is_query in self.seen[tag]), max(times) - min(times) if times else 0.0
