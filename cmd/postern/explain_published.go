package main

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/enforce"
	"postern/enforce/published"
	"postern/proxy"
)

// partnerFlags say what the recipients' domains publish, what is remembered of the
// server and what was revoked.
type partnerFlags struct {
	mxOf                              []string
	dane, mtaSTS, revoked, remembered string
}

func (f *partnerFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.mxOf, "mx-of", nil, "the server is an MX host of these `domains`; else what the running daemon knows of to_mx_of is taken")
	flags.StringVar(&f.dane, "dane", "none", "what the TLSA records of each recipient's domain come to: `none, unusable, matched, mismatch or failed`")
	flags.StringVar(&f.mtaSTS, "mta-sts", "none", "what its MTA-STS policy comes to: `none, off, testing, enforce, invalid or failed`; wrong-mx and wrong-certificate are of one that is enforced")
	flags.StringVar(&f.revoked, "revocation", "good", "is the server's certificate revoked? `good, revoked or unknown`")
	flags.StringVar(&f.remembered, "remembered", "", "the server had TLS of this `version` before")
}

// A partner is what explain is told of the recipients' domains and of the past.
type partner struct {
	mxOf       []string // nil: not given
	dane       enforce.DANEState
	mtaSTS     enforce.MTASTS
	revoked    enforce.RevocationResult
	remembered *enforce.Remembered
}

func (f *explainFlags) published(q *question, changed func(string) bool) error {
	p := &q.partner
	for _, text := range f.partner.mxOf {
		domain, err := config.Domain(text)
		if err != nil {
			return fmt.Errorf("--mx-of %w", err)
		}
		p.mxOf = append(p.mxOf, domain)
	}
	var ok bool
	if p.dane, ok = named(f.partner.dane, enforce.DANENone, enforce.DANEFailed); !ok {
		return fmt.Errorf("--dane %q found, expected none, unusable, matched, mismatch or failed", f.partner.dane)
	}
	p.mtaSTS = enforce.MTASTS{MXMatches: true, CertificateMatches: true}
	switch f.partner.mtaSTS {
	case "wrong-mx":
		p.mtaSTS = enforce.MTASTS{State: enforce.MTASTSEnforce, CertificateMatches: true}
	case "wrong-certificate":
		p.mtaSTS = enforce.MTASTS{State: enforce.MTASTSEnforce, MXMatches: true}
	default:
		if p.mtaSTS.State, ok = named(f.partner.mtaSTS, enforce.MTASTSNone, enforce.MTASTSFailed); !ok {
			return fmt.Errorf("--mta-sts %q found, expected none, off, testing, enforce, invalid, failed, wrong-mx or wrong-certificate", f.partner.mtaSTS)
		}
	}
	if p.revoked.State, ok = named(f.partner.revoked, enforce.RevocationUnknown, enforce.Revoked); !ok {
		return fmt.Errorf("--revocation %q found, expected good, revoked or unknown", f.partner.revoked)
	}
	if !changed("remembered") {
		return nil
	}
	version := tlsVersions[f.partner.remembered]
	if version < tls.VersionTLS12 {
		return fmt.Errorf("--remembered %q found, expected 1.2 or 1.3", f.partner.remembered)
	}
	p.remembered = &enforce.Remembered{Version: version, Last: time.Now()}
	return nil
}

// named finds the state between two that is called so.
func named[T interface {
	~uint8
	fmt.Stringer
}](word string, first, last T) (T, bool) {
	for s := first; s <= last; s++ {
		if s.String() == word {
			return s, true
		}
	}
	return first, false
}

// publishedBy is what a recipient's domain publishes, as it is told.
func (p *partner) publishedBy(recipient *envelopeAddress) *enforce.Published {
	if recipient.Domain == "" {
		return &enforce.Published{MX: enforce.MXNone, Detail: "it has no domain"}
	}
	return &enforce.Published{Domain: recipient.Domain, MX: enforce.MXKnown, DANE: enforce.DANE{State: p.dane}, MTASTS: p.mtaSTS}
}

// followed gives the domains of to_mx_of of which the server is an MX host: those
// that were told, else those that the daemon has seen.
func (p *partner) followed(file *config.File, upstream netip.Addr) []string {
	if p.mxOf != nil {
		return p.mxOf
	}
	known := followedBy(file.Proxy)
	var domains []string
	for _, d := range file.Policy.MXDomains() {
		if s, ok := known[d][upstream]; ok && time.Now().Before(s.Until) {
			domains = append(domains, d)
		}
	}
	return domains
}

// followedBy is what the daemon of a configuration has kept of MX hosts; nothing
// where there is nothing to be read.
func followedBy(c proxy.Config) map[string]map[netip.Addr]published.Sighting {
	known, err := published.ReadFollowed(proxy.MXFile(c))
	if err != nil {
		return nil
	}
	return known
}

// mxWords say what is known of the MX hosts of a rule's domains, and since when.
func mxWords(c proxy.Config, domains []string, now time.Time) string {
	known := followedBy(c)
	var parts []string
	for _, d := range domains {
		var hosts []string
		for a, s := range known[d] {
			if now.Before(s.Until) {
				hosts = append(hosts, fmt.Sprintf("%s (%q, last seen %s ago)", a, s.Host, config.Short(max(0, now.Sub(s.Seen)).Round(time.Minute))))
			}
		}
		slices.Sort(hosts)
		const most = 8
		if len(hosts) > most {
			hosts = append(hosts[:most], fmt.Sprintf("and %d more", len(hosts)-most))
		}
		if len(hosts) > 0 {
			parts = append(parts, fmt.Sprintf("Of %s the daemon knows %s.", d, strings.Join(hosts, ", ")))
		}
	}
	return strings.Join(parts, " ")
}
