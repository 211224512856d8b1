#!/bin/sh
# A reply comes from the address that was asked, on listeners for all addresses of a family and on named ones, in a
# network namespace with several addresses. Exit: 0 all passed, 1 not, 77 cannot run here. HOSTGATE=PATH names the binary.
set -u
: "${HOSTGATE:?the path of the binary}"
unshare -n true 2>/dev/null || { echo "skip addresses: no network namespace may be made here"; exit 77; }
exec timeout -k 1 60 unshare -n python3 "$(dirname -- "$0")/addresses.py"
