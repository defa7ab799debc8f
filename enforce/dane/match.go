package dane

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/enforce"
)

// Bounds of what one match may cost: certificates of a chain that are looked at,
// keys of records that are tried on signatures, and the bits of an RSA key in a
// record (crypto/tls has the same bound for what a server shows).
const (
	mostCertificates = 10
	mostKeys         = 4
	mostRSABits      = 8192
)

// Match reports whether what a server showed, the leaf first, matches one of the
// TLSA records of its TLSA base domain. The detail says which record it was
// ("3 1 1"), or in words why there is none; what it quotes of the peer is escaped
// and bounded.
//
// A record of usage 3 is held against the leaf alone, whose names and dates mean
// nothing (RFC 7672 §3.1.1). One of usage 2 names an authority above the leaf: it
// has to stand among what was shown, unless the record is all of its certificate
// or key, and from there the chain verifies at the time now, without signatures by
// SHA-1 or MD5 and within what the authorities may do, and the leaf is for one of
// names (RFC 7672 §3.1.2, §3.2.2, §3.2.3). Usages 0 and 1, what is unknown, and
// data of the wrong length are passed over.
//
// Ten certificates and 64 usable records are looked at.
func Match(records []Record, chain []*x509.Certificate, names []string, now time.Time) (ok bool, detail string) {
	records = strongest(usable(records))
	switch {
	case len(records) == 0:
		return false, "none of the TLSA records can be used"
	case len(chain) == 0:
		return false, "no certificate shown"
	}
	chain = chain[:min(len(chain), mostCertificates)]
	ends := 0
	for _, r := range records {
		if r.Usage != usageEE {
			continue
		}
		ends++
		if matches(r, chain[0]) {
			return true, of(r)
		}
	}
	if ends == len(records) {
		return false, fmt.Sprintf("the certificate matches none of %s", count(ends, "TLSA record"))
	}
	anchored, detail := matchAuthority(records, chain, names, now)
	if !anchored && ends > 0 {
		detail = "usage 3: the certificate does not match; usage 2: " + detail
	}
	return anchored, detail
}

// matches reports whether a record is of this certificate.
func matches(r Record, c *x509.Certificate) bool {
	data := c.Raw
	if r.Selector == selectorSPKI {
		data = c.RawSubjectPublicKeyInfo
	}
	switch r.MatchingType {
	case matchFull:
		return len(data) > 0 && bytes.Equal(r.Data, data)
	case matchSHA256:
		sum := sha256.Sum256(data)
		return bytes.Equal(r.Data, sum[:])
	case matchSHA512:
		sum := sha512.Sum512(data)
		return bytes.Equal(r.Data, sum[:])
	}
	return false
}

// matchAuthority looks for a way from the leaf to an authority that a record of
// usage 2 names.
func matchAuthority(records []Record, chain []*x509.Certificate, names []string, now time.Time) (ok bool, detail string) {
	roots, by := anchors(records, chain)
	if by == "" {
		return false, "no trust anchor of the TLSA records is in the chain"
	}
	above := x509.NewCertPool()
	for _, c := range chain[1:] {
		above.AddCert(c)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: above,
		CurrentTime:   now,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return false, "the chain to the trust anchor does not verify: " + why(err, chain, now)
	}
	if shown := namesOf(chain[0]); !enforce.MatchNames(shown, names) {
		return false, fmt.Sprintf("the certificate is for %s and not for %s", quoted(shown), quoted(names))
	}
	return true, by
}

// anchors gives the certificates that records of usage 2 name, from the chain or
// from the records themselves, and the first of those records. The leaf is nobody's
// authority; it is among them only where a record's bare key has signed it.
func anchors(records []Record, chain []*x509.Certificate) (roots *x509.CertPool, by string) {
	roots = x509.NewCertPool()
	keys := 0
	for _, r := range records {
		if r.Usage != usageTA {
			continue
		}
		found := anchor(r, chain)
		if len(found) == 0 && r.Selector == selectorSPKI && r.MatchingType == matchFull && keys < mostKeys {
			keys++
			found = signedBy(r.Data, chain)
		}
		for _, c := range found {
			roots.AddCert(c)
		}
		if len(found) > 0 && by == "" {
			by = of(r)
		}
	}
	return roots, by
}

// anchor gives the certificates above the leaf that r is of, or the one in it.
func anchor(r Record, chain []*x509.Certificate) []*x509.Certificate {
	var found []*x509.Certificate
	for _, c := range chain[1:] {
		if matches(r, c) && !c.Equal(chain[0]) {
			found = append(found, c)
		}
	}
	if len(found) > 0 || r.Selector != selectorCert || r.MatchingType != matchFull {
		return found
	}
	c, err := x509.ParseCertificate(r.Data)
	if err != nil || c.Equal(chain[0]) || tooLong(c.PublicKey) {
		return nil
	}
	return []*x509.Certificate{c}
}

// signedBy gives what of the chain was signed with a key that is shown nowhere: a
// bare key has neither name nor dates, so that what it has signed stands in its
// place (RFC 7671 §5.2.2).
func signedBy(key []byte, chain []*x509.Certificate) []*x509.Certificate {
	public, err := x509.ParsePKIXPublicKey(key)
	if err != nil || tooLong(public) {
		return nil
	}
	authority := &x509.Certificate{PublicKey: public, Version: 3, BasicConstraintsValid: true, IsCA: true}
	var signed []*x509.Certificate
	for _, c := range chain {
		authority.PublicKeyAlgorithm = c.PublicKeyAlgorithm
		if c.CheckSignatureFrom(authority) == nil {
			signed = append(signed, c)
		}
	}
	return signed
}

func tooLong(public any) bool {
	key, ok := public.(*rsa.PublicKey)
	return ok && key.N.BitLen() > mostRSABits
}

// namesOf gives the names that a certificate is for: its DNS names and, only where
// it has none, its common name (RFC 7672 §3.2.2).
func namesOf(c *x509.Certificate) []string {
	if len(c.DNSNames) > 0 || c.Subject.CommonName == "" {
		return c.DNSNames
	}
	return []string{c.Subject.CommonName}
}

// why says in words what is wrong with a chain.
func why(err error, chain []*x509.Certificate, now time.Time) string {
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		whose := "an authority's certificate"
		if invalid.Cert.Equal(chain[0]) {
			whose = "the certificate"
		}
		const day = "2006-01-02 15:04 MST"
		if now.Before(invalid.Cert.NotBefore) {
			return whose + " is not valid before " + invalid.Cert.NotBefore.UTC().Format(day)
		}
		return whose + " expired on " + invalid.Cert.NotAfter.UTC().Format(day)
	}
	return short(strings.TrimPrefix(err.Error(), "x509: "))
}

// Bounds of what is quoted.
const (
	mostQuoted = 3
	mostOctets = 200
)

// short is text without what no terminal should see, and not long.
func short(text string) string {
	q := fmt.Sprintf("%+q", text[:min(len(text), mostOctets)])
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

func quoted(names []string) string {
	if len(names) == 0 {
		return "no name"
	}
	var some []string
	for _, n := range names[:min(len(names), mostQuoted)] {
		some = append(some, short(n))
	}
	if more := len(names) - len(some); more > 0 {
		some = append(some, fmt.Sprintf("%d more", more))
	}
	return strings.Join(some, ", ")
}

func count(n int, of string) string {
	if n == 1 {
		return "one " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}
