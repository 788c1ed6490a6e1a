# Go's own tools do the work; this file remembers how they are called.
GO          ?= go
STATICCHECK  = $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
BENCHSTAT    = $(GO) run golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da
# A duration, or a number of runs such as 20000x. Go 1.26 sometimes fails a target whose duration ends on a busy machine, for no
# other reason, so `check` counts.
FUZZTIME    ?= 10s
BENCHFLAGS  ?=
RACE        ?= $(GO) test -race -vet=off -timeout 30m ./...
# Runs the tests of the module it is called in. CI gives failing ones a second chance, see .ci/run.
TEST_MODULE ?= $(GO) test ./...
# The first is what hosts run. The hub of a fleet has modules that hosts do not need, and so have the others, which only test and measure.
MODULES     := . cmd/portmon-hub internal/bench packaging
SUITES      ?= bullseye bookworm trixie sid

help: ## show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the static binary ./portmon
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o portmon ./cmd/portmon

build-hub: ## build the static binary ./portmon-hub, which a fleet of hosts has one of
	CGO_ENABLED=0 $(GO) build -C cmd/portmon-hub -trimpath -ldflags '-s -w' -o ../../portmon-hub .

test: ## run all tests, as root or not, and list what was skipped for want of a program
	$(GO) test -timeout 10m ./...
	@$(GO) run ./internal/lab/programs

test-modules: ## run the tests of the hub, of the packages, which need rpm, shellcheck, nix and fail2ban, and of the benchmarks
	cd cmd/portmon-hub && $(TEST_MODULE)
	cd packaging && $(TEST_MODULE) -timeout 20m
	cd internal/bench && $(TEST_MODULE)

race: ## run all tests with the race detector
	$(RACE)

lint: ## gofmt, go vet, staticcheck, go mod tidy in each module: report, change nothing
	@out=$$(gofmt -l .); test -z "$$out" || { echo "gofmt would change: $$out"; exit 1; }
	@for module in $(MODULES); do echo "lint $$module" && $(GO) vet -C $$module ./... && \
		(cd $$module && $(STATICCHECK) ./... && $(GO) mod tidy -diff) || exit 1; done

lint-face: ## check the workflows, the Ansible role and the AppArmor profile; say what is skipped, or fail if PORTMON_REQUIRE=all
	$(GO) run github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
	@if command -v ansible-playbook >/dev/null; then ansible-playbook --syntax-check -i localhost, packaging/ansible/site.yml; \
		else echo 'skipped the Ansible role: no ansible-playbook (ansible-core)'; test "$$PORTMON_REQUIRE" != all; fi
	@if command -v apparmor_parser >/dev/null; then apparmor_parser -Q -K packaging/apparmor/usr.bin.portmon; \
		else echo 'skipped the AppArmor profile: no apparmor_parser (apparmor)'; test "$$PORTMON_REQUIRE" != all; fi

fuzz: ## run each fuzz target for FUZZTIME (10s)
	@$(GO) list -f '{{.ImportPath}} {{.Dir}}' ./... | while read -r pkg dir; do \
		grep -hos '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go | sed 's/^func //' | while read -r target; do \
			echo "$$pkg $$target"; \
			$(GO) test -vet=off -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x "$$pkg" </dev/null || exit 1; \
		done || exit 1; \
	done

check: lint lint-face race test-modules ## what CI runs: lint, race, the other modules, and a short run of each fuzz target
	@$(MAKE) --no-print-directory fuzz FUZZTIME=10000x

test-unprivileged: ## run all tests as nobody, from a copy (needs root to become nobody)
	sh .ci/unprivileged

bench: build ## measure beside nft into bench.txt and print medians (needs root, nft, jq; half an hour)
	@$(GO) test -C internal/bench -count 1 -timeout 0 -run '^$$' -bench . -benchtime 1x . $(BENCHFLAGS) >bench.txt || { cat bench.txt; exit 1; }
	$(BENCHSTAT) -ignore .config -filter '/by:/.+/' -table .name -row /work -col /by bench.txt

bench-fleet: ## measure a hub with 500 hosts, and print what docs/fleet.md says (needs root; four minutes)
	$(GO) test -C cmd/portmon-hub -count 1 -timeout 15m -run '^$$' -bench . -benchtime 1x .

deb: ## build dist/*.deb for amd64 and arm64
	@packaging/build deb amd64 arm64

rpm: ## build dist/*.rpm for amd64 and arm64
	@packaging/build rpm amd64 arm64

apk: ## build dist/*.apk for amd64 and arm64
	@packaging/build apk amd64 arm64

tar: ## build dist/*.tar.gz for amd64 and arm64, for other systems
	@packaging/build tar amd64 arm64

release: ## build all packages, their checksums and SBOMs (CycloneDX) into dist/
	@packaging/build deb rpm apk tar amd64 arm64
	$(GO) run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0 app -json -licenses -std -main cmd/portmon -output dist/portmon.cdx.json .
	$(GO) run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.9.0 app -json -licenses -std -output dist/portmon-hub.cdx.json cmd/portmon-hub
	cd dist && sha256sum portmon* >SHA256SUMS

lint-deb: deb ## ask Debian's lintian about the debs; errors fail
	lintian --allow-root --fail-on error dist/portmon*.deb

test-vm: ## boot SUITES of Debian under emulation: kernel tests, and the deb across restarts and reboots (needs root; two hours)
	packaging/vm/test $(SUITES)

demo: ## what README.md shows, played in namespaces: a trap, a scan, a bystander
	PORTMON_DEMO=1 $(GO) test -count 1 -run '^TestDemo$$' -v ./cmd/portmon

clean: ## remove what build made
	rm -rf portmon portmon-hub dist

.PHONY: help build build-hub test test-modules race lint lint-face fuzz check test-unprivileged bench bench-fleet deb rpm apk tar release lint-deb test-vm demo clean
.DEFAULT_GOAL := help
