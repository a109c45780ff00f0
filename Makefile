# What must pass before a push. `make check` runs everything; each part can be run alone.
CARGO ?= cargo
# cargo-nextest where it is installed, cargo's own runner otherwise.
TEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: check fmt clippy doc test acceptance dist-pgo

check: fmt clippy doc test

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

test:
	$(CARGO) $(TEST) --workspace --locked
	$(CARGO) test --workspace --doc --locked

# Writes docs/acceptance.md anew from the numbers above tests.
acceptance:
	UPDATE_ACCEPTANCE=1 $(CARGO) test -p durward --test it the_acceptance_page

# Builds target/dist-pgo/durward: the binary that is shipped, compiled by what the benchmark's load was seen to need.
dist-pgo:
	tools/pgo
