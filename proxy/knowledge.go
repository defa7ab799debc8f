package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"postern/enforce"
	"postern/enforce/cluster"
	"postern/enforce/kept"
	"postern/enforce/memory"
	"postern/enforce/mtasts"
	"postern/enforce/published"
	"postern/enforce/resolver"
	"postern/enforce/revocation"
	"postern/proxy/internal/record"
	"postern/proxy/internal/session"
)

// knowledge is what a server knows of others and keeps over all reloads: whom
// clients are held for, what destinations could do, what domains publish, and what
// was revoked.
type knowledge struct {
	shared   *cluster.Link // nil: with nobody
	holds    memory.Holds
	memory   *memory.Store
	policies *mtasts.Cache
	revoked  *revocation.Checker
	follower *published.Follower

	complaints complaints

	resolver atomic.Pointer[resolver.Resolver] // replaced by a reload
	log      atomic.Pointer[zap.Logger]        // of the latest configuration
}

// newKnowledge opens what config names. Files that cannot be had are told of and
// are no reason not to serve: what is learnt is in memory then.
func newKnowledge(config Config, log *zap.Logger) (*knowledge, error) {
	k := &knowledge{revoked: revocation.New(revocation.Options{})}
	k.log.Store(log)
	k.resolver.Store(newResolver(config.Resolver))
	if err := k.open(config); err != nil {
		return nil, err
	}
	if k.shared != nil { // now that it knows what to keep
		k.shared.Start()
	}
	k.follower = published.NewFollower(k.resolver.Load(), k.place(MXFile(config), "to_mx_of"), func(err error) {
		k.log.Load().Warn("mx hosts", zap.Error(err))
	})
	return k, nil
}

// open makes what is known, and what keeps it.
func (k *knowledge) open(config Config) (err error) {
	var keeper kept.Keeper
	if server := config.Memory.Server; !server.IsZero() {
		k.shared = cluster.New(cluster.Options{Address: server, Report: k.told})
		keeper = k.shared
	}
	k.memory, err = memory.Open(memory.Options{
		Path:     k.place(config.Memory.Store, "memory.store"),
		Keeper:   keeper,
		Remember: max(config.Memory.Remember, time.Second),
		Hold:     config.TLS.Hold,
		Report:   func(err error) { k.log.Load().Warn("memory", zap.Error(err)) },
	})
	if err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	k.memory.Keep(&k.holds)
	if k.policies, err = k.openPolicies(k.place(config.Verify.Cache, "verify.cache"), keeper); err != nil {
		k.log.Load().Warn("MTA-STS policies are kept in memory only", zap.Error(err))
		if k.policies, err = k.openPolicies("", keeper); err != nil {
			return fmt.Errorf("policies: %w", err)
		}
	}
	return nil
}

// told logs what a shared server comes to: once when it goes, once when it is back.
func (k *knowledge) told(err error) {
	if err == nil {
		k.log.Load().Warn("the shared memory is there again, and has what was learnt meanwhile")
		return
	}
	k.log.Load().Warn("the shared memory has a fault; sessions go on with what is known here", zap.Error(err))
}

func newResolver(c Resolver) *resolver.Resolver {
	trust := resolver.TrustNever
	switch c.TrustAD {
	case "loopback":
		trust = resolver.TrustLoopback
	case "always":
		trust = resolver.TrustAlways
	}
	return resolver.New(resolver.Options{Servers: c.Servers, TrustAD: trust})
}

// place is where something is kept. A directory that is not there is not made: it
// is the package that makes /var/lib/postern, and a program that is tried out from
// anywhere has no business there.
func (k *knowledge) place(path, key string) string {
	if path == "" {
		return ""
	}
	if _, err := os.Stat(filepath.Dir(path)); err != nil {
		k.log.Load().Info("kept in memory only", zap.String("key", key), zap.Error(err))
		return ""
	}
	return path
}

func (k *knowledge) openPolicies(dir string, keeper kept.Keeper) (*mtasts.Cache, error) {
	return mtasts.New(mtasts.Options{
		TXT: func(ctx context.Context, name string) ([]string, error) {
			txt, err := k.resolver.Load().TXT(ctx, name)
			return txt.Records, err
		},
		Dial:   policyHosts{k.resolver.Load}.dial,
		Dir:    dir,
		Keeper: keeper,
		Report: func(subject string, err error) {
			k.log.Load().Warn("mta-sts", zap.String("subject", subject), zap.String("error", record.Quote(err.Error(), 256)))
		},
	})
}

// MXFile is where a server that goes by config keeps the addresses of MX hosts,
// beside its memory, or beside the policies where that is on a server; "" where it
// keeps them in memory.
func MXFile(config Config) string {
	beside := config.Memory.Store
	if !config.Memory.Server.IsZero() {
		beside = config.Verify.Cache
	}
	if beside == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(beside), "mx.json")
}

// canTake reports in what way a reload to config would leave what is open behind.
func (k *knowledge) canTake(was, is Config) error {
	switch {
	case was.Memory.Store != is.Memory.Store, was.Memory.Server != is.Memory.Server:
		return &KeyError{"memory.store", "it cannot be changed by a reload: restart"}
	case was.Verify.Cache != is.Verify.Cache:
		return &KeyError{"verify.cache", "it cannot be changed by a reload: restart"}
	}
	return nil
}

// take puts config in force.
func (k *knowledge) take(was, is Config, log *zap.Logger) {
	k.log.Store(log)
	k.memory.Remember(max(is.Memory.Remember, time.Second))
	k.memory.Hold(is.TLS.Hold)
	if !slices.Equal(was.Resolver.Servers, is.Resolver.Servers) || was.Resolver.TrustAD != is.Resolver.TrustAD {
		k.resolver.Store(newResolver(is.Resolver))
		k.follower.Ask(k.resolver.Load())
	}
}

// equip gives a snapshot what sessions ask.
func (k *knowledge) equip(s *snapshot, config Config) {
	s.Holds = holds{&k.holds, config.TLS.Hold}
	s.Revoked = k.isRevoked
	s.Complained = k.complaints.tell(s.log)
	if downgrade := config.Memory.Downgrade; downgrade != "" && downgrade != "off" {
		s.Memory = remembrance{k.memory}
	}
	if len(config.Resolver.Servers) > 0 {
		s.Partners = partners{published.New(k.resolver.Load(), k.policies), k.follower}
	}
	k.follower.Follow(s.Policy.MXDomains())
}

// run does what has to be done in the background until the context ends.
func (k *knowledge) run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { k.policies.Run(ctx) })
	all.Go(func() { k.follower.Run(ctx) })
	all.Wait()
}

// close writes what is not written yet.
func (k *knowledge) close() {
	k.revoked.Close()
	err := errors.Join(k.policies.Close(), k.memory.Close())
	if k.shared != nil {
		err = errors.Join(err, k.shared.Close())
	}
	if err != nil {
		k.log.Load().Warn("what was learnt last is not kept", zap.Error(err))
	}
}

// isRevoked is session.Snapshot.Revoked.
func (k *knowledge) isRevoked(ctx context.Context, built []*x509.Certificate, stapled []byte, wait bool) enforce.RevocationResult {
	now := time.Now()
	var r revocation.Result
	if wait {
		r = k.revoked.Check(ctx, built, stapled, now)
	} else {
		known := false
		if r, known = k.revoked.Cached(built, stapled, now); !known {
			k.revoked.Start(built, stapled, now)
		}
	}
	return revocationOf(r, built)
}

// revocationOf gives a result the form that is judged.
func revocationOf(r revocation.Result, built []*x509.Certificate) enforce.RevocationResult {
	result := enforce.RevocationResult{Detail: r.Detail, NobodyToAsk: nobodyToAsk(built)}
	switch r.State {
	case revocation.Good:
		result.State = enforce.RevocationGood
	case revocation.Revoked:
		result.State = enforce.Revoked
	}
	return result
}

// nobodyToAsk reports whether no certificate of a chain, but for its root, says
// whom to ask about it.
func nobodyToAsk(built []*x509.Certificate) bool {
	return len(built) > 0 && !slices.ContainsFunc(built[:len(built)-1], func(c *x509.Certificate) bool {
		return len(c.OCSPServer) > 0 || len(c.CRLDistributionPoints) > 0
	})
}

// remembrance is session.Memory over a Store.
type remembrance struct{ store *memory.Store }

func (m remembrance) Recall(a netip.AddrPort) *enforce.Remembered {
	known, ok := m.store.Recall(a, time.Now())
	return remembered(known, ok, "")
}

func (m remembrance) RecallDomain(domain string, client netip.Addr) *enforce.Remembered {
	known, ok := m.store.RecallDomain(domain, client, time.Now())
	return remembered(known, ok, domain)
}

func remembered(k memory.Known, ok bool, domain string) *enforce.Remembered {
	if !ok {
		return nil
	}
	return &enforce.Remembered{Domain: domain, Since: k.Since, Last: k.Last, Version: k.Version, Count: k.Count}
}

func (m remembrance) Learn(o session.Observation) {
	now := time.Now()
	if !o.TLS {
		m.store.Missed(o.Address, o.Client, o.Domains, now)
		return
	}
	m.store.Learn(o.Address, o.Domains, memory.Observation{
		Client:          o.Client,
		Version:         max(o.Version, tls.VersionTLS12),
		Issuer:          o.Issuer,
		SPKI:            o.SPKI,
		Verified:        o.Verified,
		VerifiedDomains: o.VerifiedDomains,
		At:              now,
	})
}

// partners is session.Partners over what domains publish.
type partners struct {
	directory *published.Directory
	follower  *published.Follower
}

func (p partners) MXOf(a netip.Addr) []string { return p.follower.MXOf(a) }
func (p partners) Host(a netip.Addr) string   { return p.follower.Host(a) }

func (p partners) Hosts(ctx context.Context, domain string, at netip.Addr) []string {
	return p.directory.Hosts(ctx, domain, at)
}

func (p partners) Published(ctx context.Context, domain string, parts enforce.Auto, up session.Server) session.Finding {
	listing := p.directory.Look(ctx, domain, up.Address.Port(), parts)
	held := p.directory.Hold(ctx, listing, published.Server(up), time.Now())
	return session.Finding{Published: held.Published, Hosts: held.Names}
}
