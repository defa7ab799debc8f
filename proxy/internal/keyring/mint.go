package keyring

import (
	"container/list"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	// maxMinted bounds the minted certificates that are kept.
	maxMinted = 4096
	// maxKept bounds the certificate whose minted counterpart is kept, octets, and
	// with maxMinted the memory. Those in use have two to four thousand.
	maxKept = 8 << 10
	// life is how long a minted certificate is valid: short enough that nobody
	// expects to hear of a revocation.
	life = 7 * 24 * time.Hour
	// backdated is by how much a client's clock may be behind.
	backdated = time.Hour
	// lookAgain is how long a counterpart is kept of one that is not valid today.
	lookAgain = time.Hour
)

// A Minter issues certificates that are named as the upstream's own. Its methods
// may be called by any number of sessions at once.
type Minter struct {
	trusted, untrusted *issuer

	mu   sync.Mutex
	at   map[likeness]*list.Element
	used list.List // the longest unused first
}

// A likeness is what a minted certificate is kept by. The fingerprint covers the
// names.
type likeness struct {
	sha256  [sha256.Size]byte
	trusted bool
}

// A minted certificate is made by the first who asks for it, while the others
// wait for that one and for nothing else.
type minted struct {
	likeness
	once  sync.Once
	cert  *tls.Certificate
	err   error
	renew time.Time // guarded by the Minter's lock; zero while it is being made
}

// Minter gives what mints from [tls.authority]; nil when there is none.
func (r *Ring) Minter() *Minter { return r.minter }

func newMinter(authority *issuer, now time.Time) (*Minter, error) {
	ephemeral, err := newEphemeral(now)
	if err != nil {
		return nil, fmt.Errorf("the authority of what is not verified: %w", err)
	}
	return &Minter{trusted: authority, untrusted: ephemeral, at: make(map[likeness]*list.Element)}, nil
}

// Format keeps the keys out of whatever a Minter is printed into.
func (m *Minter) Format(s fmt.State, verb rune) { m.trusted.Format(s, verb) }

// Mint gives a certificate with the names of like, which an upstream showed, and a
// key of its own. Where trusted says that the chain, the dates and the revocation of
// like verified against public roots, [tls.authority] issued it; otherwise an
// authority did that no client knows, so that one that verifies fails as it would
// have without Postern. That of a like that is not valid at the time now is not
// valid either, and to ask for a trusted one is an error, as it is when the
// authority's time is over.
//
// The names are like's subject alternative names to the octet. It is valid for a
// week at most, and neither beyond its authority nor beyond like. What a client
// asked for by SNI has no part in it.
func (m *Minter) Mint(like *x509.Certificate, trusted bool, now time.Time) (*tls.Certificate, error) {
	if like == nil {
		return nil, errors.New("mint: no certificate to mint the like of")
	}
	by := m.untrusted
	if trusted {
		by = m.trusted
		switch {
		case outside(like, now):
			return nil, errors.New("mint: the certificate is not valid at this time")
		case now.After(by.until) || now.Before(by.cert.NotBefore):
			return nil, errors.New("mint: the authority is not valid at this time")
		}
	}
	if len(like.Raw) > maxKept {
		return by.mint(like, now)
	}
	k := m.find(likeness{sha256.Sum256(like.Raw), trusted}, now)
	k.once.Do(func() { k.cert, k.err = by.mint(like, now) })
	m.made(k, now)
	return k.cert, k.err
}

// find gives what is kept, which may not be made yet, or makes room for it.
func (m *Minter) find(of likeness, now time.Time) *minted {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.at[of]; e != nil {
		k := e.Value.(*minted)
		if k.renew.IsZero() || now.Before(k.renew) {
			m.used.MoveToBack(e)
			return k
		}
		m.forget(e)
	}
	if m.used.Len() >= maxMinted {
		m.forget(m.used.Front())
	}
	k := &minted{likeness: of}
	m.at[of] = m.used.PushBack(k)
	return k
}

// made notes when a certificate has to be made anew: when half of its time is
// over, so that a session is never shown one that ends under it. What could not be
// made is not kept.
func (m *Minter) made(k *minted, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e := m.at[k.likeness]; {
	case k.err != nil && e != nil && e.Value.(*minted) == k:
		m.forget(e)
	case k.err == nil && k.renew.IsZero():
		k.renew = now.Add(lookAgain)
		if !outside(k.cert.Leaf, now) {
			k.renew = now.Add(k.cert.Leaf.NotAfter.Sub(now) / 2)
		}
	}
}

func (m *Minter) forget(e *list.Element) {
	delete(m.at, m.used.Remove(e).(*minted).likeness)
}

func (i *issuer) mint(like *x509.Certificate, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	template, err := i.template(like, now)
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	template.SubjectKeyId = keyID(spki)
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, key.Public(), i.key)
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("mint: %w", err)
	}
	return &tls.Certificate{Certificate: append([][]byte{der}, i.shown...), PrivateKey: key, Leaf: leaf}, nil
}

func (i *issuer) template(like *x509.Certificate, now time.Time) (*x509.Certificate, error) {
	number, err := serialNumber()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: number,
		Subject:      subjectLike(like),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		// There is nobody to ask about it (RFC 9608 §2).
		ExtraExtensions:       []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: asn1.NullBytes}},
		BasicConstraintsValid: true,
	}
	t.NotBefore, t.NotAfter = i.span(like, now)
	for _, e := range like.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) { // subjectAltName, RFC 5280 §4.2.1.6
			t.ExtraExtensions = append(t.ExtraExtensions, e)
		}
	}
	return t, nil
}

// span gives the dates. One that is not valid today passes its own on.
func (i *issuer) span(like *x509.Certificate, now time.Time) (from, to time.Time) {
	if outside(like, now) {
		return like.NotBefore, like.NotAfter
	}
	from, to = now.Add(-backdated), now.Add(life)
	if from.Before(i.cert.NotBefore) {
		from = i.cert.NotBefore
	}
	for _, end := range []time.Time{like.NotAfter, i.until} {
		if end.Before(to) {
			to = end
		}
	}
	return from, to
}

// subjectLike gives a common name that is among the names: like's own if it is, or
// else the first. Old clients look at nothing else, and must not find there what
// the others would not.
func subjectLike(like *x509.Certificate) pkix.Name {
	const most = 64 // ub-common-name, RFC 5280 appendix A.1
	for _, name := range append([]string{like.Subject.CommonName}, like.DNSNames...) {
		if name == "" || len(name) > most {
			continue
		}
		for _, n := range like.DNSNames {
			if strings.EqualFold(n, name) {
				return pkix.Name{CommonName: n}
			}
		}
	}
	return pkix.Name{Organization: []string{"Postern"}}
}
