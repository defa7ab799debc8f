package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"time"

	"go.uber.org/zap"

	"postern/enforce"
	"postern/enforce/memory"
	"postern/proxy/internal/keyring"
	"postern/proxy/internal/session"
)

// A snapshot is a configuration in force: what sessions go by, and what the
// server itself does. It is made whole and never changed.
type snapshot struct {
	session.Snapshot
	config   Config
	log      *zap.Logger
	limits   Limits
	upstream string
	drain    time.Duration
}

// resumable is how many upstream sessions are kept to be resumed.
const resumable = 4096

func newSnapshot(config Config, log *zap.Logger, generation uint64) (*snapshot, error) {
	policy, faults := enforce.Compile(config.Rules, config.TLS.MinVersion)
	var errs []error
	policy, err := policy.Verifying(config.Verification()).HoldingFor(config.TLS.HoldFor)
	if err != nil {
		errs = append(errs, &KeyError{"tls.hold_for", err.Error()})
	}
	for _, f := range faults {
		errs = append(errs, f)
	}
	ring, err := loadRing(config)
	if err = errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	for _, w := range ring.Warnings() {
		log.Warn(w.Error())
	}
	resume := &resumption{cache: tls.NewLRUClientSessionCache(resumable)}
	s := &snapshot{
		Snapshot: session.Snapshot{
			Generation:  generation,
			Observe:     config.Observe,
			Policy:      policy,
			Named:       ring.Named,
			Verify:      ring.Verify,
			Resume:      resume.under,
			Extensions:  make(map[string]bool),
			BareNewline: config.SMTP.BareNewline,
			Limits: session.Limits{
				Recipients: config.Limits.Recipients,
				Line:       config.Limits.Line,
				ReplyLines: config.Limits.ReplyLines,
			},
			Timeouts: session.Timeouts{
				Connect:   config.Timeouts.Connect,
				Handshake: config.Timeouts.Handshake,
				Command:   config.Timeouts.Command,
				Data:      config.Timeouts.Data,
				Final:     config.Timeouts.Final,
			},
		},
		config:   config,
		log:      log,
		limits:   config.Limits,
		upstream: config.Listen.Upstream,
		drain:    config.Timeouts.Drain,
	}
	if !ring.Empty() {
		s.Certificate = ring.Server
	}
	if minter := ring.Minter(); minter != nil {
		s.Mint = func(like *x509.Certificate, trusted bool) (*tls.Certificate, error) {
			return minter.Mint(like, trusted, time.Now())
		}
	}
	for _, keyword := range config.SMTP.Extensions {
		s.Extensions[keyword] = true
	}
	return s, nil
}

func loadRing(config Config) (*keyring.Ring, error) {
	files := keyring.Files{TrustCA: config.TLS.TrustCA, Authority: keyring.Authority(config.TLS.Authority)}
	for _, c := range config.TLS.Certificates {
		files.Certificates = append(files.Certificates, keyring.Certificate(c))
	}
	for i, r := range config.Rules {
		if r.CA != "" {
			files.RuleCAs = append(files.RuleCAs, keyring.RuleCA{Rule: i, Path: r.CA})
		}
	}
	return keyring.Load(files, time.Now())
}

// CheckFiles reads the files that config names and reports what is wrong with
// them, as NewServer would, and what an administrator should know of them. A server
// starts without those that it needs for a shared memory, and would be alone.
func CheckFiles(config Config) (warnings []error, err error) {
	ring, err := loadRing(config)
	if wrong := config.Memory.Server.Check(); wrong != nil {
		err = errors.Join(err, &KeyError{"memory.store", wrong.Error()})
	}
	if err != nil {
		return nil, err
	}
	for _, w := range ring.Warnings() {
		warnings = append(warnings, w)
	}
	return warnings, nil
}

// A Sheet is what a partner needs to know of a certificate that Postern shows.
type Sheet = keyring.Sheet

// Sheets gives one for each certificate of config.
func Sheets(config Config) ([]Sheet, error) {
	ring, err := loadRing(config)
	if err != nil {
		return nil, err
	}
	return ring.Sheets(time.Now()), nil
}

// resumption keeps upstream sessions under keys of our own: crypto/tls would keep
// them by server name alone, under which different servers, and different rules,
// can be reached.
type resumption struct{ cache tls.ClientSessionCache }

func (r *resumption) under(key string) tls.ClientSessionCache { return keyed{r.cache, key} }

type keyed struct {
	cache tls.ClientSessionCache
	key   string
}

func (k keyed) Get(string) (*tls.ClientSessionState, bool)  { return k.cache.Get(k.key) }
func (k keyed) Put(_ string, state *tls.ClientSessionState) { k.cache.Put(k.key, state) }

// holds are the server's, as long as the configuration has them last.
type holds struct {
	of   *memory.Holds
	last time.Duration
}

func (h holds) Begin(c enforce.Connection, offered uint16) { h.of.Begin(c, offered, time.Now()) }
func (h holds) Find(c enforce.Connection) *enforce.Hold    { return h.of.Find(c, h.last, time.Now()) }
func (h holds) Refused(c enforce.Connection, renew bool) {
	h.of.Refused(c, h.last, renew, time.Now())
}
func (h holds) Clear(c enforce.Connection) { h.of.Clear(c, time.Now()) }
