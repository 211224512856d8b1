# What CI runs, by name. Nothing here is needed: each recipe is a script or a cargo command that can be typed as well.

# Lists the recipes.
default:
    @just --list --unsorted

# Builds hostgate for a clone.
build:
    cargo build --release --locked

# Serves ./policies on 127.0.0.1:1053.
run:
    cargo run --release --locked

# The gate without root and network: formatting, lints, docs, dependencies, tests.
check:
    tests/check

# The gate's other part, as root: real programs, SDKs, soak, fuzzing, instructions; or some of them.
compat *parts:
    tests/compat {{parts}}

# All of the gate, as CI runs it.
ci:
    .ci/run

# All tests, or those with a name.
test *names:
    tests/run {{names}}

# Builds the book in docs/book.
book:
    mdbook build docs

# Formats the code.
fmt:
    cargo fmt --all

# Writes the man pages again.
man:
    HOSTGATE_WRITE_MAN=yes cargo test --locked --lib man_pages

# Writes the OpenAPI document again.
openapi:
    HOSTGATE_WRITE_OPENAPI=yes cargo test --locked --lib openapi

# Licences, sources, duplicates and advisories of dependencies.
deny:
    cargo deny --workspace --locked check

# Fuzzes all targets for so many seconds each.
fuzz seconds="60":
    tests/fuzz/run {{seconds}}

# Measures hostgate beside other resolvers.
bench *options:
    tests/bench/run {{options}}

# Builds the archive of a release.
archive name:
    tests/archive {{name}}
