package revocation

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"slices"
	"time"
)

// maxChain bounds the certificates of a chain that are asked about. Chains in use
// have two to four.
const maxChain = 10

// A link is a certificate with the one that issued it.
type link struct {
	cert, issuer *x509.Certificate
	leaf         bool
	id           key

	staple   answer // of the leaf, if noStaple is nil
	noStaple error
}

// linksOf gives the links of a verified chain. The root is none: it is trusted
// because it is configured, and is revoked by taking it out.
func linksOf(chain []*x509.Certificate, staple []byte, now time.Time) []link {
	chain = chain[:min(len(chain), maxChain+1)]
	var links []link
	for i := range len(chain) - 1 {
		l := link{cert: chain[i], issuer: chain[i+1], leaf: i == 0}
		l.id = keyOf(l.issuer, l.cert.SerialNumber.Bytes(), l.cert.Raw)
		l.noStaple = errNoStaple
		if l.leaf && len(staple) > 0 {
			l.staple, l.noStaple = readAnswer(staple, l, now)
		}
		links = append(links, l)
	}
	return links
}

// A key names a certificate, or a list, under its issuer.
type key [sha256.Size]byte

// keyOf binds what is kept to the issuer's name and key, so that nothing that one
// authority signed is taken for another's. Each part is hashed by itself, which
// keeps what one ends with from being what the next begins with.
func keyOf(issuer *x509.Certificate, parts ...[]byte) key {
	h := sha256.New()
	for _, p := range append([][]byte{issuer.RawSubject, issuer.RawSubjectPublicKeyInfo}, parts...) {
		sum := sha256.Sum256(p)
		h.Write(sum[:])
	}
	return key(h.Sum(nil))
}

func (l link) name() string {
	name := l.cert.Subject.String()
	if name == "" && len(l.cert.DNSNames) > 0 {
		name = l.cert.DNSNames[0]
	}
	return quote(name)
}

// The most addresses of a kind that are tried for one certificate. Certificates
// in use name one or two.
const (
	mostResponders = 2
	mostLists      = 4
)

func (l link) unknown(detail string) Result {
	return Result{Certificate: l.name(), Detail: detail}
}

var errNoStaple = errors.New("no answer was stapled")

func (l link) responders() []string {
	return l.cert.OCSPServer[:min(len(l.cert.OCSPServer), mostResponders)]
}

func (l link) lists() []string {
	return l.cert.CRLDistributionPoints[:min(len(l.cert.CRLDistributionPoints), mostLists)]
}

func (l link) nowhere() bool { return len(l.responders())+len(l.lists()) == 0 }

// needless gives the result for a certificate about which nobody can or need be
// asked. An authority publishes nothing about a certificate with noRevAvail (RFC
// 9608 §2), which only end-entity certificates may have, and need not for one that
// ends before a revocation would have gone round.
func (l link) needless() (Result, bool) {
	r := Result{State: Good, Certificate: l.name()}
	switch {
	case l.leaf && !l.cert.IsCA && l.noRevAvail():
		r.Detail = "its authority publishes no revocation of it (noRevAvail)"
	case !l.nowhere():
		return Result{}, false
	case l.leaf && !l.cert.IsCA && l.shortLived():
		r.Detail = "it is too short-lived to be revoked"
	default:
		r = l.unknown("the certificate names no address where its revocation could be asked for")
	}
	return r, true
}

// shortLived goes by the CA/Browser Forum's Baseline Requirements §1.6.1: ten
// days, and seven for what is issued from 2026-03-15 on.
func (l link) shortLived() bool {
	const day = 24 * time.Hour
	most := 7 * day
	if l.cert.NotBefore.Before(time.Date(2026, 3, 15, 0, 0, 0, 0, time.UTC)) {
		most = 10 * day
	}
	return l.cert.NotAfter.Sub(l.cert.NotBefore) <= most
}

func (l link) noRevAvail() bool {
	return l.extension(2, 5, 29, 56) != nil
}

// mustStaple reads the TLS feature extension (RFC 7633 §4): a sequence of the
// numbers of TLS extensions that the server has to answer.
func (l link) mustStaple() bool {
	const statusRequest = 5 // RFC 6066 §8
	value := l.extension(1, 3, 6, 1, 5, 5, 7, 1, 24)
	if value == nil {
		return false
	}
	var features []int
	rest, err := asn1.Unmarshal(value, &features)
	return err == nil && len(rest) == 0 && slices.Contains(features, statusRequest)
}

// extension gives the value of an extension of the certificate, nil if it has none.
func (l link) extension(oid ...int) []byte {
	for _, e := range l.cert.Extensions {
		if e.Id.Equal(oid) {
			return bytes.Clone(e.Value)
		}
	}
	return nil
}
