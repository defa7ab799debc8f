package dnslab

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The programs, where Debian has them: ordinary users' PATH leaves the place out.
const (
	knotd  = "/usr/sbin/knotd"
	keymgr = "/usr/sbin/keymgr"
)

// The algorithm is the one that most zones with TLSA records have (RFC 8624 §3.1).
const knotConfiguration = `server:
    rundir: "%[1]s"
    listen: %[2]s@%[3]d
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "%[1]s/db"
    journal-db-max-size: 1M
    kasp-db-max-size: 16M
    timer-db-max-size: 1M
policy:
  - id: lab
    manual: on
    single-type-signing: on
    algorithm: ECDSAP256SHA256
template:
  - id: default
    storage: "%[1]s"
    zonefile-sync: -1
    zonefile-load: whole
    journal-content: none
zone:
`

// writeKnot writes the name server's configuration and its zones.
func (l *Lab) writeKnot() error {
	if err := os.MkdirAll(filepath.Join(l.dir, "db"), 0o700); err != nil {
		return err
	}
	var conf strings.Builder
	fmt.Fprintf(&conf, knotConfiguration, l.dir, l.server.Addr(), l.server.Port())
	for i, z := range l.zones {
		if z.Dead {
			continue
		}
		file := fmt.Sprintf("zone%d", i)
		fmt.Fprintf(&conf, "  - domain: %s\n    file: %s\n", z.Name, file)
		if z.signed() {
			conf.WriteString("    dnssec-signing: on\n    dnssec-policy: lab\n")
		}
		if err := os.WriteFile(filepath.Join(l.dir, file), []byte(z.text()), 0o600); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(l.dir, "knot.conf"), []byte(conf.String()), 0o600)
}

func (z *zone) signed() bool { return z.Signed || z.Bogus }

func (z *zone) text() string {
	head := fmt.Sprintf("$ORIGIN %s.\n$TTL 60\n@ SOA ns hostmaster %d 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n", z.Name, z.serial)
	return head + strings.Join(z.Records, "\n") + "\n"
}

// makeKeys makes the zones' keys and notes the trust anchors, before anything
// runs: so the resolver can be told of them when it starts.
func (l *Lab) makeKeys() error {
	for _, z := range l.zones {
		if !z.signed() {
			continue
		}
		z.anchor = z.Name + ". DS 1 13 2 " + strings.Repeat("00", 32) // of no key
		if z.Dead {
			continue
		}
		if _, err := l.keymgr(z.Name, "generate", "ksk=yes", "zsk=yes", "algorithm=ECDSAP256SHA256"); err != nil {
			return err
		}
		records, err := l.keymgr(z.Name, "ds")
		if err != nil {
			return err
		}
		if !z.Bogus {
			z.anchor, _, _ = strings.Cut(records, "\n")
		}
	}
	return nil
}

func (l *Lab) keymgr(args ...string) (string, error) {
	out, err := exec.Command(keymgr, append([]string{"-c", filepath.Join(l.dir, "knot.conf")}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("keymgr %s: %w: %s", args[0], err, out)
	}
	return string(out), nil
}

// startKnot starts the name server and waits until it serves every zone as it was
// written last.
func (l *Lab) startKnot() (err error) {
	if l.knot, err = l.start("knot.log", knotd, "-c", filepath.Join(l.dir, "knot.conf")); err != nil {
		return err
	}
	for _, z := range l.zones {
		if z.Dead {
			continue
		}
		if err := l.await(l.knot, l.server, z.Name, isAuthority); err != nil {
			return fmt.Errorf("zone %s: %w", z.Name, err)
		}
	}
	return nil
}
