package memory

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"postern/enforce"
)

const day = 24 * time.Hour

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

func from(client, upstream string) enforce.Connection {
	return enforce.Connection{Client: netip.MustParseAddr(client), Upstream: netip.MustParseAddr(upstream)}
}

func TestAHoldIsOfOneClientToOneDestination(t *testing.T) {
	for _, tc := range []struct {
		name        string
		begun, asks enforce.Connection
		held        bool
	}{
		{"the same", from("192.0.2.1", "203.0.113.1"), from("192.0.2.1", "203.0.113.1"), true},
		{"another client", from("192.0.2.1", "203.0.113.1"), from("192.0.2.2", "203.0.113.1"), false},
		{"another destination", from("192.0.2.1", "203.0.113.1"), from("192.0.2.1", "203.0.113.2"), false},
		{"IPv4 within IPv6", from("::ffff:192.0.2.1", "::ffff:203.0.113.1"), from("192.0.2.1", "203.0.113.1"), true},
		{"the same /64", from("2001:db8:1:2::1", "2001:db8:9::1"), from("2001:db8:1:2:ffff::7", "2001:db8:9::1"), true},
		{"another /64", from("2001:db8:1:2::1", "2001:db8:9::1"), from("2001:db8:1:3::1", "2001:db8:9::1"), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var h Holds
			h.Begin(tc.begun, tls.VersionTLS10, noon)
			if got := h.Find(tc.asks, day, noon); (got != nil) != tc.held {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestAHoldLastsFromItsLastRefusalAndEndsWithASuccess(t *testing.T) {
	var h Holds
	c := from("192.0.2.1", "203.0.113.1")
	if h.Find(c, day, noon) != nil {
		t.Error("held before anything was seen")
	}
	h.Begin(c, tls.VersionTLS10, noon)
	h.Refused(c, day, true, noon.Add(23*time.Hour))
	got := h.Find(c, day, noon.Add(46*time.Hour))
	if got == nil || *got != (enforce.Hold{Offered: tls.VersionTLS10, Since: noon, Until: noon.Add(47 * time.Hour), Refused: 1}) {
		t.Fatalf("%+v", got)
	}
	h.Begin(c, tls.VersionTLS11, noon.Add(46*time.Hour))
	if got := h.Find(c, day, noon.Add(47*time.Hour)); got == nil || got.Offered != tls.VersionTLS11 || got.Refused != 1 || got.Since != noon {
		t.Errorf("%+v", got)
	}
	if got := h.Find(c, day, noon.Add(70*time.Hour)); got != nil || len(h.entries) != 0 {
		t.Errorf("%+v, of %d", got, len(h.entries))
	}
	h.Begin(c, tls.VersionTLS10, noon)
	h.Refused(c, day, false, noon.Add(23*time.Hour))
	if got := h.Find(c, day, noon.Add(24*time.Hour-1)); got == nil || got.Refused != 1 || h.Find(c, day, noon.Add(24*time.Hour)) != nil {
		t.Errorf("a refusal that was not to renew it: %+v", got)
	}
	h.Refused(c, day, true, noon) // of one that is not held, nothing is kept
	if len(h.entries) != 0 {
		t.Error("a refusal began a hold")
	}
	h.Begin(c, tls.VersionTLS10, noon)
	h.Clear(c, noon)
	if h.Find(c, day, noon) != nil || len(h.shares) != 0 || h.all.Len() != 0 {
		t.Error("held after a success")
	}
}

func TestWhoHasManyAddressesPushesOutTheirOwn(t *testing.T) {
	var h Holds
	victim := from("192.0.2.1", "203.0.113.1")
	h.Begin(victim, tls.VersionTLS10, noon)
	for i := range 2 * MostOfAClient { // one client, many destinations
		h.Begin(from("198.51.100.1", fmt.Sprintf("203.0.113.%d", i)), tls.VersionTLS10, noon)
	}
	if n := len(h.entries); n != MostOfAClient+1 {
		t.Errorf("%d holds", n)
	}
	if h.Find(from("198.51.100.1", "203.0.113.0"), day, noon) != nil || h.Find(from("198.51.100.1", "203.0.113.127"), day, noon) == nil {
		t.Error("of one client, not the oldest goes")
	}
	for i := range 2 * MostOfABlock { // one network, many clients
		h.Begin(from(fmt.Sprintf("2001:db8:%x::1", i), "2001:db8::1"), tls.VersionTLS10, noon)
	}
	if n := len(h.entries); n != MostOfAClient+1+MostOfABlock {
		t.Errorf("%d holds", n)
	}
	for i := range 2 * MostHolds { // and networks without end
		h.Begin(from(fmt.Sprintf("%x:%x::1", 0x2400+i>>16, i&0xffff), "2001:db8::1"), tls.VersionTLS10, noon)
		h.Refused(victim, day, true, noon) // who is still refused stays
	}
	if n := len(h.entries); n != MostHolds || len(h.shares) > 2*MostHolds {
		t.Errorf("%d holds, %d shares", n, len(h.shares))
	}
	if h.Find(victim, day, noon) == nil {
		t.Error("the one that was there first is gone")
	}
}

// Whatever is done to it, the table agrees with a plain map that never forgets
// but by time.
func TestHoldsAreWhatAPlainMapWouldKeep(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h Holds
		plain := map[[2]netip.Addr]time.Time{}
		now := noon
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			c := from(fmt.Sprintf("192.0.2.%d", rapid.IntRange(0, 3).Draw(t, "client")), fmt.Sprintf("203.0.113.%d", rapid.IntRange(0, 2).Draw(t, "upstream")))
			now = now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "later")) * time.Minute)
			since, known := plain[[2]netip.Addr{c.Client, c.Upstream}]
			held := known && now.Sub(since) < day
			if got := h.Find(c, day, now); (got != nil) != held {
				t.Fatalf("%v is held: %v, want %v", c, got, held)
			}
			switch rapid.IntRange(0, 2).Draw(t, "do") {
			case 0:
				h.Begin(c, tls.VersionTLS11, now)
				plain[[2]netip.Addr{c.Client, c.Upstream}] = now
			case 1:
				h.Refused(c, day, true, now)
				if held {
					plain[[2]netip.Addr{c.Client, c.Upstream}] = now
				}
			case 2:
				h.Clear(c, now)
				delete(plain, [2]netip.Addr{c.Client, c.Upstream})
			}
		}
	})
}
