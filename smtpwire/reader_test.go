package smtpwire

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// pieces reads src a few octets at a time.
type pieces struct {
	src  io.Reader
	size int
}

func (p pieces) Read(b []byte) (int, error) { return p.src.Read(b[:min(len(b), p.size)]) }

func TestALineEndsWithCRLFAndNothingElse(t *testing.T) {
	const limit = 16
	for _, tc := range []struct {
		in    string
		lines []string // "!" stands for an error
		err   error
	}{
		{"NOOP\r\nQUIT\r\n", []string{"NOOP", "QUIT"}, io.EOF},
		{"\r\n", []string{""}, io.EOF},
		{"NOOP\nQUIT\r\n", []string{"!", "QUIT"}, ErrBareNewline},
		{"NO\rOP\r\n", []string{"!"}, ErrBareNewline},
		{"NOOP\r\r\n", []string{"!"}, ErrBareNewline},
		{"\n", []string{"!"}, ErrBareNewline},
		{strings.Repeat("x", 14) + "\r\nNOOP\r\n", []string{strings.Repeat("x", 14), "NOOP"}, io.EOF},
		{strings.Repeat("x", 15) + "\r\nNOOP\r\n", []string{"!", "NOOP"}, ErrLineTooLong},
		{strings.Repeat("x", 5000) + "\r\nNOOP\r\n", []string{"!", "NOOP"}, ErrLineTooLong},
		{strings.Repeat("x", limit+swallowLimit+lineBuffer), []string{"!"}, ErrLineEndless},
		{"NOO", []string{"!"}, io.ErrUnexpectedEOF},
		{strings.Repeat("x", 100), []string{"!"}, io.ErrUnexpectedEOF},
	} {
		for _, size := range []int{1, 2, 3, 7, 4096} {
			r := NewReader(pieces{strings.NewReader(tc.in), size})
			var first error
			for _, want := range tc.lines {
				line, err := r.ReadLine(limit)
				if err != nil {
					if first == nil {
						first = err
					}
					line = []byte("!")
				}
				if string(line) != want {
					t.Errorf("%.40q in pieces of %d: got %q (%v), want %q", tc.in, size, line, err, want)
				}
			}
			if first == nil {
				_, first = r.ReadLine(limit)
			}
			if !errors.Is(first, tc.err) {
				t.Errorf("%.40q in pieces of %d: %v, want %v", tc.in, size, first, tc.err)
			}
		}
	}
}

func TestAnInterruptedReadLosesNothing(t *testing.T) {
	r := NewReader(iotest.TimeoutReader(pieces{strings.NewReader("250-one\r\n250 two\r\nrest"), 5}))
	var reply Reply
	var err error
	for range 3 {
		if reply, err = r.ReadReply(10); err == nil {
			break
		}
	}
	if err != nil || string(reply.Raw) != "250-one\r\n250 two\r\n" {
		t.Fatalf("%q, %v", reply.Raw, err)
	}
}

func TestAReplyHasOneCodeAndBounds(t *testing.T) {
	for _, tc := range []struct {
		in, raw string
		code    int
		err     error
	}{
		{"220 mx ready\r\n", "220 mx ready\r\n", 220, nil},
		{"250\r\n", "250\r\n", 250, nil},
		{"250-\r\n250 \r\n", "250-\r\n250 \r\n", 250, nil},
		{"250-a\r\n250-b\r\n250 c\r\n", "250-a\r\n250-b\r\n250 c\r\n", 250, nil},
		{"250-a\r\n251 b\r\n", "", 0, ErrReplySyntax},
		{"250_a\r\n", "", 0, ErrReplySyntax},
		{"150 a\r\n", "", 0, ErrReplySyntax},
		{"650 a\r\n", "", 0, ErrReplySyntax},
		{"25\r\n", "", 0, ErrReplySyntax},
		{"\r\n", "", 0, ErrReplySyntax},
		{"hello\r\n", "", 0, ErrReplySyntax},
		{"250 a\x00b\r\n", "", 0, ErrReplySyntax},
		{"250 a\n", "", 0, ErrBareNewline},
		{strings.Repeat("250-a\r\n", 5), "", 0, ErrReplyTooLong},
		{"250 " + strings.Repeat("a", MaxReplyLine) + "\r\n", "", 0, ErrLineTooLong},
		{"250-a\r\n", "", 0, io.EOF},
	} {
		r := NewReader(strings.NewReader(tc.in))
		reply, err := r.ReadReply(4)
		if string(reply.Raw) != tc.raw || reply.Code != tc.code || !errors.Is(err, tc.err) {
			t.Errorf("%.40q: %d %q, %v", tc.in, reply.Code, reply.Raw, err)
		}
	}
}

func TestTheLinesOfAReplyAreItsTexts(t *testing.T) {
	reply := Reply{Code: 250, Raw: []byte("250-one two\r\n250-\r\n250\r\n")}
	var got []string
	reply.Lines(func(text []byte) bool { got = append(got, string(text)); return true })
	if strings.Join(got, "|") != "one two||" || string(reply.Text()) != "one two" {
		t.Errorf("%q", got)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("EHLO a\r\n250-x\r\n250 y\r\n"), uint8(3))
	f.Add(bytes.Repeat([]byte("x"), 3000), uint8(200))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		const limit = 100
		r := NewReader(pieces{bytes.NewReader(in), int(size) + 1})
		taken := 0
		for calls := 0; ; calls++ {
			if calls > len(in)+4 {
				t.Fatal("no progress")
			}
			line, err := r.ReadLine(limit)
			if len(r.buf) > lineBuffer {
				t.Fatalf("a buffer of %d octets for lines of %d", len(r.buf), limit)
			}
			switch {
			case err == nil:
				if len(line)+2 > limit || bytes.ContainsAny(line, "\r\n") {
					t.Fatalf("line %q", line)
				}
				taken += len(line) + 2
			case errors.Is(err, ErrBareNewline), errors.Is(err, ErrLineTooLong):
			default:
				if taken > len(in) {
					t.Fatalf("%d octets of lines out of %d", taken, len(in))
				}
				return
			}
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("250-mx\r\n250-SIZE 10\r\n250 STARTTLS\r\n"))
	f.Add([]byte("220 mx\r\n354 go\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := NewReader(bytes.NewReader(in))
		for {
			reply, err := r.ReadReply(8)
			if err != nil {
				return
			}
			if reply.Code < 200 || reply.Code > 599 || len(reply.Raw) > 8*MaxReplyLine {
				t.Fatalf("%d, %d octets", reply.Code, len(reply.Raw))
			}
			if len(r.buf) > 2*MaxReplyLine || cap(r.reply.Raw) > lineBuffer {
				t.Fatalf("a buffer of %d octets, and %d kept of a reply", len(r.buf), cap(r.reply.Raw))
			}
			lines := 0
			reply.Lines(func(text []byte) bool { lines++; return !bytes.ContainsAny(text, "\r\n\x00") })
			if lines == 0 || lines > 8 || lines != bytes.Count(reply.Raw, []byte("\r\n")) {
				t.Fatalf("%d lines in %q", lines, reply.Raw)
			}
		}
	})
}

// What is offered on is what was offered, less what is taken out, and no more
// octets of it.
func FuzzCapabilities(f *testing.F) {
	f.Add([]byte("250-mx\r\n250-SIZE 10\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n"))
	f.Add([]byte("250-mx\r\n250-\r\n250- \r\n250 size=1\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		const most = 64
		reply, err := NewReader(bytes.NewReader(in)).ReadReply(most)
		if err != nil {
			return
		}
		caps := ParseCapabilities(reply).Filter(Framed)
		if len(caps.List) >= most || cap(caps.List) > most {
			t.Fatalf("%d capabilities", len(caps.List))
		}
		said := caps.AppendReply(nil)
		if len(said) > len(reply.Raw)+len("250 \r\n") {
			t.Fatalf("%q grew to %q", reply.Raw, said)
		}
		again, err := NewReader(bytes.NewReader(said)).ReadReply(most)
		if err != nil || again.Code != 250 {
			t.Fatalf("%q became %q: %v", reply.Raw, said, err)
		}
		if second := ParseCapabilities(again); !slices.Equal(second.List, caps.List) {
			t.Fatalf("%q became %q", reply.Raw, said)
		}
		for _, c := range caps.List {
			if !Framed(c.Keyword) || c.Keyword == "STARTTLS" || !bytes.Contains(bytes.ToUpper(reply.Raw), []byte(c.Keyword)) {
				t.Fatalf("%q offers %q", reply.Raw, c.Keyword)
			}
		}
	})
}
