# Every check of this project. Each is one target; the gate (.ci/run) runs those of STEPS, in this
# order, and nothing else. What they need besides Rust and a C compiler is in scripts/packages.
#
#   make check        what to run before every commit: fmt, clippy, doc, test
#   make gate         all of STEPS, without installing anything
#   make <step>       one of them
#
# Measurements, which print figures and judge nothing: make instructions, make memory,
# make transfers, make testssl. What takes too long for the gate: make tls-send-and-close, make tls-bulk.

STEPS := fmt clippy doc test test-poll bindings headers include-only \
         engine-gcc engine-clang engine-no-tls engine-sanitized engine-faults engine-threads \
         faults loom asan valgrind examples interop syscalls

ENGINE := vendor/usockets-sys
PACKAGES := usockets usockets-sys usockets-systest usockets-benches
TARGET := $(or $(CARGO_TARGET_DIR),target)
HOST := $(shell rustc -vV | sed -n 's/^host: //p')

.PHONY: check gate gate-steps $(STEPS) instructions memory transfers testssl \
        tls-send-and-close tls-bulk clean

check: fmt clippy doc test

gate: $(STEPS)

gate-steps:
	@printf '%s\n' $(STEPS)

# -- Rust

fmt:
	cargo fmt --all --check

# One package at a time, so that the features of one cannot hide a mistake in another.
clippy:
	$(foreach package,$(PACKAGES),cargo clippy -p $(package) --all-targets -- -D warnings &&) true
	cargo clippy -p usockets --no-default-features --all-targets -- -D warnings
	cargo clippy -p usockets --features openssl --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc -p usockets -p usockets-sys --no-deps

test:
	cargo test
	cargo test --features openssl --test tls_openssl_types

test-poll:
	USOCKETS_BACKEND=poll cargo test

# lib.rs of usockets-sys against the headers, with and without what only fault builds have.
bindings:
	cargo test -p usockets-systest
	USOCKETS_FAULT_INJECTION=1 CARGO_TARGET_DIR=$(TARGET)/faults cargo test -p usockets-systest

# The interleavings of the shipped queue, pool and shutdown code.
loom:
	RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=2 CARGO_TARGET_DIR=$(TARGET)/loom \
	    cargo test -p usockets --release --lib loom

# The sweep over injected faults, and look-ups that hang, through the safe API.
faults:
	USOCKETS_FAULT_INJECTION=1 CARGO_TARGET_DIR=$(TARGET)/faults \
	    cargo test -p usockets --test faults --test hung_lookups

# Both languages instrumented; leaks are errors too. RUSTC_BOOTSTRAP, because -Z is not for stable.
# What must not compile is no matter for a sanitizer, and its tests cannot be built with one.
asan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address USOCKETS_SANITIZE=address CC=clang \
	    USOCKETS_FAULT_INJECTION=1 \
	    LSAN_OPTIONS=suppressions=$(CURDIR)/scripts/leaks.supp:print_suppressions=0 \
	    CARGO_TARGET_DIR=$(TARGET)/asan cargo test -p usockets --features openssl --target $(HOST) --lib \
	    --tests \
	    -- --skip misuse_that_the_compiler_rejects --skip states_with_too_large_an_alignment

valgrind:
	scripts/valgrind.sh

examples:
	scripts/check_examples.sh

# TLS with openssl, curl and Python's ssl, in both directions.
INTEROP := cargo build -p usockets --release --examples && \
    timeout 600 python3 scripts/tls_interop $(TARGET)/release/examples

interop:
	$(INTEROP)

# -- The engine alone

headers:
	$(MAKE) -C $(ENGINE) check-headers

include-only:
	$(MAKE) -C $(ENGINE) CC=gcc CXX=g++ WERROR=1 check-echo
	$(MAKE) -C $(ENGINE) CC=clang CXX=clang++ WERROR=1 check-echo

engine-gcc:
	$(MAKE) -C $(ENGINE) CC=gcc WERROR=1 test

engine-clang:
	$(MAKE) -C $(ENGINE) CC=clang WERROR=1 test

# ssl = 1 is ignored there.
engine-no-tls:
	$(MAKE) -C $(ENGINE) CC=gcc WERROR=1 TLS=none test BACKEND=epoll

engine-sanitized:
	$(MAKE) -C $(ENGINE) CC=clang SANITIZE=address,undefined test

# Every call of the engine fails once, with every error that fits.
engine-faults:
	$(MAKE) -C $(ENGINE) CC=clang test-faults

engine-threads:
	$(MAKE) -C $(ENGINE) CC=clang test-threads

# -- Counts

# An echo in steady state makes one receive and one send per message and nothing else.
syscalls:
	scripts/count_syscalls.sh

instructions:
	scripts/count_instructions.sh

# What a file costs in system calls, and a proxy in processor time, by the system and by copying.
transfers:
	scripts/count_transfer_calls.sh
	scripts/proxy_bulk.sh

# A thousand times 16 MiB and a short last message, and a close at once, over TLS.
tls-send-and-close:
	USOCKETS_TEST_TIMES=1000 cargo test --release -p usockets --test tls_torture send_and_close

# A gibibyte each way between the crate and the tool `openssl`, compared by hash.
tls-bulk:
	USOCKETS_TEST_MIB=1024 cargo test --release -p usockets --test tls_bulk -- --nocapture --test-threads 1

# What testssl.sh finds in tls_echo. Takes minutes.
testssl:
	scripts/testssl.sh

memory:
	cargo test --release -p usockets --test memory -- --nocapture

clean:
	cargo clean
	$(MAKE) -C $(ENGINE) clean
