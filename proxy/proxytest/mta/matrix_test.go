package mta_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/proxy/proxytest"
	"postern/proxy/proxytest/mta"
)

// matrixPatience bounds each session, the longest of which has 40 MB.
const matrixPatience = 3 * time.Minute

// matrix is every client against every server, through one Postern.
type matrix struct {
	*site
	targets []target
	letters map[kind]*letter
	servers map[string]mta.Server
	arrived arrivals

	mutex    sync.Mutex
	expected []delivery
	failures []string // by cell
}

// target is one address of a server.
type target struct {
	server  string
	address netip.Addr
	forced  bool
	domain  string // the mail for which goes there
	utf8    bool   // the server knows SMTPUTF8
	chunks  bool   // and CHUNKING
}

func (t target) String() string {
	family, rule := "IPv4", "opportunistic"
	if t.address.Is6() {
		family = "IPv6"
	}
	if t.forced {
		rule = "forced"
	}
	return t.server + " " + family + " " + rule
}

// delivery is a message that a client said it has sent, or will.
type delivery struct {
	client string // the program
	helo   string // the name that a cell's sessions have
	tls    bool
	target target
	kind   kind
	to     string
}

func (d delivery) String() string {
	return fmt.Sprintf("%s (TLS %t) to %s: %s", d.client, d.tls, d.target, d.kind)
}

// heloOf is a name for a client in clear or in TLS.
func heloOf(client string, tls bool) string {
	if tls {
		return strings.ToLower(client) + "-tls.client.example"
	}
	return strings.ToLower(client) + "-clear.client.example"
}

func TestEachClientReachesEachServerThroughPostern(t *testing.T) {
	m := &matrix{site: newSite(t), letters: map[kind]*letter{}, servers: map[string]mta.Server{}, arrived: arrivals{all: map[string][]arrival{}}}
	for _, k := range []kind{plain, second, third, utf8, huge} {
		var err error
		m.letters[k], err = k.write(m.dir)
		must(t, err)
	}
	m.startServers()
	p := m.guard(m.rules())
	collecting, stop := context.WithCancel(context.Background())
	var collectors sync.WaitGroup
	for name, server := range m.servers {
		collectors.Go(func() {
			if err := m.arrived.collect(collecting, server); err != nil {
				m.fail("collecting from %s: %v", name, err)
			}
		})
	}
	var clients sync.WaitGroup
	clients.Go(m.commandClients)
	clients.Go(m.queueClients)
	clients.Wait()
	settle(m.allArrived)
	stop()
	collectors.Wait()
	m.drain()
	m.compareContent()
	m.tellFailures() // before what may take long
	t.Logf("\n%s", m.compareRecords(p))
	m.tellFailures()
}

// tellFailures tells those that it has not told yet.
func (m *matrix) tellFailures() {
	m.t.Helper()
	m.mutex.Lock()
	defer m.mutex.Unlock()
	for _, failure := range m.failures {
		m.t.Error(failure)
	}
	m.failures = nil
}

// startServers starts each once, at four addresses: IPv4 and IPv6, each once for
// the forced rule.
func (m *matrix) startServers() {
	m.t.Helper()
	cert, key := m.certificate(m.pki, "receiver", proxytest.Leaf{Names: []string{receiverName}}, 0)
	for i, program := range mta.Programs() {
		o := mta.Options{Name: strings.ToLower(program.Name) + ".partner.example", Certificate: cert, Key: key}
		for j := range 4 {
			n := 10 + 4*i + j
			t := target{server: program.Name, forced: j%2 == 1, address: netip.AddrFrom4([4]byte{203, 0, 113, byte(n)}),
				domain: fmt.Sprintf("n%d.%s", n, o.Name)}
			t.utf8 = program.Name == "Postfix" || program.Name == "Exim"
			t.chunks = t.utf8
			prefix := netip.PrefixFrom(t.address, 24)
			if j >= 2 {
				t.address = netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%d", n))
				prefix = netip.PrefixFrom(t.address, 64)
			}
			must(m.t, m.net.Server.AddAddress("eth0", prefix))
			m.targets = append(m.targets, t)
			o.Listen = append(o.Listen, t.address)
			o.Domains = append(o.Domains, t.domain)
		}
		m.servers[program.Name] = m.run(program, m.net.Server, o)
	}
}

// rules forces TLS for every other address.
func (m *matrix) rules() string {
	var forced []string
	for _, t := range m.targets {
		if t.forced {
			forced = append(forced, fmt.Sprintf("%q", netip.PrefixFrom(t.address, t.address.BitLen())))
		}
	}
	return "[[rule]]\nname = \"partners\"\ntls = \"forced\"\nto_networks = [" + strings.Join(forced, ", ") + "]\n"
}

func (m *matrix) expect(d ...delivery) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.expected = append(m.expected, d...)
}

func (m *matrix) fail(format string, args ...any) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.failures = append(m.failures, fmt.Sprintf(format, args...))
}

// kinds of messages for a cell. The huge one crosses each pair once, in TLS.
func kindsFor(t target, tls, knowsUTF8 bool) []kind {
	kinds := []kind{plain, second, third}
	if knowsUTF8 && t.utf8 {
		kinds = append(kinds, utf8)
	}
	if tls && t.forced && t.address.Is4() {
		kinds = append(kinds, huge)
	}
	return kinds
}

func newDelivery(client string, tls bool, t target, k kind) delivery {
	helo := heloOf(client, tls)
	name, _, _ := strings.Cut(helo, ".")
	return delivery{client, helo, tls, t, k, k.to(name, t.domain)}
}

// commandClients has those without a queue do all their cells, a few at a time.
func (m *matrix) commandClients() {
	jobs := make(chan func())
	var workers sync.WaitGroup
	for range 3 {
		workers.Go(func() {
			for job := range jobs {
				job()
			}
		})
	}
	for _, c := range commandClients() {
		if err := c.missing(); err != nil {
			// As with what run starts, but the others go on.
			if os.Getenv("CI") != "" {
				m.fail("%v", err)
			}
			continue
		}
		for _, t := range m.targets {
			for _, tls := range []bool{false, true} {
				jobs <- func() { m.commandCell(c, t, tls) }
			}
		}
	}
	close(jobs)
	workers.Wait()
}

// commandCell expects what the client says is sent.
func (m *matrix) commandCell(c commandClient, t target, tls bool) {
	var deliveries []delivery
	var mails []mail
	for _, k := range kindsFor(t, tls, c.utf8) {
		d := newDelivery(c.name, tls, t, k)
		deliveries = append(deliveries, d)
		mails = append(mails, mail{From: k.from(), To: d.to, File: m.letters[k].file, UTF8: k == utf8})
	}
	for _, mails := range c.sessions(mails) {
		ctx, cancel := context.WithTimeout(context.Background(), matrixPatience)
		if err := c.run(ctx, m.site, t.address, heloOf(c.name, tls), tls, mails); err != nil {
			m.fail("%s (TLS %t) to %s: %v", c.name, tls, t, err)
		}
		cancel()
	}
	m.expect(deliveries...)
}

// queueClients has the mail servers send, each with one queue for clear and one
// for TLS.
func (m *matrix) queueClients() {
	var clients sync.WaitGroup
	for _, tls := range []bool{false, true} {
		for _, program := range mta.Programs() {
			clients.Go(func() {
				if err := m.queueClient(program, tls); err != nil {
					m.fail("%s (TLS %t): %v", program.Name, tls, err)
				}
			})
		}
		clients.Wait()
	}
}

func (m *matrix) queueClient(program mta.Program, tls bool) (err error) {
	o := mta.Options{Name: heloOf(program.Name, tls), TLS: mta.None, Together: true, Routes: map[string]netip.AddrPort{}}
	if tls {
		o.TLS = mta.Encrypt
	}
	for _, t := range m.targets {
		o.Routes[t.domain] = netip.AddrPortFrom(t.address, 25)
	}
	client, err := program.Start(m.net.Client, o)
	if err != nil {
		return err
	}
	defer func() {
		lines, _ := client.Log() // it tells why, if there is something to tell
		if err = errors.Join(err, client.Stop()); err != nil {
			err = fmt.Errorf("%w; it logged:\n%s", err, strings.Join(lines[max(0, len(lines)-50):], "\n"))
		}
	}()
	var deliveries, inUTF8 []delivery
	for _, t := range m.targets {
		for _, k := range kindsFor(t, tls, program.Name == "Postfix" || program.Name == "Exim") {
			if d := newDelivery(program.Name, tls, t, k); k == utf8 {
				inUTF8 = append(inUTF8, d)
			} else {
				deliveries = append(deliveries, d)
			}
		}
	}
	// Exim forgets in a session's second message that the server knows SMTPUTF8.
	for _, some := range [][]delivery{deliveries, inUTF8} {
		if err := m.queueDeliveries(client, some); err != nil {
			return err
		}
	}
	return m.checkChunks(program, client)
}

// queueDeliveries has a mail server send messages, and waits until they are gone.
func (m *matrix) queueDeliveries(client mta.Server, deliveries []delivery) error {
	submissions := map[kind][][]string{}
	for _, d := range deliveries {
		// One message to all addresses is as good as one to each, and quicker. But
		// Exim and sendmail keep a connection for further messages to its host, and
		// not while they turn to the other recipients of this one.
		all := submissions[d.kind]
		if len(all) == 0 || client.Program() == "Exim" || client.Program() == "sendmail" {
			submissions[d.kind] = append(all, []string{d.to})
		} else {
			all[0] = append(all[0], d.to)
		}
	}
	for k, all := range submissions {
		for _, to := range all {
			if err := client.Submit(k.from(), to, m.letters[k].content); err != nil {
				return err
			}
		}
	}
	m.expect(deliveries...)
	if err := client.Flush(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), matrixPatience)
	defer cancel()
	if queue, err := client.WaitQueue(ctx, mta.Empty); err != nil {
		return fmt.Errorf("%w: %+v", err, queue)
	}
	return nil
}
