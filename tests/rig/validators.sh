#!/bin/sh
# Validators (unbound, systemd-resolved with DNSSEC=yes) in a devbox whose policy lists three names: one that is signed, one
# that is not, and what is below a wildcard. The root, a TLD and their zones are our own, signed with keys made here, on NSD.
# Exit: 0 all passed, 1 not, 77 cannot run here. HOSTGATE=PATH names the binary; VERBOSE=1 and KEEP=1 as in devbox.sh.
set -u
: "${HOSTGATE:?the path of the binary}"
. "$(dirname -- "$0")/lib.sh"
rig_begin validators
need ip setpriv dig timeout nsd unbound ldns-keygen ldns-signzone
[ "$(id -u)" -eq 0 ] || { echo "skip validators: not root"; exit 77; }

# The hierarchy. sub.signed.example is cut off within the listed name's parent, wild.example proves by NSEC3.
zone() {                                         # zone ORIGIN FILE < records
    { printf '$ORIGIN %s\n$TTL 300\n@ SOA ns.example. admin.example. 1 3600 600 86400 60\n@ NS ns.example.\n' "$1"; cat; } >"$T/$2"
}
sign() {                                         # sign ORIGIN FILE [OPTION...]; leaves the DS records in FILE.ds
    origin=$1 file=$2
    shift 2
    key=$(cd "$T" && ldns-keygen -r /dev/urandom -a ECDSAP256SHA256 -k "$origin") || exit 1
    (cd "$T" && ldns-signzone "$@" -i "$(date -u -d yesterday +%Y%m%d)" -o "$origin" -f "$file.signed" "$file" "$key") || exit 1
    cp "$T/$key.ds" "$T/$file.ds"
    sed 's/ *;.*//' "$T/$key.key" >"$T/$file.key"
}
delegate() { printf '%s NS ns.example.\n' "$1"; [ "$#" -lt 2 ] || cat "$T/$2.ds"; }

zone sub.signed.example. sub <<'END'
www A 203.0.113.80
www HTTPS 1 . alpn=h2
END
sign sub.signed.example. sub
delegate sub.signed.example. sub | zone signed.example. signed
sign signed.example. signed
echo 'www A 203.0.113.81' | zone unsigned.example. unsigned
zone wild.example. wild <<'END'
a A 203.0.113.82
*.pool A 203.0.113.83
alias CNAME a
listed CNAME www.sub.signed.example.
plain CNAME www.unsigned.example.
away CNAME www.other.example.
broken A 203.0.113.84
END
sign wild.example. wild -n
# Somebody changed it on the way.
sed -i 's/^\(broken\.wild\.example\..*\)203\.0\.113\.84/\1203.0.113.66/' "$T/wild.signed"
echo 'www A 203.0.113.85' | zone other.example. other
sign other.example. other
{
    echo 'ns A 192.0.2.1'
    delegate signed.example. signed
    delegate unsigned.example.
    delegate wild.example. wild
    delegate other.example. other
} | zone example. example
sign example. example
delegate example. example | zone . root
sign . root

cat >"$T/nsd.conf" <<END
server:
 ip-address: 127.0.0.1@0
 zonesdir: "$T"
 username: ""
 database: ""
 pidfile: "$T/nsd.pid"
 xfrdfile: "$T/xfrd"
 zonelistfile: "$T/zonelist"
 xfrdir: "$T"
 server-count: 1
remote-control:
 control-enable: no
END
for pair in .:root.signed example.:example.signed signed.example.:signed.signed sub.signed.example.:sub.signed \
    unsigned.example.:unsigned wild.example.:wild.signed other.example.:other.signed; do
    printf 'zone:\n name: %s\n zonefile: %s\n' "${pair%%:*}" "${pair#*:}" >>"$T/nsd.conf"
done

rig_netns box
rig_netns world
# Each server has an address of its own, so that none meets another's port.
sed -i "s/127.0.0.1@0/$world_BOX4@53/" "$T/nsd.conf"
rig_spawn nsd ip netns exec "$world_NS" nsd -d -c "$T/nsd.conf"
wait_until 10 "nsd answers" dig +time=1 +tries=1 "@$world_BOX4" . DNSKEY

echo "validator $box_BOX4 runtime www.sub.signed.example www.unsigned.example *.wild.example" >"$T/clients"
# Signatures and proofs count as addresses of what is below a wildcard.
rig_spawn resolver env POLICY_LINES='budget = { addresses = 20000 }' "$RIG/start-resolver" "$T" "$world_BOX4:53" "$box_HOST4"
wait_until 10 "resolver answers" inside "$box_NS" dig +time=1 +tries=1 www.unsigned.example

# What holds of a validator that listens on ADDRESS in the devbox.
validates() {                                    # validates NAME ADDRESS
    set -- "$1" inside "$box_NS" dig "@$2" +time=5 +tries=1 +dnssec
    name=$1
    shift
    check "$name, signed"                        0 "status: NOERROR"   "$@" www.sub.signed.example
    check "$name, signed: authentic"             0 " ad;"              "$@" www.sub.signed.example
    check "$name, signed: the address"           0 "203.0.113.80"      "$@" www.sub.signed.example
    check "$name, signed: no such type"          0 " ad; QUERY: 1, ANSWER: 0" "$@" www.sub.signed.example AAAA
    check "$name, unsigned"                      0 "203.0.113.81"      "$@" www.unsigned.example
    check "$name, unsigned: not authentic"       0 "flags: qr rd ra;"  "$@" www.unsigned.example
    check "$name, below a wildcard"              0 "203.0.113.82"      "$@" a.wild.example
    check "$name, below a wildcard: authentic"   0 " ad;"              "$@" a.wild.example
    check "$name, alias"                         0 " ad;"              "$@" alias.wild.example
    check "$name, alias into a listed zone"      0 " ad;"              "$@" listed.wild.example
    check "$name, alias into an unsigned zone"   0 "203.0.113.81"      "$@" plain.wild.example
    check "$name, the same: not authentic"       0 "flags: qr rd ra;"  "$@" plain.wild.example
    check "$name, of a zone's wildcard"          0 " ad;"              "$@" any.pool.wild.example
    check "$name, no such name"                  0 "status: NXDOMAIN"  "$@" none.wild.example
    check "$name, no such name: authentic"       0 " ad;"              "$@" none.wild.example
    check "$name, forged"                        0 "status: SERVFAIL"  "$@" broken.wild.example
    # That is what is left of NXDOMAIN without a signature from a zone that is signed.
    check "$name, denied below a signed zone"    0 "status: SERVFAIL"  "$@" www.other.example
    # The keys of a zone that is not listed are not to be had.
    check "$name, alias that leads elsewhere"    0 "status: SERVFAIL"  "$@" away.wild.example
    check "$name, denied above a listed name"    0 "ANSWER: 0"         "$@" signed.example
}

cat >"$T/unbound.conf" <<END
server:
 interface: 127.0.0.1
 do-daemonize: no
 username: ""
 chroot: ""
 directory: "$T"
 pidfile: ""
 use-syslog: no
 logfile: ""
 val-log-level: 2
 trust-anchor-file: "$T/root.key"
remote-control:
 control-enable: no
forward-zone:
 name: "."
 forward-addr: $box_HOST4
END
rig_spawn unbound ip netns exec "$box_NS" unbound -d -c "$T/unbound.conf"
wait_until 10 "unbound answers" inside "$box_NS" dig @127.0.0.1 +time=1 +tries=1 www.unsigned.example
validates unbound 127.0.0.1

# It is started with a bus, a user and an /etc of its own, in a mount namespace; tests/run unpacks it without installing it.
resolved=''
for path in /lib/systemd/systemd-resolved "$RIG/../../target/rig/systemd-resolved/lib/systemd/systemd-resolved"; do
    [ ! -x "$path" ] || resolved=$path
done
if [ -n "$resolved" ] && command -v dbus-daemon >/dev/null; then
    {
        echo '[Resolve]'
        printf '%s\n' "DNS=$box_HOST4" FallbackDNS= Domains=~. DNSOverTLS=no DNSSEC=yes LLMNR=no MulticastDNS=no
    } >"$T/resolved.conf"
    rig_spawn resolved ip netns exec "$box_NS" unshare --mount sh "$RIG/start-resolved" "$T" "$resolved" "$T/root.key"
    wait_until 10 "systemd-resolved answers" inside "$box_NS" dig @127.0.0.53 +time=1 +tries=1 www.unsigned.example
    validates "systemd-resolved" 127.0.0.53
else
    skip "systemd-resolved: no binary or no dbus-daemon (tests/run unpacks the former)"
fi

check_line "decision log: what validators ask is told" "$T/decisions.jsonl" '"allow"' '"dnssec-chain"' '"DNSKEY"' '"qname":"."'
# Of names that are not listed, nothing but DS and DNSKEY of those above listed ones was forwarded.
check "what was forwarded besides is for the chain" 1 - \
    sh -c 'grep "\"action\":\"allow\"" "$1" | grep -v "\"reason\":\"rule\"" | grep -v "\"qtype\":\"\(DS\|DNSKEY\)\".*\"reason\":\"dnssec-chain\""' sh "$T/decisions.jsonl"
check "nothing of the other zone was forwarded" 1 - \
    sh -c 'grep "\"action\":\"allow\"" "$1" | grep "\"qname\":\"[^\"]*other\.example"' sh "$T/decisions.jsonl"
rig_end
