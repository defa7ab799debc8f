package cluster

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/enforce"
	"postern/enforce/memory"
	"postern/proxy/proxytest/redislab"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const day = 24 * time.Hour

var (
	server25 = netip.MustParseAddrPort("203.0.113.7:25")
	other25  = netip.MustParseAddrPort("203.0.113.8:25")
	client   = netip.MustParseAddr("10.1.0.9")
	held     = enforce.Connection{Client: client, Upstream: server25.Addr()}
)

// A gateway is what one knows, and its link.
type gateway struct {
	*memory.Store
	holds memory.Holds
	link  *Link

	mu      sync.Mutex
	reports []string
}

// joins starts a gateway that shares the server at an address.
func joins(t *testing.T, address string, entries int) *gateway {
	t.Helper()
	a, err := ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	g := new(gateway)
	g.link = New(Options{Address: a, Report: g.hear})
	if g.Store, err = memory.Open(memory.Options{Remember: 30 * day, Entries: entries, Keeper: g.link}); err != nil {
		t.Fatal(err)
	}
	g.Keep(&g.holds)
	g.link.Start()
	t.Cleanup(func() { _ = g.link.Close() })
	return g
}

func (g *gateway) hear(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reports = append(g.reports, fmt.Sprint(err))
}

func (g *gateway) heard() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reports
}

func (g *gateway) sees(a netip.AddrPort, key byte) {
	g.Learn(a, []string{"contoso.com"}, memory.Observation{Client: client, Version: tls.VersionTLS13, Issuer: "CN=R11", SPKI: [32]byte{key},
		Verified: true, VerifiedDomains: true, At: time.Now()})
}

func (g *gateway) knows(a netip.AddrPort) bool { _, ok := g.Recall(a, time.Now()); return ok }
func (g *gateway) holding() bool               { return g.holds.Find(held, day, time.Now()) != nil }

// soon waits for something to be so, and gives how long that took.
func soon(t *testing.T, what string, is func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !is() {
		if time.Since(began) > 8*time.Second {
			t.Fatalf("not so after %s: %s", time.Since(began).Round(time.Millisecond), what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// quoted is the name of a record as an inline command has it.
func quoted(kind, key string) string {
	return fmt.Sprintf("\"\\x%s\"", strings.ReplaceAll(fmt.Sprintf("% x", nameOf(kind, []byte(key))), " ", "\\x"))
}

func TestWhatOneGatewayLearnsAnotherKnowsWithinAboutASecond(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	a, b := joins(t, "redis://"+s.Address, 0), joins(t, "unix://"+s.Socket, 0)
	least := func(what string, is func() bool) {
		t.Helper()
		if took := soon(t, what, is); took > 1500*time.Millisecond {
			t.Errorf("%s: %s", what, took)
		}
	}
	a.sees(server25, 1)
	b.sees(other25, 2)
	a.holds.Begin(held, tls.VersionTLS10, time.Now())
	least("b knows what a saw", func() bool { return b.knows(server25) })
	least("a knows what b saw", func() bool { return a.knows(other25) })
	least("b holds", b.holding)
	if _, ok := b.RecallDomain("contoso.com", client, time.Now()); !ok {
		t.Error("not the domain")
	}
	b.holds.Refused(held, day, true, time.Now())
	least("a knows of the refusal", func() bool { h := a.holds.Find(held, day, time.Now()); return h != nil && h.Refused == 1 })
	b.holds.Clear(held, time.Now())
	least("a holds no more", func() bool { return !a.holding() })
	time.Sleep(2 * Every)
	if b.holding() || a.holding() {
		t.Error("a hold that was cleared came back")
	}
	a.holds.Begin(held, tls.VersionTLS11, time.Now())
	least("b holds again", b.holding)

	// One that comes later has it when it starts, without any session.
	c := joins(t, "redis+unix://"+s.Socket, 0)
	if !c.knows(server25) || !c.knows(other25) || !c.holding() {
		t.Error("a gateway that starts does not know what the others do")
	}
	if got := fmt.Sprint(a.heard(), b.heard(), c.heard()); got != "[] [] []" {
		t.Error(got)
	}
	if got := s.Do("TTL " + quoted("destinations", "\xcb\x00\x71\x07\x00\x19")); len(got) < 5 {
		t.Errorf("a key that never runs out: %s", got)
	}
}

func TestAServerThatIsGoneIsToldOfOnceAndFilledAgain(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	a, b := joins(t, "redis://"+s.Address, 0), joins(t, "redis://"+s.Address, 0)
	a.sees(server25, 1)
	soon(t, "b knows", func() bool { return b.knows(server25) })
	s.Kill()
	soon(t, "a says so", func() bool { return len(a.heard()) == 1 })
	a.sees(other25, 2)
	b.holds.Begin(held, tls.VersionTLS10, time.Now())
	time.Sleep(2 * again)
	if !a.knows(server25) || !b.knows(server25) || !a.knows(other25) || !b.holding() {
		t.Error("something was lost")
	}
	s.Restart() // empty
	soon(t, "b knows what a learnt meanwhile", func() bool { return b.knows(other25) })
	soon(t, "a holds whom b holds", a.holding)
	c := joins(t, "redis://"+s.Address, 0)
	if !c.knows(server25) || !c.knows(other25) || !c.holding() {
		t.Error("the server was not filled again")
	}
	for _, g := range []*gateway{a, b} {
		if got := g.heard(); len(got) != 2 || !strings.Contains(got[0], "refused") && !strings.Contains(got[0], "EOF") && !strings.Contains(got[0], "reset") || got[1] != "<nil>" {
			t.Errorf("%q", got)
		}
	}
	// Emptied, without a connection that breaks.
	s.Do("FLUSHALL")
	a.sees(netip.MustParseAddrPort("203.0.113.9:25"), 3)
	soon(t, "all of it is there again", func() bool { return s.Do("EXISTS "+quoted("domains", "contoso.com\x00")) == ":1" })
	soon(t, "filled", func() bool { d := joins(t, "redis://"+s.Address, 0); return d.knows(server25) && d.knows(other25) })
}

func TestAHoldThatWasClearedWhileTheServerWasGoneStaysCleared(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	a, b := joins(t, "redis://"+s.Address, 0), joins(t, "redis://"+s.Address, 0)
	a.holds.Begin(held, tls.VersionTLS10, time.Now())
	soon(t, "b holds", b.holding)
	s.Kill()
	a.holds.Clear(held, time.Now())
	time.Sleep(Every)
	s.Restart()
	soon(t, "b holds no more", func() bool { return !b.holding() })
	time.Sleep(2 * Every)
	if a.holding() || b.holding() {
		t.Error("it came back")
	}
}

func TestAServerThatHangsDelaysNobody(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	a := joins(t, "redis://"+s.Address, 0)
	a.sees(server25, 1)
	s.Hang()
	defer s.Resume()
	began, most, n := time.Now(), time.Duration(0), 0
	for time.Since(began) < 3*time.Second { // longer than patience
		at := time.Now()
		a.sees(other25, 2)
		a.holds.Begin(held, tls.VersionTLS10, at)
		if !a.knows(server25) || !a.holding() {
			t.Fatal("forgotten")
		}
		most, n = max(most, time.Since(at)), n+1
		time.Sleep(time.Millisecond)
	}
	t.Logf("%d rounds, the longest %s", n, most)
	if most > patience/10 {
		t.Errorf("a session waited %s", most)
	}
	at := time.Now()
	if err := a.link.Close(); err == nil || time.Since(at) > patience+lastWait+time.Second/2 {
		t.Errorf("%v after %s", err, time.Since(at))
	}
	if got := a.heard(); len(got) != 1 {
		t.Errorf("%q", got)
	}
}

func TestForgettingReachesEveryGatewayAndThoseThatComeBack(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	s.Do("ACL SETUSER postern on >sesame ~postern:* +@all")
	address, _ := ParseAddress("redis://" + s.Address)
	a, b := joins(t, "redis://postern:sesame@"+s.Address, 0), joins(t, "unix://"+s.Socket, 0)
	a.sees(server25, 1)
	a.sees(other25, 2)
	a.holds.Begin(held, tls.VersionTLS10, time.Now())
	soon(t, "b knows", func() bool { return b.knows(server25) && b.knows(other25) && b.holding() })
	c, err := memory.Read(OnServer(address))
	if err != nil || len(c.Destinations) != 2 || len(c.Domains) != 1 || len(c.Holds) != 1 || c.Damaged != 0 {
		t.Fatalf("%v %+v", err, c)
	}
	what, _ := memory.ParseSubject("203.0.113.7")
	if n, err := memory.Forget(OnServer(address), what); err != nil || n != 2 {
		t.Fatalf("%d %v", n, err)
	}
	soon(t, "forgotten", func() bool { return !a.knows(server25) && !b.knows(server25) && !a.holding() && !b.holding() })
	if !a.knows(other25) || !b.knows(other25) {
		t.Error("more was forgotten")
	}
	// While a cannot hear it: it is let in no more, the server goes on.
	s.Do("ACL SETUSER postern off")
	s.Do("CLIENT KILL USER postern")
	soon(t, "a is out", func() bool { return len(a.heard()) > 0 })
	s.Do(fmt.Sprintf("XADD %s * %s 203.0.113.8", forgottenKey, subjectField))
	time.Sleep(linger + 2*Every)
	if !a.knows(other25) {
		t.Fatal("a heard of it")
	}
	s.Do("ACL SETUSER postern on")
	soon(t, "forgotten by those that come back", func() bool { return !a.knows(other25) && !b.knows(other25) })
	soon(t, "on the server", func() bool { c, err := memory.Read(OnServer(address)); return err == nil && len(c.Destinations) == 0 })
}

func TestWhatTheServerRefusesIsToldOfAndMended(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(dir, "password")
	write := func(s string) {
		if err := os.WriteFile(secret, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := redislab.Start(t, "--requirepass", "sesame", "--databases", "2", "--maxmemory-policy", "noeviction")
	write("wrong")
	a := joins(t, "redis://"+s.Address+"?password_file="+secret, 0)
	a.sees(server25, 1)
	if got := strings.Join(a.heard(), " "); !strings.Contains(got, "WRONGPASS") {
		t.Error(got)
	}
	write("sesame\n") // as an editor leaves it
	soon(t, "it is let in", func() bool { return len(a.heard()) == 2 && a.heard()[1] == "<nil>" })
	b := joins(t, "redis://:sesame@"+s.Address, 0)
	if !b.knows(server25) {
		t.Error("not given over")
	}
	for address, want := range map[string]string{"redis://" + s.Address: "NOAUTH", "redis://:sesame@" + s.Address + "/7": "DB index", "redis://:wrong@" + s.Address: "WRONGPASS"} {
		at, _ := ParseAddress(address)
		if err := Probe(t.Context(), at); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%s: %v", at, err)
		}
		g := joins(t, address, 0)
		if got := strings.Join(g.heard(), " "); !strings.Contains(got, want) || strings.Contains(got, "sesame") {
			t.Errorf("%s: %s", at, got)
		}
		g.sees(server25, 1) // and goes on
		if !g.knows(server25) {
			t.Error("not learnt")
		}
	}
}

func TestAFullServerIsReadAndGivenMoreWhenItHasRoom(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t, "--maxmemory-policy", "noeviction")
	a, b := joins(t, "redis://"+s.Address, 0), joins(t, "redis://"+s.Address, 0)
	a.sees(server25, 1)
	soon(t, "b knows", func() bool { return b.knows(server25) })
	s.Do("CONFIG SET maxmemory 1")
	a.sees(other25, 2)
	soon(t, "it says so", func() bool { return strings.Contains(strings.Join(a.heard(), ""), "OOM") })
	if c := joins(t, "redis://"+s.Address, 0); !c.knows(server25) {
		t.Error("a full server is not read")
	}
	s.Do("CONFIG SET maxmemory 0")
	soon(t, "it was given over", func() bool { return b.knows(other25) })
	soon(t, "that is told", func() bool { return len(a.heard()) == 2 })
	if got := a.heard(); got[1] != "<nil>" {
		t.Errorf("%q", got)
	}
}

func TestGarbageIsPassedOverAndToldOf(t *testing.T) {
	t.Parallel()
	s := redislab.Start(t)
	a := joins(t, "redis://"+s.Address, 0)
	a.sees(server25, 1)
	soon(t, "it is written", func() bool { return s.Do("EXISTS "+changesKey) == ":1" })
	s.Do("SET " + prefix + "destinations:x rubbish")
	s.Do("SETRANGE " + prefix + "destinations:y 9000000 x") // more than a record may have
	s.Do("SADD " + prefix + "holds:z a")
	s.Do("SET " + prefix + "unknown:z a")
	s.Do("SET " + prefix + "nothing a")
	s.Do("SET other a")
	s.Do(fmt.Sprintf("XADD %s * %s destinations %s rubbish %s rubbish", changesKey, kindField, keyField, valueField))
	s.Do(fmt.Sprintf("XADD %s * a b", changesKey))
	s.Do(fmt.Sprintf("XADD %s * a b", forgottenKey))
	s.Do(fmt.Sprintf("XADD %s * %s /..", forgottenKey, subjectField))
	b := joins(t, "redis://"+s.Address, 0)
	if !b.knows(server25) {
		t.Error("garbage hides what is none")
	}
	if got := fmt.Sprint(b.heard()); !strings.Contains(got, "3 records were damaged") {
		t.Error(got)
	}
	soon(t, "a says so", func() bool { return strings.Contains(fmt.Sprint(a.heard()), "2 records were damaged") })
	at, _ := ParseAddress("redis://" + s.Address)
	if c, err := memory.Read(OnServer(at)); err != nil || c.Damaged != 3 || len(c.Destinations) != 1 {
		t.Errorf("%v %+v", err, c)
	}
	a.sees(other25, 2)
	soon(t, "work goes on", func() bool { return b.knows(other25) })
}
