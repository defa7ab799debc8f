# make demo    builds, and shows Postern at work in a network of its own; needs Go
#              and nothing else, no root
# make attack  plays the gallery of attacks there, and shows the bytes
# make test    all tests; as root it installs the Debian programs that they need,
#              otherwise it says which are missing
# make fuzz    every fuzz target for FUZZTIME (default 10m) each
# make soak    sends thousands of messages through Postern while everything fails;
#              needs Postfix, and root or uidmap
# make load    hostile load: slow peers, floods, ten thousand idle sessions
# make bench   measures Postern beside no proxy, the least that a relay can do, and
#              others that are installed; takes an hour. BENCH="--only small"
# make build   the programs, in build/
# make test-packages  installs the packages on machines that boot, upgrades, crashes
#              and removes them; needs root and Debian
# make packages  deb and rpm for amd64 and arm64, in build/packages/; the same source
#              gives the same bytes. VERSION=1.2.3 names another version

GO       ?= go
FUZZTIME ?= 10m
VERSION  ?= $(shell ./packaging/version)

.PHONY: build packages demo attack soak load bench test test-packages fuzz clean

build:
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o build/ ./cmd/...

packages:
	@GO="$(GO)" VERSION="$(VERSION)" ./packaging/build

demo: build
	@./build/postern-lab demo --postern ./build/postern

attack: build
	@./build/postern-lab attack --postern ./build/postern

soak: build
	@./build/postern-lab soak --postern ./build/postern

load: build
	@./build/postern-lab load --postern ./build/postern

bench: build
	@./build/postern-lab bench --postern ./build/postern $(BENCH)

test:
	@GO="$(GO)" ./.ci/test

test-packages:
	@GO="$(GO)" ./.ci/test-packages -v

fuzz:
	@GO="$(GO)" FUZZTIME="$(FUZZTIME)" ./.ci/fuzz

clean:
	rm -rf build
