package main

import (
	"crypto/tls"
	"net/netip"
	"time"

	"postern/proxy/proxytest"
)

// timeouts are short, for one of the servers never answers.
const timeouts = `connect = "5s"
handshake = "4s"`

// rules are those of the demo, behind which stands the built-in one:
// opportunistic, for all.
const rules = `
[[rule]]
name = "branch"                    # a branch office proves who it is
from_networks = ["10.1.0.64/28"]
client_tls = "verified"
client_names = ["branch.hospital.example"]

[[rule]]
name = "clinic"                    # a partner whose mail must be encrypted
to_networks = ["203.0.113.30/32"]
tls = "forced"

[[rule]]
name = "bank"                      # and one whose server must prove its name
to_networks = ["203.0.113.32/29"]
tls = "forced"
verify = "name"
names = ["mx.bank.example"]

[[rule]]
name = "tax"                       # mail that has to bounce rather than wait
to_networks = ["203.0.113.40/32"]
tls = "forced"
on_violation = "reject"

[[rule]]
name = "court"                     # a domain, wherever its mail goes
to_domains = ["court.example"]
tls = "forced"
verify = "name"
names = ["mx.court.example"]
`

func at(text string) netip.Addr { return netip.MustParseAddr(text) }

// sites are the servers. Who is not named by a rule meets the built-in one.
func sites() []site {
	return []site{
		{name: "mx.partner.example", address: at("203.0.113.10"), temper: "modern"},
		{name: "mx.six.example", address: at("2001:db8:2::10"), temper: "tls13"},
		{name: "mx.tls12.example", address: at("203.0.113.11"), temper: "tls12"},
		{name: "mx.old.example", address: at("203.0.113.12"), temper: "tls10"},
		{name: "mx.older.example", address: at("203.0.113.13"), temper: "tls10-alert"},
		{name: "mx.plain.example", address: at("203.0.113.14"), temper: "no-starttls"},
		{name: "mx.small.example", address: at("203.0.113.15"), temper: "self-signed"},
		{name: "mx.tampered.example", address: at("203.0.113.16"), temper: "injects"},
		{name: "mx.slow.example", address: at("203.0.113.17"), temper: "stalls-in-handshake"},
		{name: "mx.fragile.example", address: at("203.0.113.18"), temper: "modern", about: "hangs up in the middle of a message",
			adjust: hangsUp},
		{name: "mx.gone.example", address: at("203.0.113.19"), about: "nobody listens"},
		{name: "mx.clinic.example", address: at("203.0.113.30"), temper: "no-starttls"},
		{name: "mx.bank.example", address: at("203.0.113.32"), temper: "modern"},
		{name: "mx2.bank.example", address: at("203.0.113.33"), temper: "wrong-name"},
		{name: "mx3.bank.example", address: at("203.0.113.34"), temper: "expired", about: "a certificate that ended a minute ago",
			adjust: justExpired},
		{name: "mx.tax.example", address: at("203.0.113.40"), temper: "no-starttls"},
	}
}

func hangsUp(_ *proxytest.PKI, c *proxytest.ServerConfig) error {
	c.On = map[proxytest.Stage]proxytest.Action{proxytest.InContent: proxytest.Drop()}
	return nil
}

// justExpired replaces the certificate by one that was valid together with its
// issuers, which are an hour old; otherwise more would be wrong with it than its
// end.
func justExpired(pki *proxytest.PKI, c *proxytest.ServerConfig) error {
	now := time.Now()
	certificate, err := pki.Issue(proxytest.Leaf{
		Names: []string{c.Name}, NotBefore: now.Add(-30 * time.Minute), NotAfter: now.Add(-time.Minute),
	})
	c.TLS.Certificates = []tls.Certificate{certificate}
	return err
}

// senders are the clients. All but the branch office do as most senders do and
// look at no certificate.
type senders struct {
	scanner, printer, relay, six, pipelining, old, branch, strangers, plainBranch sender
}

func newSenders(pki *proxytest.PKI) (senders, error) {
	certificate, err := pki.Issue(proxytest.Leaf{Names: []string{"branch.hospital.example"}, Client: true})
	if err != nil {
		return senders{}, err
	}
	lax := &tls.Config{InsecureSkipVerify: true, ServerName: edgeName}
	known := lax.Clone()
	known.Certificates = []tls.Certificate{certificate}
	known.InsecureSkipVerify, known.RootCAs = false, pki.Pool()
	old := lax.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
	old.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
	return senders{
		scanner: sender{name: "scanner.hospital.example", about: "a scanner, knows no TLS", address: at("10.1.0.21")},
		printer: sender{name: "printer", about: "a device that knows HELO and nothing else", address: at("10.1.0.22"), helo: true},
		relay: sender{name: "relay.hospital.example", about: "a mail server, STARTTLS if offered", address: at("10.1.0.23"),
			starttls: proxytest.IfOfferedTLS, tls: lax},
		six: sender{name: "six.hospital.example", about: "a mail server, STARTTLS if offered", address: at("2001:db8:1::23"),
			starttls: proxytest.IfOfferedTLS, tls: lax},
		pipelining: sender{name: "bulk.hospital.example", about: "a mail server that will have TLS, and pipelines", address: at("10.1.0.24"),
			starttls: proxytest.AlwaysTLS, tls: lax},
		old: sender{name: "old.hospital.example", about: "a mail server, TLS 1.0 and nothing else", address: at("10.1.0.25"),
			starttls: proxytest.IfOfferedTLS, tls: old},
		branch: sender{name: "branch.hospital.example", about: "a branch office, with a certificate", address: at("10.1.0.65"),
			starttls: proxytest.AlwaysTLS, tls: known},
		strangers: sender{name: "stranger.hospital.example", about: "TLS, no certificate, in the branch's network", address: at("10.1.0.66"),
			starttls: proxytest.IfOfferedTLS, tls: lax},
		plainBranch: sender{name: "fax.hospital.example", about: "knows no TLS, in the branch's network", address: at("10.1.0.67")},
	}, nil
}

func (s senders) addresses() []netip.Addr {
	var all []netip.Addr
	for _, one := range []sender{s.scanner, s.printer, s.relay, s.six, s.pipelining, s.old, s.branch, s.strangers, s.plainBranch} {
		all = append(all, one.address)
	}
	return all
}

// to is a letter to recipients.
func to(recipients ...string) func(string) proxytest.Mail {
	return func(token string) proxytest.Mail {
		return proxytest.Mail{To: recipients, Content: letter(token, 4<<10)}
	}
}

// pipelined is a letter whose envelope is sent in one piece.
func pipelined(recipients ...string) func(string) proxytest.Mail {
	return func(token string) proxytest.Mail {
		return proxytest.Mail{To: recipients, Content: letter(token, 64<<10), Pipelined: true}
	}
}

// chunked is a scan sent by BDAT (RFC 3030), in chunks that nobody waits for.
func chunked(recipients ...string) func(string) proxytest.Mail {
	return func(token string) proxytest.Mail {
		return proxytest.Mail{
			FromParams: "BODY=BINARYMIME", To: recipients, Content: scan(token, 200<<10), Pipelined: true, Chunk: 7777,
		}
	}
}
