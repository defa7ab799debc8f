package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
)

const lifeSite = "mx.partner.example"

// open starts a lab of one modern server, and postern without rules.
func open(t *testing.T) (context.Context, *lab, *daemon) {
	t.Helper()
	ctx, l := prepare(t)
	return ctx, l, l.starts(ctx, t)
}

// prepare makes a lab of one modern server, with a configuration without rules.
func prepare(t *testing.T) (context.Context, *lab) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	l, err := newLab(program("postern"), []site{{name: lifeSite, address: at("203.0.113.10"), temper: "modern"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.configure("enforce", timeouts, ""); err != nil {
		t.Fatal(err)
	}
	return ctx, l
}

// starts starts postern, whose last words are part of a failure.
func (l *lab) starts(ctx context.Context, t *testing.T, sockets ...*os.File) *daemon {
	t.Helper()
	d, err := l.start(ctx, sockets...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.lastWords())
		}
	})
	return d
}

// A visit is a client in the middle of a session.
type visit struct {
	*proxytest.Client
	t       *testing.T
	address netip.AddrPort
}

// visit connects to the site, reads the banner and says EHLO.
func (l *lab) visit(ctx context.Context, t *testing.T) visit {
	t.Helper()
	v := l.calls(ctx, t)
	v.greets()
	return v
}

// calls connects, and hears nothing yet.
func (l *lab) calls(ctx context.Context, t *testing.T) visit {
	t.Helper()
	conn, err := l.dial(ctx, l.network.Client4, lifeSite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return visit{proxytest.NewClient(conn, patience), t, netip.MustParseAddrPort(conn.LocalAddr().String())}
}

// greets reads the banner and says EHLO.
func (v visit) greets() {
	v.t.Helper()
	v.hears(220)
	if reply, err := v.Hello("EHLO", "client.example"); err != nil || !reply.OK() {
		v.t.Fatalf("EHLO: %s %v", reply, err)
	}
}

// hears reads a reply.
func (v visit) hears(code int) proxytest.Reply {
	v.t.Helper()
	reply, err := v.ReadReply()
	if err != nil || reply.Code != code {
		v.t.Fatalf("heard %q %v, want %d", reply, err, code)
	}
	return reply
}

// says sends a command and reads the reply.
func (v visit) says(line string, code int) {
	v.t.Helper()
	if _, err := v.Write([]byte(line + "\r\n")); err != nil {
		v.t.Fatal(err)
	}
	v.hears(code)
}

// quits ends the session as clients do.
func (v visit) quits() {
	v.t.Helper()
	v.says("QUIT", 221)
	v.closes()
}

// isSentAway hears the server's last word.
func (v visit) isSentAway() proxytest.Reply {
	v.t.Helper()
	defer v.closes()
	return v.hears(421)
}

func (v visit) closes() {
	if err := v.Close(); err != nil {
		v.t.Error(err)
	}
}

// shown begins TLS and returns the certificate that was shown.
func (v visit) shown(pki *proxytest.PKI) []byte {
	v.t.Helper()
	reply, err := v.StartTLS(&tls.Config{RootCAs: pki.Pool(), ServerName: edgeName})
	if err != nil || reply.Code != 220 {
		v.t.Fatalf("STARTTLS: %s %v", reply, err)
	}
	v.says("EHLO client.example", 250)
	return v.ConnectionState().PeerCertificates[0].Raw
}

// begins opens a transaction up to the 354.
func (v visit) begins(token string) {
	v.t.Helper()
	v.says("MAIL FROM:<"+token+"@hospital.example>", 250)
	v.says("RCPT TO:<office@partner.example>", 250)
	v.says("DATA", 354)
}

// record is what was written down of the session.
func (v visit) record(ctx context.Context, d *daemon) record {
	v.t.Helper()
	r, err := d.record(ctx, v.address)
	if err != nil {
		v.t.Fatal(err)
	}
	return r
}

// nameOfSomebodyElse demands a name that the server does not have.
const nameOfSomebodyElse = `[[rule]]
name = "stricter"
to_networks = ["203.0.113.0/24"]
tls = "forced"
verify = "name"
names = ["mx.elsewhere.example"]
`

func TestAReloadReachesNewSessionsAndLeavesRunningOnesAlone(t *testing.T) {
	ctx, l, d := open(t)
	running := l.visit(ctx, t)
	before := running.shown(l.pki)
	token := newToken()
	running.begins(token)

	if err := l.newEdgeCertificate(); err != nil {
		t.Fatal(err)
	}
	reload(t, d, ctx, "serving, configuration 2 with 0 rules")
	second := l.visit(ctx, t)
	if bytes.Equal(second.shown(l.pki), before) {
		t.Error("the old certificate is shown after the reload")
	}
	second.quits()

	if err := l.configure("enforce", timeouts, nameOfSomebodyElse); err != nil {
		t.Fatal(err)
	}
	reload(t, d, ctx, "serving, configuration 3 with 1 rules")
	third := l.calls(ctx, t)
	third.hears(220)
	if _, err := third.Write([]byte("EHLO client.example\r\n")); err != nil {
		t.Fatal(err)
	}
	third.isSentAway()

	content := letter(token, 1<<10)
	running.sendsRest(content)
	running.quits()
	for _, row := range []struct {
		v          visit
		generation uint64
		verdict    string
	}{{running, 1, "allow"}, {second, 2, "allow"}, {third, 3, "defer"}} {
		if r := row.v.record(ctx, d); r.Generation != row.generation || r.Verdict != row.verdict {
			t.Errorf("generation %d, verdict %s, want %d and %s", r.Generation, r.Verdict, row.generation, row.verdict)
		}
	}
	l.arrivedUnchanged(t, token, content)
	if err := d.stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestAReloadThatFailsLeavesAllAsItWasAndSaysWhy(t *testing.T) {
	ctx, l, d := open(t)
	if err := l.configure("enforce", timeouts, "[[rule]]\nname = \"typo\"\ntsl = \"forced\"\n"+nameOfSomebodyElse); err != nil {
		t.Fatal(err)
	}
	status := reload(t, d, ctx, "reload failed, running with what was before: ")
	if !strings.Contains(status, "tsl") {
		t.Errorf("the status does not say why: %q", status)
	}
	v := l.visit(ctx, t)
	v.quits()
	if r := v.record(ctx, d); r.Generation != 1 || r.Rule != builtIn {
		t.Errorf("generation %d, rule %q after a reload that failed", r.Generation, r.Rule)
	}
	if err := d.stop(ctx); err != nil {
		t.Error(err)
	}
}

func reload(t *testing.T, d *daemon, ctx context.Context, want string) string {
	t.Helper()
	status, err := d.reload(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(status, want) {
		t.Fatalf("status %q, want %q", status, want)
	}
	return status
}

// sendsRest sends content that ends a DATA command, which has to be accepted.
func (v visit) sendsRest(content []byte) {
	v.t.Helper()
	stuffed := bytes.ReplaceAll(content, []byte("\r\n."), []byte("\r\n.."))
	if _, err := v.Write(append(stuffed, ".\r\n"...)); err != nil {
		v.t.Fatal(err)
	}
	v.hears(250)
}

func (l *lab) arrivedUnchanged(t *testing.T, token string, content []byte) {
	t.Helper()
	found := l.messages(token + "@hospital.example")
	if len(found) != 1 || found[0].message.SHA256 != sha256.Sum256(content) {
		t.Errorf("the message arrived %d times, or changed", len(found))
	}
}

// The order is that of the manual: stopping is said, listeners close, sessions in
// dialogue hear 421, messages under way finish, records are written, exit 0.
func TestSIGTERMEndsDialoguesLetsMessagesFinishAndExitsWithZero(t *testing.T) {
	ctx, l, d := open(t)
	idle, sending, secure := l.visit(ctx, t), l.visit(ctx, t), l.visit(ctx, t)
	secure.shown(l.pki)
	token := newToken()
	content := letter(token, 64<<10)
	half := bytes.Index(content, []byte("000100 "))
	sending.begins(token)
	first := bytes.ReplaceAll(content[:half], []byte("\r\n."), []byte("\r\n.."))
	if _, err := sending.Write(first); err != nil {
		t.Fatal(err)
	}

	if err := d.terminate(); err != nil {
		t.Fatal(err)
	}
	stopping := func() bool { return slices.ContainsFunc(d.heard, func(n notification) bool { return n.stopping }) }
	if err := d.wait(ctx, stopping); err != nil {
		t.Fatal(err)
	}
	for _, v := range []visit{idle, secure} {
		if reply := v.isSentAway(); !strings.HasPrefix(reply.Lines[0], "4.3.2 "+lifeSite) {
			t.Errorf("heard %q", reply)
		}
	}
	if conn, err := l.dial(ctx, l.network.Client4, lifeSite); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a new connection while stopping: %v %v", conn, err)
	}
	sending.sendsRest(content[half:])
	sending.isSentAway()
	if err := d.waitStopped(ctx); err != nil {
		t.Error(err)
	}
	l.arrivedUnchanged(t, token, content)
	for _, v := range []visit{idle, sending, secure} {
		if r := v.record(ctx, d); r.Verdict != "allow" || r.End != "drained" {
			t.Errorf("verdict %s, end %q", r.Verdict, r.End)
		}
	}
}
