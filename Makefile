# make help lists what can be made. Go is all that is needed; gcc adds the race detector to the tests.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory --no-builtin-rules
.DEFAULT_GOAL := help

GO ?= go
TOOLS := .cache/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT ?= $(shell git rev-parse --verify -q HEAD || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
STATIC := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
PLATFORMS := linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

# The race detector needs a C compiler.
RACE := $(shell CGO_ENABLED=1 $(GO) env CC | xargs -I{} sh -c 'command -v {}' >/dev/null 2>&1 && echo -race)

# How long each fuzz target runs, and which (a pattern of names).
FUZZTIME ?= 5m
FUZZ ?= .
# The packages whose tests have a long form, and the sizes that ask for it.
SOAK ?= ./internal/e2e/... ./certs/ca ./certs/store/... ./internal/audit
SOAK_SIZES := POSTERN_CRASH_ROUNDS=200 POSTERN_ENTRY_ROUNDS=200 \
	POSTERN_ROTATION_FOR=3m POSTERN_ROTATION_RATE=2000 \
	POSTERN_CHANGES_FOR=9m POSTERN_CHANGES_RATE=1000 POSTERN_RELOADS=1000 POSTERN_FLAP_FOR=1m POSTERN_FLOOD_FOR=10s
# Which benchmarks, and how often each.
BENCH ?= .
COUNT ?= 6

##@ For everybody

.PHONY: help
help: ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## build the static binary bin/postern
	$(STATIC) -o bin/postern ./cmd/postern

.PHONY: test
test: ## lint, unit tests with the race detector, end-to-end tests of the built binary (up to 10 minutes on 2 cores)
test: lint linked-check generate-check unit e2e
ifeq ($(RACE),)
	@echo 'NOTE: there is no C compiler, so the tests ran WITHOUT the race detector.'
endif

.PHONY: interop
interop: ## postern against foreign software, image and cross builds (up to 30 minutes; root installs what is missing)
interop: cross vuln build
	@if [ "$$(id -u)" -eq 0 ]; then internal/tools/ensure.sh \
		openssl=openssl curl=curl certtool=gnutls-bin python3=python3 buildah=buildah \
		nghttp=nghttp2-client h2load=nghttp2-client; fi
	@internal/tools/python.sh .cache/venv internal/interop/requirements.txt
	$(MAKE) image-files ARCH=$$($(GO) env GOARCH)
	cd internal/interop && POSTERN_BIN=$(CURDIR)/bin/postern POSTERN_PYTHON=$(CURDIR)/.cache/venv/bin/python \
		$(GO) test -count=1 -timeout=25m ./...

##@ Checks

.PHONY: lint
lint: $(TOOLS)/golangci-lint ## run the linters
	$(TOOLS)/golangci-lint run --allow-parallel-runners ./...
	cd internal/interop && $(CURDIR)/$(TOOLS)/golangci-lint run --allow-parallel-runners --config ../../.golangci.yml ./...

.PHONY: fmt
fmt: $(TOOLS)/golangci-lint ## format the Go files
	$(TOOLS)/golangci-lint fmt ./...

.PHONY: unit
unit: ## run the tests of the packages
ifeq ($(RACE),)
	@echo 'NOTE: there is no C compiler (gcc), so the tests run WITHOUT the race detector.'
endif
	@if [ "$$(uname)" = Linux ]; then internal/tools/ensure.sh strace=strace || \
		echo 'NOTE: without strace the tests of failing disks are skipped.'; fi
	$(GO) test $(RACE) -timeout=5m $$($(GO) list ./... | grep -v /internal/e2e)

.PHONY: e2e
e2e: build ## run the end-to-end tests of the built binary
	POSTERN_BIN=$(CURDIR)/bin/postern $(GO) test $(RACE) -count=1 -timeout=8m ./internal/e2e/...

.PHONY: race
race: ## run all tests three times, and the end-to-end tests with a binary that has the race detector too
	@internal/tools/ensure.sh gcc=gcc
	$(GO) test -race -count=3 -timeout=30m $$($(GO) list ./... | grep -v /internal/e2e)
	CGO_ENABLED=1 $(GO) build -race -o bin/postern-race ./cmd/postern
	POSTERN_BIN=$(CURDIR)/bin/postern-race $(GO) test -race -count=1 -timeout=30m ./internal/e2e/...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (5m), or those that match FUZZ
	internal/tools/fuzz.sh $(FUZZTIME) '$(FUZZ)'

.PHONY: soak
soak: build ## run the tests that have a long form in it
	$(SOAK_SIZES) POSTERN_BIN=$(CURDIR)/bin/postern $(GO) test -count=1 -timeout=3h -v $(SOAK)

.PHONY: bench
bench: ## run the benchmarks that match BENCH, COUNT (6) times each
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -count=$(COUNT) -timeout=1h ./... | grep -vE '^(ok|\?) '

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## look for known vulnerabilities in what is linked (needs the vulnerability database)
	@if ! $(TOOLS)/govulncheck ./cmd/postern 2>&1 | tee .cache/vuln.txt; then \
		grep -q '^govulncheck: fetching vulnerabilities' .cache/vuln.txt; \
		echo 'NOTE: the vulnerability database was not reached; nothing was checked.'; \
	fi

##@ Builds

.PHONY: cross
cross: ## build for Linux, macOS and Windows on amd64 and arm64 into bin/
	@for platform in $(PLATFORMS); do \
		os=$${platform%/*} arch=$${platform#*/} suffix=; [ $$os != windows ] || suffix=.exe; \
		echo "build $$platform"; \
		GOOS=$$os GOARCH=$$arch $(STATIC) -o bin/$$os-$$arch/postern$$suffix ./cmd/postern; \
	done

# What the Dockerfile copies: the static binary, and the folders it writes to, which scratch cannot make.
ARCH ?= $(shell $(GO) env GOARCH)
.PHONY: image-files
image-files:
	GOOS=linux GOARCH=$(ARCH) $(STATIC) -o bin/linux-$(ARCH)/postern ./cmd/postern
	install -d -m 0755 bin/rootfs/var/lib bin/rootfs/run bin/rootfs/run/postern
	install -d -m 0700 bin/rootfs/var/lib/postern

IMAGE ?= postern:$(VERSION)
ENGINE ?= $(shell docker info >/dev/null 2>&1 && echo docker || command -v podman || command -v buildah || echo no-container-engine)
.PHONY: image
image: image-files ## build the container image IMAGE for ARCH with docker, podman or buildah
	$(ENGINE) build $(if $(filter docker,$(ENGINE)),,--format docker) --platform linux/$(ARCH) \
		--build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) -t $(IMAGE) .

##@ Committed files that are made

.PHONY: generate
generate: $(TOOLS)/protoc $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc ## write generated code again
	internal/tools/generate.sh

.PHONY: generate-check
generate-check: $(TOOLS)/protoc $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc
	@internal/tools/generate.sh --check

.PHONY: linked
linked: ## write docs/linked-packages.txt again
	internal/tools/linked.sh > docs/linked-packages.txt.new
	mv docs/linked-packages.txt.new docs/linked-packages.txt

.PHONY: linked-check
linked-check:
	@internal/tools/linked.sh --check

# Tools are built once from their pinned module.
TOOL_golangci-lint := github.com/golangci/golangci-lint/v2/cmd/golangci-lint
TOOL_govulncheck := golang.org/x/vuln/cmd/govulncheck
TOOL_protoc-gen-go := google.golang.org/protobuf/cmd/protoc-gen-go
TOOL_protoc-gen-go-grpc := google.golang.org/grpc/cmd/protoc-gen-go-grpc
TOOL_protoc := ./protoc

$(TOOLS)/%: internal/tools/go.mod internal/tools/go.sum internal/tools/protoc/main.go
	cd internal/tools && CGO_ENABLED=0 $(GO) build -o $(CURDIR)/$@ $(TOOL_$*)

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .cache
