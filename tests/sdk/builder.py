"""The builder of the tests: hands the blueprint that it gets on to the test, and ends with the exit code the test says.

builder.py SOCKET
"""

import json
import socket
import sys

blueprint = json.load(sys.stdin)
with socket.socket(socket.AF_UNIX) as test:
    test.connect(sys.argv[1])
    test.sendall(json.dumps(blueprint).encode() + b"\n")
    print(f"building {blueprint['name']}", flush=True)
    answer = test.recv(1)
sys.exit(answer[0] if answer else 1)
