#!/bin/sh
# A devbox (a network namespace whose only nameserver is the resolver) sees an allowed and a denied name as its user would.
# Exit: 0 all passed, 1 not, 77 cannot run here. HOSTGATE=PATH names the binary. VERBOSE=1 prints each output, KEEP=1
# keeps the temp dir of a failed run.
set -u
: "${HOSTGATE:?the path of the binary}"
. "$(dirname -- "$0")/lib.sh"
rig_begin devbox
need ip setpriv python3 getent curl dig timeout
[ "$(id -u)" -eq 0 ] || { echo "skip devbox: not root"; exit 77; }

rig_netns box
echo "devbox: resolver on $box_HOST4 $box_HOST6, devbox at $box_BOX4 $box_BOX6"
echo "$box_HOST4 $box_HOST6" >"$T/addresses"
# No IPv6 source: the devbox's resolv.conf names the IPv4 address alone.
echo "devbox $box_BOX4 runtime api.example many.example" >"$T/clients"

# The world: an authority for all names on loopback, and the site that the names lead to.
set -- --log "$T/upstream.jsonl" --dns 127.0.0.1:0 --http "$box_HOST4:80"
[ -z "$box_HOST6" ] || set -- "$@" --http "[$box_HOST6]:80"
for address in $box_HOST4 $box_HOST6; do set -- "$@" --allow any api.example "$address" --allow any denied.example "$address"; done
# More addresses than a datagram holds: musl before 1.2.4 has no TCP.
last=1
while [ "$last" -le 120 ]; do set -- "$@" --allow any many.example "203.0.113.$last"; last=$((last + 1)); done
rig_spawn world python3 "$RIG/world.py" "$@"
wait_until 10 "fake upstream" grep -qx ready "$T/world.out"
upstream=127.0.0.1:$(awk '$1 == "dns" { print $3; exit }' "$T/world.out")

rig_spawn resolver "$RIG/start-resolver" "$T" "$upstream" "$box_HOST4"
wait_until 10 "resolver answers" inside "$box_NS" dig +time=1 +tries=1 ready.example

first=${box_HOST6:-$box_HOST4}
check "resolv.conf names the resolver"         0 "nameserver $box_HOST4"  inside "$box_NS" cat /etc/resolv.conf
check "no route past the resolver's host"      2 "unreachable"            ip -n "$box_NS" route get 192.0.2.53
check "getent hosts, allowed"                  0 "$first"                 inside "$box_NS" getent hosts api.example
check "getent ahosts, allowed"                 0 "$box_HOST4"             inside "$box_NS" getent ahosts api.example
check "getent ahosts, allowed, upper case"     0 "$box_HOST4"             inside "$box_NS" getent ahosts API.EXAMPLE
check "getent hosts, denied"                   2 -                        inside "$box_NS" getent hosts denied.example
check "getent ahosts, denied"                  2 -                        inside "$box_NS" getent ahosts denied.example
check "getent hosts, below an allowed name"    2 -                        inside "$box_NS" getent hosts sub.api.example
check "getent ahosts, 120 addresses"           0 "203.0.113.120"          inside "$box_NS" getent ahosts many.example
check "curl, allowed"                          0 "hello from the rig"     inside "$box_NS" curl -qsS --max-time 5 http://api.example/
check "curl, denied"                           6 "curl: (6) Could not resolve host: denied.example" \
    inside "$box_NS" curl -qsS --max-time 5 http://denied.example/
check "dig, allowed"                           0 "status: NOERROR"        inside "$box_NS" dig +time=2 +tries=1 api.example A
check "dig, denied"                            0 "status: NXDOMAIN"       inside "$box_NS" dig +time=2 +tries=1 denied.example A
check "dig, denied, is authoritative"          0 "flags: qr aa rd ra"     inside "$box_NS" dig +time=2 +tries=1 denied.example A
check "dig over TCP, allowed"                  0 "status: NOERROR"        inside "$box_NS" dig +tcp +time=2 +tries=1 api.example A
check "dig over TCP, denied"                   0 "status: NXDOMAIN"       inside "$box_NS" dig +tcp +time=2 +tries=1 denied.example A
check "dig +short, denied, prints nothing"     0 -                        inside "$box_NS" dig +short +time=2 +tries=1 denied.example A

if command -v busybox >/dev/null; then
    check "busybox nslookup, allowed"          0 "Address: $box_HOST4"    inside "$box_NS" busybox nslookup api.example
    check "busybox nslookup, denied"           1 "can't find denied.example: NXDOMAIN" inside "$box_NS" busybox nslookup denied.example
    check "busybox nslookup, 120 addresses"   0 "203.0.113.1"           inside "$box_NS" busybox nslookup many.example
    check "busybox wget, allowed"              0 "hello from the rig"     inside "$box_NS" busybox wget -q -O - http://api.example/
    check "busybox wget, denied"               1 "wget: bad address 'denied.example'" inside "$box_NS" busybox wget -O - http://denied.example/
else
    skip "busybox: not installed (Debian: busybox-static)"
fi
if command -v musl-gcc >/dev/null && musl-gcc -static -O1 -o "$T/resolve" "$RIG/resolve.c" 2>"$T/musl.out"; then
    check "musl getaddrinfo, allowed"          0 "$box_HOST4"             inside "$box_NS" "$T/resolve" api.example
    check "musl getaddrinfo, 120 addresses"  0 "203.0.113.1"           inside "$box_NS" "$T/resolve" many.example
    check "musl getaddrinfo, denied"           2 "Name does not resolve"  inside "$box_NS" "$T/resolve" denied.example
else
    skip "musl: no musl-gcc (Debian: musl-tools)"
fi

check_line "decision log: the denial has the devbox's address" "$T/decisions.jsonl" denied.example "\"$box_BOX4\""
check "dig, denied, EDE 15"                0 "EDE: 15 (Blocked)"      inside "$box_NS" dig +time=2 +tries=1 denied.example A
check "upstream saw the allowed name"      0 "api.example"            cat "$T/upstream.jsonl"
check "upstream never saw the denied name" 1 -                       grep -i denied.example "$T/upstream.jsonl"
rig_end
