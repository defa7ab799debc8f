package proxytest

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// unstuff runs a dotReader over pieces and returns the content, what is left
// over behind the end, and whether there was one.
func unstuff(lax bool, pieces ...[]byte) (got *content, rest []byte, done bool) {
	got = newContent(true)
	r := dotReader{lax: lax, into: got}
	for _, p := range pieces {
		if done {
			rest = append(rest, p...)
			continue
		}
		var n int
		n, done = r.take(p)
		rest = append(rest, p[n:]...)
	}
	return got, rest, done
}

func TestOnlyADotBetweenCRLFsEndsTheContent(t *testing.T) {
	cases := []struct {
		wire, strict, lax string // content; "…" if it does not end
		rest, laxRest     string // behind the end
	}{
		{".\r\nQUIT\r\n", "", "", "QUIT\r\n", "QUIT\r\n"},
		{"a\r\n.\r\n", "a\r\n", "a\r\n", "", ""},
		{"..\r\n.\r\n", ".\r\n", ".\r\n", "", ""},
		{"a\n.\nb\r\n.\r\n", "a\n.\nb\r\n", "a\n", "", "b\r\n.\r\n"},
		{"a\n.\r\nb\r\n.\r\n", "a\n.\r\nb\r\n", "a\n", "", "b\r\n.\r\n"},
		{"a\r\n.\nb\r\n.\r\n", "a\r\n\nb\r\n", "a\r\n", "", "b\r\n.\r\n"},
		{"a\n..b\r\n.\r\n", "a\n..b\r\n", "a\n.b\r\n", "", ""},
		{"a\r.\r\n.\r\n", "a\r.\r\n", "a\r.\r\n", "", ""},
		{".\r.\r\n.\r\n", "\r.\r\n", "\r.\r\n", "", ""},
		{".\r\r\n.\r\n", "\r\r\n", "\r\r\n", "", ""},
		{"a\r\n.", "…", "…", "", ""},
		{"a\r\n.\r", "…", "…", "", ""},
	}
	for _, c := range cases {
		for _, mode := range []struct {
			lax        bool
			want, rest string
		}{{false, c.strict, c.rest}, {true, c.lax, c.laxRest}} {
			got, rest, done := unstuff(mode.lax, []byte(c.wire))
			if done != (mode.want != "…") || done && (string(got.bytes) != mode.want || string(rest) != mode.rest) {
				t.Errorf("%q, lax %v: %q, rest %q, done %v", c.wire, mode.lax, got.bytes, rest, done)
			}
			single, _, _ := unstuff(mode.lax, slices.Collect(slices.Chunk([]byte(c.wire), 1))...)
			if !bytes.Equal(single.bytes, got.bytes) || !bytes.Equal(single.wire, got.wire) {
				t.Errorf("%q, lax %v, byte by byte: %q", c.wire, mode.lax, single.bytes)
			}
		}
	}
}

// unstuffByLines is RFC 5321 §4.5.2 said in another way, to compare with.
func unstuffByLines(wire string) (content, rest string, done bool) {
	for {
		line, after, ok := strings.Cut(wire, "\r\n")
		if !ok {
			return "", "", false
		}
		if line == "." {
			return content, after, true
		}
		content += strings.TrimPrefix(line, ".") + "\r\n"
		wire = after
	}
}

func FuzzDotReader(f *testing.F) {
	for _, content := range contents {
		if len(content) < 100 {
			f.Add([]byte(content), 3)
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte, cut int) {
		cut = int(uint(cut) % uint(len(wire)+1))
		got, rest, done := unstuff(false, wire[:cut], wire[cut:])
		want, wantRest, wantDone := unstuffByLines(string(wire))
		if done != wantDone || done && (string(got.bytes) != want || string(rest) != wantRest) {
			t.Fatalf("%q cut at %d: %q, %q, %v; want %q, %q, %v", wire, cut, got.bytes, rest, done, want, wantRest, wantDone)
		}
		if len(got.wire)+len(rest) != len(wire) {
			t.Fatalf("%d bytes taken and %d left of %d", len(got.wire), len(rest), len(wire))
		}
		// And what a client stuffs comes back, closed by a CRLF if it had none.
		back, rest, done := unstuff(false, stuff(wire))
		closed := wire
		if len(wire) > 0 && !bytes.HasSuffix(wire, []byte("\r\n")) {
			closed = append(slices.Clone(wire), "\r\n"...)
		}
		if !done || len(rest) > 0 || !bytes.Equal(back.bytes, closed) {
			t.Fatalf("%q stuffed and unstuffed: %q, rest %q, done %v", wire, back.bytes, rest, done)
		}
	})
}
