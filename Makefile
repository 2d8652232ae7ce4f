# weft's commands. `make demo` and `make test` are all that a newcomer needs.

SHELL := /bin/bash
.DEFAULT_GOAL := help

.PHONY: help demo test bench check clean-demo

help:
	@echo 'make demo          two compute nodes, two tenants, shown in a minute (KEEP=1 leaves it standing)'
	@echo 'make clean-demo    ends a demonstration that was left standing'
	@echo 'make test          all tests'
	@echo 'make bench         what each stage costs, and weft beside OVS-DPDK on the same packets'
	@echo 'make check         what CI runs: formatting, lints, documentation, tests'

demo:
	packaging/setup.sh build demo
	cargo build --release --bins
	packaging/demo.sh

clean-demo:
	packaging/demo.sh clean

test:
	packaging/setup.sh build demo test
	tests/guest/build.sh
	packaging/test.sh

bench:
	packaging/setup.sh build bench
	cargo bench --package weft-benches
	benches/compare.py $(if $(CASE),--case "$(CASE)")

check:
	.ci/run
