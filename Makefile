# The front door: every target only calls cmake and scripts.
#   make run        install what is missing, build, start the proxy on its embedded default
#   make test       install what is missing, build, run every test; closes with ctest's summary
#   make bench      the benchmarks beside HAProxy, nginx and Envoy (ONLY=REGEX runs some)
SHELL := /bin/bash
.DEFAULT_GOAL := build
BINARY := build/marchproxy-l3l4
JOBS ?= $(shell nproc)
ONLY ?=
TESTS ?=
KERNEL ?=

.PHONY: setup build run demo test test-kernel bench lint fuzz coverage soak package clean clean-bpf

setup:
	@scripts/setup.sh

build: setup
	@scripts/build.sh release marchproxy-l3l4

run: build
	@exec $(BINARY) run

demo: build
	@exec $(BINARY) demo

# One ctest over everything: the release tree lists the sanitizer builds' unit tests as tests of its own.
test:
	@scripts/setup.sh --test
	@scripts/build.sh release marchproxy-l3l4 unit_tests e2e_programs
	@scripts/build.sh asan unit_tests
	@scripts/build.sh tsan thread_tests
	@ctest --test-dir build --output-on-failure --no-label-summary -j $(JOBS) $(if $(TESTS),-R '$(TESTS)')

# The packet plane's tests on the oldest kernel that we promise, in a virtual machine (KERNEL=6.1.0-50-amd64 takes another).
test-kernel:
	@scripts/setup.sh --test --kernel
	@scripts/build.sh release marchproxy-l3l4 bpf_test packet_test e2e_programs
	@tests/kernel/run.sh $(KERNEL)

bench:
	@scripts/setup.sh --test --bench
	@scripts/build.sh release marchproxy-l3l4 bench_tools
	@python3 bench/run.py $(if $(ONLY),--only '$(ONLY)')

lint:
	@scripts/setup.sh --lint
	@scripts/lint.sh

fuzz:
	@scripts/setup.sh --fuzz
	@scripts/build.sh fuzz fuzzers
	@scripts/fuzz.sh

coverage:
	@scripts/setup.sh --test --coverage
	@scripts/build.sh coverage marchproxy-l3l4 unit_tests
	@scripts/coverage.sh

soak: build
	@scripts/soak.sh

package:
	@scripts/setup.sh --package
	@scripts/build.sh release marchproxy-l3l4
	@cd build && cpack -G DEB

# What the packet plane left in the kernel, in the default directory: programs, maps, flows.
clean-bpf: build
	@$(BINARY) detach

clean:
	@cmake -E rm -rf build build-debug build-asan build-tsan build-coverage build-fuzz bench/out
