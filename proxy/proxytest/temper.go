package proxytest

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Temper is a kind of server that there is out there, ready to be run.
type Temper struct {
	Name  string // "tls10", stable: demo and tests call it by this
	About string // one line for people

	leaf Leaf
	make func(*ServerConfig)
}

// Config returns what a [Server] of this temper is called and shows. host is
// its name in banner, EHLO and, where the temper is honest, its certificate.
func (t Temper) Config(pki *PKI, host string) (ServerConfig, error) {
	leaf := t.leaf
	if leaf.Names == nil {
		leaf.Names = []string{host}
	}
	cert, err := pki.Issue(leaf)
	if err != nil {
		return ServerConfig{}, fmt.Errorf("temper %s: %w", t.Name, err)
	}
	cfg := ServerConfig{
		Name: host,
		TLS:  &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
	}
	if t.make != nil {
		t.make(&cfg)
	}
	return cfg, nil
}

// TemperNamed returns the temper of that name.
func TemperNamed(name string) (Temper, error) {
	all := Tempers()
	if i := slices.IndexFunc(all, func(t Temper) bool { return t.Name == name }); i >= 0 {
		return all[i], nil
	}
	var names []string
	for _, t := range all {
		names = append(names, t.Name)
	}
	return Temper{}, fmt.Errorf("no temper %q: there are %s", name, strings.Join(names, ", "))
}

// Tempers returns all there are.
func Tempers() []Temper {
	return []Temper{
		{Name: "modern", About: "TLS 1.2 and 1.3, a good certificate"},
		{Name: "tls13", About: "TLS 1.3 and nothing else", make: versions(tls.VersionTLS13, tls.VersionTLS13)},
		{Name: "tls12", About: "TLS 1.2 and nothing else", make: versions(tls.VersionTLS12, tls.VersionTLS12)},
		{Name: "tls10", About: "TLS 1.0 and nothing else, as a server from before 2018 says it", leaf: Leaf{RSA: true}, make: tls10},
		{Name: "tls10-alert", About: "TLS 1.0 and nothing else, refusing a modern client with an alert", leaf: Leaf{RSA: true}, make: tls10Alert},
		{Name: "no-starttls", About: "no TLS at all", make: func(c *ServerConfig) { c.TLS = nil }},
		{Name: "wrong-name", About: "a good certificate of somebody else", leaf: Leaf{Names: []string{"elsewhere.invalid"}}},
		{Name: "expired", About: "a certificate that ended yesterday", leaf: Leaf{NotAfter: time.Now().Add(-24 * time.Hour)}},
		{Name: "self-signed", About: "a certificate signed by itself", leaf: Leaf{SelfSigned: true}},
		{Name: "sha1", About: "a certificate signed over SHA-1", leaf: Leaf{SHA1: true}},
		{Name: "helo-only", About: "a server that never heard of EHLO", make: func(c *ServerConfig) { c.HELOOnly = true }},
		{Name: "starttls-refused", About: "offers STARTTLS and answers 454", make: on(AtSTARTTLS, Say("454 4.7.0 TLS not available"))},
		{Name: "stalls", About: "accepts the connection and says nothing", make: on(AtBanner, Stall())},
		{Name: "stalls-in-handshake", About: "says 220 to STARTTLS and nothing more", make: on(InHandshake, Stall())},
		{Name: "stalls-at-end", About: "takes the message and never answers", make: on(AtEndOfData, Stall())},
		{Name: "refuses", About: "greets with 554", make: on(AtBanner, Say("554 5.7.1 no service here"))},
		{Name: "injects", About: "puts a reply in clear behind its 220 to STARTTLS", make: func(c *ServerConfig) { c.Inject = []byte("250 injected\r\n") }},
		{Name: "lax", About: "takes bare newlines for the end of a message, as Postfix 3.7 does", make: func(c *ServerConfig) { c.LaxEnd = true }},
	}
}

func on(stage Stage, action Action) func(*ServerConfig) {
	return func(c *ServerConfig) { c.On = map[Stage]Action{stage: action} }
}

func versions(low, high uint16) func(*ServerConfig) {
	return func(c *ServerConfig) { c.TLS.MinVersion, c.TLS.MaxVersion = low, high }
}

func tls10Alert(c *ServerConfig) {
	c.TLS.MinVersion, c.TLS.MaxVersion = tls.VersionTLS10, tls.VersionTLS10
	c.TLS.CipherSuites = []uint16{tls.TLS_RSA_WITH_AES_128_CBC_SHA}
}

func tls10(c *ServerConfig) {
	tls10Alert(c)
	c.OldTLS = true
}
