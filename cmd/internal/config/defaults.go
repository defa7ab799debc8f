package config

import (
	"crypto/tls"
	"net/netip"
	"time"

	"postern/enforce"
	"postern/proxy"
)

// inside are the addresses that no MX host of somebody else has: private
// (RFC 1918, RFC 4193), link-local and loopback.
func inside() []netip.Prefix {
	var all []netip.Prefix
	for _, p := range []string{"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "127.0.0.0/8",
		"fc00::/7", "fe80::/10", "::1/128"} {
		all = append(all, netip.MustParsePrefix(p))
	}
	return all
}

// BuiltIn is what holds without any file: the defaults and the built-in rule. It has
// no Path. What a file must say, such as where connections come in, it does not.
func BuiltIn() *File {
	f := &File{Proxy: defaults(), at: &positions{}}
	policy, _ := enforce.Compile(nil, f.Proxy.TLS.MinVersion) // nothing can be wrong with no rules
	f.Policy = policy.Verifying(f.Proxy.Verification())
	return f
}

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
		Resolver: proxy.Resolver{
			Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")},
			TrustAD: "loopback",
		},
		Verify: proxy.Verify{
			Auto:   enforce.Auto{DANE: true, MTASTS: true},
			Relays: inside(),
			Cache:  "/var/lib/postern/policies",
		},
		Memory: proxy.Memory{
			Store:     "/var/lib/postern/memory.db",
			Downgrade: "block",
			Remember:  30 * 24 * time.Hour,
		},
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
