package keyring

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/enforce"
)

// maxChain bounds how many certificates of a peer are looked at. Chains in use
// have two to four; crypto/x509 bounds the signatures that it checks besides.
const maxChain = 10

// Verify builds a chain from what a peer showed, the leaf first, to the roots
// that ca names ("" are those of [tls.trust]), for the usage, at the time now. It
// checks no name. Signatures by SHA-1 and MD5 never verify. A chain of which
// nothing but the dates fail is CertExpired, be it past or not begun; any other
// is CertNotTrusted. The detail quotes the peer.
//
// Of a chain that verifies the one that was built is given, leaf to root: not all
// that a peer shows belongs to it. It must not be changed. Of several it is one that
// verifies at that time.
//
// What came of a chain is kept for a while; what is said is what looking anew would
// have.
func (r *Ring) Verify(ca string, chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (enforce.ChainResult, []*x509.Certificate) {
	if len(chain) == 0 {
		return enforce.ChainResult{Reason: enforce.CertNotTrusted, Detail: "no certificate shown"}, nil
	}
	chain = chain[:min(len(chain), maxChain)]
	now = now.Round(0) // a clock that is set is to be followed
	key := keyOf(ca, chain, usage)
	if j := r.chains.find(key, now); j != nil {
		return j.result, j.built
	}
	result, built := r.verify(ca, chain, usage, now)
	if j := r.judge(ca, chain, built, result, now); j != nil {
		j.key = key
		r.chains.keep(j)
	}
	return result, built
}

// verify is Verify for a chain that is neither empty nor too long, looked at anew.
func (r *Ring) verify(ca string, chain []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) (enforce.ChainResult, []*x509.Certificate) {
	opts := x509.VerifyOptions{
		Roots:         r.Roots(ca),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{usage},
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	built, err := chain[0].Verify(opts)
	if err == nil {
		return enforce.ChainResult{Verified: true}, built[0]
	}
	if !mayBeDates(chain, err, now) || !verifiedOnce(chain, opts) {
		return enforce.ChainResult{Reason: enforce.CertNotTrusted, Detail: untrusted(err)}, nil
	}
	return enforce.ChainResult{Reason: enforce.CertExpired, Detail: dates(chain, now)}, nil
}

// mayBeDates reports whether the dates of anything in the chain, or of a root,
// are in the way. crypto/x509 names the last obstacle that it met and not every
// one, so that it is not enough to ask its error.
func mayBeDates(chain []*x509.Certificate, err error, now time.Time) bool {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return true
	}
	for _, c := range chain {
		if outside(c, now) {
			return true
		}
	}
	return false
}

func outside(c *x509.Certificate, at time.Time) bool {
	return at.Before(c.NotBefore) || at.After(c.NotAfter)
}

// verifiedOnce reports whether there was a moment at which the chain verified.
// The span in which all of a chain is valid begins with the start of one of its
// members and ends with the end of one, so that those moments are enough to try:
// only a root, which is not shown, could have set both.
//
// Every try costs a peer nothing and us up to a hundred signatures, so only the
// leaf and two issuers are tried.
func verifiedOnce(chain []*x509.Certificate, opts x509.VerifyOptions) bool {
	for _, c := range chain[:min(len(chain), 3)] {
		for _, at := range []time.Time{c.NotBefore, c.NotAfter} {
			if outside(chain[0], at) {
				continue // the leaf is part of every chain
			}
			opts.CurrentTime = at
			if _, err := chain[0].Verify(opts); err == nil {
				return true
			}
		}
	}
	return false
}

// dates says whose dates are in the way.
func dates(chain []*x509.Certificate, now time.Time) string {
	for i, c := range chain {
		whose := "the certificate"
		if i > 0 {
			whose = fmt.Sprintf("the issuing certificate %q", c.Subject)
		}
		switch day := "2006-01-02 15:04 MST"; {
		case now.After(c.NotAfter):
			return fmt.Sprintf("%s expired on %s", whose, c.NotAfter.UTC().Format(day))
		case now.Before(c.NotBefore):
			return fmt.Sprintf("%s is not valid before %s", whose, c.NotBefore.UTC().Format(day))
		}
	}
	return "a root expired, or is not valid yet"
}

func untrusted(err error) string {
	why := strings.TrimPrefix(err.Error(), "x509: ")
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) && unknown.Cert != nil {
		return fmt.Sprintf("%s; issuer %q", why, unknown.Cert.Issuer)
	}
	return why
}
