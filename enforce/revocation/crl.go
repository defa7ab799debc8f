package revocation

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	// maxList bounds a revocation list, octets. The largest in public use have
	// about ten MiB.
	maxList = 20 << 20
	// maxHead bounds what a list has besides its entries, octets.
	maxHead = 64 << 10
)

// A crl is what is kept of a revocation list: what it is about, until when, and
// which certificates stand in it.
type crl struct {
	this, next time.Time
	scope      scope
	entries    []entry // by id
}

// An entry takes 24 octets, where crypto/x509 needs hundreds: a list has up to a
// million of them.
type entry struct {
	id     serialID
	at     uint32 // seconds since 1970; until 2106
	reason uint8
}

// A serialID is a cut hash of a serial number, which has up to 20 octets. No two
// numbers that anybody chose share one.
type serialID [16]byte

func serialIDOf(number []byte) serialID {
	sum := sha256.Sum256(number)
	return serialID(sum[:16])
}

const entrySize = 24

// size is what the list takes in memory, octets.
func (l *crl) size() int { return cap(l.entries) * entrySize }

// readList reads a revocation list of the issuer's that holds at the time now
// (RFC 5280 §5, §6.3.3). Nothing of it is kept in memory but what a list is. The
// signature is verified before its entries are looked at.
func readList(der []byte, issuer *x509.Certificate, now time.Time) (*crl, error) {
	if len(der) > maxList {
		return nil, fmt.Errorf("the list has more than %d octets", maxList)
	}
	if bytes.HasPrefix(der, []byte("-----BEGIN")) {
		return nil, errors.New("the list is in PEM; RFC 5280 §4.2.1.13 asks for DER")
	}
	head, entries, err := cut(der)
	if err != nil {
		return nil, err
	}
	switch {
	case !bytes.Equal(head.RawIssuer, issuer.RawSubject):
		return nil, errors.New("the list is another issuer's")
	case weak(head.SignatureAlgorithm):
		return nil, fmt.Errorf("the list is signed with %s", head.SignatureAlgorithm)
	case head.CheckSignatureFrom(issuer) != nil:
		return nil, errors.New("the list is not signed by the issuer")
	case head.NextUpdate.IsZero():
		return nil, errors.New("the list does not say until when it holds")
	}
	if err := current(head.ThisUpdate, head.NextUpdate, now); err != nil {
		return nil, fmt.Errorf("the list %w", err)
	}
	l := &crl{this: head.ThisUpdate, next: head.NextUpdate}
	if l.scope, err = scopeOf(head.Extensions); err != nil {
		return nil, err
	}
	if l.entries, err = readEntries(entries); err != nil {
		return nil, err
	}
	return l, nil
}

var errMalformed = errors.New("the list is malformed")

// cut takes a list apart into its entries and all the rest, which crypto/x509
// reads as a list that is empty. It would build some 300 octets for each entry of
// 20, and a stranger on the way could have it build them before anything is
// verified.
func cut(der []byte) (head *x509.RevocationList, entries cryptobyte.String, err error) {
	var whole, signed, body cryptobyte.String
	input := cryptobyte.String(der)
	if !input.ReadASN1(&whole, asn1.SEQUENCE) || !input.Empty() || !whole.ReadASN1Element(&signed, asn1.SEQUENCE) {
		return nil, nil, errMalformed
	}
	tbs := signed
	if !tbs.ReadASN1(&body, asn1.SEQUENCE) {
		return nil, nil, errMalformed
	}
	rest := body
	// The version, without which crypto/x509 refuses it; the algorithm, the issuer.
	rest.SkipOptionalASN1(asn1.INTEGER)
	if algorithm := rest.SkipASN1(asn1.SEQUENCE); !algorithm || !rest.SkipASN1(asn1.SEQUENCE) || !skipTime(&rest) {
		return nil, nil, errMalformed
	}
	skipTime(&rest)
	before := body[:len(body)-len(rest)]
	if !rest.ReadOptionalASN1(&entries, nil, asn1.SEQUENCE) {
		return nil, nil, errMalformed
	}
	if len(before)+len(rest)+len(whole) > maxHead {
		return nil, nil, fmt.Errorf("the list has more than %d octets besides its entries", maxHead)
	}
	b := cryptobyte.NewBuilder(nil)
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddBytes(before)
			b.AddBytes(rest)
		})
		b.AddBytes(whole) // the algorithm and the signature
	})
	empty, err := b.Bytes()
	if err != nil {
		return nil, nil, errMalformed
	}
	if head, err = x509.ParseRevocationList(empty); err != nil {
		return nil, nil, fmt.Errorf("the list cannot be read: %s", quote(err.Error()))
	}
	head.RawTBSRevocationList = signed // what was signed is all of it
	return head, entries, nil
}

func skipTime(s *cryptobyte.String) bool {
	return s.PeekASN1Tag(asn1.UTCTime) && s.SkipASN1(asn1.UTCTime) ||
		s.PeekASN1Tag(asn1.GeneralizedTime) && s.SkipASN1(asn1.GeneralizedTime)
}

// readEntries gives the revoked certificates, sorted. They are counted first, so
// that the memory is taken once.
func readEntries(s cryptobyte.String) ([]entry, error) {
	n := 0
	for rest := s; !rest.Empty(); n++ {
		if !rest.SkipASN1(asn1.SEQUENCE) {
			return nil, errMalformed
		}
	}
	all := make([]entry, 0, n)
	for !s.Empty() {
		var one cryptobyte.String
		if !s.ReadASN1(&one, asn1.SEQUENCE) {
			return nil, errMalformed
		}
		e, removed, err := readEntry(one)
		if err != nil {
			return nil, err
		}
		if !removed {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return bytes.Compare(a.id[:], b.id[:]) })
	return all, nil
}

func readEntry(s cryptobyte.String) (e entry, removed bool, err error) {
	var number, extensions cryptobyte.String
	var at time.Time
	var extended bool
	if !s.ReadASN1(&number, asn1.INTEGER) || len(number) == 0 || len(number) > 1 && number[0] == 0 && number[1] < 0x80 {
		return e, false, errMalformed
	}
	if !readTime(&s, &at) || !s.ReadOptionalASN1(&extensions, &extended, asn1.SEQUENCE) || !s.Empty() {
		return e, false, errMalformed
	}
	e = entry{id: serialIDOf(number), at: uint32(max(at.Unix(), 0))}
	for !extensions.Empty() {
		reason, err := readEntryExtension(&extensions)
		if err != nil {
			return e, false, err
		}
		e.reason = max(e.reason, reason)
	}
	const removeFromCRL = 8 // RFC 5280 §5.3.1: in delta lists alone, for what is no longer on hold
	return e, e.reason == removeFromCRL, nil
}

func readTime(s *cryptobyte.String, at *time.Time) bool {
	if s.PeekASN1Tag(asn1.UTCTime) {
		return s.ReadASN1UTCTime(at)
	}
	return s.ReadASN1GeneralizedTime(at)
}

// readEntryExtension gives the reason, 0 for any other extension. One that is
// critical and not known forbids to go by the list at all (RFC 5280 §5.3); so does
// certificateIssuer (§5.3.3), which makes this entry and the next about another's.
func readEntryExtension(s *cryptobyte.String) (reason uint8, err error) {
	var one, value cryptobyte.String
	var id = new(oid)
	var critical bool
	if !s.ReadASN1(&one, asn1.SEQUENCE) || !one.ReadASN1ObjectIdentifier(id) ||
		one.PeekASN1Tag(asn1.BOOLEAN) && !one.ReadASN1Boolean(&critical) || !one.ReadASN1(&value, asn1.OCTET_STRING) || !one.Empty() {
		return 0, errMalformed
	}
	var code int
	switch {
	case id.Equal(oid{2, 5, 29, 21}):
		if !value.ReadASN1Enum(&code) || !value.Empty() || code < 0 || code > 10 {
			return 0, errMalformed
		}
		return uint8(code), nil
	case critical || id.Equal(oid{2, 5, 29, 29}):
		return 0, fmt.Errorf("an entry of the list has the extension %s", id)
	}
	return 0, nil
}

// find says what the list says of a certificate that names the addresses, as its
// own. That it does not stand in a list that is not about it says nothing.
func (l *crl) find(cert *x509.Certificate) (answer, error) {
	if err := l.scope.covers(cert); err != nil {
		return answer{}, err
	}
	a := answer{state: Good, this: l.this, next: l.next}
	id := serialIDOf(integer(cert.SerialNumber.Bytes()))
	if i, found := slices.BinarySearchFunc(l.entries, id, func(e entry, id serialID) int { return bytes.Compare(e.id[:], id[:]) }); found {
		a.state, a.revoked, a.reason = Revoked, time.Unix(int64(l.entries[i].at), 0), int(l.entries[i].reason)
	} else if l.scope.someReasons {
		return answer{}, errors.New("the list is about some reasons only")
	}
	return a, nil
}

// integer gives the contents of a DER INTEGER of a number that is not negative;
// crypto/x509 lets no certificate have another.
func integer(magnitude []byte) []byte {
	if len(magnitude) == 0 || magnitude[0] >= 0x80 {
		return append([]byte{0}, magnitude...)
	}
	return magnitude
}
