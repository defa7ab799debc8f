package dane

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// A trial is what a server shows, and the records that it is held against.
type trial struct {
	name    string
	chain   []*pair
	records [][]Record
}

// stricter are the records where Match refuses what OpenSSL 3 takes: it does not
// look at the dates of an authority that is not self-signed when it ends the chain,
// and where it has a bare key it forgets what that key's certificate, which is
// shown, says of it.
var stricter = map[string]bool{"middle expired 2 0 1": true, "middle expired 2 1 1": true, "middle expired 2 1 0": true, "no authority 2 1 0": true}

// OpenSSL is the other reader of these RFCs, by one of their authors: what it
// says of a chain and its records, Match has to say.
func TestOpenSSLSaysTheSame(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil && os.Getenv("CI") != "" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip(err)
	}
	said := map[bool]int{}
	var mu sync.Mutex
	t.Run("trials", func(t *testing.T) {
		for _, tr := range trials(t) {
			t.Run(tr.name, func(t *testing.T) {
				t.Parallel()
				at := serve(t, tr.chain)
				for _, records := range tr.records {
					want, why := referee(t, at, records)
					got, detail := Match(records, shown(tr.chain...), names[:1], noon)
					if got != want && (got || !stricter[tr.name+" "+of(records[0])]) {
						t.Errorf("%s: %v (%s), OpenSSL: %v (%s)", words(records), got, detail, want, why)
					}
					mu.Lock()
					said[want]++
					mu.Unlock()
				}
			})
		}
	})
	if said[true] < 50 || said[false] < 50 {
		t.Errorf("a one-sided trial: %v", said)
	}
}

func trials(t *testing.T) []trial {
	l, other := good(t), good(t)
	all := each([]uint8{0, 1, 2}, l.leaf, l.middle, l.root, other.root)
	ts := []trial{
		{"whole", []*pair{l.leaf, l.middle, l.root}, all},
		{"without the root", []*pair{l.leaf, l.middle}, all},
		{"the leaf alone", []*pair{l.leaf}, all},
		{"beside another's root", []*pair{l.leaf, other.root, l.middle}, all},
		{"digests", []*pair{l.leaf, l.middle}, mixes(l, other)},
	}
	own := issue(t, server("mx.example.org"), nil)
	ts = append(ts, trial{"self-signed", []*pair{own}, each([]uint8{0, 1}, own)})
	for name, alter := range map[string]func(root, middle, leaf *x509.Certificate){
		"leaf expired": func(_, _, leaf *x509.Certificate) { leaf.NotBefore, leaf.NotAfter = noon.Add(-3*day), noon.Add(-2*day) },
		"middle expired": func(_, middle, _ *x509.Certificate) {
			middle.NotBefore, middle.NotAfter = noon.Add(-3*day), noon.Add(-2*day)
		},
		"root expired":   func(root, _, _ *x509.Certificate) { root.NotBefore, root.NotAfter = noon.Add(-3*day), noon.Add(-2*day) },
		"another name":   func(_, _, leaf *x509.Certificate) { leaf.DNSNames = []string{"mx.example.net"} },
		"capitals":       func(_, _, leaf *x509.Certificate) { leaf.DNSNames = []string{"MX.Example.Org"} },
		"wildcard":       func(_, _, leaf *x509.Certificate) { leaf.DNSNames = []string{"*.example.org"} },
		"wildcard below": func(_, _, leaf *x509.Certificate) { leaf.DNSNames = []string{"*.mx.example.org"} },
		"common name":    func(_, _, leaf *x509.Certificate) { leaf.DNSNames, leaf.Subject.CommonName = nil, "mx.example.org" },
		"common name also": func(_, _, leaf *x509.Certificate) {
			leaf.DNSNames[0], leaf.Subject.CommonName = "b.example", "mx.example.org"
		},
		"no authority": func(_, middle, _ *x509.Certificate) { *middle = server("middle") },
		"may not sign": func(_, middle, _ *x509.Certificate) { middle.KeyUsage = x509.KeyUsageCRLSign },
		"too deep":     func(root, _, _ *x509.Certificate) { root.MaxPathLenZero = true },
		"constrained":  func(_, middle, _ *x509.Certificate) { middle.PermittedDNSDomains = []string{"example.net"} },
		"for clients":  func(_, _, leaf *x509.Certificate) { leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} },
		"by SHA-1":     func(_, _, leaf *x509.Certificate) { leaf.SignatureAlgorithm = x509.ECDSAWithSHA1 },
	} {
		root, middle, leaf := authority("root"), authority("middle"), server("mx.example.org")
		alter(&root, &middle, &leaf)
		c := climb(t, root, middle, leaf)
		records := each([]uint8{1}, c.leaf, c.middle, c.root)
		records = append(records, []Record{record(2, 0, 0, c.root)}, []Record{record(2, 1, 0, c.middle)})
		ts = append(ts, trial{name, []*pair{c.leaf, c.middle, c.root}, records})
	}
	return ts
}

// each gives every record that can be used of each certificate, one at a time.
func each(matching []uint8, of ...*pair) [][]Record {
	var all [][]Record
	for _, p := range of {
		for _, usage := range []uint8{usageTA, usageEE} {
			for selector := range uint8(2) {
				for _, m := range matching {
					all = append(all, []Record{record(usage, selector, m, p)})
				}
			}
		}
	}
	return all
}

// mixes are several records together.
func mixes(l, other ladder) [][]Record {
	var all [][]Record
	for _, a := range []Record{record(3, 1, 1, l.leaf), record(3, 0, 2, l.leaf), record(2, 1, 1, l.middle), record(3, 1, 0, l.leaf)} {
		for _, b := range []Record{record(3, 1, 2, other.leaf), record(3, 0, 1, other.leaf), record(2, 1, 2, other.middle), record(2, 0, 1, other.root),
			record(3, 1, 0, other.leaf)} {
			all = append(all, []Record{a, b}, []Record{b, a})
		}
	}
	return all
}

func words(records []Record) string {
	var all []string
	for _, r := range records {
		all = append(all, fmt.Sprintf("%s %.8x", of(r), r.Data))
	}
	return strings.Join(all, ", ")
}

// serve runs a server of OpenSSL's that shows a chain, and gives its address.
func serve(t *testing.T, chain []*pair) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, contents ...[]byte) string {
		var out []byte
		for _, c := range contents {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: c})...)
		}
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, out, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	key, err := x509.MarshalPKCS8PrivateKey(chain[0].key)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"s_server", "-accept", "127.0.0.1:0", "-no-CAfile", "-no-CApath", "-no-CAstore", "-www",
		"-cipher", "ALL:@SECLEVEL=0", "-cert", write("leaf.pem", "CERTIFICATE", chain[0].Raw), "-key", write("key.pem", "PRIVATE KEY", key)}
	if len(chain) > 1 {
		var above [][]byte
		for _, p := range chain[1:] {
			above = append(above, p.Raw)
		}
		args = append(args, "-cert_chain", write("chain.pem", "CERTIFICATE", above...))
	}
	command := exec.Command("openssl", args...)
	out, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		command.Process.Kill()
		command.Wait()
	})
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if at, found := strings.CutPrefix(lines.Text(), "ACCEPT "); found {
			return at
		}
	}
	t.Fatal("openssl s_server does not say where it listens")
	return ""
}

var verdict = regexp.MustCompile(`Verify return code: (\d+) \((.*)\)`)

// referee is what OpenSSL says.
func referee(t *testing.T, at string, records []Record) (ok bool, why string) {
	t.Helper()
	args := []string{"s_client", "-connect", at, "-dane_tlsa_domain", names[0], "-dane_ee_no_namechecks", "-no-CAfile", "-no-CApath", "-no-CAstore"}
	for _, r := range records {
		args = append(args, "-dane_tlsa_rrdata", fmt.Sprintf("%s %x", of(r), r.Data))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "openssl", args...).CombinedOutput()
	found := verdict.FindSubmatch(out)
	if found == nil {
		t.Fatalf("openssl s_client: %v: %s", err, out)
	}
	return string(found[1]) == "0", string(found[2])
}
