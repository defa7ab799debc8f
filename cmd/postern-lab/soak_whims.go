package main

import (
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	"postern/proxy/proxytest"
)

// whims draws where the servers hang up.
type whims struct {
	mu     sync.Mutex
	random *rand.Rand
	fair   bool // no more of it
}

// whimShare of all connections end by one, in percent.
const whimShare = 20

func newWhims(seed uint64) *whims {
	return &whims{random: rand.New(rand.NewPCG(seed, 2<<32))}
}

func (w *whims) next() proxytest.Whim {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fair || w.random.IntN(100) >= whimShare {
		return proxytest.Whim{}
	}
	stages := []proxytest.Stage{
		proxytest.AtBanner, proxytest.AtHello, proxytest.InContent, proxytest.AtEndOfData, proxytest.AtAcceptance,
	}
	return proxytest.Whim{At: stages[w.random.IntN(len(stages))], Reset: w.random.IntN(2) == 0}
}

func (w *whims) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fair = true
}

// count starts a counter at an address of the server host.
func (l *lab) count(address netip.Addr, config proxytest.CounterConfig) (*proxytest.Counter, error) {
	if err := l.network.Server.AddAddress("eth0", subnet(address)); err != nil {
		return nil, err
	}
	listener, err := l.network.Server.Listen(netip.AddrPortFrom(address, smtpPort))
	if err != nil {
		return nil, fmt.Errorf("counting server: %w", err)
	}
	return proxytest.Count(listener, config), nil
}

func serverTLS(cert tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
}

func addrs(all ...netip.Addr) []netip.Addr { return all }
