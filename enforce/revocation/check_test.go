package revocation

import (
	"bytes"
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

func TestARevokedIntermediateRevokesTheChain(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	n.serve("ocsp.example", answering(respond(t, p, p.middle, nil)))
	n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil, p.middle)}))
	got := n.checker(Options{}).Check(t.Context(), p.chain(), nil, time.Now())
	if got.State != Revoked || got.Source != FromCRL || got.Certificate != `"CN=middle"` || time.Since(got.At) < time.Hour {
		t.Errorf("%+v", got)
	}
}

func TestAnswersThatDoNotHoldLeadToTheList(t *testing.T) {
	now := time.Now()
	p := newPKI(t)
	twin := issue(t, nil, "middle", authority)
	for name, answer := range map[string]func() http.HandlerFunc{
		"run out": func() http.HandlerFunc {
			return answering(respond(t, p, p.middle, func(r *ocsp.Response) { r.NextUpdate = now.Add(-6 * time.Minute) }))
		},
		"of tomorrow": func() http.HandlerFunc {
			return answering(respond(t, p, p.middle, func(r *ocsp.Response) { r.ThisUpdate = now.Add(6 * time.Minute) }))
		},
		"old, without an end": func() http.HandlerFunc {
			return answering(respond(t, p, p.middle, func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = now.Add(-2*time.Hour), time.Time{} }))
		},
		"of another certificate": func() http.HandlerFunc {
			return answering(respond(t, p, p.middle, func(r *ocsp.Response) { r.SerialNumber = p.middle.SerialNumber }))
		},
		"of another issuer's": func() http.HandlerFunc {
			der, err := ocsp.CreateResponse(p.root.Certificate, p.middle.Certificate,
				ocsp.Response{SerialNumber: p.leaf.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(time.Hour)}, p.middle.key)
			if err != nil {
				t.Fatal(err)
			}
			return answering(der)
		},
		"signed by a namesake": func() http.HandlerFunc { return answering(respond(t, pki{p.root, twin, p.leaf}, twin, nil)) },
		"changed on the way": func() http.HandlerFunc {
			der := respond(t, p, p.middle, nil)
			der[len(der)-1] ^= 1
			return answering(der)
		},
		"try later":  func() http.HandlerFunc { return answering(ocsp.TryLaterErrorResponse) },
		"garbage":    func() http.HandlerFunc { return answering([]byte("<html>\x1b[2J")) },
		"nothing":    func() http.HandlerFunc { return answering(nil) },
		"much":       func() http.HandlerFunc { return answering(make([]byte, maxAnswer+1)) },
		"no such":    func() http.HandlerFunc { return http.NotFound },
		"elsewhere":  func() http.HandlerFunc { return redirecting("https://ocsp.example/") },
		"in circles": func() http.HandlerFunc { return redirecting("/") },
		"dead":       nil,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNames(t)
			if answer != nil {
				n.serve("ocsp.example", answer())
			}
			lists := map[string][]byte{"/root.crl": revoke(t, p.root, nil), "/middle.crl": revoke(t, p.middle, nil, p.leaf)}
			n.serve("crl.example", files(lists))
			if got := n.checker(Options{}).Check(t.Context(), p.chain(), nil, now); got.State != Revoked || got.Source != FromCRL {
				t.Errorf("%+v", got)
			}
			delete(lists, "/middle.crl")
			got := n.checker(Options{}).Check(t.Context(), p.chain(), nil, now)
			if got.State != Unknown || !strings.Contains(got.Detail, `"`+ocspAt+`": `) || !strings.Contains(got.Detail, `"`+crlAt+`": the server says HTTP 404`) ||
				strings.Contains(got.Detail, "\x1b") {
				t.Errorf("%+v", got)
			}
		})
	}
}

func redirecting(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

func TestAListCountsOnlyForWhatItIsAbout(t *testing.T) {
	p := newPKI(t)
	now := time.Now()
	twin := issue(t, nil, "middle", authority)
	mute := issue(t, p.root, "middle", func(c *x509.Certificate) { authority(c); c.KeyUsage = x509.KeyUsageCertSign })
	idp := asn1.ObjectIdentifier{2, 5, 29, 28}
	point := func(address string, flags ...byte) []byte {
		name := append([]byte{0x86, byte(len(address))}, address...)
		full := append([]byte{0xa0, byte(len(name))}, name...)
		body := append([]byte{0xa0, byte(len(full))}, full...)
		body = append(body, flags...)
		return append([]byte{0x30, byte(len(body))}, body...)
	}
	for _, c := range []struct {
		name   string
		list   []byte
		want   State
		detail string
	}{
		{"good", revoke(t, p.middle, nil, p.middle), Good, ""},
		{"revoked", revoke(t, p.middle, nil, p.leaf), Revoked, "key compromise"},
		{"on hold", revoke(t, p.middle, reasoned(ocsp.CertificateHold), p.leaf), Revoked, "on hold"},
		{"removed", revoke(t, p.middle, reasoned(ocsp.RemoveFromCRL), p.leaf), Good, ""},
		{"run out", revoke(t, p.middle, func(l *x509.RevocationList) { l.NextUpdate = now.Add(-6 * time.Minute) }), Unknown, "ran out"},
		{"of tomorrow", revoke(t, p.middle, func(l *x509.RevocationList) { l.ThisUpdate = now.Add(6 * time.Minute) }), Unknown, "does not hold before"},
		{"a namesake's", revoke(t, twin, nil, p.leaf), Unknown, "not signed by the issuer"},
		{"another's", revoke(t, p.root, nil, p.leaf), Unknown, "another issuer's"},
		{"its own part", revoke(t, p.middle, with(idp, true, point(crlAt)), p.leaf), Revoked, ""},
		{"another part", revoke(t, p.middle, with(idp, true, point("http://crl.example/2.crl"))), Unknown, "another part"},
		{"users only", revoke(t, p.middle, with(idp, true, point(crlAt, 0x81, 1, 0xff))), Good, ""},
		{"authorities only", revoke(t, p.middle, with(idp, true, point(crlAt, 0x82, 1, 0xff))), Unknown, "authorities only"},
		{"some reasons", revoke(t, p.middle, with(idp, true, point(crlAt, 0x83, 2, 6, 0x40))), Unknown, "some reasons only"},
		{"some reasons, and one of them", revoke(t, p.middle, with(idp, true, point(crlAt, 0x83, 2, 6, 0x40)), p.leaf), Revoked, ""},
		{"indirect", revoke(t, p.middle, with(idp, true, point(crlAt, 0x84, 1, 0xff))), Unknown, "cannot be gone by"},
		{"attributes", revoke(t, p.middle, with(idp, true, point(crlAt, 0x85, 1, 0xff))), Unknown, "cannot be gone by"},
		{"relative", revoke(t, p.middle, with(idp, true, []byte{0x30, 4, 0xa0, 2, 0xa1, 0})), Unknown, "cannot be gone by"},
		{"a delta", revoke(t, p.middle, with(asn1.ObjectIdentifier{2, 5, 29, 27}, true, []byte{2, 1, 1})), Unknown, "a delta list"},
		{"not understood", revoke(t, p.middle, with(asn1.ObjectIdentifier{1, 2, 3}, true, []byte{5, 0})), Unknown, "critical extension 1.2.3"},
		{"not understood, and not critical", revoke(t, p.middle, with(asn1.ObjectIdentifier{1, 2, 3}, false, []byte{5, 0})), Good, ""},
		{"an entry not understood", revoke(t, p.middle, extended(asn1.ObjectIdentifier{1, 2, 3}, true), p.middle), Unknown, "has the extension 1.2.3"},
		{"an entry of another issuer", revoke(t, p.middle, extended(asn1.ObjectIdentifier{2, 5, 29, 29}, false), p.middle), Unknown, "has the extension 2.5.29.29"},
		{"an entry with more", revoke(t, p.middle, extended(asn1.ObjectIdentifier{1, 2, 3}, false), p.leaf), Revoked, ""},
		{"cut", revoke(t, p.middle, nil)[:100], Unknown, "malformed"},
		{"more behind", append(revoke(t, p.middle, nil), 0), Unknown, "malformed"},
		{"changed", changed(revoke(t, p.middle, nil, p.middle), p.middle, p.leaf), Unknown, "not signed by the issuer"},
	} {
		list, err := readList(c.list, p.middle.Certificate, now)
		var a answer
		if err == nil {
			a, err = list.find(p.leaf.Certificate)
		}
		r := a.result(FromCRL, "")
		if err != nil {
			r = unknown(err.Error())
		}
		if r.State != c.want || !strings.Contains(r.Detail, c.detail) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
	template := issue(t, nil, "middle", authority)
	template.key, template.RawSubject = mute.key, mute.RawSubject
	if _, err := readList(revoke(t, &entity{template.Certificate, mute.key}, nil), mute.Certificate, now); err == nil {
		t.Error("an authority that may sign no lists signed one")
	}
}

func reasoned(code int) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) { l.RevokedCertificateEntries[0].ReasonCode = code }
}

func extended(id asn1.ObjectIdentifier, critical bool) func(*x509.RevocationList) {
	return func(l *x509.RevocationList) {
		l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{{Id: id, Critical: critical, Value: []byte{5, 0}}}
	}
}

// changed puts one serial number in the place of another.
func changed(list []byte, from, to *entity) []byte {
	return bytes.ReplaceAll(list, from.SerialNumber.Bytes(), to.SerialNumber.Bytes())
}

func TestAStapledAnswerIsTakenFirstAndABadOneIsTold(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil)}))
	c := n.checker(Options{})
	staple := respond(t, p, p.middle, nil)
	if got := c.Check(t.Context(), p.chain(), staple, time.Now()); got.State != Good || got.Source != FromStaple || n.asked("ocsp.example/") != 0 {
		t.Errorf("%+v", got)
	}
	bad := respond(t, p, p.root, nil)
	got := c.Check(t.Context(), p.chain(), bad, time.Now())
	if got.State != Unknown || !strings.Contains(got.Detail, "; of the stapled answer: the answer is not signed by the issuer") {
		t.Errorf("%+v", got)
	}
}

func TestAMissingStapleIsNotedWhereTheCertificateDemandsOne(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	p.leaf = issue(t, p.middle, "leaf", func(c *x509.Certificate) {
		named(ocspAt, crlAt)(c)
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: []byte{0x30, 3, 2, 1, 5}}}
	})
	n.serve("ocsp.example", answering(respond(t, p, p.middle, nil)))
	n.serve("crl.example", files(map[string][]byte{"/root.crl": revoke(t, p.root, nil)}))
	c := n.checker(Options{})
	for staple, want := range map[string]bool{"": true, "garbage": true, string(respond(t, p, p.middle, nil)): false} {
		if got := c.Check(t.Context(), p.chain(), []byte(staple), time.Now()); got.State != Good || got.MissingStaple != want {
			t.Errorf("%q: %+v", staple, got)
		}
	}
}

func TestNobodyIsAskedAboutWhatNamesNoAddress(t *testing.T) {
	root := issue(t, nil, "root", authority)
	week := func(d time.Duration) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.NotAfter = c.NotBefore.Add(d) }
	}
	at := time.Date(2026, 3, 14, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		change func(*x509.Certificate)
		want   State
	}{
		"short-lived":           {week(7 * 24 * time.Hour), Good},
		"not so short-lived":    {func(c *x509.Certificate) { c.NotBefore = at.AddDate(0, 0, 1); week(8 * 24 * time.Hour)(c) }, Unknown},
		"short-lived as of old": {func(c *x509.Certificate) { c.NotBefore = at; week(10 * 24 * time.Hour)(c) }, Good},
		"an authority":          {func(c *x509.Certificate) { authority(c); week(time.Hour)(c) }, Unknown},
		"noRevAvail": {func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: []byte{5, 0}}}
		}, Good},
		"nothing said": {nil, Unknown},
	} {
		c0 := newNames(t).checker(Options{})
		chain := []*x509.Certificate{issue(t, root, "leaf", c.change).Certificate, root.Certificate}
		got := c0.Check(t.Context(), chain, nil, time.Now())
		again, all := c0.Cached(chain, nil, time.Now())
		if got.State != c.want || got.Detail == "" || got != again || !all {
			t.Errorf("%s: %+v, %+v, %v", name, got, again, all)
		}
		if got := c0.Check(t.Context(), chain[1:], nil, time.Now()); got.State != Good {
			t.Errorf("a root: %+v", got)
		}
		if got := c0.Check(t.Context(), nil, nil, time.Now()); got.State != Unknown {
			t.Errorf("no chain: %+v", got)
		}
	}
}

// An address that looks as if it were far away.
type outside struct{ net.Conn }

func (outside) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80} }

func TestARedirectDoesNotLeadInside(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	n.serve("inside.example", answering(revoke(t, p.middle, nil)))
	n.serve("crl.example", redirecting("http://inside.example/"))
	for _, far := range []bool{false, true} {
		c := New(Options{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := n.dial(ctx, network, addr)
			if err == nil && far && addr == "crl.example:80" {
				conn = outside{conn}
			}
			return conn, err
		}})
		_, err := c.fetchList(t.Context(), p.middle.Certificate, crlAt, time.Now())
		if far && (err == nil || !strings.Contains(err.Error(), "private network")) || !far && err != nil {
			t.Errorf("far %v: %v", far, err)
		}
		c.Close()
	}
	if got := n.asked("inside.example/"); got != 1 {
		t.Errorf("asked %d times", got)
	}
}

func TestReachabilityAsksEachAddressAndNoCache(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	p.leaf = issue(t, p.middle, "leaf", func(c *x509.Certificate) {
		c.OCSPServer = []string{ocspAt, "https://ocsp.example/"}
		c.CRLDistributionPoints = []string{crlAt, "ldap://crl.example/cn=\x1b", "http://dead.example/"}
	})
	n.serve("ocsp.example", answering(respond(t, p, p.middle, nil)))
	n.serve("crl.example", files(map[string][]byte{"/middle.crl": revoke(t, p.middle, nil, p.leaf), "/root.crl": revoke(t, p.root, nil)}))
	c := n.checker(Options{})
	for range 2 {
		all := c.Reachability(t.Context(), p.chain(), time.Now())
		var got []string
		for _, e := range all {
			if e.Duration <= 0 {
				t.Errorf("%+v", e)
			}
			verdict := map[bool]string{true: "yes", false: "no"}[e.OK]
			got = append(got, strings.Join([]string{string(e.Kind), e.URL, e.Certificate, verdict, strings.Split(e.Detail, " 2")[0]}, "|"))
		}
		want := []string{
			`ocsp|http://ocsp.example/|"CN=leaf"|yes|good`,
			`ocsp|https://ocsp.example/|"CN=leaf"|no|the scheme "https" is not asked, only http`,
			`crl|http://crl.example/middle.crl|"CN=leaf"|yes|revoked on`,
			`crl|"ldap://crl.example/cn=\x1b"|"CN=leaf"|no|not an address that can be asked`,
			`crl|http://dead.example/|"CN=leaf"|no|"no such host: dead.example:80"`,
			`crl|http://crl.example/root.crl|"CN=middle"|yes|good`,
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s\nand not\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if a, b := n.asked("ocsp.example/"), n.asked("crl.example/root.crl"); a != 2 || b != 2 {
		t.Errorf("asked %d and %d times", a, b)
	}
}

func TestAResponderWithoutPOSTIsAskedByGET(t *testing.T) {
	p, n := newPKI(t), newNames(t)
	n.serve("ocsp.example", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			http.Error(w, "no", http.StatusMethodNotAllowed)
			return
		}
		answering(respond(t, p, p.middle, nil))(w, r)
	})
	a, err := n.checker(Options{}).askResponder(t.Context(), linksOf(p.chain(), nil, time.Now())[0], ocspAt, time.Now())
	if err != nil || a.state != Good {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWhatWentWrongIsToldWithoutAddressesOfTheInside(t *testing.T) {
	inside := &net.TCPAddr{IP: net.IPv4(10, 1, 2, 3), Port: 4444}
	for _, err := range []error{
		fmt.Errorf("get: %w", &net.OpError{Op: "read", Net: "tcp", Source: inside, Addr: inside, Err: syscall.ECONNRESET}),
		fmt.Errorf("get: %w", &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "ocsp.example", Server: "10.1.2.3:53"}}),
	} {
		if text := plain(err).Error(); strings.Contains(text, "10.1.2.3") {
			t.Errorf("%s", text)
		}
	}
}
