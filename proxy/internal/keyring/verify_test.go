package keyring

import (
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"postern/enforce"
)

func certs(all ...*entity) []*x509.Certificate {
	var list []*x509.Certificate
	for _, e := range all {
		list = append(list, e.cert)
	}
	return list
}

func TestAChainVerifiesOrSaysWhatIsWrongWithIt(t *testing.T) {
	d := newDirectory(t)
	past := func(r request) request { r.from, r.to = noon.AddDate(-2, 0, 0), noon.AddDate(0, 0, -1); return r }
	root := issue(t, nil, request{cn: "root", ca: true})
	oldRoot := issue(t, nil, past(request{cn: "old root", ca: true}))
	partner := issue(t, nil, request{cn: "partner", ca: true})
	stranger := issue(t, nil, request{cn: "stranger", ca: true})
	rsaRoot := issue(t, nil, request{cn: "rsa root", ca: true, key: newRSA(t, 2048)})

	middle := issue(t, root, request{cn: "middle", ca: true})
	oldMiddle := issue(t, root, past(request{cn: "old middle", ca: true}))
	leaf := issue(t, root, request{cn: "leaf", names: []string{"a.example"}})
	below := issue(t, middle, request{cn: "below", names: []string{"a.example"}})
	belowOld := issue(t, oldMiddle, request{cn: "below old", names: []string{"a.example"}})
	ofOldRoot := issue(t, oldRoot, request{cn: "of old root"})
	expired := issue(t, root, past(request{cn: "expired"}))
	early := issue(t, root, request{cn: "early", from: noon.AddDate(0, 0, 1), to: noon.AddDate(1, 0, 0)})
	strangerExpired := issue(t, stranger, past(request{cn: "stranger's"}))
	never := issue(t, oldMiddle, request{cn: "never", from: noon.Add(-time.Hour), to: noon.Add(time.Hour)})
	sha1 := issue(t, rsaRoot, request{cn: "sha-1", algorithm: x509.SHA1WithRSA})
	sha1Expired := issue(t, rsaRoot, past(request{cn: "sha-1", algorithm: x509.SHA1WithRSA}))
	client := issue(t, root, request{cn: "client", usage: x509.ExtKeyUsageClientAuth})
	partners := issue(t, partner, request{cn: "partner's"})
	noCA := issue(t, leaf, request{cn: "signed by a leaf"})

	ca := d.roots("partner.pem", partner)
	r, err := Load(Files{TrustCA: d.roots("roots.pem", root, oldRoot, rsaRoot), RuleCAs: []RuleCA{{2, ca}}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	const asClient = x509.ExtKeyUsageClientAuth
	for _, c := range []struct {
		what   string
		ca     string
		chain  []*x509.Certificate
		usage  x509.ExtKeyUsage
		want   enforce.Reason // empty: verified
		detail string
	}{
		{"a root signed it", "", certs(leaf), server, "", ""},
		{"an intermediate is shown", "", certs(below, middle), server, "", ""},
		{"in any order, with the root", "", certs(below, root, stranger, middle), server, "", ""},
		{"no intermediate is shown", "", certs(below), server, enforce.CertNotTrusted, "CN=middle"},
		{"it signed itself", "", certs(stranger), server, enforce.CertNotTrusted, "unknown authority"},
		{"a stranger signed it", "", certs(issue(t, stranger, request{cn: "x"}), stranger), server, enforce.CertNotTrusted, "CN=stranger"},
		{"nothing is shown", "", nil, server, enforce.CertNotTrusted, "no certificate"},
		{"a leaf signed it", "", certs(noCA, leaf), server, enforce.CertNotTrusted, ""},
		{"it expired", "", certs(expired), server, enforce.CertExpired, "expired on 2026-11-23"},
		{"it has not begun", "", certs(early), server, enforce.CertExpired, "not valid before 2026-11-25"},
		{"the intermediate expired", "", certs(belowOld, oldMiddle), server, enforce.CertExpired, "CN=old middle"},
		{"the root expired", "", certs(ofOldRoot), server, enforce.CertExpired, "a root expired"},
		{"it expired and a stranger signed it", "", certs(strangerExpired, stranger), server, enforce.CertNotTrusted, ""},
		{"it was never valid with its issuer", "", certs(never, oldMiddle), server, enforce.CertNotTrusted, ""},
		{"it expired, and a shown stranger's", "", certs(leaf, strangerExpired), server, "", ""},
		{"SHA-1", "", certs(sha1), server, enforce.CertNotTrusted, "SHA1-RSA"},
		{"SHA-1, and expired", "", certs(sha1Expired), server, enforce.CertNotTrusted, ""},
		{"for clients alone", "", certs(client), server, enforce.CertNotTrusted, "usage"},
		{"for clients, by one", "", certs(client), asClient, "", ""},
		{"for servers alone, by a client", "", certs(leaf), asClient, enforce.CertNotTrusted, "usage"},
		{"the rule's own roots", ca, certs(partners), server, "", ""},
		{"not in the rule's own roots", ca, certs(leaf), server, enforce.CertNotTrusted, ""},
		{"the rule's roots are not everybody's", "", certs(partners), server, enforce.CertNotTrusted, ""},
		{"roots that were not loaded", "/none.pem", certs(leaf), server, enforce.CertNotTrusted, ""},
	} {
		got, _ := r.Verify(c.ca, c.chain, c.usage, noon)
		if got.Verified != (c.want == "") || got.Reason != c.want || !strings.Contains(got.Detail, c.detail) {
			t.Errorf("%s: %+v, want %q and %q", c.what, got, c.want, c.detail)
		}
	}
}

func TestRootsThatWereNotLoadedAreNone(t *testing.T) {
	r, err := Load(Files{TrustCA: "system"}, noon)
	if err != nil {
		t.Fatal(err)
	}
	if pool := r.Roots("/none.pem"); pool == nil || !pool.Equal(x509.NewCertPool()) {
		t.Error("crypto/x509 takes nil for the roots of the system")
	}
}

// What a peer shows is never trusted for roots that did not sign it, however it
// was put together.
func FuzzNoChainVerifiesAgainstRootsThatSignedNothing(f *testing.F) {
	d := newDirectory(f)
	r, err := Load(Files{TrustCA: d.roots("roots.pem", issue(f, nil, request{cn: "root", ca: true}))}, noon)
	if err != nil {
		f.Fatal(err)
	}
	other := issue(f, nil, request{cn: "root", ca: true})
	leaf := issue(f, other, request{cn: "leaf", from: noon.AddDate(-2, 0, 0), to: noon.AddDate(-1, 0, 0)})
	f.Add(leaf.cert.Raw)
	f.Add(append(append([]byte(nil), leaf.cert.Raw...), other.cert.Raw...))
	f.Fuzz(func(t *testing.T, der []byte) {
		chain, err := x509.ParseCertificates(der)
		if err != nil {
			return
		}
		got, _ := r.Verify("", chain, x509.ExtKeyUsageServerAuth, noon)
		if got.Verified || got.Reason != enforce.CertNotTrusted || got.Detail == "" {
			t.Fatalf("%+v", got)
		}
	})
}
