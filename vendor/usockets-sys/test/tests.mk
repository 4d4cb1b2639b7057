# The engine's own tests. Included by ../Makefile, whose variables are used here:
#
#   make test                        one flavour: unit tests, the runner on every back end
#   make test TLS=none               the same without TLS, and the runner once more with ssl = 1
#   make test BACKEND=poll           on one back end
#   make test SANITIZE=address,undefined
#   make test TESTS="name name"      these tests
#   make unit                        the unit tests alone
#   make test-faults                 the sweep over injected faults
#   make test-threads                what uses several threads, under ThreadSanitizer
#   make test-torture                random actions inside random callbacks, TORTURE_SECONDS on each back end
#   make test-all                    gcc, clang, sanitizers, faults, threads
#
# JOBS: tests at a time. USOCKETS_TEST_TIME in the environment multiplies the time limits.

BACKEND ?= epoll poll mock
JOBS ?= 2
TESTS ?=

RUNNER := $(OUT)/runner
FAULT_SWEEP := $(OUT)/fault_sweep
TORTURE := $(OUT)/torture
TORTURE_SECONDS ?= 20

test_flags := -std=c11 $(defines) -Iinclude -iquote src -iquote test -Wall -Wextra -Werror $(sanitize) $(CFLAGS)
test_libraries := -pthread -ldl $(tls_libraries)
test_object = $(1:test/%.c=$(OUT)/test/%.o)

mock_objects := $(call test_object,$(wildcard test/mock_*.c))
harness_objects := $(call test_object,$(wildcard test/harness*.c)) $(mock_objects)
runner_objects := $(call test_object,test/runner.c $(sort $(wildcard test/test_*.c))) $(harness_objects)
torture_objects := $(call test_object,$(sort $(wildcard test/torture*.c)))
sweep_objects := $(call test_object,$(sort $(wildcard test/fault_*.c))) $(harness_objects)
unit_sources := $(sort $(wildcard test/unit/*_test.c))
unit_programs := $(unit_sources:test/%.c=$(OUT)/%)

.PHONY: runner unit test test-threads test-threads-run test-faults test-faults-run test-all

runner: $(RUNNER)

# Exit code 77: needs another flavour.
unit: $(unit_programs)
	$(foreach program,$(unit_programs),{ timeout 120 $(program) || test $$? = 77; } &&) true

test: unit $(RUNNER)
	$(foreach backend,$(BACKEND),echo "back end $(backend)" && \
	    $(RUNNER) -j$(JOBS) --backend $(backend) $(TESTS) &&) true
	$(if $(and $(filter none,$(TLS)),$(if $(TESTS),,all)),echo "ssl = 1" && \
	    $(RUNNER) -j$(JOBS) --backend $(firstword $(BACKEND)) --ssl)

test-threads:
	$(MAKE) SANITIZE=thread test-threads-run

test-threads-run: $(RUNNER)
	$(foreach backend,$(BACKEND),$(RUNNER) --backend $(backend) --filter thread &&) true

test-faults:
	$(MAKE) FAULTS=1 SANITIZE=address,undefined test-faults-run

# Cases mostly wait, so there are more at a time than processors.
test-faults-run: unit $(FAULT_SWEEP)
	$(foreach backend,$(filter-out mock,$(BACKEND)),$(FAULT_SWEEP) -j4 --backend $(backend) &&) true

test-torture:
	$(MAKE) SANITIZE=address,undefined test-torture-run

.PHONY: test-torture test-torture-run
test-torture-run: $(TORTURE)
	$(foreach backend,$(filter-out mock,$(BACKEND)),\
	    USOCKETS_BACKEND=$(backend) $(TORTURE) $$(date +%s) $(TORTURE_SECONDS) &&) true

# One flavour after the other: each keeps the machine busy by itself.
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

$(TORTURE): $(torture_objects) $(LIB)
	$(CC) $(sanitize) $(CFLAGS) $(torture_objects) $(LIB) $(test_libraries) $(LDFLAGS) -o $@

$(unit_programs): $(OUT)/unit/%: $(OUT)/test/unit/%.o $(mock_objects) $(LIB)
	@mkdir -p $(@D)
	$(CC) $(sanitize) $(CFLAGS) $< $(mock_objects) $(LIB) $(test_libraries) $(LDFLAGS) -o $@

$(OUT)/test/%.o: test/%.c Makefile test/tests.mk
	@mkdir -p $(@D)
	$(CC) $(test_flags) -MMD -MP -c $< -o $@

.SECONDARY: $(call test_object,$(unit_sources))

-include $(runner_objects:.o=.d) $(sweep_objects:.o=.d) $(torture_objects:.o=.d) $(patsubst %.o,%.d,$(call test_object,$(unit_sources)))
