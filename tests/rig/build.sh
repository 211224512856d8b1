#!/bin/sh
# A real container build (podman or buildah, chroot isolation) is its own client with its own policy: the builder runs in a
# network namespace, so its RUN steps ask the resolver from that namespace's address. A second namespace is the devbox.
# Exit and variables: as devbox.sh. BUILDER=podman or BUILDER=buildah picks one (default: podman if there is one).
set -u
: "${HOSTGATE:?the path of the binary}"
. "$(dirname -- "$0")/lib.sh"
rig_begin build
DEADLINE=${BUILD_DEADLINE:-60}
need ip setpriv python3 getent dig busybox timeout mount
[ "$(id -u)" -eq 0 ] || { echo "skip build: not root"; exit 77; }
BUILDER=${BUILDER:-$(command -v podman || command -v buildah || echo podman)}
need "$BUILDER"
BUILDER=${BUILDER##*/}

rig_netns bld
rig_netns box
echo "build: $BUILDER at $bld_BOX4, devbox at $box_BOX4, resolver on $bld_HOST4 and $box_HOST4"
echo "$bld_HOST4" >"$T/addresses"
printf '%s\n' "builder $bld_BOX4 build pkg.example" "devbox $box_BOX4 runtime api.example" >"$T/clients"

rig_spawn world python3 "$RIG/world.py" --log "$T/upstream.jsonl" --dns 127.0.0.1:0 --http "$bld_HOST4:80" \
    --allow any pkg.example "$bld_HOST4" --allow any api.example "$bld_HOST4" --allow any denied.example "$bld_HOST4"
wait_until 10 "fake upstream" grep -qx ready "$T/world.out"
upstream=127.0.0.1:$(awk '$1 == "dns" { print $3; exit }' "$T/world.out")
rig_spawn resolver "$RIG/start-resolver" "$T" "$upstream" "$bld_HOST4,$box_HOST4"
wait_until 10 "resolver answers the builder" inside "$bld_NS" dig +time=1 +tries=1 ready.example
wait_until 10 "resolver answers the devbox" inside "$box_NS" dig +time=1 +tries=1 ready.example

# The image: busybox, glibc's getent with its libraries, and a musl program when there is a compiler for it.
root=$T/context/root
mkdir -p "$root/bin" "$root/etc" "$T/tmp" "$T/state"
cp -L "$(command -v busybox)" "$root/bin/busybox"
getent=$(command -v getent)
for file in $(ldd "$getent" | grep -o '/[^ )]*'); do mkdir -p "$root${file%/*}" && cp -L "$file" "$root$file"; done
cp -L "$getent" "$root/bin/getent"
echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
musl=''
if command -v musl-gcc >/dev/null && musl-gcc -static -O1 -o "$root/bin/resolve" "$RIG/resolve.c" 2>"$T/musl.out"; then musl=yes; fi

cat >"$root/bin/seen" <<'END'
#!/bin/busybox sh
# Prints, for each command, `@LABEL`, its output, `@exit N`.
see() {
    label=$1
    shift
    echo "@$label"
    busybox timeout 8 "$@" 2>&1
    echo "@exit $?"
}
see resolv.conf busybox cat /etc/resolv.conf
see address busybox ip -4 addr show dev eth0
for name in pkg.example api.example denied.example; do
    see nslookup-$name busybox nslookup $name
    see wget-$name busybox wget -q -O - http://$name/
    see getent-$name getent hosts $name
    [ ! -x /bin/resolve ] || see musl-$name resolve $name
done
END
chmod 755 "$root/bin/seen"
printf 'FROM scratch\nCOPY root /\nRUN ["/bin/seen"]\n' >"$T/context/Seen"
printf 'FROM scratch\nCOPY root /\nRUN ["/bin/busybox", "wget", "-O", "/page", "http://pkg.example/"]\n' >"$T/context/Allowed"
printf 'FROM scratch\nCOPY root /\nRUN ["/bin/busybox", "wget", "-O", "/page", "http://denied.example/"]\n' >"$T/context/Denied"

# What the builder would write or read outside $T it finds replaced: the mounts are in the private mount namespace that
# `ip netns exec` makes, and go with it.
cat >"$T/private" <<'END'
set -eu
resolv=$(readlink -f /etc/resolv.conf) said=$(cat /etc/resolv.conf)
for dir in /run /var; do mount -n -t tmpfs -o mode=755,size=64m hgrig $dir; done
mkdir -p /var/lib /var/cache /var/log
mkdir -m 1777 /var/tmp
# Where /etc/resolv.conf is a link into /run (systemd-resolved, resolvconf) its target was hidden just now.
[ -e "$resolv" ] || { mkdir -p "${resolv%/*}" && printf '%s\n' "$said" >"$resolv"; }
[ ! -d /etc/cni ] || mount -n -t tmpfs -o mode=755,size=1m hgrig /etc/cni
if [ -d /etc/containers ]; then
    mount -n -t tmpfs -o mode=755,size=1m hgrig /etc/containers
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
    echo 'unqualified-search-registries = []' >/etc/containers/registries.conf
fi
exec "$@"
END

build() {                                        # build FILE EXTRA...
    file=$1
    shift
    set -- --isolation chroot --network host --pull=never --no-cache --format oci "$@" \
        --file "$T/context/$file" --tag "rig-$(echo "$file" | tr A-Z a-z)" "$T/context"
    case $BUILDER in
    podman) set -- --root "$T/state/root" --runroot "$T/state/run" --tmpdir "$T/state/tmp" --storage-driver vfs \
        --events-backend file --cgroup-manager cgroupfs build "$@" ;;
    buildah) set -- --root "$T/state/root" --runroot "$T/state/run" --storage-driver vfs bud "$@" ;;
    esac
    inside "$bld_NS" TMPDIR="$T/tmp" sh "$T/private" "$BUILDER" "$@"
}

# seen LABEL STATUS TEXT BLOCK: a check on one block that /bin/seen printed.
seen() {
    check "$1" "$2" "$3" awk -v block="@$4" '
        $0 == block { on = 1; next }
        on && /^@exit / { found = 1; exit code = $2 }
        on { print }
        END { exit found ? code : 99 }' "$T/seen.out"
}

started=$(date +%s)
build Seen --dns "$bld_HOST4" >"$T/seen.out" 2>&1 </dev/null
status=$?
echo "build: first build took $(($(date +%s) - started)) s"
check "build of /bin/seen succeeds"             0 - sh -c "exit $status"
seen "container's nameserver is the resolver"   0 "nameserver $bld_HOST4"   resolv.conf
seen "container has the builder's address"      0 "inet $bld_BOX4/"         address
seen "nslookup, allowed for builds"             0 "Address: $bld_HOST4"     nslookup-pkg.example
seen "wget, allowed for builds"                 0 "hello from the rig"      wget-pkg.example
seen "glibc getent, allowed for builds"         0 "$bld_HOST4"              getent-pkg.example
for name in api.example denied.example; do
    [ $name = api.example ] && why="allowed for devboxes only" || why=denied
    seen "nslookup, $why"                       1 "can't find $name: NXDOMAIN" nslookup-$name
    seen "wget, $why"                           1 "bad address '$name'"     wget-$name
    seen "glibc getent, $why"                   2 -                         getent-$name
done
if [ -n "$musl" ]; then
    seen "musl getaddrinfo, allowed for builds" 0 "$bld_HOST4"              musl-pkg.example
    seen "musl getaddrinfo, denied"             2 "Name does not resolve"   musl-denied.example
else
    skip "musl: no musl-gcc (Debian: musl-tools)"
fi
check "a build that fetches an allowed name"    0 "rig-allowed"             build Allowed --dns "$bld_HOST4"
check "a build that fetches a denied name fails" 1 "bad address 'denied.example'" build Denied --dns "$bld_HOST4"
check "without --dns the namespace's resolv.conf counts" 0 "rig-allowed"    build Allowed

check "devbox: its own name"                    0 "$bld_HOST4"              inside "$box_NS" getent hosts api.example
check "devbox: the build's name is denied"      2 -                         inside "$box_NS" getent hosts pkg.example
check_line "decision log: the build's denial has the builder's address" "$T/decisions.jsonl" denied.example "\"$bld_BOX4\""
check_line "decision log: the devbox's denial has the devbox's address" "$T/decisions.jsonl" pkg.example "\"$box_BOX4\""
check "upstream saw the allowed name"       0 "pkg.example"             cat "$T/upstream.jsonl"
check "upstream never saw the denied name"  1 -                         grep -i denied.example "$T/upstream.jsonl"
rig_end
