package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"postern/proxy/proxytest"
)

// A place is where a server stands, and so which rule binds.
type place struct{ name, rule string }

// places are the servers' networks: each is a /28 of its own, in which every slot
// has an address.
var places = []place{
	{"open", ""}, // the built-in rule: opportunistic
	{"forced", "tls = \"forced\""},
	{"rejecting", "tls = \"forced\"\non_violation = \"reject\""},
	{"demanding", "client_tls = \"required\""},
	{"certified", "client_tls = \"verified\"\nclient_names = [\"client.test\"]"},
	{"named", "tls = \"forced\"\nverify = \"name\"\nnames = [\"partner.test\"]"},
	{"watching", "inspect = \"watch\"\nowner = \"lab\"\nexpires = 2099-01-01"},
	{"falling-back", "on_handshake_failure = \"cleartext\"\nowner = \"lab\"\nexpires = 2099-01-01"},
}

// bareModes are the values of bare_newline; for each the daemon is reloaded.
var bareModes = []string{"normalize", "reject", "pass"}

// slots is how many attacks are played at once: each has an address on both sides.
const slots = 16

// hostileTimeouts are short, for some peers never go on.
const hostileTimeouts = `connect = "5s"
handshake = "3s"
command = "10s"
data = "10s"
final = "10s"`

// address is that of a slot in a place.
func (p place) address(slot int) netip.Addr {
	for i, other := range places {
		if other.name == p.name {
			return netip.AddrFrom4([4]byte{203, 0, 113, byte((i+1)*slots + slot)})
		}
	}
	return netip.Addr{}
}

// hostileAddress is the client's address of a slot.
func hostileAddress(slot int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, 0, byte(100 + slot)}) }

// hostileRules are the rules of all places, for a value of bare_newline.
func hostileRules(bare string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[smtp]\nbare_newline = %q\n", bare)
	for _, p := range places {
		if p.rule != "" {
			fmt.Fprintf(&b, "[[rule]]\nname = %q\nto_networks = [\"%s/28\"]\n%s\n", p.name, p.address(0), p.rule)
		}
	}
	return b.String()
}

// A gallery is a lab in which attacks are played.
type gallery struct {
	lab            *lab
	daemon         *daemon
	client, server configs
}

// configs are what a side shakes hands by.
type configs struct {
	usual *tls.Config
	named map[string]*tls.Config
}

// openGallery builds the lab. It must be called within netlab.Enter.
func openGallery(postern string) (*gallery, error) {
	l, err := newLab(postern, nil)
	if err != nil {
		return nil, err
	}
	g := &gallery{lab: l}
	if err := errors.Join(g.newConfigs(), g.addAddresses()); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return g, nil
}

func (g *gallery) addAddresses() error {
	var clients []netip.Addr
	for slot := range slots {
		clients = append(clients, hostileAddress(slot))
		for _, p := range places {
			if err := g.lab.network.Server.AddAddress("eth0", subnet(p.address(slot))); err != nil {
				return err
			}
		}
	}
	return g.lab.addClients(clients)
}

// newConfigs makes what attackers shake hands by. Nobody verifies anybody, except
// for who is picky.
func (g *gallery) newConfigs() error {
	honest, err := g.lab.pki.Issue(proxytest.Leaf{Names: []string{"mx.test"}})
	if err != nil {
		return err
	}
	giant, err := g.giant("mx.test")
	if err != nil {
		return err
	}
	splitting, err := g.lab.pki.Issue(proxytest.Leaf{Names: []string{"evil.test\r\n250 queued"}})
	if err != nil {
		return err
	}
	g.client.usual = &tls.Config{InsecureSkipVerify: true, ServerName: "mx.test"}
	g.server.usual = &tls.Config{Certificates: []tls.Certificate{honest}}
	with := func(c *tls.Config, change func(*tls.Config)) *tls.Config {
		c = c.Clone()
		change(c)
		return c
	}
	versions := func(c *tls.Config) map[string]*tls.Config {
		named := map[string]*tls.Config{}
		for name, version := range map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
			named[name] = with(c, func(c *tls.Config) { c.MinVersion, c.MaxVersion = version, version })
		}
		return named
	}
	g.client.named, g.server.named = versions(g.client.usual), versions(g.server.usual)
	g.client.named["picky"] = with(g.client.usual, func(c *tls.Config) { c.InsecureSkipVerify = false })
	for name, fillers := range map[string]int{"large": 3, "giant": 8} {
		chain := tls.Certificate{Certificate: giant.Certificate[:1+fillers], PrivateKey: giant.PrivateKey}
		g.client.named[name] = with(g.client.usual, func(c *tls.Config) { c.Certificates = []tls.Certificate{chain} })
		g.server.named[name] = with(g.server.usual, func(c *tls.Config) { c.Certificates = []tls.Certificate{chain} })
	}
	g.client.named["web"] = with(g.client.usual, func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} })
	g.server.named["splitting"] = with(g.server.usual, func(c *tls.Config) { c.Certificates = []tls.Certificate{splitting} })
	g.server.named["asking"] = with(g.server.usual, func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert })
	return nil
}

// giant makes a chain that is far too long: behind the leaf stand certificates of
// thousands of names, about 60 kB each.
func (g *gallery) giant(name string) (tls.Certificate, error) {
	leaf, err := g.lab.pki.Issue(proxytest.Leaf{Names: []string{name}})
	if err != nil {
		return leaf, err
	}
	var names []string
	for n := range 2000 {
		names = append(names, fmt.Sprintf("name-%04d.filler.example", n))
	}
	filler, err := g.lab.pki.Issue(proxytest.Leaf{Names: names})
	if err != nil {
		return leaf, err
	}
	leaf.Certificate = leaf.Certificate[:1]
	for range 8 {
		leaf.Certificate = append(leaf.Certificate, filler.Certificate[0])
	}
	return leaf, nil
}

// play plays attacks, those of one configuration at once, and returns how each
// went, in their order. The error is what kept the gallery from going on.
func (g *gallery) play(ctx context.Context, all []attack) (results []*attempt, err error) {
	results = make([]*attempt, len(all))
	for _, bare := range bareModes {
		if err := g.configure(ctx, bare); err != nil {
			return results, g.abandon(err)
		}
		next := make(chan int)
		var players sync.WaitGroup
		for slot := range slots {
			players.Go(func() {
				for i := range next {
					results[i] = g.attempt(ctx, slot, all[i])
				}
			})
		}
		for i, a := range all {
			if a.bare == bare {
				next <- i
			}
		}
		close(next)
		players.Wait()
	}
	if err := g.survived(); err != nil {
		return results, g.abandon(err)
	}
	return results, g.daemon.stop(ctx)
}

// abandon ends the daemon because of an error.
func (g *gallery) abandon(err error) error {
	if g.daemon == nil {
		return err
	}
	return errors.Join(err, g.daemon.kill())
}

// configure starts the daemon, or has it go on with another configuration.
func (g *gallery) configure(ctx context.Context, bare string) (err error) {
	if err := g.lab.configure("enforce", hostileTimeouts, hostileRules(bare)); err != nil {
		return err
	}
	if g.daemon == nil {
		g.daemon, err = g.lab.start(ctx)
		return err
	}
	status, err := g.daemon.reload(ctx)
	if err == nil && !strings.HasPrefix(status, "serving") {
		err = fmt.Errorf("reload: %s", status)
	}
	return err
}

// survived makes sure that no attack made a session crash.
func (g *gallery) survived() error {
	g.daemon.mu.Lock()
	defer g.daemon.mu.Unlock()
	for _, event := range g.daemon.events {
		if strings.Contains(event, "crashed") || strings.Contains(event, "panic") {
			return fmt.Errorf("a session crashed: %s", event)
		}
	}
	return nil
}
