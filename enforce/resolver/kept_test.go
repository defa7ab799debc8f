package resolver

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestWhatIsKeptIsGivenAndNothingElseAskedFor(t *testing.T) {
	f := newFake(t) // which nobody asks: it answers nothing
	r := resolverOf(time.Minute, f)
	until := time.Now().Add(time.Hour)
	none := func(name string, kind uint16) {
		r.cache.keep(question{name, kind}, &answer{secure: true, expires: until})
	}
	none("a.test", dns.TypeMX)
	none("half.test", dns.TypeMX)
	for _, host := range []string{"a.test", "half.test", "mx.test"} {
		r.cache.keep(question{host, dns.TypeA}, &answer{secure: true, expires: until,
			records: []dns.RR{&dns.A{Hdr: header(host+".", dns.TypeA, 60), A: net.IPv4(192, 0, 2, 1)}}})
	}
	none("a.test", dns.TypeAAAA)
	r.cache.keep(question{"mx.test", dns.TypeAAAA}, &answer{err: ErrFailed, expires: until})
	r.cache.keep(question{"bogus.test", dns.TypeMX}, &answer{err: ErrFailed, expires: until})
	kept := r.Kept()
	if mx, err := kept.MX(t.Context(), "a.test"); err != nil || !mx.Implicit || !mx.Secure {
		t.Errorf("a domain that is its own host: %+v, %v", mx, err)
	}
	if a, err := kept.Addresses(t.Context(), "mx.test"); err != nil || len(a.Addrs) != 1 || a.Addrs[0] != netip.MustParseAddr("192.0.2.1") || time.Until(a.Expires) > failureKept {
		t.Errorf("a host of which one family failed: %+v, %v", a, err)
	}
	for name, err := range map[string]error{
		"half of what an implicit MX takes": second(kept.MX(t.Context(), "half.test")),
		"one family":                        second(kept.Addresses(t.Context(), "half.test")),
		"nothing":                           second(kept.TXT(t.Context(), "a.test")),
	} {
		if !errors.Is(err, ErrNotKept) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := kept.MX(t.Context(), "bogus.test"); !errors.Is(err, ErrFailed) {
		t.Errorf("a failure: %v", err)
	}
	if n := len(f.queries); n > 0 {
		t.Errorf("%d questions", n)
	}
}

func second[T any](_ T, err error) error { return err }
