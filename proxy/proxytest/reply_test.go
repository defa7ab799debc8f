package proxytest

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

func reply(text string) (Reply, error) {
	return readReply(bufio.NewReader(strings.NewReader(text)), func(string) {})
}

func TestARepliesLinesAreReadStrictly(t *testing.T) {
	for text, want := range map[string]string{
		"220 hi\r\n":                   "220 hi",
		"250\r\n":                      "250 ",
		"250-a\r\n250-b\r\n250 c\r\n":  "250-a\n250-b\n250 c",
		"250-\r\n250 \r\n":             "250-\n250 ",
		"421 4.7.5 no\r\n250 unread\r": "421 4.7.5 no",
	} {
		if got, err := reply(text); err != nil || got.String() != want {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"220 hi\n", "220-a\r\n250 b\r\n", "22\r\n", "2x0 a\r\n", "199 a\r\n", "600 a\r\n", "220_a\r\n", "220 a\rb\r\n",
		"220 a\x00\r\n", "220 " + strings.Repeat("a", maxReplyLine) + "\r\n", strings.Repeat("250-a\r\n", maxReplyLines+1),
		"220 h", "hello\r\n",
	} {
		if got, err := reply(text); !errors.Is(err, ErrReply) {
			t.Errorf("%.40q: %q, %v", text, got, err)
		}
	}
	if _, err := reply(""); !errors.Is(err, io.EOF) || errors.Is(err, ErrReply) {
		t.Errorf("nothing at all: %v", err)
	}
}

func FuzzReply(f *testing.F) {
	f.Add("250-a\r\n250 b\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		got, err := reply(text)
		if err != nil {
			return
		}
		again, err := reply(strings.ReplaceAll(got.String(), "\n", "\r\n") + "\r\n")
		if err != nil || again.String() != got.String() {
			t.Fatalf("%q: %q, again %q, %v", text, got, again, err)
		}
	})
}
