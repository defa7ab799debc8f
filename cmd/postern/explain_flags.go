package main

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/enforce"
	"postern/smtpwire"
)

// explainFlags are the flags of explain as they are written.
type explainFlags struct {
	client, upstream string
	mxOf             []string
	from             string
	to               []string
	starttls, tls    string
	cipher, verified string
	names, prints    []string
	clientTLS        string
	clientNames      []string
	held             string
	requireTLS       bool
}

func (f *explainFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.client, "client", "", "the `address` of who connects")
	flags.StringVar(&f.upstream, "upstream", "", "the `address` of the server they mean to reach")
	flags.StringSliceVar(&f.mxOf, "mx-of", nil, "the `domains` of which the server is an MX host, for rules with to_mx_of")
	flags.StringVar(&f.from, "from", "", "the sender, a `domain or address`; <> for the null sender")
	flags.StringArrayVar(&f.to, "to", nil, "a recipient, a `domain or address`; may be given more than once")
	flags.StringVar(&f.starttls, "starttls", "yes", "does the server offer STARTTLS? `yes or no`")
	flags.StringVar(&f.tls, "tls", "1.3", "the `version` the server speaks: 1.0, 1.1, 1.2, 1.3; or failed")
	flags.StringVar(&f.cipher, "cipher", "", "the only suite the server has, by its IANA `name`")
	flags.StringVar(&f.verified, "verified", "yes", "does the server's certificate lead to the roots asked for? `yes, no or expired`")
	flags.StringSliceVar(&f.names, "names", nil, "the `names` in the server's certificate")
	flags.StringArrayVar(&f.prints, "fingerprint", nil, "the `fingerprint` of the server's certificate, sha256:… or spki-sha256:…")
	flags.StringVar(&f.clientTLS, "client-tls", "none", "the TLS `version` of the client: none, 1.2 or 1.3")
	flags.StringSliceVar(&f.clientNames, "client-names", nil, "the client shows a certificate that verifies, with these `names`")
	flags.StringVar(&f.held, "held", "", "the client comes in clear; its last handshake with this server offered no more than this `version`, below the floor")
	flags.BoolVar(&f.requireTLS, "requiretls", false, "the sender asks for REQUIRETLS (RFC 8689), and the server offers it in TLS")
}

// A question is what explain is asked, understood.
type question struct {
	connection    enforce.Connection
	assumed       [2]bool // client, upstream: not given
	sender        *envelopeAddress
	recipients    []*envelopeAddress
	startTLS      bool
	version       uint16 // 0: the handshake fails
	cipher        uint16 // 0: any that is offered
	chain         enforce.ChainResult
	certificate   enforce.Certificate
	clientVersion uint16               // 0: no TLS
	clientShows   *enforce.Certificate // nil: none
	held          uint16               // what it offered in a handshake that fell below the floor; 0: it is not held
	requireTLS    bool
}

// An envelopeAddress is what rules look at, and how it is shown.
type envelopeAddress struct {
	enforce.Address
	shown string
}

// question understands the flags. Changed says of each whether it was written.
func (f *explainFlags) question(changed func(string) bool) (question, error) {
	q := question{requireTLS: f.requireTLS}
	for _, step := range []func(*question, func(string) bool) error{f.addresses, f.envelope, f.server, f.serverCertificate, f.ownTLS} {
		if err := step(&q, changed); err != nil {
			return question{}, err
		}
	}
	return q, nil
}

func (f *explainFlags) addresses(q *question, changed func(string) bool) error {
	for _, a := range []struct {
		flag, text string
		into       *netip.Addr
		assumed    *bool
	}{
		{"client", f.client, &q.connection.Client, &q.assumed[0]},
		{"upstream", f.upstream, &q.connection.Upstream, &q.assumed[1]},
	} {
		if *a.assumed = !changed(a.flag); *a.assumed {
			continue
		}
		addr, err := netip.ParseAddr(a.text)
		if err != nil || addr.Zone() != "" {
			return fmt.Errorf(`--%s %q found, expected an address such as "192.0.2.1" or "2001:db8::1"`, a.flag, a.text)
		}
		*a.into = addr.Unmap()
	}
	for _, text := range f.mxOf {
		domain, err := config.Domain(text)
		if err != nil {
			return fmt.Errorf("--mx-of %w", err)
		}
		q.connection.MXOf = append(q.connection.MXOf, domain)
	}
	c := &q.connection
	six := c.Client.Is6() || c.Upstream.Is6()
	for i, a := range []struct {
		into      *netip.Addr
		four, six string
	}{{&c.Client, "192.0.2.1", "2001:db8::1"}, {&c.Upstream, "198.51.100.25", "2001:db8:25::25"}} {
		switch {
		case q.assumed[i] && six:
			*a.into = netip.MustParseAddr(a.six)
		case q.assumed[i]:
			*a.into = netip.MustParseAddr(a.four)
		}
	}
	if c.Client.Is4() != c.Upstream.Is4() {
		return fmt.Errorf("--client %s found beside --upstream %s, expected both of one family", c.Client, c.Upstream)
	}
	return nil
}

func (f *explainFlags) envelope(q *question, changed func(string) bool) error {
	if changed("from") {
		a, err := readAddress(f.from, "FROM:")
		if err != nil {
			return fmt.Errorf("--from %w", err)
		}
		q.sender = a
	}
	for _, text := range f.to {
		a, err := readAddress(text, "TO:")
		if err != nil {
			return fmt.Errorf("--to %w", err)
		}
		q.recipients = append(q.recipients, a)
	}
	return nil
}

// readAddress reads what stands for a sender or recipient, as a session would
// read the path: a whole address, or its domain alone.
func readAddress(text, prefix string) (*envelopeAddress, error) {
	path := text
	switch {
	case strings.HasPrefix(text, "<"):
	case strings.Contains(text, "@"):
		path = "<" + text + ">"
	default:
		path = "<x@" + text + ">"
	}
	parse := smtpwire.ParseRcpt
	if prefix == "FROM:" {
		parse = smtpwire.ParseMail
	}
	p, params, err := parse([]byte(prefix + path))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q found, expected a domain or an address: %w", text, err)
	case len(params) > 0:
		return nil, fmt.Errorf("%q found, expected a domain or an address and nothing behind it", text)
	case p.Null:
		return &envelopeAddress{shown: "<>"}, nil
	case p.Literal:
		return &envelopeAddress{enforce.Address{Literal: true}, p.Domain}, nil
	case p.Domain == "":
		return &envelopeAddress{shown: "<postmaster>"}, nil
	}
	domain, err := config.Domain(p.Domain)
	if err != nil {
		return nil, err
	}
	return &envelopeAddress{enforce.Address{Domain: domain}, domain}, nil
}

var tlsVersions = map[string]uint16{
	"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13,
}

func (f *explainFlags) server(q *question, changed func(string) bool) error {
	switch f.starttls {
	case "yes", "no":
		q.startTLS = f.starttls == "yes"
	default:
		return fmt.Errorf("--starttls %q found, expected yes or no", f.starttls)
	}
	if version, ok := tlsVersions[f.tls]; ok {
		q.version = version
	} else if f.tls != "failed" {
		return fmt.Errorf("--tls %q found, expected 1.0, 1.1, 1.2, 1.3 or failed", f.tls)
	}
	if !q.startTLS && changed("tls") {
		return fmt.Errorf("--tls found beside --starttls=no, expected one or the other")
	}
	// What comes after the version is known only where a handshake comes so far.
	for _, flag := range []string{"cipher", "verified", "names", "fingerprint"} {
		switch {
		case !changed(flag):
		case !q.startTLS:
			return fmt.Errorf("--%s has no effect, expected only where the server offers STARTTLS", flag)
		case q.version < tls.VersionTLS12:
			return fmt.Errorf("--%s has no effect beside --tls %s: the handshake does not come so far", flag, f.tls)
		}
	}
	if !changed("cipher") {
		return nil
	}
	id, names := suiteOf(f.cipher, q.version)
	if id == 0 {
		return fmt.Errorf("--cipher %q found, expected a suite of TLS %s that Postern offers: %s", f.cipher, f.tls, strings.Join(names, ", "))
	}
	q.cipher = id
	return nil
}

// suiteOf finds a suite by name among those that can come of an offer.
func suiteOf(name string, version uint16) (id uint16, names []string) {
	possible := enforce.Offered()
	if version == tls.VersionTLS13 {
		possible = nil
		for _, s := range tls.CipherSuites() {
			if slices.Contains(s.SupportedVersions, tls.VersionTLS13) {
				possible = append(possible, s.ID)
			}
		}
	}
	for _, p := range possible {
		names = append(names, tls.CipherSuiteName(p))
		if tls.CipherSuiteName(p) == name {
			id = p
		}
	}
	return id, names
}

func (f *explainFlags) serverCertificate(q *question, _ func(string) bool) error {
	switch f.verified {
	case "yes":
		q.chain = enforce.ChainResult{Verified: true}
	case "no":
		q.chain = enforce.ChainResult{Reason: enforce.CertNotTrusted, Detail: "the certificate is not trusted"}
	case "expired":
		q.chain = enforce.ChainResult{Reason: enforce.CertExpired, Detail: "the certificate has expired"}
	default:
		return fmt.Errorf("--verified %q found, expected yes, no or expired", f.verified)
	}
	var err error
	if q.certificate.DNSNames, err = certificateNames("names", f.names); err != nil {
		return err
	}
	for _, text := range f.prints {
		pin, err := config.Fingerprint(text)
		if err != nil {
			return fmt.Errorf("--fingerprint %w", err)
		}
		if pin.SPKI {
			q.certificate.SPKISHA256 = pin.SHA256
		} else {
			q.certificate.SHA256 = pin.SHA256
		}
	}
	return nil
}

// certificateNames reads subject alternative names: domains, a wildcard first
// label allowed.
func certificateNames(flag string, names []string) ([]string, error) {
	var all []string
	for _, text := range names {
		parent, wild := strings.CutPrefix(text, "*.")
		name, err := config.Domain(parent)
		if err != nil {
			return nil, fmt.Errorf("--%s %w", flag, err)
		}
		if wild {
			name = "*." + name
		}
		all = append(all, name)
	}
	return all, nil
}

// ownTLS reads what is said of the client leg.
func (f *explainFlags) ownTLS(q *question, changed func(string) bool) error {
	switch f.clientTLS {
	case "none":
	case "1.2", "1.3":
		q.clientVersion = tlsVersions[f.clientTLS]
	default:
		return fmt.Errorf("--client-tls %q found, expected none, 1.2 or 1.3", f.clientTLS)
	}
	if changed("held") {
		switch q.held = tlsVersions[f.held]; {
		case q.held == 0 || q.held == tls.VersionTLS13:
			return fmt.Errorf("--held %q found, expected 1.0, 1.1 or 1.2: a version below the floor", f.held)
		case q.clientVersion != 0:
			return fmt.Errorf("--held has no effect beside --client-tls %s: a handshake that succeeds ends the hold", f.clientTLS)
		}
	}
	if !changed("client-names") {
		return nil
	}
	if q.clientVersion == 0 {
		return fmt.Errorf("--client-names has no effect, expected only beside --client-tls 1.2 or 1.3")
	}
	names, err := certificateNames("client-names", f.clientNames)
	q.clientShows = &enforce.Certificate{DNSNames: names}
	return err
}
