package config

import (
	"crypto/tls"
	"net/netip"
	"time"

	"postern/proxy"
)

// defaults are the values of all keys that are not written. Two depend on
// others, and are set where those are known: PreserveSource holds for tproxy
// alone, and redirect listens on the unspecified addresses, but for connections
// of this machine alone.
func defaults() proxy.Config {
	return proxy.Config{
		Intercept: proxy.Intercept{
			Method: "tproxy",
			User:   "postern",
			Ports:  []uint16{25},
		},
		Listen: proxy.Listen{
			Addresses: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:2525"), netip.MustParseAddrPort("[::1]:2525")},
		},
		TLS: proxy.TLS{
			MinVersion: tls.VersionTLS12,
			Hold:       24 * time.Hour,
			TrustCA:    "system",
		},
		SMTP: proxy.SMTP{BareNewline: proxy.Normalize},
		Limits: proxy.Limits{
			Sessions:          10000,
			SessionsPerSource: 200,
			Recipients:        1000,
			Line:              2048,
			ReplyLines:        512,
		},
		Timeouts: proxy.Timeouts{
			Connect:   30 * time.Second,
			Handshake: 30 * time.Second,
			Command:   5 * time.Minute,
			Data:      10 * time.Minute,
			Final:     15 * time.Minute,
			Drain:     60 * time.Second,
		},
		Log: proxy.Log{Format: "json", Output: "stderr", Level: "info"},
	}
}
