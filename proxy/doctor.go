package proxy

import (
	"context"
	"slices"
	"time"

	"postern/enforce"
	"postern/enforce/cluster"
	"postern/proxy/internal/doctor"
)

// Finding is one thing that is wrong with a machine, or worth knowing of it.
type Finding = doctor.Finding

// The severities of a Finding.
const (
	Problem = doctor.Problem
	Unknown = doctor.Unknown
	Note    = doctor.Note
)

// Examination is what Examine has to know besides the configuration.
type Examination struct {
	// User is whom the service runs as.
	User string
	// Built is when the program was, zero where that is not known.
	Built time.Time
	// Flags stand behind the commands of postern that are named.
	Flags string
}

// Examine says what on this machine keeps config from working, and what mends it.
// It changes nothing, looks at the network namespace of the calling thread, and
// ends within some seconds. What it may not look at is a finding too.
func Examine(ctx context.Context, config Config, x Examination) []Finding {
	p := doctor.Patient{Plan: plan(config), Resolver: resolverOf(config), User: x.User, Built: x.Built, Flags: x.Flags}
	if server := config.Memory.Server; !server.IsZero() {
		p.Shared = doctor.Shared{Name: server.String(), Ask: func(ctx context.Context) error { return cluster.Probe(ctx, server) }}
	}
	// Each by itself, so that one that is broken does not hide what others are.
	for _, c := range config.TLS.Certificates {
		one := doctor.Certificate{Name: c.Name, Cert: c.Cert, Key: c.Key}
		sheets, err := Sheets(Config{TLS: TLS{Certificates: []Certificate{c}, TrustCA: "system"}})
		if one.Err = err; err == nil {
			one.NotBefore, one.NotAfter = sheets[0].NotBefore, sheets[0].NotAfter
		}
		p.Certificates = append(p.Certificates, one)
	}
	others := config
	others.TLS.Certificates = nil
	if _, err := CheckFiles(others); err != nil {
		p.Faults = append(p.Faults, err)
	}
	return doctor.Examine(ctx, p)
}

// Checks names what Examine looks at, in order.
func Checks() []string { return doctor.Checks() }

func resolverOf(config Config) doctor.Asked {
	r := doctor.Asked{Demanded: slices.ContainsFunc(config.Rules, func(r enforce.Rule) bool { return r.Verify == enforce.VerifyDANE })}
	if r.Demanded || config.Verify.Auto.DANE {
		r.Servers, r.Believes = config.Resolver.Servers, newResolver(config.Resolver).BelievesServer
	}
	return r
}
