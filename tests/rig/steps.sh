#!/bin/sh
# The steps of docs/src/service.md and docs/src/devboxes.md, done as they stand there: commands and texts are taken out of the files, with the
# paths of the system replaced by a folder's. On a host (a network namespace) with a bridge, a devbox and another resolver:
# the API can be used on its host, other resolvers are closed, logs are rotated, a blueprint is built under its policy.
# Exit and variables: as devbox.sh.
set -u
: "${HOSTGATE:?the path of the binary}"
. "$(dirname -- "$0")/lib.sh"
rig_begin steps
DEADLINE=${BUILD_DEADLINE:-60}
need ip setpriv python3 dig jq nft
[ "$(id -u)" -eq 0 ] || { echo "skip steps: not root"; exit 77; }
REPOSITORY=$(cd "$RIG/../.." && pwd)
GUIDE="$REPOSITORY/docs/src/service.md $REPOSITORY/docs/src/devboxes.md"
ROOT=$T/root

# Paths of the system, below $ROOT.
moved() { sed -E "s#(^|[^a-zA-Z0-9/])/(etc/(hostgate|systemd|logrotate.d)|usr/(local/)?bin/|var/(lib|log)/hostgate)#\1$ROOT/\2#g"; }
# text FILE: the block of the pages that begins with the comment `# FILE`, without it where it is no comment of the text's.
text() { awk -v first="# $1" '/^```/ { if (on) exit; if (open) { open = 0 } else { open = 1; start = 1 } next }
    open && start { start = 0; on = $0 == first; if (on) next } on' $GUIDE; }
# commands AFTER: the first block of the pages below the heading AFTER.
commands() { awk -v after="$1" '$0 == after { seen = 1; next } seen && /^```/ { if (on) exit; on = 1; next } on' $GUIDE; }

# The host: a bridge with the devbox's link, a link to the world, where another resolver is.
for space in host box world; do
    SPACES="$SPACES $RUN-$space"
    ip netns add "$RUN-$space" || { echo "FAIL steps: no namespace"; exit 1; }
    ip -n "$RUN-$space" link set lo up
done
H=$RUN-host
ip -n "$H" link add devboxes type bridge
ip -n "$H" link add hb type veth peer name eth0 netns "$RUN-box"
ip -n "$H" link add hw type veth peer name eth0 netns "$RUN-world"
ip -n "$H" link set hb master devboxes
for link in devboxes hb hw; do ip -n "$H" link set "$link" up; done
ip -n "$H" address add 192.0.2.1/24 dev hw
for space in "box 10.1.0.7/24 10.1.0.1" "world 192.0.2.9/24 192.0.2.1"; do
    set -- $space
    ip -n "$RUN-$1" address add "$2" dev eth0
    ip -n "$RUN-$1" link set eth0 up
    ip -n "$RUN-$1" route add default via "$3"
done
inside "$H" sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'

# Other resolvers in the world, at 53 and 853, and one at another address of the host; and a site.
resolver() {                                     # resolver NAME SPACE ADDRESS HTTP
    setpriv --pdeathsig KILL ip netns exec "$RUN-$2" python3 "$RIG/world.py" --log "$T/$1.jsonl" --dns "$3" --http "$4" \
        --allow any github.com 192.0.2.9 --allow any denied.example 192.0.2.9 >"$T/$1.out" 2>&1 </dev/null &
    PIDS="$! $PIDS"
    wait_until 10 "resolver $1" grep -qx ready "$T/$1.out"
}
resolver world world 192.0.2.9:53 192.0.2.9:80
resolver tls world 192.0.2.9:853 192.0.2.9:81
resolver local host 192.0.2.1:53 192.0.2.1:81

# The service, step by step.
mkdir -p "$ROOT/usr/bin" "$ROOT/etc/systemd/system" "$ROOT/etc/logrotate.d" "$ROOT/var/log/hostgate" "$ROOT/var/lib"
mkdir -p "$T/clone/target/release" && ln -s "$HOSTGATE" "$T/clone/target/release/hostgate"
for part in systemd policies; do ln -s "$REPOSITORY/$part" "$T/clone/$part"; done
commands "## Installation" | moved >"$T/steps"
check "the page has steps"                     0 "$ROOT/usr/bin/hostgate" cat "$T/steps"
# systemd is not here, and what talks to the service comes below.
grep -v -e '^systemctl ' -e '^hostgate status' -e '^hostgate policy list' "$T/steps" >"$T/install"
moved <"$REPOSITORY/systemd/hostgate.toml" >"$T/hostgate.toml"
sed -i "s#systemd/hostgate.toml $ROOT#$T/hostgate.toml $ROOT#" "$T/install"
check "the steps, one after the other"          0 "2 clients, 2 tests passed" \
    env -C "$T/clone" PATH="$ROOT/usr/bin:$PATH" sh -eux "$T/install"
check "nothing is warned of"                    0 - sh -c "$ROOT/usr/bin/hostgate check --strict --json --config $ROOT/etc/hostgate/hostgate.toml | grep -A9 severity || :"
cat >>"$ROOT/etc/hostgate/hostgate.toml" <<END
build_pool = "10.89.0.0/16"
devbox_pool = "10.1.0.0/24"
END
sed -i 's/^# servers = .*/servers = ["192.0.2.9"]/' "$ROOT/etc/hostgate/hostgate.toml"
# The addresses of this test's world are those of documentation, which no name may lead to otherwise.
sed -i 's/^allowed_hostnames = .*/&\nprivate_answers = ["*"]/' "$ROOT/etc/hostgate/policies/devboxes.toml"
# As after a boot, the address comes later.
setpriv --pdeathsig KILL ip netns exec "$H" env -i PATH="$PATH" "$ROOT/usr/bin/hostgate" serve \
    --config "$ROOT/etc/hostgate/hostgate.toml" >"$T/resolver.out" 2>&1 </dev/null &
PIDS="$! $PIDS"
wait_until 10 "hostgate serves" grep -q " ready " "$T/resolver.out"
ip -n "$H" address add 10.1.0.1/24 dev devboxes
api() { inside "$H" "$ROOT/usr/bin/hostgate" "$@" --config "$ROOT/etc/hostgate/hostgate.toml"; }
# That the address is there is noticed within two seconds.
wait_until 10 "nothing is out of date" api status
check "its status"                              0 "policies 2, blueprints 0, clients 2" api status
check "the API can be used on its own host"     0 "runtime  "       api policy list
check "a devbox gets an address of the network" 0 "address 10.1.0.2" api devbox create --policy runtime --name web
box() { inside "$RUN-box" "$@"; }
ask() { box dig +time=2 +tries=1 "$@"; }
check "the devbox asks hostgate"                0 "192.0.2.9"       ask @10.1.0.1 +short github.com
check "a name that is not listed"               0 "Ask the platform team" ask @10.1.0.1 denied.example

# Other resolvers.
ip -n "$RUN-box" address add 198.51.100.7/24 dev eth0
ip -n "$H" route add 198.51.100.0/24 dev devboxes
check "another resolver answers before"         0 "192.0.2.9"       ask @192.0.2.9 +short denied.example
check "over TCP"                                0 "192.0.2.9"       ask @192.0.2.9 +tcp +short denied.example
check "at port 853"                             0 "192.0.2.9"       ask @192.0.2.9 +tcp -p 853 +short denied.example
check "at another address of the host"          0 "192.0.2.9"       ask @192.0.2.1 +short denied.example
text /etc/hostgate/dns.nft >"$ROOT/etc/hostgate/dns.nft"
check "the rules are loaded"                    0 -                 inside "$H" nft -f "$ROOT/etc/hostgate/dns.nft"
check "and loaded again"                        0 -                 inside "$H" nft -f "$ROOT/etc/hostgate/dns.nft"
check "another resolver over UDP is closed"     9 "no servers could be reached" ask @192.0.2.9 denied.example
check "over TCP"                                9 "no servers could be reached" ask @192.0.2.9 +tcp denied.example
check "at port 853"                             9 "no servers could be reached" ask @192.0.2.9 +tcp -p 853 denied.example
check "at another address of the host"          9 "no servers could be reached" ask @192.0.2.1 denied.example
check "from another address of the devbox"      9 "no servers could be reached" ask @192.0.2.9 -b 198.51.100.7 denied.example
check "hostgate answers as before"              0 "192.0.2.9"       ask @10.1.0.1 +short github.com
check "over TCP too"                            0 "192.0.2.9"       ask @10.1.0.1 +tcp +short github.com
check "and what is no DNS goes through"         0 "hello"           box python3 -c "import urllib.request as r; print(r.urlopen('http://192.0.2.9/', timeout=5).read())"
check "the rules counted"                       0 "counter packets" inside "$H" nft list chain inet hostgate_dns resolvers
check "none of it counted as nothing"           1 -                 sh -c "ip netns exec $H nft list chain inet hostgate_dns resolvers | grep 'packets 0 '"

# Logs.
if command -v logrotate >/dev/null; then
    text /etc/logrotate.d/hostgate | moved >"$ROOT/etc/logrotate.d/hostgate"
    log=$ROOT/var/log/hostgate/decisions.jsonl
    wait_until 10 "decisions are logged" grep -q github.com "$log"
    check "logrotate takes the text"            0 -                 logrotate --state "$T/rotated" --force "$ROOT/etc/logrotate.d/hostgate"
    check "the log was moved"                   0 "github.com"      cat "$log.1"
    wait_until 10 "hostgate makes another log" test -e "$log"
    ask @10.1.0.1 after.example >/dev/null
    wait_until 10 "that log has what comes" grep -q after.example "$log"
    check "logrotate again"                     0 -                 logrotate --state "$T/rotated" --force "$ROOT/etc/logrotate.d/hostgate"
    check "the one before is compressed"        0 "github.com"      zcat "$log.2.gz"
else
    skip "logs: no logrotate"
fi

# A builder, with podman's folders in $T.
if command -v podman >/dev/null && command -v busybox >/dev/null; then
    mkdir -p "$T/bin" "$T/base/bin" "$T/state" "$T/tmp"
    cp -L "$(command -v busybox)" "$T/base/bin/busybox"
    cat >"$T/bin/podman" <<END
#!/bin/sh
[ "\$1" != build ] || { shift; set -- build --pull=never --no-cache --format oci "\$@"; }
exec $(command -v podman) --root $T/state/root --runroot $T/state/run --tmpdir $T/state/tmp --storage-driver vfs \
    --events-backend file --cgroup-manager cgroupfs "\$@"
END
    chmod 755 "$T/bin/podman"
    cat >"$T/private" <<'END'
set -eu
for dir in /run /var; do mount -n -t tmpfs -o mode=755,size=64m hgrig $dir; done
mkdir -p /var/lib /var/cache /var/log /run/netns /etc/netns
mkdir -m 1777 /var/tmp
[ ! -d /etc/cni ] || mount -n -t tmpfs -o mode=755,size=1m hgrig /etc/cni
mount -n -t tmpfs -o mode=755,size=1m hgrig /etc/containers
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
echo 'unqualified-search-registries = []' >/etc/containers/registries.conf
exec "$@"
END
    printf 'FROM scratch\nCOPY bin /bin\n' >"$T/base/Containerfile"
    host() { inside "$H" PATH="$T/bin:$PATH" TMPDIR="$T/tmp" sh "$T/private" "$@"; }
    check "a base image"                        0 "base"            host podman build --isolation chroot --tag localhost/base "$T/base"
    blueprint() { jq -n --arg name "$1" '{id: "bpt_1m86rtnzm69zdcnfa7", metadata: {"hostgate.address": "10.89.0.9"},
        parameters: {dockerfile: ("FROM localhost/base\nRUN [\"/bin/busybox\", \"nslookup\", \"" + $name + "\"]\n")}}'; }
    blueprint github.com >"$T/allowed.json"
    blueprint denied.example >"$T/denied.json"
    build() { host "$REPOSITORY/systemd/build-blueprint" <"$T/$1.json"; }
    check "a blueprint is built"                0 "bpt_1m86rtnzm69zdcnfa7" build allowed
    check "and one that asks for more is not"   1 "NXDOMAIN"        build denied
    check_line "the build asked from its address" "$ROOT/var/log/hostgate/decisions.jsonl" denied.example '"10.89.0.9"'
    check "nothing of it is left"               1 -                 sh -c "ip -n $H link | grep build; ip netns | grep build-"
else
    skip "builder: no podman or busybox"
fi
rig_end
