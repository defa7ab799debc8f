package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/netlab"
)

// A site is a mail server of the lab: one address of the server host, and a
// temper.
type site struct {
	name    string // "mx.modern.example", in its banner and, if honest, its certificate
	address netip.Addr
	temper  string // one of proxytest's; "" is an address at which nobody listens
	about   string // for people; "" is what the temper says of itself
	adjust  func(*proxytest.PKI, *proxytest.ServerConfig) error
}

// A lab is a network of client, gateway and server host, with servers, keys and a
// configuration. Everything of it that is on disk is in a directory of its own on
// the lab's /run, which vanishes with the lab.
type lab struct {
	network *netlab.Network
	pki     *proxytest.PKI
	dir     string
	postern string // the program

	sites   map[string]site
	servers map[string]*proxytest.Server
}

const smtpPort = 25

// edgeName is the name of the certificate that the gateway shows to clients.
const edgeName = "edge.hospital.example"

// newLab builds the network and starts a server for each site. It must be called
// within netlab.Enter.
func newLab(postern string, sites []site) (*lab, error) {
	return newLabOver(netlab.Connect, postern, sites)
}

// newLabOver is newLab over cables that the caller lays, in the order of
// netlab.NewRoutedWith.
func newLabOver(lay func(a, b netlab.End) error, postern string, sites []site) (*lab, error) {
	l := &lab{postern: postern, sites: map[string]site{}, servers: map[string]*proxytest.Server{}}
	if err := l.build(lay, sites); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) build(lay func(a, b netlab.End) error, sites []site) error {
	var err error
	if l.dir, err = os.MkdirTemp("/run", "postern-lab-"); err != nil {
		return err
	}
	if l.pki, err = proxytest.NewPKI("Lab"); err != nil {
		return err
	}
	if _, err = l.pki.WriteRoot(l.dir); err != nil {
		return err
	}
	if err = l.newEdgeCertificate(); err != nil {
		return err
	}
	if l.network, err = netlab.NewRoutedWith(lay); err != nil {
		return err
	}
	for _, s := range sites {
		if err := l.serve(s); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// newEdgeCertificate puts a new certificate where the configuration names it.
func (l *lab) newEdgeCertificate() error {
	cert, err := l.pki.Issue(proxytest.Leaf{Names: []string{edgeName}})
	if err != nil {
		return err
	}
	_, _, err = proxytest.WriteCertificate(l.dir, "edge", cert)
	return err
}

// addClients gives the client host further addresses.
func (l *lab) addClients(addresses []netip.Addr) error {
	for _, address := range addresses {
		if err := l.network.Client.AddAddress("eth0", subnet(address)); err != nil {
			return err
		}
	}
	return nil
}

func subnet(address netip.Addr) netip.Prefix {
	if address.Is4() {
		return netip.PrefixFrom(address, 24)
	}
	return netip.PrefixFrom(address, 64)
}

// serve starts the server of a site.
func (l *lab) serve(s site) error {
	l.sites[s.name] = s
	if err := l.network.Server.AddAddress("eth0", subnet(s.address)); err != nil {
		return err
	}
	if s.temper == "" {
		return nil
	}
	temper, err := proxytest.TemperNamed(s.temper)
	if err != nil {
		return err
	}
	config, err := temper.Config(l.pki, s.name)
	if err != nil {
		return err
	}
	if s.adjust != nil {
		if err := s.adjust(l.pki, &config); err != nil {
			return err
		}
	}
	if s.about == "" {
		s.about = temper.About
		l.sites[s.name] = s
	}
	listener, err := l.network.Server.Listen(netip.AddrPortFrom(s.address, smtpPort))
	if err != nil {
		return err
	}
	l.servers[s.name] = proxytest.Serve(listener, config)
	return nil
}

// configPath is where the configuration is.
func (l *lab) configPath() string { return filepath.Join(l.dir, "postern.toml") }

// configure writes the configuration: what every lab has, and the rules. A daemon
// that reads it meanwhile finds the old or the new one, whole.
func (l *lab) configure(mode, timeouts, rules string) error {
	text := fmt.Sprintf(`mode = %q
[intercept]
method = "tproxy"
interfaces = ["lan0"]
[[tls.certificate]]
name = "edge"
cert = %q
key = %q
[tls.trust]
ca = %q
[timeouts]
%s
%s`, mode, filepath.Join(l.dir, "edge.pem"), filepath.Join(l.dir, "edge.key"), filepath.Join(l.dir, "root.pem"), timeouts, rules)
	return l.writeConfig(text)
}

func (l *lab) writeConfig(text string) error {
	fresh := l.configPath() + ".new"
	if err := os.WriteFile(fresh, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, l.configPath())
}

// run runs a command of postern on the gateway and returns what it said.
func (l *lab) run(ctx context.Context, args ...string) (string, error) {
	command := l.network.Gateway.Command(ctx, l.postern, append(args, "--config", l.configPath())...)
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	if err := l.network.Gateway.Run(command); err != nil {
		return said.String(), fmt.Errorf("postern %v: %w\n%s", args, err, said.String())
	}
	return said.String(), nil
}

// start puts the interception in force and starts the daemon, which listens by
// itself or inherits sockets.
func (l *lab) start(ctx context.Context, sockets ...*os.File) (*daemon, error) {
	if _, err := l.run(ctx, "intercept", "up"); err != nil {
		return nil, err
	}
	return startDaemon(ctx, l.network.Gateway, l.postern, l.configPath(), sockets...)
}

// dial connects from an address of the client host to a site.
func (l *lab) dial(ctx context.Context, from netip.Addr, to string) (*net.TCPConn, error) {
	return l.network.Client.Dial(ctx, netip.AddrPortFrom(from, 0), netip.AddrPortFrom(l.sites[to].address, smtpPort))
}

// messages are those that any server accepted from a sender, with the server's
// name and its record of the session.
func (l *lab) messages(sender string) []arrival {
	var found []arrival
	for name, server := range l.servers {
		for _, session := range server.Sessions() {
			for _, message := range session.Messages {
				if message.From == sender {
					found = append(found, arrival{name, session, message})
				}
			}
		}
	}
	return found
}

// An arrival is a message as the server has it.
type arrival struct {
	site    string
	session proxytest.Session
	message proxytest.Message
}

// close ends the servers and the network. The daemon must have ended.
func (l *lab) close() error {
	var errs []error
	for _, server := range l.servers {
		errs = append(errs, server.Close())
	}
	if l.network != nil {
		errs = append(errs, l.network.Close())
	}
	if l.dir != "" {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}
