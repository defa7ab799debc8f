package revocation

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// maxAnswer bounds an OCSP answer, octets: one with the whole chain of a
// delegated responder takes some 6000.
const maxAnswer = 64 << 10

const (
	// skew is how far a responder's clock may differ from ours.
	skew = 5 * time.Minute
	// openEnded is how long an answer holds that names no nextUpdate: newer
	// information is there at any time (RFC 6960 §4.2.2.1), so an older one may
	// have been kept by somebody.
	openEnded = time.Hour
)

// readAnswer reads what a responder says of the link's certificate. It is an
// answer only if the issuer signed it, or a responder that the issuer named for
// that (RFC 6960 §4.2.2.2), if it is about this certificate of this issuer, and
// if it holds at the time now.
func readAnswer(der []byte, l link, now time.Time) (answer, error) {
	if len(der) > maxAnswer {
		return answer{}, fmt.Errorf("the answer has more than %d octets", maxAnswer)
	}
	// Without an issuer: with one, the package takes an issuer that sends its own
	// certificate along for a delegate that nobody named.
	resp, err := ocsp.ParseResponseForCert(der, l.cert, nil)
	var refused ocsp.ResponseError
	if errors.As(err, &refused) {
		return answer{}, fmt.Errorf("the responder says: %s", refused.Status)
	}
	if err != nil {
		return answer{}, fmt.Errorf("the answer cannot be read: %s", quote(err.Error()))
	}
	if err := signedFor(resp, l.issuer, now); err != nil {
		return answer{}, err
	}
	if err := about(resp, l); err != nil {
		return answer{}, err
	}
	if resp.NextUpdate.IsZero() {
		resp.NextUpdate = resp.ThisUpdate.Add(openEnded)
	}
	if err := current(resp.ThisUpdate, resp.NextUpdate, now); err != nil {
		return answer{}, fmt.Errorf("the answer %w", err)
	}
	a := answer{this: resp.ThisUpdate, next: resp.NextUpdate}
	switch resp.Status {
	case ocsp.Good:
		a.state = Good
	case ocsp.Revoked:
		a.state, a.revoked, a.reason = Revoked, resp.RevokedAt, resp.RevocationReason
	}
	return a, nil
}

func current(this, next, now time.Time) error {
	const at = "2006-01-02 15:04 MST"
	switch {
	case this.After(now.Add(skew)):
		return fmt.Errorf("does not hold before %s", this.UTC().Format(at))
	case next.Before(now.Add(-skew)):
		return fmt.Errorf("ran out on %s", next.UTC().Format(at))
	}
	return nil
}

func signedFor(resp *ocsp.Response, issuer *x509.Certificate, now time.Time) error {
	if weak(resp.SignatureAlgorithm) {
		return fmt.Errorf("the answer is signed with %s", resp.SignatureAlgorithm)
	}
	if resp.CheckSignatureFrom(issuer) == nil {
		return nil
	}
	delegate := resp.Certificate // the package checked that it made the signature
	switch {
	case delegate == nil || !bytes.Equal(delegate.RawIssuer, issuer.RawSubject):
		return errors.New("the answer is not signed by the issuer, nor by a responder of the issuer's")
	case delegate.CheckSignatureFrom(issuer) != nil:
		return errors.New("the responder's certificate is not signed by the issuer")
	case !slices.Contains(delegate.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		return errors.New("the responder's certificate is not for signing OCSP answers")
	case now.Before(delegate.NotBefore.Add(-skew)) || now.After(delegate.NotAfter.Add(skew)):
		return errors.New("the responder's certificate is not valid at this time")
	}
	return nil
}

// weak reports whether signatures by the algorithm are not to be believed, as
// crypto/x509 does not where it verifies a chain.
func weak(a x509.SignatureAlgorithm) bool {
	switch a {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		return true
	}
	return false
}

// about holds the answer's CertID against the certificate. The package compares
// nothing but the serial number, and serial numbers are an issuer's own: one
// responder may sign answers for several. It took the first answer with the
// number, so that is the one looked at, and by the same reader, so that both see
// the same.
func about(resp *ocsp.Response, l link) error {
	var data struct {
		Version     int `asn1:"optional,default:0,explicit,tag:0"`
		ResponderID asn1.RawValue
		ProducedAt  time.Time  `asn1:"generalized"`
		Responses   []struct { // what follows in each is passed over
			ID struct {
				Hash              pkix.AlgorithmIdentifier
				NameHash, KeyHash []byte
				Serial            *big.Int
			}
		}
	}
	if _, err := asn1.Unmarshal(resp.TBSResponseData, &data); err != nil {
		return fmt.Errorf("the answer cannot be read: %s", quote(err.Error()))
	}
	name, issuerKey, err := hashes(l.issuer, resp.IssuerHash)
	if err != nil {
		return err
	}
	for _, r := range data.Responses {
		if r.ID.Serial.Cmp(l.cert.SerialNumber) != 0 {
			continue
		}
		if !bytes.Equal(r.ID.NameHash, name) || !bytes.Equal(r.ID.KeyHash, issuerKey) {
			return errors.New("the answer is about another issuer's certificate")
		}
		return nil
	}
	return errors.New("the answer is about another certificate")
}

// hashes gives what a CertID names an issuer by: its name, and the bits of its
// public key without algorithm and length (RFC 6960 §4.1.1).
func hashes(issuer *x509.Certificate, by crypto.Hash) (name, publicKey []byte, err error) {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(issuer.RawSubjectPublicKeyInfo, &spki); err != nil {
		return nil, nil, fmt.Errorf("the issuer's key cannot be read: %w", err)
	}
	if !by.Available() {
		return nil, nil, fmt.Errorf("the answer uses the hash %v", by)
	}
	h := by.New()
	h.Write(issuer.RawSubject)
	name = h.Sum(nil)
	h.Reset()
	h.Write(spki.Key.RightAlign())
	return name, h.Sum(nil), nil
}
