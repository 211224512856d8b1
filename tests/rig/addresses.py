#!/usr/bin/env python3
"""Asks hostgate at each address of this network namespace, from another one, and looks where the reply comes from.

Run by addresses.sh in a namespace of its own; HOSTGATE names the binary.
"""
import os, socket, struct, subprocess, sys, tempfile, threading

ADDRESSES = ["127.0.0.1", "192.0.2.1", "192.0.2.2", "::1", "2001:db8::1", "2001:db8::2"]
CLIENTS = {socket.AF_INET: "192.0.2.9", socket.AF_INET6: "2001:db8::9"}
LISTENERS = [["0.0.0.0:53", "[::]:53"], ["192.0.2.2:53", "192.0.2.1:53", "127.0.0.1:53", "[2001:db8::2]:53", "[::1]:53", "[2001:db8::1]:53"]]
QUERY = struct.pack("!HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + b"\x06denied\x07example\x00" + struct.pack("!HH", 1, 1)
NXDOMAIN, DEADLINE = 3, 10


def ask(address, kind):
    """Returns whether a query to the address is denied by an answer from there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as client:
        client.settimeout(DEADLINE)
        client.bind((CLIENTS[family], 0))
        if kind == socket.SOCK_DGRAM:
            # Not connected: a reply from another address is seen, and told.
            client.sendto(QUERY, (address, 53))
            reply, source = client.recvfrom(4096)
        else:
            client.connect((address, 53))
            client.sendall(struct.pack("!H", len(QUERY)) + QUERY)
            reply, source = client.recv(4096)[2:], client.getpeername()
    ok = source[:2] == (address, 53) and reply[:2] == QUERY[:2] and reply[3] & 15 == NXDOMAIN
    print(f"{'ok' if ok else 'WRONG'} {address} {kind.name} answered from {source[0]}, RCODE {reply[3] & 15}")
    return ok


def serve(directory, listeners):
    """Starts hostgate and waits until it is ready."""
    with open(f"{directory}/hostgate.toml", "w") as file:
        file.write("".join(f'[[listen]]\naddress = "{address}"\n' for address in listeners))
        file.write('[upstream]\nservers = ["192.0.2.77"]\n[admin]\nlisten = "off"\n')
    command = [os.environ["HOSTGATE"], "serve", "--config", f"{directory}/hostgate.toml"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(DEADLINE, server.kill)
    timer.start()
    said = []
    for line in server.stderr:
        said.append(line)
        if " ready " in line:
            break
    else:
        sys.exit("hostgate does not start:\n" + "".join(said))
    timer.cancel()
    return server


def main():
    """Asks at each address over both transports, with each way to listen."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in [*ADDRESSES, *CLIENTS.values()]:
        if address not in ("127.0.0.1", "::1"):
            subprocess.run(["ip", "address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else [])], check=True)
    good = True
    with tempfile.TemporaryDirectory() as directory:
        os.mkdir(f"{directory}/policies")
        with open(f"{directory}/policies/p.toml", "w") as file:
            file.write('[policy.p]\nallowed_hostnames = ["allowed.test"]\n')
        for listeners in LISTENERS:
            server = serve(directory, listeners)
            try:
                for address in ADDRESSES:
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        good &= ask(address, kind)
            finally:
                server.kill()
                server.wait()
    sys.exit(0 if good else 1)


main()
