#!/bin/sh
# What tunnels over DNS get through an allowed wildcard: iodine as it comes, iodine as it suits the limits best, dns2tcp; each
# for SECONDS (default 60) in both directions, and iodine where the budget is off, to see that the test can see a tunnel.
# Exit: 0 all passed, 1 not, 77 cannot run here. HOSTGATE=PATH names the binary.
set -u
: "${HOSTGATE:?the path of the binary}"
. "$(dirname -- "$0")/lib.sh"
rig_begin tunnels
need ip setpriv python3 iodine iodined dns2tcpc dns2tcpd timeout
[ "$(id -u)" -eq 0 ] || { echo "skip tunnels: not root"; exit 77; }
[ -e /dev/net/tun ] || { echo "skip tunnels: no /dev/net/tun"; exit 77; }
SECONDS_=${SECONDS_:-60}
MOST=1024                                        # octets a minute, in either direction

# gate NAME POLICY_LINE...: a devbox (namespace NAME), a world (NAME-w) and hostgate between them, with this policy.
gate() {
    tunnel=$1
    shift
    rig_netns "$tunnel"
    rig_netns "${tunnel}w"
    eval "HOST=\$${tunnel}_HOST4 BOX=\$${tunnel}_BOX4 NS=\$${tunnel}_NS WORLD=\$${tunnel}w_BOX4 WORLD_NS=\$${tunnel}w_NS"
    mkdir -p "$T/$tunnel/policies"
    {
        printf '[policy.p]\n'
        for line; do printf '%s\n' "$line"; done
        printf '[client.box]\nsources = ["%s"]\npolicy = "p"\n' "$BOX"
    } >"$T/$tunnel/policies/p.toml"
    {
        printf 'policies = "policies"\n[[listen]]\naddress = "%s:53"\n[upstream]\nservers = ["%s:53"]\n' "$HOST" "$WORLD"
        printf '[admin]\nlisten = "off"\n'
    } >"$T/$tunnel/hostgate.toml"
    rig_spawn "$tunnel-gate" "$HOSTGATE" serve --config "$T/$tunnel/hostgate.toml"
    wait_until 10 "hostgate for $tunnel" grep -q ready "$T/$tunnel-gate.out"
}

# flow NAME KIND PORT ADDRESS ASK_ADDRESS ASK_PORT: starts both ends.
flow() {
    rig_spawn "$1-in" ip netns exec "$WORLD_NS" python3 "$RIG/flow.py" serve "$2" "$4" "$3" "$SECONDS_"
    rig_spawn "$1-out" ip netns exec "$NS" python3 "$RIG/flow.py" ask "$2" "$5" "$6" "$SECONDS_"
}

# iodine_tunnel NAME ARGUMENT...: through the gate made last. The device exists once the tunnel is up.
iodine_tunnel() {
    tunnel=$1
    shift
    rig_spawn "$tunnel-server" ip netns exec "$WORLD_NS" iodined -f -c -P secret -d tun0 -l "$WORLD" 10.88.0.1/24 t.example
    wait_until 10 "iodined for $tunnel" grep -q "Listening to dns" "$T/$tunnel-server.out"
    rig_spawn "$tunnel-client" ip netns exec "$NS" iodine -f -r -P secret -d tun0 "$@" "$HOST" t.example
}

# octets FILE: the last count in it, 0 where nothing was told.
octets() { tail -n 1 "$1" 2>/dev/null | grep -E '^[0-9]+$' || echo 0; }

# narrow NAME LABEL: passes when no more than MOST octets a minute came through, either way.
narrow() {
    in=$(octets "$T/$1-in.out") out=$(octets "$T/$1-out.out") limit=$((MOST * SECONDS_ / 60))
    echo "$TEST: $2: $in octets out of the devbox and $out into it in $SECONDS_ s"
    check "$2, at most $limit octets" 0 - test "$in" -le "$limit" -a "$out" -le "$limit"
}

wildcard='allowed_hostnames = ["*.t.example"]'
gate open "$wildcard" 'budget = "off"'
iodine_tunnel open -T TXT
wait_until 60 "iodine is up where the budget is off" ip netns exec "$NS" ip addr show tun0
flow open udp 9000 10.88.0.1 10.88.0.1 9000

gate plain "$wildcard"
iodine_tunnel plain
flow plain udp 9000 0.0.0.0 10.88.0.1 9000

# As it suits the limits best: short names, small answers, no probing, answers that come as soon as they can.
gate fit "$wildcard"
iodine_tunnel fit -T TXT -M 100 -m 200 -I 1
flow fit udp 9000 0.0.0.0 10.88.0.1 9000

gate alias "$wildcard"
iodine_tunnel alias -T CNAME -M 100 -m 100 -I 1
flow alias udp 9000 0.0.0.0 10.88.0.1 9000

# dns2tcp puts `=` into names, which no wildcard lets through.
gate dnstcp 'allow_all = true'
printf 'listen = %s\nport = 53\nuser = root\nchroot = /tmp\ndomain = t.example\nresources = sink:127.0.0.1:9000\n' "$WORLD" \
    >"$T/dns2tcpd.conf"
rig_spawn dnstcp-server ip netns exec "$WORLD_NS" dns2tcpd -F -f "$T/dns2tcpd.conf"
rig_spawn dnstcp-client ip netns exec "$NS" dns2tcpc -z t.example -r sink -l 9001 "$HOST"
flow dnstcp tcp 9000 127.0.0.1 127.0.0.1 9001

sleep "$SECONDS_"                                # the flows end by themselves
wait_until 20 "the flows have ended" sh -c "! kill -0 $(echo "$PIDS" | awk '{ print $1 }') 2>/dev/null"
in=$(octets "$T/open-in.out") out=$(octets "$T/open-out.out")
echo "$TEST: iodine with the budget off: $in octets out of the devbox and $out into it in $SECONDS_ s"
check "a tunnel can be seen where the budget is off" 0 - test "$in" -gt $((4 * MOST)) -a "$out" -gt $((4 * MOST))
narrow plain "iodine as it comes"
narrow fit "iodine with TXT answers as it suits the limits"
narrow alias "iodine with CNAME answers as it suits the limits"
narrow dnstcp "dns2tcp under allow_all"
rig_end
