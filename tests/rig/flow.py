"""A flow in both directions that counts what gets through: `flow.py serve|ask udp|tcp ADDRESS PORT SECONDS`.

Both ends send as much as they can and print, each second, how many octets have come in. Over UDP each datagram counts
once. Ends by itself.
"""

import os
import socket
import sys
import threading
import time

role, kind, address, port, seconds = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5])
end = time.monotonic() + seconds
received = 0


def tell():
    while time.monotonic() < end:
        print(received, flush=True)
        time.sleep(1)
    print(received, flush=True)
    os._exit(0)


def udp():
    global received
    box = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    box.settimeout(0.2)
    peer, seen, number = None, set(), 0
    if role == "serve":
        box.bind((address, port))
    else:
        peer = (address, port)
    last = 0.0
    while time.monotonic() < end:
        # A little more than a tunnel of a few KB/s takes, so that its queue does not hold everything back.
        if peer and time.monotonic() - last > 0.05:
            last = time.monotonic()
            number += 1
            try:
                box.sendto(number.to_bytes(8, "big") + os.urandom(92), peer)
            except OSError:
                pass
        try:
            data, peer = box.recvfrom(2000)
        except OSError:
            continue
        if data[:8] not in seen:
            seen.add(data[:8])
            received += len(data)


def tcp():
    global received
    while time.monotonic() < end:
        try:
            if role == "serve":
                listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address, port))
                listener.listen(1)
                stream, _ = listener.accept()
                listener.close()
            else:
                stream = socket.create_connection((address, port), timeout=5)
            threading.Thread(target=send, args=(stream,), daemon=True).start()
            while data := stream.recv(4096):
                received += len(data)
        except OSError:
            pass
        time.sleep(0.2)


def send(stream):
    try:
        while True:
            stream.sendall(os.urandom(512))
    except OSError:
        pass


threading.Thread(target=tell, daemon=True).start()
udp() if kind == "udp" else tcp()
