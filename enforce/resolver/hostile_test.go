package resolver

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestWhatIsNoAnswerIsPassedOver(t *testing.T) {
	wrong := func(t *testing.T, q asked, alter func(*dns.Msg)) []byte {
		m := text(q, "forged")
		alter(m)
		return packed(t, m)
	}
	for name, forged := range map[string]func(*testing.T, asked) []byte{
		"another ID": func(t *testing.T, q asked) []byte { return wrong(t, q, func(m *dns.Msg) { m.Id++ }) },
		"another name": func(t *testing.T, q asked) []byte {
			return wrong(t, q, func(m *dns.Msg) { m.Question[0].Name = "b.test." })
		},
		"another type": func(t *testing.T, q asked) []byte {
			return wrong(t, q, func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeA })
		},
		"another class": func(t *testing.T, q asked) []byte {
			return wrong(t, q, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS })
		},
		"no question":     func(t *testing.T, q asked) []byte { return wrong(t, q, func(m *dns.Msg) { m.Question = nil }) },
		"the question":    func(t *testing.T, q asked) []byte { return wrong(t, q, func(m *dns.Msg) { m.Response = false }) },
		"nothing":         func(*testing.T, asked) []byte { return nil },
		"half a header":   func(*testing.T, asked) []byte { return []byte("12345") },
		"garbage":         func(*testing.T, asked) []byte { return []byte(strings.Repeat("\xff\xc0", 700)) },
		"too much":        func(*testing.T, asked) []byte { return make([]byte, 60000) },
		"an answer, cut":  func(t *testing.T, q asked) []byte { p := packed(t, text(q, "forged")); return p[:len(p)-3] },
		"counts that lie": func(t *testing.T, q asked) []byte { p := packed(t, text(q, "forged")); p[7] = 200; return p[:len(p)-1] },
		"a pointer's loop": func(t *testing.T, q asked) []byte {
			p := packed(t, answerTo(q))
			return append(p[:12], 0xc0, 12, 0, 16, 0, 1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.serve(func(q asked) [][]byte { return [][]byte{forged(t, q), packed(t, text(q, "true"))} })
			if got, err := resolverOf(0, f).TXT(t.Context(), "a.test"); err != nil || !slices.Equal(got.Records, []string{"true"}) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestStrangersWithoutEndAreNotReadWithoutEnd(t *testing.T) {
	f := newFake(t)
	f.serve(func(q asked) [][]byte { return slices.Repeat([][]byte{[]byte("strangerstranger")}, strangers+1) })
	if got, err := resolverOf(0, f).TXT(t.Context(), "a.test"); !errors.Is(err, ErrFailed) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestWhatAServerSaysOfItsFailureIsToldInWords(t *testing.T) {
	for name, tc := range map[string]struct {
		make func(*dns.Msg)
		want string
	}{
		"SERVFAIL": {func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }, "dns: the server failed: SERVFAIL"},
		"bogus": {func(m *dns.Msg) {
			m.Rcode = dns.RcodeServerFailure
			m.SetEdns0(1232, false)
			o := m.IsEdns0()
			o.Option = append(o.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeDNSBogus, ExtraText: "\x1b[31m"})
		}, "dns: the server failed: SERVFAIL, DNSSEC Bogus"},
		"REFUSED":    {func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }, "dns: the server failed: REFUSED"},
		"unheard of": {func(m *dns.Msg) { m.Rcode = 13 }, "dns: the server failed: code 13"},
		"a referral": {func(m *dns.Msg) {
			m.RecursionAvailable = false
			m.Ns = []dns.RR{&dns.NS{Hdr: header("test.", dns.TypeNS, 60), Ns: "ns.test."}}
		}, "dns: the server failed: it does not resolve"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.serve(func(q asked) [][]byte {
				m := answerTo(q)
				tc.make(m)
				return [][]byte{packed(t, m)}
			})
			if got, err := resolverOf(0, f).TXT(t.Context(), "a.test"); !errors.Is(err, ErrFailed) || err.Error() != tc.want {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestATruncatedAnswerOfAServerWithoutTCPIsAFailureAndNotAnAbsence(t *testing.T) {
	f := newFake(t)
	f.serve(func(q asked) [][]byte {
		m := text(q, "some")
		m.Truncated = true
		p := packed(t, m)
		return [][]byte{p[:len(p)-2]} // in the middle of a record
	})
	if got, err := resolverOf(0, f).TXT(t.Context(), "a.test"); !errors.Is(err, ErrFailed) || errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "TCP") {
		t.Errorf("%+v, %v", got, err)
	}
}

// Who can make a believed server fail must not get an insecure answer by it.
func TestNoServerThatIsNotBelievedAnswersForOneThatFailed(t *testing.T) {
	believed, other := newFake(t), newFake(t)
	believed.serve(func(q asked) [][]byte {
		m := answerTo(q)
		m.Rcode = dns.RcodeServerFailure
		return [][]byte{packed(t, m)}
	})
	other.serve(func(q asked) [][]byte { return [][]byte{packed(t, text(q, "insecure"))} })
	// Both are on loopback: one is made a stranger.
	r := resolverOf(0, believed, other)
	r.servers[1] = netip.AddrPortFrom(netip.MustParseAddr("0.0.0.0"), other.at.Port()) // which leads here, too
	if got, err := r.TXT(t.Context(), "a.test"); !errors.Is(err, ErrFailed) {
		t.Errorf("%+v, %v", got, err)
	}
	r = New(Options{Servers: []netip.AddrPort{r.servers[1], believed.at}})
	if r.servers[0] != believed.at {
		t.Error("the one that is believed is not asked first")
	}
	believed.conn.Close()
	if got, err := r.TXT(t.Context(), "b.test"); err != nil || got.Secure || len(got.Records) != 1 {
		t.Errorf("with the believed one away: %+v, %v", got, err)
	} else if time.Until(got.Expires) > failureKept {
		t.Errorf("what was insecure for a moment is kept for %v", time.Until(got.Expires))
	}
}

// recursing answers what it must not pass on, and nothing else.
func recursing(q asked) [][]byte {
	if q.RecursionDesired {
		return nil
	}
	refused := new(dns.Msg)
	refused.SetRcode(q.Msg, dns.RcodeRefused)
	packet, _ := refused.Pack()
	return [][]byte{packet}
}

func TestAServerThatWaitsForOthersIsATimeoutAndADeadOneIsNotThere(t *testing.T) {
	alive, dead := newFake(t), newFake(t)
	alive.serve(recursing)
	if got, err := resolverOf(50*time.Millisecond, alive).TXT(t.Context(), "a.test"); !errors.Is(err, ErrTimeout) {
		t.Errorf("%+v, %v", got, err)
	}
	r := resolverOf(50*time.Millisecond, dead)
	for _, name := range []string{"a.test", "b.test"} {
		began := time.Now()
		if got, err := r.TXT(t.Context(), name); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%+v, %v", got, err)
		}
		if took := time.Since(began); name == "b.test" && took > signOfLife/2 {
			t.Errorf("one that is known to be away was waited for %s", took)
		}
	}
	// Beside one that waits for others, one that is away changes nothing.
	if got, err := resolverOf(50*time.Millisecond, dead, alive).TXT(t.Context(), "a.test"); !errors.Is(err, ErrTimeout) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOneFamilysFailureTakesNothingFromTheOther(t *testing.T) {
	for _, secure := range []bool{true, false} {
		f := newFake(t)
		f.serve(func(q asked) [][]byte {
			m := answerTo(q)
			m.AuthenticatedData = secure
			if q.Question[0].Qtype == dns.TypeAAAA {
				m.Rcode, m.AuthenticatedData = dns.RcodeServerFailure, false
			} else {
				m.Answer = []dns.RR{&dns.A{Hdr: header(q.Question[0].Name, dns.TypeA, 3600), A: []byte{192, 0, 2, 1}}}
			}
			return [][]byte{packed(t, m)}
		})
		got, err := resolverOf(0, f).Addresses(t.Context(), "mx.test")
		if err != nil || len(got.Addrs) != 1 || got.Secure != secure {
			t.Errorf("%+v, %v", got, err)
		}
		if time.Until(got.Expires) > failureKept {
			t.Error("what is missing is not asked for again soon")
		}
	}
}

func TestWhoAsksTheSameAtTheSameTimeSharesOneAnswer(t *testing.T) {
	f := newFake(t)
	r := resolverOf(0, f)
	const askers = 50
	var all sync.WaitGroup
	answer := func() {
		if got, err := r.TXT(t.Context(), "a.test"); err != nil || len(got.Records) != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	}
	for range askers {
		all.Go(answer)
	}
	q := <-f.queries
	f.reply(q, text(q, "one"))
	all.Wait()
	answer()
	if len(f.queries) != 0 {
		t.Error("asked more than once")
	}
}

func TestFailuresAreKeptForAMomentOnly(t *testing.T) {
	f := newFake(t)
	r := resolverOf(0, f)
	f.serve(func(q asked) [][]byte {
		m := answerTo(q)
		m.Rcode = dns.RcodeServerFailure
		return [][]byte{packed(t, m)}
	})
	if _, err := r.TXT(t.Context(), "a.test"); !errors.Is(err, ErrFailed) {
		t.Error(err)
	}
	q := question{"a.test", dns.TypeTXT}
	if r.cache.find(q, time.Now()) == nil || r.cache.find(q, time.Now().Add(failureKept)) != nil {
		t.Error("not kept, or for too long")
	}
}
