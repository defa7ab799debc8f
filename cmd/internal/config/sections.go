package config

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/enforce"
	"postern/enforce/cluster"
	"postern/proxy"
)

func same(words ...string) []word[string] {
	var all []word[string]
	for _, w := range words {
		all = append(all, word[string]{text: w, value: w})
	}
	return all
}

// readIntercept reads [intercept] and [listen], whose keys depend on each other.
func readIntercept(top *table, c *proxy.Config) {
	t, l := top.inner("intercept"), top.inner("listen")
	in, li := &c.Intercept, &c.Listen

	read(t, "method", &in.Method, oneOf(same("tproxy", "redirect", "none")...))
	list(t, "interfaces", &in.Interfaces, interfaceName)
	read(t, "user", &in.User, userName)
	ports(t, "ports", &in.Ports)
	list(t, "sources", &in.Sources, network)
	list(t, "bypass", &in.Bypass, bypassed)
	in.PreserveSource = in.Method == "tproxy"
	boolean(t, "preserve_source", &in.PreserveSource)
	read(t, "when_down", &in.Pass, oneOf(word[bool]{text: "block"}, word[bool]{text: "pass", value: true}))
	t.done()

	if in.Method == "redirect" && !onlyOwn(in) {
		li.Addresses = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:2525"), netip.MustParseAddrPort("[::]:2525")}
	}
	list(l, "addresses", &li.Addresses, addrPort)
	read(l, "upstream", &li.Upstream, optional(hostPort))
	l.done()

	if t.bad["method"] {
		return // what the others ought to be is not known
	}
	if in.Method != "tproxy" && in.PreserveSource && !t.bad["preserve_source"] {
		t.fail("preserve_source", `true found beside method = %q, expected "tproxy": only there can the upstream see the client's own address`, in.Method)
	}
	if in.Method == "none" {
		checkFront(t, l, li)
	} else {
		checkIntercepting(t, l, in, li)
	}
}

// checkFront checks method = "none": one upstream for every connection, and
// nothing that speaks of intercepted ones.
func checkFront(t, l *table, li *proxy.Listen) {
	for _, key := range []string{"interfaces", "user", "ports", "sources", "bypass", "when_down"} {
		if t.wrote(key) {
			t.fail(key, `found beside method = "none", expected only where connections are intercepted`)
		}
	}
	if li.Upstream == "" && !l.bad["upstream"] {
		l.fail("upstream", `none found, expected host and port: with method = "none" every connection goes there`)
	}
	if len(li.Addresses) == 0 && !l.bad["addresses"] {
		l.fail("addresses", "an empty list found, expected at least one address and port")
	}
}

// checkIntercepting checks method = "tproxy" and "redirect".
func checkIntercepting(t, l *table, in *proxy.Intercept, li *proxy.Listen) {
	if len(in.Interfaces) == 0 && !t.bad["interfaces"] {
		t.fail("interfaces", "none found, expected the interfaces where the connections come in")
	}
	checkOwn(t, in)
	if in.Method == "redirect" && in.Pass && !t.bad["when_down"] {
		t.fail("when_down", `"pass" found beside method = "redirect", expected "block": a redirected packet has no other way to go`)
	}
	if li.Upstream != "" {
		l.fail("upstream", "%s found beside method = %q, expected \"\": intercepted connections go where they were meant to", quote(li.Upstream), in.Method)
	}
	if l.bad["addresses"] {
		return
	}
	// The kernel is told one place a family to hand connections to. A family
	// without one is not taken, which is said in a note.
	first := map[bool]int{}
	for i, a := range li.Addresses {
		ip := a.Addr()
		if in.Method == "redirect" {
			if expected := redirected(in, ip); expected != "" {
				l.failEntry("addresses", i, `%q found beside method = "redirect", expected %s`, a, expected)
			}
		}
		if in.Method == "tproxy" && !ip.IsLoopback() {
			l.failEntry("addresses", i, `%q found beside method = "tproxy", expected a loopback address: one that others can reach they can talk to directly`, a)
		}
		if slices.Contains(in.Ports, a.Port()) && !t.bad["ports"] {
			l.failEntry("addresses", i, "%q found beside ports = %d, expected another port: Postern would intercept itself", a, in.Ports)
		}
		if j, ok := first[ip.Is4()]; ok {
			l.failEntry("addresses", i, "%q found beside %q, expected one address a family: the kernel hands connections to one place", a, li.Addresses[j])
			continue
		}
		first[ip.Is4()] = i
	}
	if len(first) == 0 {
		l.fail("addresses", "an empty list found, expected an address and port for IPv4, for IPv6 or for each")
	}
}

// untaken gives the family without a listening address, "IPv4" or "IPv6", or ""
// where both have one.
func untaken(c *proxy.Config) string {
	if c.Intercept.Method == "none" {
		return ""
	}
	four := slices.ContainsFunc(c.Listen.Addresses, func(a netip.AddrPort) bool { return a.Addr().Is4() })
	six := slices.ContainsFunc(c.Listen.Addresses, func(a netip.AddrPort) bool { return a.Addr().Is6() })
	switch {
	case !four:
		return "IPv4"
	case !six:
		return "IPv6"
	}
	return ""
}

// interfaceName reads the name of a network interface, by the rules of Linux
// (dev_valid_name: up to 15 octets, no slash, colon or space). An asterisk would
// be read as a wildcard by nft.
func interfaceName(s string) (string, string) {
	if s == "" || len(s) > 15 || s == "." || s == ".." || strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == '/' || r == ':' || r == '*'
	}) {
		return "", `the name of an interface such as "lan0"`
	}
	if name, _, ok := strings.Cut(s, "@"); ok {
		return "", quote(name) + ": what ip(8) shows behind the @ is the interface below it"
	}
	return s, ""
}

func bypassed(s string) (netip.Prefix, string) {
	p, expected := network(s)
	if expected == "" && p.Bits() == 0 {
		expected = "networks that leave something to intercept"
	}
	return p, expected
}

var versions = oneOf(
	word[uint16]{text: "1.2", value: tls.VersionTLS12},
	word[uint16]{text: "1.3", value: tls.VersionTLS13},
)

func readTLS(t *table, c *proxy.TLS) {
	read(t, "min_version", &c.MinVersion, versions)
	read(t, "hold", &c.Hold, within(time.Minute, 30*24*time.Hour))
	list(t, "hold_for", &c.HoldFor, network)
	if t.wrote("authority") {
		readAuthority(t.inner("authority"), &c.Authority)
	}

	names := map[string]bool{}
	for _, ct := range t.all("certificate") {
		var cert proxy.Certificate
		read(ct, "name", &cert.Name, title)
		read(ct, "cert", &cert.Cert, file)
		read(ct, "key", &cert.Key, file)
		for _, key := range []string{"name", "cert", "key"} {
			if !ct.wrote(key) {
				ct.fail(key, "none found, expected %s", map[string]string{
					"name": "a name that rules can give", "cert": "a file with the certificate and its chain, PEM", "key": "a file with the private key, PEM"}[key])
			}
		}
		ct.done()
		if names[cert.Name] && !ct.bad["name"] {
			ct.fail("name", "%s found again, expected a name of its own", quote(cert.Name))
		}
		names[cert.Name] = true
		c.Certificates = append(c.Certificates, cert)
	}

	if len(c.HoldFor) > 0 && len(c.Certificates) == 0 && c.Authority == (proxy.Authority{}) {
		t.fail("hold_for", "found without any [[tls.certificate]] or [tls.authority], expected one: STARTTLS is offered to clients only with a certificate to show")
	}

	trust := t.inner("trust")
	read(trust, "ca", &c.TrustCA, or(file, "system"))
	trust.done()
	t.done()
}

// readAuthority reads [tls.authority], of which both keys or none make sense.
func readAuthority(t *table, c *proxy.Authority) {
	read(t, "cert", &c.Cert, file)
	read(t, "key", &c.Key, file)
	for key, expected := range map[string]string{
		"cert": "a file with the certificate of the authority, PEM", "key": "a file with its private key, PEM"} {
		if !t.wrote(key) {
			t.fail(key, "none found, expected %s", expected)
		}
	}
	t.done()
}

func readSMTP(t *table, c *proxy.SMTP) {
	read(t, "bare_newline", &c.BareNewline, oneOf(
		word[proxy.BareNewline]{text: "normalize", value: proxy.Normalize},
		word[proxy.BareNewline]{text: "reject", value: proxy.RejectBare},
		word[proxy.BareNewline]{text: "pass", value: proxy.PassBare},
	))
	list(t, "extensions", &c.Extensions, keyword)
	t.done()
}

// keyword reads an EHLO keyword to let through (RFC 5321 §4.1.1.1: a letter or
// digit, then letters, digits and hyphens). Those are refused that would open a
// way around what Postern does: they change who the client is, the direction of
// the dialogue, or the TLS of a leg.
func keyword(s string) (string, string) {
	upper := strings.ToUpper(s)
	if upper == "" || len(upper) > 64 || upper[0] == '-' || strings.ContainsFunc(upper, func(r rune) bool { return !bareKey(r) || r == '_' }) {
		return "", `an EHLO keyword such as "X-EXPS"`
	}
	if slices.Contains([]string{"STARTTLS", "REQUIRETLS", "AUTH", "XCLIENT", "XFORWARD", "TURN", "ATRN"}, upper) {
		return "", "another keyword: when this one is let through is not for the configuration to say"
	}
	return upper, ""
}

func readResolver(t *table, r *proxy.Resolver) {
	list(t, "servers", &r.Servers, addrPort)
	if len(r.Servers) == 0 && !t.bad["servers"] {
		t.fail("servers", "an empty list found, expected at least one address and port")
	}
	read(t, "trust_ad", &r.TrustAD, oneOf(same("loopback", "always", "never")...))
	t.done()
}

func readLimits(t *table, c *proxy.Limits) {
	number(t, "sessions", &c.Sessions, 1, 1_000_000)
	number(t, "sessions_per_source", &c.SessionsPerSource, 1, 1_000_000)
	number(t, "recipients", &c.Recipients, 100, 1_000_000) // RFC 5321 §4.5.3.1.8: no less than 100
	number(t, "line", &c.Line, 512, 65536)                 // RFC 5321 §4.5.3.1.4: no less than 512
	number(t, "reply_lines", &c.ReplyLines, 32, 65536)
	t.done()

	if c.SessionsPerSource <= c.Sessions || t.bad["sessions"] || t.bad["sessions_per_source"] {
		return
	}
	if t.wrote("sessions_per_source") {
		t.fail("sessions_per_source", "%d found beside sessions = %d, expected no more than that", c.SessionsPerSource, c.Sessions)
	}
	c.SessionsPerSource = c.Sessions
}

func readTimeouts(t *table, c *proxy.Timeouts) {
	for _, d := range []struct {
		key  string
		into *time.Duration
		most time.Duration
	}{
		{"connect", &c.Connect, 10 * time.Minute},
		{"handshake", &c.Handshake, 10 * time.Minute},
		{"command", &c.Command, time.Hour},
		{"data", &c.Data, time.Hour},
		{"final", &c.Final, 2 * time.Hour},
		{"drain", &c.Drain, 2 * time.Hour},
	} {
		read(t, d.key, d.into, within(100*time.Millisecond, d.most))
	}
	t.done()
}

func readLog(t *table, c *proxy.Log) {
	read(t, "format", &c.Format, oneOf(same("json", "console", "journal")...))
	read(t, "output", &c.Output, or(file, "stderr", "stdout"))
	read(t, "level", &c.Level, oneOf(same("debug", "info", "warn", "error")...))
	t.done()
	if c.Format == "journal" && t.wrote("output") && !t.bad["output"] {
		t.fail("output", `found beside format = "journal", expected no such key: the journal has its own socket`)
	}
}

// readVerify reads [verify].
func readVerify(t *table, c *proxy.Verify) {
	if t.wrote("auto") {
		var published []string
		list(t, "auto", &published, oneOf(same("dane", "mta-sts")...))
		c.Auto = enforce.Auto{DANE: slices.Contains(published, "dane"), MTASTS: slices.Contains(published, "mta-sts")}
	}
	if t.wrote("relays") {
		c.Relays = nil
		list(t, "relays", &c.Relays, network)
	}
	read(t, "cache", &c.Cache, optional(file))
	t.done()
}

// readMemory reads [memory].
func readMemory(t *table, c *proxy.Memory) {
	readStore(t, c)
	read(t, "downgrade", &c.Downgrade, oneOf(same("off", "log", "block")...))
	read(t, "remember", &c.Remember, days)
	t.done()
}

// readLater reads the sections of which this release does nothing. They may
// stand there with the values that switch them off.
func readLater(top *table) {
	w := top.inner("witness")
	emptyOnly(w, "interfaces", "watch interfaces")
	w.done()

	a := top.inner("admin")
	emptyOnly(a, "listen", "serve metrics or a status page")
	a.done()
}

// readStore reads where memory is kept: a kind of database and its file, or a server.
// What may have a password is not quoted.
func readStore(t *table, c *proxy.Memory) {
	const scheme = "bolt://"
	const expected = `"bolt://" and an absolute path such as "bolt:///var/lib/postern/memory.db", or a server, ` + cluster.Expected
	text, isText := t.values["store"].(string)
	kind, _, _ := strings.Cut(text, ":")
	if isText && (strings.Contains(text, "@") || slices.Contains(cluster.Schemes(), kind)) {
		t.value("store")
		server, err := cluster.ParseAddress(text)
		if err != nil {
			t.fail("store", "an address with %v found, expected %s", err, expected)
			return
		}
		c.Store, c.Server = "", server
		return
	}
	read(t, "store", &c.Store, optional(func(s string) (string, string) {
		path, ok := strings.CutPrefix(s, scheme)
		if !ok {
			return "", expected
		}
		path, problem := file(path)
		if problem != "" {
			return "", expected
		}
		return path, ""
	}))
}

// days reads a duration that is written in whole days, "30d".
func days(s string) (time.Duration, string) {
	const most = 3650
	digits, ok := strings.CutSuffix(s, "d")
	n, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil || n < 1 || n > most {
		return 0, fmt.Sprintf(`a number of days such as "30d", from "1d" to "%dd"`, most)
	}
	return time.Duration(n) * 24 * time.Hour, ""
}
