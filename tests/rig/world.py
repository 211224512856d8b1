#!/usr/bin/env python3
"""The world outside the devbox: an authority for a few names over DNS, and a web site, until it is killed.

  world.py --dns ADDRESS:PORT ... --allow SOURCE NAME ADDRESS ... [--log FILE] [--http ADDRESS:PORT]

SOURCE is an address or prefix, or `any`: NAME has ADDRESS for queries from there; every other name is NXDOMAIN with a
SOA. Prints `ready` when every socket is bound: that is the fact to wait for. Port 0 takes a free one, printed before as
`dns ADDRESS PORT`. Each query is a JSON line of the log.
"""
import argparse, errno, http.server, ipaddress, json, socket, socketserver, struct, sys, threading

A, SOA, AAAA = 1, 6, 28
NOERROR, FORMERR, NXDOMAIN = 0, 1, 3
TTL = 5


def labels(wire):
    """Returns the question's name (lower case), type and the offset after it."""
    at, out = 12, []
    while wire[at]:
        out.append(wire[at + 1:at + 1 + wire[at]].decode("ascii", "backslashreplace").lower())
        at += 1 + wire[at]
    qtype, _ = struct.unpack_from("!HH", wire, at + 1)
    return ".".join(out), qtype, at + 5


def record(owner, rtype, data):
    return owner + struct.pack("!HHIH", rtype, 1, TTL, len(data)) + data


def respond(wire, source, rules, log):
    if len(wire) < 12 or wire[2] & 0x80:
        return None
    try:
        name, qtype, end = labels(wire)
    except (IndexError, struct.error):
        return wire[:2] + bytes([0x80 | wire[2], 0x80 | FORMERR]) + bytes(8)
    source = ipaddress.ip_address(source.split("%")[0])
    source = getattr(source, "ipv4_mapped", None) or source
    found = [a for net, n, a in rules if n == name and (net is None or source in net)]
    answer = [record(b"\xc0\x0c", A if a.version == 4 else AAAA, a.packed)
              for a in found if qtype == (A if a.version == 4 else AAAA)]
    rcode = NOERROR if found else NXDOMAIN
    authority = []
    if not answer:
        root = b"\x00"
        authority = [record(root, SOA, root + root + struct.pack("!5I", 1, 60, 60, 60, TTL))]
    log({"source": str(source), "qname": name, "qtype": qtype, "rcode": rcode})
    flags = struct.pack("!BB", 0x84 | (wire[2] & 1), 0x80 | rcode)
    counts = struct.pack("!4H", 1, len(answer), len(authority), 0)
    return wire[:2] + flags + counts + wire[12:end] + b"".join(answer + authority)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dns", action="append", default=[], metavar="ADDRESS:PORT")
    parser.add_argument("--http", action="append", default=[], metavar="ADDRESS:PORT")
    parser.add_argument("--allow", action="append", default=[], nargs=3, metavar=("SOURCE", "NAME", "ADDRESS"))
    parser.add_argument("--log", metavar="FILE")
    args = parser.parse_args()
    rules = [(None if s == "any" else ipaddress.ip_network(s), n.lower().rstrip("."), ipaddress.ip_address(a))
             for s, n, a in args.allow]
    sink = open(args.log, "a", buffering=1) if args.log else None
    lock = threading.Lock()

    def log(entry):
        if sink:
            with lock:
                sink.write(json.dumps(entry) + "\n")

    class Udp(socketserver.BaseRequestHandler):
        def handle(self):
            reply = respond(self.request[0], self.client_address[0], rules, log)
            if reply:
                self.request[1].sendto(reply, self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        timeout = 5

        def handle(self):
            while len(size := self.rfile.read(2)) == 2:
                reply = respond(self.rfile.read(struct.unpack("!H", size)[0]), self.client_address[0], rules, log)
                if reply is None:
                    return
                self.wfile.write(struct.pack("!H", len(reply)) + reply)

    class Page(http.server.BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self):
            body = b"hello from the rig\n"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    def serve(kind, where, handler):
        host, _, port = where.rpartition(":")
        host = host.strip("[]")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        cls = type("Server", (kind,), {"address_family": family, "allow_reuse_address": kind is not socketserver.ThreadingUDPServer,
                                       "daemon_threads": True})
        server = cls((host, int(port)), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return host, server.server_address[1]

    def serve_dns(where):
        host, port = serve(socketserver.ThreadingUDPServer, where, Udp)
        bracketed = f"[{host}]" if ":" in host else host
        serve(socketserver.ThreadingTCPServer, f"{bracketed}:{port}", Tcp)
        return host, port

    for where in args.dns:
        for tries in range(20):
            try:
                print("dns", *serve_dns(where), flush=True)
                break
            except OSError as error:
                # A port that is free for UDP may be taken for TCP; another one is chosen then.
                if error.errno != errno.EADDRINUSE or not where.endswith(":0") or tries == 19:
                    raise
    for where in args.http:
        print("http", *serve(socketserver.ThreadingTCPServer, where, Page), flush=True)
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
