package tlshello

import (
	"slices"
	"testing"
)

func TestTheEndOfAHelloIsToldToTheByte(t *testing.T) {
	sslv2 := join([]byte{1, 3, 1, 0, 9, 0, 0, 0, 16, 0, 0, 0x2F, 1, 0, 0x80, 0, 0, 0x0A}, random[:16])
	sslv2 = join([]byte{0x80, byte(len(sslv2))}, sslv2)
	for _, tc := range []struct {
		name   string
		stream []byte
		want   int
	}{
		{"nothing yet", hello[:len(hello)-1], 0},
		{"a ClientHello, with others behind it", join(hello, ccs, hello, data), len(hello)},
		{"a retry alone", join(retry, ccs), len(retry)},
		{"a retry and the start of what holds", join(retry, ccs, answer13[:20]), len(retry)},
		{"what holds", join(retry, ccs, answer13, ccs, data), len(retry) + len(ccs) + len(answer13)},
		{"an SSL 2.0 hello", join(sslv2, rec(recordAlert, 2, 70)), len(sslv2)},
		{"two messages in one record", rec(recordHandshake, join(answer13[recordHeader:], msg(8))...), len(answer13)},
	} {
		for _, n := range []int{1, 3, len(tc.stream)} {
			if got := observe(t, slices.Collect(slices.Chunk(tc.stream, n))...).HelloEnd(); got != tc.want {
				t.Errorf("%s, by %d: the end is %d, want %d", tc.name, n, got, tc.want)
			}
		}
	}
}

func TestEarlyDataIsAnnounced(t *testing.T) {
	for name, tc := range map[string]struct {
		extension      []byte
		early, refused bool
	}{
		"announced":     {ext(extEarlyData), true, false},
		"not":           {ext(extSignatureSchemes, 0, 2, 4, 3), false, false},
		"with a length": {ext(extEarlyData, 0, 0, 0, 1), false, true},
	} {
		o := observe(t, clientHelloBytes([]byte{0x13, 1}, tc.extension))
		if h := o.ClientHello(); (h == nil) != tc.refused || h != nil && h.EarlyData != tc.early {
			t.Errorf("%s: %+v, %v", name, h, o.Err())
		}
	}
}
