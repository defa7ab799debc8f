package smtpwire

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// feed runs content through in pieces of the given sizes and returns what came
// out, what was left behind the end of data, and whether that was found.
func feed(t interface{ Fatalf(string, ...any) }, bare BareNewline, in []byte, size int) (out, rest []byte, done bool, err error) {
	c := Content{Bare: bare}
	for len(in) > 0 {
		piece := in[:min(size, len(in))]
		for steps := 0; len(piece) > 0; steps++ {
			if steps > 4*size+16 {
				t.Fatalf("no progress at %q", piece)
			}
			o, n, d, e := c.Next(piece)
			out = append(out, o...)
			piece, in = piece[n:], in[n:]
			if d || e != nil {
				return out, in, d, e
			}
		}
	}
	return out, nil, false, nil
}

// refused, in a table, is what ErrBareNewline stands for.
const refused = "ErrBareNewline"

func TestEndOfDataIsCRLFDotCRLFAndNothingElse(t *testing.T) {
	for _, tc := range []struct {
		name, in                 string
		normalize, pass, left    string
		open, refusedUnderReject bool
	}{
		{name: "empty message", in: ".\r\n", normalize: ".\r\n", pass: ".\r\n"},
		{name: "one line", in: "a\r\n.\r\nQUIT", normalize: "a\r\n.\r\n", pass: "a\r\n.\r\n", left: "QUIT"},
		{name: "stuffed dots stay stuffed", in: "..\r\n...a\r\n.\r\n", normalize: "..\r\n...a\r\n.\r\n", pass: "..\r\n...a\r\n.\r\n"},
		{name: "LF . LF", in: "a\n.\nb\r\n.\r\n", normalize: "a\r\n..\r\nb\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "LF . CRLF", in: "a\n.\r\nb\r\n.\r\n", normalize: "a\r\n..\r\nb\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "CRLF . LF", in: "a\r\n.\nb\r\n.\r\n", normalize: "a\r\n..\r\nb\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "CR . CR", in: "a\r.\rb\r\n.\r\n", normalize: "a\r\n..\r\nb\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "CR . CRLF", in: "a\r.\r\nb\r\n.\r\n", normalize: "a\r\n..\r\nb\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "CRLF . CR", in: "a\r\n.\rb\r\n.\r\n", normalize: "a\r\n..\r\nb\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "CRLF . CR CRLF", in: "a\r\n.\r\r\nb\r\n.\r\n", normalize: "a\r\n..\r\nb\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "CR CRLF is one end of line", in: "a\r\r\nb\r\r\n.\r\n", normalize: "a\r\nb\r\n.\r\n", pass: "a\r\r\nb\r\r\n.\r\n", refusedUnderReject: true},
		{name: "end right behind a stuffed dot", in: "\n.\r\n.\r\n", normalize: "\r\n..\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "a line that begins with a dot behind LF", in: "a\n.b\r\n.\r\n", normalize: "a\r\n.b\r\n.\r\n", pass: "a\n.b\r\n.\r\n", refusedUnderReject: true},
		{name: "NUL is content", in: "\x00\r\na.\x00\r\n\x00.\r\n.\r\n", normalize: "\x00\r\na.\x00\r\n\x00.\r\n.\r\n", pass: "\x00\r\na.\x00\r\n\x00.\r\n.\r\n"},
		{name: "but a dot with NUL behind it stands alone in C", in: "a\r\n.\x00b\r\n.\r\n", normalize: "a\r\n..\x00b\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "so does one behind LF", in: "a\n.\x00\r\n.\r\n", normalize: "a\r\n..\x00\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "and one that begins the message", in: ".\x00\r\n.\r\n", normalize: "..\x00\r\n.\r\n", pass: refused, refusedUnderReject: true},
		{name: "what could be the end is held back", in: "a\r\n.\r", normalize: "a\r\n", pass: "a\r\n", open: true},
		{name: "a last line without its end", in: "a\r\n.b", normalize: "a\r\n.b", pass: "a\r\n.b", open: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for size := 1; size <= len(tc.in); size++ {
				for bare, want := range map[BareNewline]string{Normalize: tc.normalize, PassBare: tc.pass} {
					out, rest, done, err := feed(t, bare, []byte(tc.in), size)
					if want == refused {
						if done || !errors.Is(err, ErrBareNewline) {
							t.Errorf("mode %d, pieces of %d: %q passes, done %v, %v", bare, size, out, done, err)
						}
						continue
					}
					if string(out) != want || string(rest) != tc.left || done == tc.open || err != nil {
						t.Errorf("mode %d, pieces of %d: got %q, left %q, done %v, %v; want %q", bare, size, out, rest, done, err, want)
					}
				}
				_, _, done, err := feed(t, RejectBare, []byte(tc.in), size)
				if tc.refusedUnderReject != errors.Is(err, ErrBareNewline) || (err != nil && done) {
					t.Errorf("reject, pieces of %d: done %v, %v", size, done, err)
				}
			}
		})
	}
}

// lax reads content as the most lenient server would: it takes any CR or LF for
// the end of a line, and a NUL for the end of what it looks at. It returns how many
// octets it took for the message.
func lax(content []byte) int {
	at, start := 0, true
	for at < len(content) {
		if start && content[at] == '.' && at+1 < len(content) && (content[at+1] == '\r' || content[at+1] == '\n' || content[at+1] == 0) {
			at += 2
			if content[at-1] == '\r' && at < len(content) && content[at] == '\n' {
				at++
			}
			return at
		}
		start = content[at] == '\r' || content[at] == '\n'
		at++
	}
	return -1
}

func TestNormalizedContentHasOneEndForEveryServer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := []byte(rapid.StringOf(rapid.SampledFrom([]rune{'\r', '\n', '.', 'a', 0})).Draw(t, "in") + "\r\n.\r\n")
		size := rapid.IntRange(1, len(in)).Draw(t, "size")
		checkNormalized(t, in, size)
	})
}

func checkNormalized(t interface{ Fatalf(string, ...any) }, in []byte, size int) {
	out, rest, done, err := feed(t, Normalize, in, size)
	if err != nil {
		t.Fatalf("%q: %v", in, err)
	}
	if len(out) > 2*len(in)+2 {
		t.Fatalf("%q grew to %d octets", in, len(out))
	}
	// Where the message ends is decided by what came in, read strictly.
	end := bytes.Index(append([]byte("\r\n"), in...), []byte("\r\n.\r\n"))
	if done != (end >= 0) {
		t.Fatalf("%q: done %v, strict end at %d", in, done, end)
	}
	if !done {
		return
	}
	if taken := len(in) - len(rest); taken != end+3 {
		t.Fatalf("%q: took %d octets, strictly %d", in, taken, end+3)
	}
	if n := lax(out); n != len(out) {
		t.Fatalf("%q became %q, of which a lenient server takes %d octets for the message", in, out, n)
	}
	whole, _, _, _ := feed(t, Normalize, in, len(in))
	if !bytes.Equal(whole, out) {
		t.Fatalf("%q in pieces of %d gives %q, whole %q", in, size, out, whole)
	}
	if clean := bytes.ReplaceAll(in[:end+3], []byte("\r\n"), nil); !bytes.ContainsAny(clean, "\r\n\x00") && !bytes.Equal(out, in[:end+3]) {
		t.Fatalf("clean content %q was changed to %q", in[:end+3], out)
	}
}

// checkUnchanged holds the modes that change nothing to that, and to having one
// end of message for every server.
func checkUnchanged(t interface{ Fatalf(string, ...any) }, in []byte, size int) {
	for _, bare := range []BareNewline{RejectBare, PassBare} {
		out, rest, done, err := feed(t, bare, in, size)
		if err != nil && (done || !errors.Is(err, ErrBareNewline)) {
			t.Fatalf("mode %d, %q: done %v, %v", bare, in, done, err)
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("mode %d changed %q to %q", bare, in, out)
		}
		if end := lax(out); end >= 0 && (!done || end != len(out)) {
			t.Fatalf("mode %d, %q: a lenient server takes %d of %d octets for the message", bare, in, end, len(out))
		}
		if done && len(out) != len(in)-len(rest) {
			t.Fatalf("mode %d, %q: %d octets became %d", bare, in, len(in)-len(rest), len(out))
		}
	}
}

func TestPassedContentHasOneEndForEveryServer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := []byte(rapid.StringOf(rapid.SampledFrom([]rune{'\r', '\n', '.', 'a', 0})).Draw(t, "in") + "\r\n.\r\n")
		checkUnchanged(t, in, rapid.IntRange(1, len(in)).Draw(t, "size"))
	})
}

// Long content of lines that are mostly of one length, as attachments are, with
// what must not be overlooked strewn in.
func TestWhatStandsInLongContentIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := strings.Repeat("x", rapid.IntRange(0, 80).Draw(t, "length")) + "\r\n"
		odd := rapid.SliceOfN(rapid.SampledFrom([]string{"\n", "\r", ".\r\n", "..\r\n", "\r\n", "a\nb\r\n", "a\rb\r\n", ".\n", "x\r\n.\r\n", "\n\r\n", "y"}), 0, 6).Draw(t, "odd")
		var in strings.Builder
		for _, o := range odd {
			in.WriteString(strings.Repeat(line, rapid.IntRange(0, 150).Draw(t, "lines")))
			if at := rapid.IntRange(-1, len(line)-3).Draw(t, "within"); at >= 0 { // a line of the same length
				in.WriteString(line[:at] + rapid.SampledFrom([]string{"\n", "\r", "."}).Draw(t, "what") + line[at+1:])
			}
			in.WriteString(o)
		}
		in.WriteString(strings.Repeat(line, rapid.IntRange(0, 150).Draw(t, "last")) + "\r\n.\r\n")
		size := rapid.SampledFrom([]int{512, 4096, 16384, 65536}).Draw(t, "size")
		checkNormalized(t, []byte(in.String()), size)
		checkUnchanged(t, []byte(in.String()), size)
	})
}

func FuzzContent(f *testing.F) {
	f.Add([]byte("a\r\n.\r\n"), uint8(1))
	f.Add([]byte("\n.\n\r\n.\r\n"), uint8(3))
	f.Add([]byte("a\r.\r\r\n.\r\n"), uint8(2))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		if len(in) > 1<<16 {
			return
		}
		checkNormalized(t, in, int(size)+1)
		checkUnchanged(t, in, int(size)+1)
	})
}

func BenchmarkContent(b *testing.B) {
	line := []byte("All work and no play makes a line of some seventy octets, as mail has them.\r\n")
	for name, p := range map[string][]byte{
		"text":     bytes.Repeat(line, FlowBuffer/len(line)),
		"long":     bytes.Repeat(append(bytes.Repeat([]byte("x"), 998), "\r\n"...), FlowBuffer/1000),
		"newlines": bytes.Repeat([]byte("\r\n"), FlowBuffer/2),
		"CRs":      bytes.Repeat([]byte("x\r"), FlowBuffer/2),
		"one CR":   bytes.Repeat([]byte("ab\rcd\r\n"), FlowBuffer/7),
		"bare":     bytes.Repeat([]byte("a line that ends with LF alone\n"), FlowBuffer/31),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				var c Content
				for rest := p; len(rest) > 0; {
					_, n, _, _ := c.Next(rest)
					rest = rest[n:]
				}
			}
		})
	}
}
