# make run    installs into a private directory and shows the main job, end to end
# make run KEEP=1   the same, and leaves the disk to be used;   make stop   ends what that left
# make test   all tests, with the foreign programs that judge them
# make install [DESTDIR=...] [TARGET=<rustc target>]   make uninstall
# make deb   make rpm   packages for dpkg and rpm, in target/
# make test-long  the store against its model, 10,000 operations a run (seeds are printed); ten minutes of
#             twelve callers at once; 100 fill-ups of SRs beside other programs (as root); twice ten
#             minutes of a guest that attacks its ring, ten of clients that send garbage; 1,000 deaths of the
#             process that serves one, and of the server in the real program;
#             the programs beside those of an earlier commit (PREVIOUS=<commit>, HEAD~1 if not given);
#             latencies and system calls as a guest has them, a frontend that vanishes, a guest that crashes and has
#             a second kernel, one that attacks, guests that GRUB starts, PVH and HVM guests (make test-guests); 100
#             fill-ups with the memory that a machine really has (make test-memory); swap (make test-swap); and the
#             packages
# make test-packages   the packages of make deb rpm are installed, used, upgraded under a load, and removed
# make test-xen   guests of a real Xen on disks of this SR: a host in QEMU, of Debian's packages (as root)
# make test-swap  SRs with and without device-config:swap where memory is short, in QEMU (as root)
# make test-xo    Xen Orchestra's own NBD client reads a backup, full and incremental (takes node and npm)
# make test-trace  the methods below the real OpenTelemetry packages (takes python3 with pip)
# make crates  packages smapiv3, smapiv3-plugin and smapiv3-syslog for other authors, and builds what is in them
# make lint   formatting and clippy
# make bench  everything measured beside its peers, the table and target/bench.json
# make bench-quick   the same with small disks and few rounds, under two minutes
# make bench-fleet   a hundred clones, also of a disk with Debian that was started in each (as root)
# make bench-zram   what zram makes of a disk with Debian and one with a database, in QEMU (as root)

CARGO ?= cargo
TARGET ?= $(shell rustc -vV | sed -n 's/^host: //p')
CARGO_TARGET_DIR ?= target
export CARGO_TARGET_DIR

# Linked statically, the programs run on every dom0 whatever its C library, and start faster. Naming
# the target keeps the flag from what cargo builds for itself.
#   $(call cargo_build,<profile>,<more programs>)   $(call built,<profile>): where they are then
cargo_build = RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static" \
	$(CARGO) build --locked --profile $1 --target $(TARGET) $(foreach program,$(PROGRAMS) $2,--bin $(program))
built = $(CARGO_TARGET_DIR)/$(TARGET)/$1
# Of all packages, so that cargo does not build them anew with fewer features:
#   $(call long_test,<test program>,<begin of the tests' names>)
long_test = $(CARGO) test --locked --workspace --test $1 -- --nocapture $2
# What other authors of plugins use, and the packages of which the examples in documentation are tests.
CRATES = -p smapiv3-syslog -p smapiv3 -p smapiv3-plugin
PROGRAMS = volume-plugin datapath-plugin tapdisk-ram tap-ctl-ram

.PHONY: all build crates deb rpm run stop test test-long test-random test-doubles test-migrations test-versions test-guests test-memory test-packages test-swap test-xen test-xo test-trace lint bench bench-quick bench-fleet bench-zram install uninstall clean

all: build

build:
	$(call cargo_build,release)

run:
	tests/tools.sh run
	$(call cargo_build,demo,demo)
	$(call built,demo)/demo $(call built,demo) $(if $(KEEP),keep)

stop:
	$(call cargo_build,demo,demo)
	$(call built,demo)/demo end

# nextest where it is installed; cargo's own runner does as well.
test:
	tests/tools.sh test
	$(CARGO) build --locked --workspace --all-targets
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --locked --workspace --no-fail-fast && $(CARGO) test --locked --doc $(CRATES); \
	else \
		$(CARGO) test --locked --workspace --no-fail-fast; \
	fi
	$(MAKE) crates

# The crates for other authors, as they would be published: complete, and they build on their own.
crates:
	$(CARGO) package --locked --allow-dirty $(CRATES)

# A seed that failed: STORE_SEED=... make test-long, or BLKIF_SEED=...
test-long: test-random test-doubles test-migrations test-versions test-packages test-guests test-memory test-swap

# Each rule of smapiv3-check is broken alone, and all of them are judged.
test-doubles:
	DOUBLES_WHOLE=1 $(CARGO) test --locked --package smapiv3-check --test doubles -- --nocapture

test-random:
	STORE_CASES=$${STORE_CASES:-1} STORE_OPS=10000 $(call long_test,store,tree)
	STORE_FILL_UPS=$${STORE_FILL_UPS:-100} $(call long_test,store,host_memory)
	STORE_STORM_SECONDS=$${STORE_STORM_SECONDS:-600} $(call long_test,store,storm)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(call long_test,ring,attack)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(call long_test,rings,attack)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} $(call long_test,fuzz)
	BLKIF_KILLS=$${BLKIF_KILLS:-1000} $(call long_test,ring,kill)
	SAVE_KILLS=$${SAVE_KILLS:-300} $(call long_test,save,kill)
	KEEPER_KILLS=$${KEEPER_KILLS:-1000} $(call long_test,rings,kill)

# A seed that failed: MIGRATION_SEED=...
test-migrations:
	$(CARGO) build --locked --bins
	MIGRATION_KILLS=$${MIGRATION_KILLS:-300} MIGRATION_SEED=$${MIGRATION_SEED:-$$(date +%s)} \
		$(CARGO) test --locked --package end-to-end --test e2e migration::kills -- --nocapture

# The programs beside those of an earlier commit, on one SR.
test-versions:
	$(CARGO) build --locked --bins
	programs=$$(tests/previous.sh $(PREVIOUS)) && PREVIOUS_PROGRAMS=$$programs \
		$(CARGO) test --locked --package end-to-end --test e2e versions:: -- --nocapture

# Of release programs: make test has packages of debug ones.
test-packages: deb rpm
	tests/tools.sh test
	$(CARGO) build --locked --bins
	PACKAGES=$(abspath $(CARGO_TARGET_DIR)) PACKAGE_PROGRAMS=$(abspath $(call built,release)) \
		$(CARGO) test --locked --package end-to-end --test e2e packages:: -- --nocapture

# Latencies of graphs beside a guest's own, system calls for a request, a frontend that vanishes and comes back, a guest
# that crashes and has a second kernel, a PVH and an HVM guest.
test-guests:
	$(MAKE) test-xen XEN="latency.sh rates.sh again.sh kdump.sh xenvbd.sh hostile.sh grub.sh pvh.sh hvm.sh"

# XEN="disk.sh two.sh suspend.sh kill.sh latency.sh rates.sh again.sh kdump.sh xenvbd.sh hostile.sh grub.sh pvh.sh
# hvm.sh": which scripts of tests/xen; XEN_KILLS: how many servers kill.sh kills (50); TAPBACK: blktap's own program, in
# the place of the one here that does what it does
test-xen:
	tests/tools.sh run
	$(call cargo_build,demo,xen-toolstack xen-load xen-cold)
	tests/xen/run.sh $(call built,demo) $(CARGO_TARGET_DIR)/xen $(or $(XEN),disk.sh two.sh suspend.sh kill.sh)

# SRs take all memory of a small emulated machine, FILL_UPS times, beside another program that uses memory (as root).
test-memory:
	tests/tools.sh run
	RUSTFLAGS="$(RUSTFLAGS) -C target-feature=+crt-static" $(CARGO) build --locked --profile demo --target $(TARGET) \
		--package store --example fill_ups
	tests/xen/memory.sh $(call built,demo)/examples/fill_ups $(CARGO_TARGET_DIR)/xen $(FILL_UPS)

# On a kernel that can keep a tmpfs out of swap, of Debian's backports, and on one that cannot. The root file system
# takes no tmpfs, so that all of the machine's tmpfs is that of SRs.
test-swap:
	tests/tools.sh run
	$(call cargo_build,demo,xen-toolstack xen-load xen-cold)
	for kernel in backports ""; do XEN_KERNEL=$$kernel XEN_WITHOUT=yes XEN_MEMORY=768 XEN_WORDS=rootfstype=ramfs \
		tests/xen/run.sh $(call built,demo) $(CARGO_TARGET_DIR)/xen swap.sh || exit 1; done

# The client comes from the npm registry; it takes node and npm, of whichever origin.
test-xo:
	tests/tools.sh run
	$(call cargo_build,demo)
	tests/xo/run.sh $(call built,demo) $(CARGO_TARGET_DIR)/xo

# The packages come from PyPI; it takes python3 with pip.
test-trace:
	tests/tools.sh run
	$(call cargo_build,demo)
	tests/trace/run.sh $(call built,demo) $(CARGO_TARGET_DIR)/trace

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# BENCH: more arguments, as --rounds 3 or --only path,chain
bench bench-quick:
	tests/tools.sh bench
	$(call cargo_build,release,bench)
	$(CARGO) build --locked --release --manifest-path tests/vhost/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/vhost
	$(call built,release)/bench --vhost-load $(CARGO_TARGET_DIR)/vhost/release/vhost-load $(if $(filter bench-quick,$@),--quick) --json $(CARGO_TARGET_DIR)/bench.json $(BENCH)

bench-fleet:
	tests/bench/system.sh $(CARGO_TARGET_DIR)/fleet
	$(MAKE) bench BENCH="--only fleet --image $(CARGO_TARGET_DIR)/fleet/disk.raw --booted $(CARGO_TARGET_DIR)/fleet/booted.raw $(BENCH)"

# What zram makes of an SR with a system's disk and a database, in a machine of its own.
bench-zram:
	tests/tools.sh run
	tests/bench/system.sh $(CARGO_TARGET_DIR)/fleet
	mkdir -p $(CARGO_TARGET_DIR)/xen/build/data
	ln -f $(CARGO_TARGET_DIR)/fleet/disk.raw $(CARGO_TARGET_DIR)/xen/build/data/system
	tests/bench/database.py $(CARGO_TARGET_DIR)/xen/build/data/database
	$(call cargo_build,demo,xen-toolstack xen-load xen-cold)
	XEN_WITHOUT=yes XEN_MEMORY=1152 tests/xen/run.sh $(call built,demo) $(CARGO_TARGET_DIR)/xen zram.sh

install: build
	tests/install.sh install $(call built,release) "$(DESTDIR)"

uninstall:
	tests/install.sh uninstall $(call built,release) "$(DESTDIR)"

deb rpm:
	tests/tools.sh package
	$(call cargo_build,release)
	rm -f $(CARGO_TARGET_DIR)/xapi-storage-ram[-_]*.$@
	tests/package.sh $@ $(call built,release) $(CARGO_TARGET_DIR)

clean:
	$(CARGO) clean
