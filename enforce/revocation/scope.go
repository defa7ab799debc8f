package revocation

import (
	"crypto/x509"
	"crypto/x509/pkix"
	encoding "encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

type oid = encoding.ObjectIdentifier

// A scope is which certificates of its issuer a list is about (issuing
// distribution point, RFC 5280 §5.2.5). The zero scope is all of them.
type scope struct {
	partition   bool     // it is one of several lists, and
	addresses   []string // the one that is found here
	onlyUsers   bool
	onlyCAs     bool
	someReasons bool
}

// scopeOf reads the extensions of a list. Delta lists, indirect lists and critical
// extensions that are not known make it one that cannot be gone by (§5.2).
func scopeOf(all []pkix.Extension) (scope, error) {
	var s scope
	for _, e := range all {
		switch {
		case e.Id.Equal(oid{2, 5, 29, 27}):
			return s, errors.New("the list is a delta list")
		case e.Id.Equal(oid{2, 5, 29, 28}):
			if !s.read(e.Value) {
				return s, errors.New("the list's issuing distribution point is malformed, or of a kind that cannot be gone by")
			}
		case e.Critical:
			return s, fmt.Errorf("the list has the critical extension %s", e.Id)
		}
	}
	return s, nil
}

func tagged(n uint8) asn1.Tag { return asn1.Tag(n).ContextSpecific() }

// read reads an IssuingDistributionPoint. Of its booleans DER writes none but the
// true ones.
func (s *scope) read(der []byte) bool {
	var body, point, reasons cryptobyte.String
	input := cryptobyte.String(der)
	if !input.ReadASN1(&body, asn1.SEQUENCE) || !input.Empty() ||
		!body.ReadOptionalASN1(&point, &s.partition, tagged(0).Constructed()) {
		return false
	}
	if s.partition && !s.readPoint(point) {
		return false
	}
	var indirect, attributes bool
	return readFlag(&body, &s.onlyUsers, 1) && readFlag(&body, &s.onlyCAs, 2) &&
		body.ReadOptionalASN1(&reasons, &s.someReasons, tagged(3)) &&
		readFlag(&body, &indirect, 4) && readFlag(&body, &attributes, 5) &&
		body.Empty() && !indirect && !attributes
}

// readFlag reads an optional BOOLEAN under the implicit tag n.
func readFlag(s *cryptobyte.String, flag *bool, n uint8) bool {
	var value cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&value, &present, tagged(n)) || present && len(value) != 1 {
		return false
	}
	*flag = present && value[0] != 0
	return true
}

// readPoint takes the addresses out of a DistributionPointName. A name relative
// to the issuer's is of no use: crypto/x509 does not tell what certificates say
// in that form.
func (s *scope) readPoint(point cryptobyte.String) bool {
	var names cryptobyte.String
	if !point.ReadASN1(&names, tagged(0).Constructed()) || !point.Empty() {
		return false
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag asn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return false
		}
		if tag == tagged(6) { // uniformResourceIdentifier
			s.addresses = append(s.addresses, string(name))
		}
	}
	return true
}

// covers says why the list is not about a certificate (§6.3.3 (b)). Whoever
// stands between could hand out one partition for another: both are signed.
func (s scope) covers(cert *x509.Certificate) error {
	switch {
	case s.onlyUsers && cert.IsCA:
		return errors.New("the list is not about certificates of authorities")
	case s.onlyCAs && !cert.IsCA:
		return errors.New("the list is about certificates of authorities only")
	case s.partition && !slices.ContainsFunc(s.addresses, func(a string) bool { return slices.Contains(cert.CRLDistributionPoints, a) }):
		return errors.New("the list is another part of the issuer's lists")
	}
	return nil
}
