package proxy

import (
	"net/netip"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"postern/enforce"
)

func TestAClientThatRefusesCertificatesIsCountedAndToldOfNowAndThen(t *testing.T) {
	core, seen := observer.New(zap.WarnLevel)
	var c complaints
	tell := c.tell(zap.New(core))
	one := enforce.Connection{Client: netip.MustParseAddr("10.1.0.2"), Upstream: netip.MustParseAddr("203.0.113.5")}
	for range 250 {
		tell(one)
	}
	var counts []int64
	for _, e := range seen.All() {
		counts = append(counts, e.ContextMap()["count"].(int64))
	}
	if len(counts) != 3 || counts[0] != 1 || counts[1] != 10 || counts[2] != 100 {
		t.Errorf("told at %d", counts)
	}
	for i := range 2 * mostComplaining {
		c.add(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(c.count) > mostComplaining {
		t.Errorf("%d clients are counted", len(c.count))
	}
	if count, _ := c.add(one.Client); count != 251 {
		t.Errorf("%d of one that was there before", count)
	}
}
