#!/bin/sh
# The clients that devboxes have, as their users run them, against hostgate and an upstream that answers, fails, is silent,
# slow or gone: what each says, after how long, with how many questions. clients.py asks and judges; this sets the stage.
# Exit: 0 all passed, 1 not, 77 cannot run here. HOSTGATE=PATH names the binary; VERBOSE=1 and KEEP=1 as in devbox.sh.
set -u
: "${HOSTGATE:?the path of the binary}"
. "$(dirname -- "$0")/lib.sh"
rig_begin clients
need ip setpriv python3 timeout
[ "$(id -u)" -eq 0 ] || { echo "skip clients: not root"; exit 77; }

# In one devbox all clients ask; in the other one hostgate is replaced and its upstream goes away.
rig_netns box
rig_netns ops

for space in box ops; do
    eval "host4=\$${space}_HOST4 host6=\$${space}_HOST6 box4=\$${space}_BOX4 box6=\$${space}_BOX6"
    mkdir -p "$T/$space/policies"
    set -- --dns 127.0.0.1:0 --site 192.0.2.200 --outage "$T/$space/outage"
    [ -z "$host6" ] || set -- "$@" --site 2001:db8:113::200
    rig_spawn "upstream-$space" python3 -B "$RIG/scripted.py" "$@"
    wait_until 10 "scripted upstream" grep -q ^dns "$T/upstream-$space.out"
    upstream=127.0.0.1:$(awk '{ print $3; exit }' "$T/upstream-$space.out")
    allowed='"*.ok.example", "*.svc.example", "*.slow.example", "*.many.example", "*.chain.example", "*.tangled.example",
    "*.mixed.example", "*.servfail.example", "*.silent.example", "*.bücher.example", "*.113.0.203.in-addr.arpa"'
    # `mixed` is judged as any name of the Internet; the site's addresses are those of documentation.
    private='"*.ok.example", "*.svc.example", "*.slow.example", "*.many.example", "*.chain.example", "*.tangled.example",
    "*.late.example", "*.bücher.example"'
    cat >"$T/$space/policies/p.toml" <<END
[policy.box]
allowed_hostnames = [$allowed]
private_answers = [$private]
budget = "off"
message = "Ask the platform team."
[client.box]
sources = ["$box4"]
policy = "box"
END
    # Over IPv6 the same devbox is another client, which gets no IPv6 addresses.
    [ -z "$box6" ] || cat >>"$T/$space/policies/p.toml" <<END
[policy.six]
include = ["box"]
private_answers = ["*"]
budget = "off"
query_types = ["A", "PTR", "CNAME"]
[client.six]
sources = ["$box6"]
policy = "six"
END
    {
        printf 'takeover = "%s/takeover"\n[[listen]]\naddress = "%s:53"\n' "$T/$space" "$host4"
        [ -z "$host6" ] || printf '[[listen]]\naddress = "[%s]:53"\n' "$host6"
        printf '[upstream]\nservers = ["%s"]\n[admin]\nlisten = "off"\n' "$upstream"
    } >"$T/$space/hostgate.toml"
    rig_spawn "hostgate-$space" "$HOSTGATE" serve --config "$T/$space/hostgate.toml"
    wait_until 10 "hostgate serves" grep -q " ready " "$T/hostgate-$space.out"
done

# The site that names lead to; nothing else is at the 120 addresses of each family, and connections are refused at once.
ip -n "$box_NS" route add local 192.0.2.0/24 dev lo
set -- --http 192.0.2.200:80
if [ -n "$box_HOST6" ]; then
    ip -n "$box_NS" route add local 2001:db8:113::/48 dev lo
    ip -n "$box_NS" address add 2001:db8:113::200/128 dev lo nodad
    set -- "$@" --http "[2001:db8:113::200]:80"
fi
rig_spawn site ip netns exec "$box_NS" python3 "$RIG/world.py" "$@"
wait_until 10 "the site" grep -qx ready "$T/site.out"

# Programs that no package has.
mkdir "$T/bin"
! command -v musl-gcc >/dev/null || musl-gcc -static -O1 -o "$T/bin/musl-resolve" "$RIG/resolve.c" 2>"$T/musl.out"
! command -v javac >/dev/null || javac -d "$T/bin" "$RIG/Resolve.java" 2>"$T/javac.out"

# Resolvers of the devbox's own, between its programs and hostgate.
cat >"$T/unbound.conf" <<END
server:
 interface: 127.0.0.3
 do-daemonize: no
 username: ""
 chroot: ""
 directory: "$T"
 pidfile: ""
 use-syslog: no
 module-config: "iterator"
 local-zone: "113.0.203.in-addr.arpa" transparent
remote-control:
 control-enable: no
forward-zone:
 name: "."
 forward-addr: $box_HOST4
END
! command -v dnsmasq >/dev/null || rig_spawn dnsmasq ip netns exec "$box_NS" dnsmasq --keep-in-foreground --conf-file=/dev/null \
    --no-resolv --no-hosts --server="$box_HOST4" --listen-address=127.0.0.2 --bind-interfaces --user=root --pid-file=
! command -v unbound >/dev/null || rig_spawn unbound ip netns exec "$box_NS" unbound -d -c "$T/unbound.conf"
for path in /lib/systemd/systemd-resolved "$RIG/../../target/rig/systemd-resolved/lib/systemd/systemd-resolved"; do
    [ -x "$path" ] && command -v dbus-daemon >/dev/null || continue
    mkdir "$T/resolved"
    { echo '[Resolve]'; printf '%s\n' "DNS=$box_HOST4" FallbackDNS= Domains=~. DNSOverTLS=no DNSSEC=no LLMNR=no MulticastDNS=no; } \
        >"$T/resolved/resolved.conf"
    : >"$T/resolved/anchor"
    rig_spawn resolved ip netns exec "$box_NS" unshare --mount sh "$RIG/start-resolved" "$T/resolved" "$path" "$T/resolved/anchor"
    break
done

# The words by which lib.sh tells pass, FAIL and skip come from there.
timeout -k 5 150 python3 -B "$RIG/clients.py" "$T" >"$T/table" 2>&1
status=$?
cat "$T/table"
passed=$(grep -c '^pass ' "$T/table") failed=$(grep -c '^FAIL ' "$T/table") skipped=$(grep -c '^skip ' "$T/table")
[ "$status" -eq 0 ] || [ "$failed" -gt 0 ] || { failed=1; echo "FAIL clients: clients.py ended with $status"; }
rig_end
