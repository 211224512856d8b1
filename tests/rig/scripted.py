#!/usr/bin/env python3
"""An upstream that does what a name says, for clients.sh: NAME.BEHAVIOUR.example, until it is killed.

  scripted.py --dns ADDRESS:PORT --site ADDRESS [--site ADDRESS6] [--outage FILE]

`ok`, `late`, `bücher` and `svc` have the addresses of the site (`svc` an HTTPS record too), `slow` the same after three seconds, `many` 120
addresses of each family, `chain` and `tangled` the site's below seven aliases (`tangled` has them in reverse order),
`mixed` a public IPv4 address and a private IPv6 one; `servfail` is SERVFAIL, `silent` nothing. N.113.0.203.in-addr.arpa
leads to pN.ok.example. Every other name is NXDOMAIN. While FILE exists, nothing is answered at all. Prints
`dns ADDRESS PORT` when both sockets are bound.
"""
import argparse, ipaddress, os, socket, socketserver, struct, sys, time

from world import A, AAAA, NOERROR, NXDOMAIN, SOA, labels, record

CNAME, PTR, OPT, HTTPS = 5, 12, 41, 65
SERVFAIL, TC = 2, 0x02
ALIASES, MANY, SLOW_SECONDS = 7, 120, 3
# A datagram holds as much as is usual among resolvers (DNS flag day 2020).
DATAGRAM = 1232


def wire(name):
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\x00"


def addresses(owner, qtype, found):
    family = {A: 4, AAAA: 6}.get(qtype)
    return [record(owner, qtype, address.packed) for address in found if address.version == family]


def look_up(name, qtype, site):
    """Returns the RCODE and the records for a name; no RCODE is silence."""
    first, behaviour, *rest = name.split(".") + ["", ""]
    owner = b"\xc0\x0c"
    if name.endswith(".113.0.203.in-addr.arpa"):
        return NOERROR, [record(owner, PTR, wire(f"p{first}.ok.example"))] if qtype == PTR else []
    if rest[0] != "example":
        return NXDOMAIN, []
    match behaviour:
        case "silent":
            return None, []
        case "servfail":
            return SERVFAIL, []
        case "slow":
            time.sleep(SLOW_SECONDS)
            return NOERROR, addresses(owner, qtype, site)
        case "svc" if qtype == HTTPS:
            return NOERROR, [record(owner, HTTPS, struct.pack("!H", 1) + b"\x00" + struct.pack("!HH", 1, 3) + b"\x02h2")]
        case "ok" | "svc" | "late" | "xn--bcher-kva":
            return NOERROR, addresses(owner, qtype, site)
        case "many":
            prefix = {A: "192.0.2.", AAAA: "2001:db8:113::"}.get(qtype)
            return NOERROR, addresses(owner, qtype, [ipaddress.ip_address(f"{prefix}{n}") for n in range(200, 200 - MANY, -1)] if prefix else [])
        case "mixed":
            return NOERROR, addresses(owner, qtype, [ipaddress.ip_address("93.184.215.14"), ipaddress.ip_address("fd00::1")])
        case "chain" | "tangled":
            names = [name] + [f"{first}-{hop}.{behaviour}.example" for hop in range(1, ALIASES + 1)]
            found = [record(wire(alias), CNAME, wire(target)) for alias, target in zip(names, names[1:])]
            found += addresses(wire(names[-1]), qtype, site)
            return NOERROR, found if behaviour == "chain" else found[::-1]
    return NXDOMAIN, []


def respond(query, site, outage, limit):
    if len(query) < 12 or query[2] & 0x80 or (outage and os.path.exists(outage)):
        return None
    name, qtype, end = labels(query)
    rcode, answer = look_up(name, qtype, site)
    if rcode is None:
        return None
    authority = [] if answer or rcode == SERVFAIL else [record(b"\x00", SOA, b"\x00\x00" + struct.pack("!5I", 1, 60, 60, 60, 5))]
    additional = [b"\x00" + struct.pack("!HHIH", OPT, DATAGRAM, 0, 0)] if query[11] else []
    flags = 0x80 | (query[2] & 1)
    for records in (answer, []):
        counts = struct.pack("!4H", 1, len(records), len(authority), len(additional))
        message = query[:2] + bytes([flags, 0x80 | rcode]) + counts + query[12:end] + b"".join(records + authority + additional)
        if len(message) <= limit:
            return message
        flags |= TC
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--dns", required=True, metavar="ADDRESS:PORT")
    parser.add_argument("--site", action="append", default=[], type=ipaddress.ip_address)
    parser.add_argument("--outage", metavar="FILE")
    args = parser.parse_args()

    class Udp(socketserver.BaseRequestHandler):
        def handle(self):
            if reply := respond(self.request[0], args.site, args.outage, DATAGRAM):
                self.request[1].sendto(reply, self.client_address)

    class Tcp(socketserver.StreamRequestHandler):
        timeout = 30

        def handle(self):
            try:
                while len(size := self.rfile.read(2)) == 2:
                    reply = respond(self.rfile.read(struct.unpack("!H", size)[0]), args.site, args.outage, 65535)
                    if reply:
                        self.wfile.write(struct.pack("!H", len(reply)) + reply)
            except OSError:
                pass

    class UdpServer(socketserver.ThreadingUDPServer):
        daemon_threads, max_packet_size = True, 4096

    class TcpServer(socketserver.ThreadingTCPServer):
        daemon_threads, allow_reuse_address, request_queue_size = True, True, 64

    host, _, port = args.dns.rpartition(":")
    for _ in range(20):
        udp = UdpServer((host, int(port)), Udp)
        try:
            # A port that is free for UDP may be taken for TCP; another one is chosen then.
            tcp = TcpServer((host, udp.server_address[1]), Tcp)
            break
        except OSError:
            udp.server_close()
    else:
        sys.exit("no port is free for UDP and TCP")
    udp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    from threading import Thread
    Thread(target=tcp.serve_forever, daemon=True).start()
    print("dns", *udp.server_address, flush=True)
    udp.serve_forever()


if __name__ == "__main__":
    main()
