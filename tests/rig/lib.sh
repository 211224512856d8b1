# Common parts of the rig's tests; sourced, not run. POSIX sh.
#
# rig_begin TEST           makes $T (a temp dir), sets the trap, names the run
# rig_netns VAR            makes a namespace; sets VAR_NS VAR_HOST4 VAR_BOX4 VAR_HOST6 VAR_BOX6
# rig_spawn NAME CMD...    starts CMD in the background, output in $T/NAME.out; ended by the trap
# check LABEL STATUS TEXT CMD...   runs CMD with a deadline; passes when it exits with STATUS and its output
#                          (stdout and stderr together) holds TEXT, or is empty when TEXT is `-`; prints a pass or FAIL line
# rig_end                  prints the sum; exits 0 or 1

RIG=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
DEADLINE=${DEADLINE:-10}
VERBOSE=${VERBOSE:-}
passed=0 failed=0 skipped=0

rig_begin() {
    TEST=$1
    # Under /tmp on purpose: build.sh hides /var and /run from the builder.
    T=$(mktemp -d "/tmp/hgrig-$TEST.XXXXXX")
    RUN=hgrig-$$-${T##*.}
    PIDS='' SPACES=''
    trap rig_cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

rig_cleanup() {
    status=$?
    trap - EXIT
    trap '' HUP INT TERM
    for pid in $PIDS; do kill "$pid" 2>/dev/null; done
    for pid in $PIDS; do wait "$pid" 2>/dev/null; done
    for space in $SPACES; do "$RIG/netns-down" "$space" || status=1; done
    if [ "$status" -ne 0 ] && [ -n "${KEEP:-}" ]; then
        echo "$TEST: kept $T" >&2
    else
        rm -rf --one-file-system -- "$T"
    fi
    exit "$status"
}

rig_netns() {
    SPACES="$SPACES $RUN-$1"
    "$RIG/netns-up" "$RUN-$1" >"$T/$1.env" || { echo "FAIL $TEST: netns-up"; exit 1; }
    sed "s/^HG_/$1_/" "$T/$1.env" >"$T/$1.vars"
    . "$T/$1.vars"
}

rig_spawn() {
    spawned=$1
    shift
    # With the parent: a server left by kill -9 of a test would hold the port of an address that the next run gets.
    setpriv --pdeathsig KILL "$@" >"$T/$spawned.out" 2>&1 </dev/null &
    PIDS="$! $PIDS"
}

# wait_until SECONDS WHAT CMD...: repeats CMD until it succeeds.
wait_until() {
    until_end=$(($(date +%s) + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ "$(date +%s)" -ge "$until_end" ]; then
            echo "FAIL $TEST: $what: not within the deadline"
            for out in "$T"/*.out; do sed "s|^|    ${out##*/}: |" "$out"; done
            exit 1
        fi
        sleep 0.05
    done
}

# Runs CMD in a namespace, without the caller's proxy, LOCALDOMAIN, RES_OPTIONS or HOSTALIASES.
inside() {                                       # inside NAMESPACE CMD...
    space=$1
    shift
    timeout -k 1 "$DEADLINE" ip netns exec "$space" env -i PATH="$PATH" HOME="$T" LC_ALL=C "$@"
}

# `timeout` runs programs only; a shell function (`inside`, `build`) brings its own deadline.
rig_deadline() {
    if command -v "$1" | grep -qv "^/"; then "$@"; else timeout -k 1 "$DEADLINE" "$@"; fi
}

check() {
    label=$1 want=$2 text=$3
    shift 3
    got=0
    output=$(rig_deadline "$@" 2>&1 </dev/null) || got=$?
    case $text in
    -) [ -z "$output" ] && has=yes || has=no ;;
    *) case $output in *"$text"*) has=yes ;; *) has=no ;; esac ;;
    esac
    if [ "$got" -eq "$want" ] && [ "$has" = yes ]; then
        passed=$((passed + 1))
        echo "pass $TEST: $label (exit $got)"
        [ -z "$VERBOSE" ] || printf '%s\n' "$output" | sed 's/^/    /'
    else
        failed=$((failed + 1))
        echo "FAIL $TEST: $label: exit $got, wanted $want with \`$text\`"
        printf '%s\n' "$output" | sed 's/^/    /'
    fi
}

skip() { skipped=$((skipped + 1)); echo "skip $TEST: $*"; }

need() { for tool; do command -v "$tool" >/dev/null || { echo "skip $TEST: no \`$tool\`"; exit 77; }; done; }

# Fails or passes on a line of FILE that holds every WORD, waiting for it (a log may be written late).
check_line() {                                   # check_line LABEL FILE WORD...
    label=$1 file=$2
    shift 2
    program='{ for (i = 1; i < n; i++) if (!index($0, w[i])) next; print; exit found = 1 } END { exit !found }'
    line_end=$(($(date +%s) + DEADLINE))
    until line=$(words="$*" awk 'BEGIN { n = split(ENVIRON["words"], w, " ") + 1 } '"$program" "$file" 2>/dev/null); do
        [ "$(date +%s)" -lt "$line_end" ] || break
        sleep 0.05
    done
    check "$label" 0 "$1" printf '%s\n' "$line"
}

rig_end() {
    if [ "$failed" -gt 0 ]; then
        for out in "$T"/*.out; do sed "s|^|    ${out##*/}: |" "$out"; done
    fi
    echo "$TEST: $passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}
