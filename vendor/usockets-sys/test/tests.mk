# The engine's own tests. Included by ../Makefile, whose variables are used here:
#
#   make test                        one flavour, on every back end, and once with ssl = 1
#   make test BACKEND=poll           on one back end
#   make test SANITIZE=address,undefined
#   make test-faults                 the sweep over injected faults (builds with FAULTS=1)
#   make test-threads                what uses several threads, under ThreadSanitizer
#   make test-all                    gcc, clang, sanitizers and faults
#   make test TESTS="name name"      these tests
#
# JOBS: tests at a time. USOCKETS_TEST_TIME in the environment multiplies the time limits.

BACKEND ?= epoll poll mock
JOBS ?= 2
TESTS ?=

RUNNER := $(OUT)/runner
FAULT_SWEEP := $(OUT)/fault_sweep

test_flags := -std=c11 $(defines) -Iinclude -Isrc -Itest -Wall -Wextra -Werror $(sanitize) $(CFLAGS)
# The tests see the same time whether or not the engine reuses memory.
harness_sources := $(wildcard test/harness*.c test/mock_*.c)
runner_sources := test/runner.c $(harness_sources) $(sort $(wildcard test/test_*.c))
sweep_sources := $(sort $(wildcard test/fault_*.c)) $(harness_sources)
runner_objects := $(runner_sources:test/%.c=$(OUT)/test/%.o)
sweep_objects := $(sweep_sources:test/%.c=$(OUT)/test/%.o)
test_libraries := -pthread -ldl

.PHONY: test test-run test-faults test-threads test-all runner

runner: $(RUNNER)

test: $(RUNNER)
	$(foreach backend,$(BACKEND),echo "back end $(backend)" && \
	    $(RUNNER) -j$(JOBS) --backend $(backend) $(TESTS) &&) true
	$(if $(TESTS),,echo "ssl = 1" && $(RUNNER) -j$(JOBS) --backend $(firstword $(BACKEND)) --ssl)

test-threads:
	$(MAKE) SANITIZE=thread runner
	$(MAKE) --no-print-directory SANITIZE=thread test-threads-run

.PHONY: test-threads-run
test-threads-run: $(RUNNER)
	$(foreach backend,$(BACKEND),$(RUNNER) --backend $(backend) --filter thread &&) true

test-faults:
	$(MAKE) FAULTS=1 SANITIZE=address,undefined fault-sweep

.PHONY: fault-sweep
fault-sweep: $(FAULT_SWEEP)
	$(foreach backend,$(filter-out mock,$(BACKEND)),$(FAULT_SWEEP) --backend $(backend) &&) true

# One flavour after the other: each uses all processors by itself.
test-all:
	$(MAKE) CC=gcc WERROR=1 test
	$(MAKE) CC=clang WERROR=1 test
	$(MAKE) CC=clang SANITIZE=address,undefined test
	$(MAKE) CC=clang test-faults
	$(MAKE) CC=clang test-threads

$(RUNNER): $(runner_objects) $(LIB)
	$(CC) $(sanitize) $(CFLAGS) $(runner_objects) $(LIB) $(test_libraries) $(LDFLAGS) -o $@

$(FAULT_SWEEP): $(sweep_objects) $(LIB)
	$(CC) $(sanitize) $(CFLAGS) $(sweep_objects) $(LIB) $(test_libraries) $(LDFLAGS) -o $@

$(OUT)/test/%.o: test/%.c Makefile test/tests.mk
	@mkdir -p $(@D)
	$(CC) $(test_flags) -MMD -MP -c $< -o $@

-include $(runner_objects:.o=.d) $(sweep_objects:.o=.d)
