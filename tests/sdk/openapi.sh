#!/bin/sh
# openapi.sh: tries what openapi.json describes (wire.py sees that it is what is served), with schemathesis, against the hostgate that harness.py started.
#
# Bounded in examples (schemathesis.toml), which are the same in every run, and in time. PATH has schemathesis first.
set -eu
cd "$(dirname "$0")"
export SCHEMATHESIS_HOOKS=hooks PYTHONPATH=. PYTHONDONTWRITEBYTECODE=1
if timeout 60 schemathesis --config-file schemathesis.toml run ../../docs/src/openapi.json --url "$HOSTGATE_URL" \
    >"$HOSTGATE_DIRECTORY/schemathesis" 2>&1; then
    echo "ok   openapi: what the description says holds ($(grep -Eo '[0-9]+ generated' "$HOSTGATE_DIRECTORY/schemathesis" | head -n 1))"
else
    cut -c 1-400 "$HOSTGATE_DIRECTORY/schemathesis" | head -n 200
    echo "FAIL openapi: what the description says does not hold (above)"
    exit 1
fi
