package probe

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"postern/enforce"
	"postern/enforce/revocation"
)

// mostShown bounds how many certificates of a chain are told of.
const mostShown = 10

// certificate tells of a chain that was shown, asks about its revocation, and tries
// every address that it names. Addresses in a chain that does not verify are left
// alone: anybody may have written them.
func (s *sitting) certificate(ctx context.Context, shown []*x509.Certificate, staple []byte) {
	c := &Chain{Leaf: s.leaf(shown[0])}
	for _, one := range shown[:min(len(shown), mostShown)] {
		c.Shown = append(c.Shown, Issued{quote(one.Subject.String()), quote(one.Issuer.String())})
	}
	result, built := s.Known.Verify("", shown, s.now)
	if c.Verified = result.Verified; c.Verified {
		c.Root = quote(built[len(built)-1].Subject.String())
	} else {
		c.Reason, c.Detail = string(result.Reason), quote(result.Detail)
	}
	if s.rule.CA != "" {
		own, chain := s.Known.Verify(s.rule.CA, shown, s.now)
		c.RuleRoots, c.RuleTrusts, c.RuleDetail = s.rule.CA, &own.Verified, quote(own.Detail)
		if built == nil {
			built = chain
		}
	}
	if s.name != "" {
		matches := enforce.MatchNames(shown[0].DNSNames, []string{s.name})
		c.NameMatches = &matches
	}
	c.Staple, c.StapleWords = s.staple(built, staple)
	s.out.Chain = c
	if len(built) == 0 || s.Known.Revoked == nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { s.revocation(ctx, built, staple) })
	both.Go(func() {
		for _, e := range s.Known.Revoked.Reachability(ctx, built, s.now) {
			s.out.Reach = append(s.out.Reach, Reachable{string(e.Kind), quote(e.URL), requote(e.Certificate), e.OK, requote(e.Detail), e.Duration.Milliseconds()})
		}
	})
	both.Wait()
}

func (s *sitting) leaf(c *x509.Certificate) Certificate {
	sum, spki := sha256.Sum256(c.Raw), sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return Certificate{
		Subject: quote(c.Subject.String()), Issuer: quote(c.Issuer.String()), Names: quoteAll(c.DNSNames), Key: keyOf(c),
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC(), DaysLeft: days(c.NotAfter.Sub(s.now)),
		SHA256: hex.EncodeToString(sum[:]), SPKISHA256: hex.EncodeToString(spki[:]),
	}
}

// days counts whole days, those past as negative ones.
func days(d time.Duration) int {
	const day = 24 * time.Hour
	if d < 0 {
		return -int((-d + day - 1) / day)
	}
	return int(d / day)
}

func keyOf(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return c.PublicKeyAlgorithm.String()
}

// staple tells what the stapled answer says of the leaf, by itself: it needs the
// issuer, and so a chain that verifies.
func (s *sitting) staple(built []*x509.Certificate, staple []byte) (state, detail string) {
	switch {
	case len(staple) == 0:
		return "none", ""
	case len(built) < 2 || s.Known.Revoked == nil:
		return "invalid", "the chain does not verify, so that nobody knows who could have signed it"
	}
	alone := revocation.New(revocation.Options{}) // knows nothing else
	defer alone.Close()
	r, _ := alone.Cached(built[:2], staple, s.now)
	if r.Source != revocation.FromStaple {
		return "invalid", quote(r.Detail)
	}
	return r.State.String(), quote(r.Detail)
}

func (s *sitting) revocation(ctx context.Context, built []*x509.Certificate, staple []byte) {
	_, r := s.Known.Revocation(ctx, built, staple, s.now)
	s.out.Revoked = &Revocation{State: r.State.String(), Source: string(r.Source), Certificate: requote(r.Certificate), Detail: quote(r.Detail),
		At: moment(r.At), Until: moment(r.Until)}
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// parse reads certificates that went in clear in a handshake that failed.
func parse(raw [][]byte) []*x509.Certificate {
	var chain []*x509.Certificate
	for _, der := range raw[:min(len(raw), mostShown)] {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return chain
		}
		chain = append(chain, c)
	}
	return chain
}
