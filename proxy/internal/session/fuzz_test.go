package session

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"postern/enforce"
)

// A state is where a session stands when both its peers turn hostile.
type state struct {
	name   string
	client []string // what the client says until then; each is answered, but for the last
	server int      // how many commands the server answers until then
	clear  bool     // it has no TLS
	rules  []enforce.Rule
	watch  bool // mode = "observe"
}

var refusing = enforce.Rule{Name: "refusing", TLS: enforce.Forced, Verify: enforce.VerifyName, Names: []string{"other.example"}, OnViolation: enforce.OnViolationReject}

// states are all that a session can stand in. A server that has TLS answers EHLO,
// STARTTLS and EHLO before the client's first EHLO is answered.
func states() []state {
	everybody, toY := refusing, refusing
	everybody.Name = "everybody"
	everybody.ToNetworks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	toY.ToDomains = []string{"y"}
	in := []string{"EHLO a", "STARTTLS", "EHLO a"}
	after := func(more ...string) []string { return append(in[:3:3], more...) }
	return []state{
		{name: "connected", clear: true},
		{name: "greeted in clear", client: []string{"EHLO a", ""}, server: 1, clear: true},
		{name: "the way to the server being secured", client: []string{"EHLO a"}, server: 1},
		{name: "observed, the way being secured", client: []string{"EHLO a"}, server: 1, watch: true},
		{name: "the server secured", client: []string{"EHLO a", ""}, server: 3},
		{name: "both in TLS, not greeted", client: []string{"EHLO a", "STARTTLS", ""}, server: 3},
		{name: "both in TLS", client: after(""), server: 3},
		{name: "sender given", client: after("MAIL FROM:<a@x>", ""), server: 4},
		{name: "recipient given", client: after("MAIL FROM:<a@x>", "RCPT TO:<b@x>", ""), server: 5},
		{name: "in content", client: after("MAIL FROM:<a@x>", "RCPT TO:<b@x>", "DATA", ""), server: 6},
		{name: "within a chunk", client: after("MAIL FROM:<a@x>", "RCPT TO:<b@x>", "BDAT 1000\r\nabc"), server: 5},
		{name: "between chunks", client: after("MAIL FROM:<a@x>", "RCPT TO:<b@x>", "BDAT 3\r\nabc", ""), server: 6},
		{name: "in an AUTH dialogue", client: after("AUTH LOGIN", ""), server: 4},
		{name: "recipient refused by a rule", client: after("MAIL FROM:<a@x>", "RCPT TO:<b@y>", ""), server: 4, rules: []enforce.Rule{toY}},
		{name: "connection refused for good", client: []string{"EHLO a", ""}, server: 3, rules: []enforce.Rule{everybody}},
		{name: "observed, and refused", client: after("MAIL FROM:<a@x>", "RCPT TO:<b@y>", ""), server: 5, rules: []enforce.Rule{everybody, toY}, watch: true},
	}
}

// memoryLimit bounds what a session may allocate in all, in octets, for peers who
// say said octets: a handshake on each leg, the buffers of both, the record.
func memoryLimit(said int) uint64 { return 4<<20 + 256*uint64(said) }

// FuzzSession lets both peers say anything at all, from each state of a session
// on. Whatever they say, the session ends when they do, writes one record, does
// not crash, has a bound to its memory, and the client hears of an accepted
// message only what the upstream said.
func FuzzSession(f *testing.F) {
	f.Add(uint8(0), []byte("EHLO a\r\nMAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nDATA\r\n\r\n.\r\nQUIT\r\n"),
		[]byte("220 mx\r\n250-mx\r\n250 PIPELINING\r\n250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n221 bye\r\n"))
	f.Add(uint8(0), []byte("EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b@y>\r\nBDAT 3\r\nabcBDAT 0 LAST\r\nRSET\r\nSTARTTLS\r\n"),
		[]byte("220 mx\r\n250-mx\r\n250 CHUNKING\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n"))
	f.Add(uint8(0), []byte("HELO a\r\nNOOP\r\nVRFY x\r\nHELP\r\nEHLO b\r\nXYZ\r\n"), []byte("220-mx\r\n220 mx\r\n502 no\r\n250 mx\r\n250 x\r\n252 y\r\n214 z\r\n"))
	f.Add(uint8(0), []byte("EHLO a\r\n"), []byte("220 mx\r\n250-mx\r\n250 STARTTLS\r\n220 go\r\n\x15\x03\x01\x00\x02\x02\x46"))
	f.Add(uint8(0), []byte("GET / HTTP/1.1\r\n\r\n"), []byte("554 no\r\n421 bye\r\n"))
	for i := range states() {
		f.Add(uint8(i), []byte("MAIL FROM:<a@x>\r\nRCPT TO:<b@y>\r\nSTARTTLS\r\nDATA\r\n.\r\nBDAT 2 LAST\r\n.\rQUIT\r\n"), []byte("250 ok\r\n250 ok\r\n354 go\r\n250 queued\r\n421 bye\r\n"))
		f.Add(uint8(i), []byte("\x16\x03\x01\x00\x05hello*\r\n.\n.\r\n"), []byte("220 go\r\n\x15\x03\x01\x00\x02\x02\x46"))
	}
	f.Fuzz(func(t *testing.T, from uint8, client, server []byte) {
		if len(client) > 1<<14 || len(server) > 1<<14 {
			return
		}
		all := states()
		h := newHostile(all[int(from)%len(all)])
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		said := h.hold(t, client, server)
		runtime.ReadMemStats(&after)
		if got, most := after.TotalAlloc-before.TotalAlloc, memoryLimit(len(client)+len(server)); got > most {
			t.Fatalf("%s: %d octets of memory for %d that were said", h.state.name, got, len(client)+len(server))
		}
		if n := strings.Count(h.log.String(), `"msg":"session"`); n != 1 || strings.Contains(h.log.String(), "crashed") {
			t.Fatalf("%s: %d records: %s", h.state.name, n, h.log.String())
		}
		if accepted := []byte("250 queued"); bytes.Count(said, accepted) > bytes.Count(server, accepted) {
			t.Fatalf("%s: client hears %q of %q", h.state.name, said, server)
		}
	})
}

// hostile is one session of FuzzSession and what its peers go by.
type hostile struct {
	state       state
	certificate *tls.Certificate
	log         *logBuffer
	reached     chan struct{} // closed when the client stands where it turns hostile; so does the server then
}

func newHostile(s state) *hostile {
	return &hostile{state: s, certificate: testCertificate("edge.example"), log: new(logBuffer), reached: make(chan struct{})}
}

// hold has the conversation and returns what the client heard once it was
// hostile.
func (h *hostile) hold(t *testing.T, client, server []byte) []byte {
	logger := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"}), zapcore.AddSync(h.log), zapcore.DebugLevel))
	policy, errs := enforce.Compile(h.state.rules, tls.VersionTLS12)
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	snap := &Snapshot{
		Policy:      policy,
		Observe:     h.state.watch,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return h.certificate, nil },
		Verify: func(string, []*x509.Certificate, x509.ExtKeyUsage, time.Time) (enforce.ChainResult, []*x509.Certificate) {
			return enforce.ChainResult{Verified: true}, nil
		},
		Limits:   Limits{Recipients: 5, Line: 512, ReplyLines: 16},
		Timeouts: Timeouts{Connect: time.Second, Handshake: time.Second, Command: time.Second, Data: time.Second, Final: time.Second},
	}
	near, far := tcpPair(t)
	dial := func(context.Context, netip.AddrPort) (net.Conn, error) {
		ours, theirs := tcpPair(t)
		go h.serve(theirs, server)
		return ours, nil
	}
	s := New(snap, Arrival{Conn: near, Client: netip.MustParseAddrPort("192.0.2.1:1"), Upstream: netip.MustParseAddrPort("192.0.2.2:25")}, dial, logger)
	heard := make(chan []byte, 1)
	go func() { heard <- h.speak(far, client) }()
	done := make(chan struct{})
	go func() { defer close(done); s.Run() }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s: the session does not end", h.state.name)
	}
	return <-heard
}

// speak is the client.
func (h *hostile) speak(conn net.Conn, says []byte) []byte {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	p := &speaker{link: conn}
	if len(h.state.client) > 0 {
		p.reply()
	}
	for i, line := range h.state.client {
		if line != "" {
			io.WriteString(p.link, line+map[bool]string{true: "\r\n"}[!strings.Contains(line, "\n")])
		}
		if i == len(h.state.client)-1 {
			break
		}
		if p.reply() == "220" && line == "STARTTLS" && !p.secure(tls.Client(conn, &tls.Config{InsecureSkipVerify: true})) {
			close(h.reached)
			return nil
		}
	}
	close(h.reached)
	return play(p.link, says)
}

// serve is the server.
func (h *hostile) serve(conn net.Conn, says []byte) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	p := &speaker{link: conn}
	if h.state.server > 0 {
		io.WriteString(conn, "220 mx\r\n")
	}
	for range h.state.server {
		line := p.line()
		verb, _, _ := strings.Cut(line, " ")
		switch verb {
		case "EHLO":
			io.WriteString(p.link, "250-mx\r\n250-PIPELINING\r\n250-AUTH LOGIN\r\n250-CHUNKING"+map[bool]string{false: "\r\n250-STARTTLS"}[h.state.clear]+"\r\n250 8BITMIME\r\n")
		case "STARTTLS":
			io.WriteString(conn, "220 go\r\n")
			if !p.secure(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{*h.certificate}})) {
				return
			}
		case "BDAT":
			io.ReadFull(p.link, make([]byte, len("abc")))
			io.WriteString(p.link, "250 ok\r\n")
		case "DATA", "AUTH":
			io.WriteString(p.link, map[string]string{"DATA": "354 go\r\n", "AUTH": "334 VXNlcm5hbWU6\r\n"}[verb])
		default:
			io.WriteString(p.link, "250 ok\r\n")
		}
	}
	<-h.reached
	play(p.link, says)
}

// A speaker reads octet by octet: what comes behind belongs to whoever reads on.
type speaker struct{ link net.Conn }

func (p *speaker) secure(link *tls.Conn) bool {
	p.link = link
	return link.Handshake() == nil
}

func (p *speaker) line() string {
	var line []byte
	for one := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); {
		if n, err := p.link.Read(one); n == 0 || err != nil {
			break
		}
		line = append(line, one[0])
	}
	return strings.TrimSpace(string(line))
}

// reply reads a whole reply and returns its code.
func (p *speaker) reply() string {
	for {
		if line := p.line(); len(line) < 4 || line[3] != '-' {
			return line[:min(3, len(line))]
		}
	}
}

// play says everything, then reads until the other side ends.
func play(conn net.Conn, says []byte) []byte {
	go func() {
		conn.Write(says)
		conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	heard, _ := io.ReadAll(conn)
	return heard
}
