package main

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"postern/cmd/internal/config"
	"postern/cmd/internal/recorded"
)

// dates are what a piece of configuration is dated by.
type dates struct{ now time.Time }

// expires is the last day of an exception that is made now: long enough for
// others to mend what it is made for, and no longer.
func (d dates) expires() string { return d.now.AddDate(0, 0, 90).Format(time.DateOnly) }

// A record came through others' hands: only what is an address, a fingerprint or a
// domain by our own reading is written into a piece of configuration.

func addressOr(text, otherwise string) string {
	if a, err := netip.ParseAddr(text); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return otherwise
}

// rule writes a rule. One that is an exception says whose it is and until when.
func (d dates) rule(name string, exception bool, lines ...string) string {
	text := fmt.Sprintf("[[rule]] # before the others\nname = %q\n", name)
	for _, l := range lines {
		if l != "" {
			text += l + "\n"
		}
	}
	if exception {
		text += "owner = \"WHO ANSWERS FOR IT\"\nexpires = " + d.expires() + "\n"
	}
	return strings.TrimSuffix(text, "\n")
}

func nameOf(kind, address string) string {
	return kind + "-" + strings.NewReplacer(".", "-", ":", "-").Replace(address)
}

// exceptServer is a rule for one server that asks for no more than the built-in
// one, and has the line given.
func exceptServer(line string) snippet {
	return func(r *recorded.Record, d dates) string {
		server := addressOr(r.Upstream.Address, "192.0.2.25")
		return d.rule(nameOf("exception", server), true, fmt.Sprintf("to_networks = [%q]", server), line)
	}
}

func exceptClient(line string) snippet {
	return func(r *recorded.Record, d dates) string {
		client := addressOr(r.Client.Address, "192.0.2.1")
		return d.rule(nameOf("exception", client), true, fmt.Sprintf("from_networks = [%q]", client), line)
	}
}

func watchClient(r *recorded.Record, d dates) string {
	client := addressOr(r.Client.Address, "192.0.2.1")
	return d.rule(nameOf("watch", client), true, fmt.Sprintf("from_networks = [%q]", client), `inspect = "watch"`)
}

func watchOrBypass(r *recorded.Record, d dates) string {
	return watchClient(r, d) + fmt.Sprintf("\n\n# or\n[intercept]\nbypass = [%q] # beside what is there", addressOr(r.Client.Address, "192.0.2.1"))
}

// pinKey is a rule for the key that the server showed.
func pinKey(r *recorded.Record, d dates) string {
	key := strings.Repeat("00", 32)
	if c := r.UpstreamTLS.Certificate; c != nil {
		if _, err := config.Fingerprint("spki-sha256:" + c.SPKISHA256); err == nil {
			key = c.SPKISHA256
		}
	}
	server := addressOr(r.Upstream.Address, "192.0.2.25")
	return d.rule(nameOf("pinned", server), false, fmt.Sprintf("to_networks = [%q]", server), `tls = "forced"`,
		`verify = "fingerprint"`, fmt.Sprintf("fingerprints = [%q]", "spki-sha256:"+key))
}

// namesOfCertificate is a rule with the names that the server's certificate is for.
func namesOfCertificate(r *recorded.Record, d dates) string {
	const most = 5
	var names []string
	if c := r.UpstreamTLS.Certificate; c != nil {
		found, _ := c.DNSNames()
		for _, n := range found {
			if list, err := certificateNames("names", []string{n}); err == nil && len(names) < most {
				names = append(names, fmt.Sprintf("%q", list[0]))
			}
		}
	}
	if len(names) == 0 {
		names = []string{`"mx.example"`}
	}
	server := addressOr(r.Upstream.Address, "192.0.2.25")
	return d.rule(nameOf("named", server), false, fmt.Sprintf("to_networks = [%q]", server), `tls = "forced"`,
		`verify = "name"`, "names = ["+strings.Join(names, ", ")+"]")
}
