package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/redis/go-redis/v9"
)

type fed struct {
	net.Conn
	io.Reader
}

func (f fed) Read(p []byte) (int, error) { return f.Reader.Read(p) }

func through(r io.Reader, budget int64) ([]byte, error) {
	c := &bounded{Conn: fed{Reader: r}, budget: new(atomic.Int64)}
	c.budget.Store(budget)
	return io.ReadAll(c)
}

func TestNoMoreIsBelievedThanMayBeSaid(t *testing.T) {
	deep := strings.Repeat("*1\r\n", mostDepth)
	for text, ok := range map[string]bool{
		"+OK\r\n-ERR x\r\n:7\r\n$-1\r\n*-1\r\n$0\r\n\r\n":                 true,
		"*2\r\n$3\r\n0-1\r\n*2\r\n$1\r\nk\r\n$3\r\n\r\n$\r\n+OK\r\n":      true, // what stands in a string announces nothing
		deep + ":1\r\n" + deep + ":1\r\n":                                 true,
		deep + "*1\r\n":                                                   false,
		fmt.Sprintf("$%d\r\n", mostBulk):                                  true,
		fmt.Sprintf("$%d\r\n", mostBulk+1):                                false,
		"$99999999999999999999\r\n":                                       false,
		"$0000000000000000000000000000000000000000000000000000000009\r\n": false,
		"$-2\r\n":                              false,
		"$x\r\n":                               false,
		fmt.Sprintf("*%d\r\n", mostElements+1): false,
		"%1\r\n":                               false,
		"HTTP/1.1 400 Bad Request\r\n":         false,
		"\r\n":                                 false,
		"-" + strings.Repeat("x", mostLine):    false,
	} {
		for how, r := range map[string]io.Reader{"at once": strings.NewReader(text), "octet by octet": iotest.OneByteReader(strings.NewReader(text))} {
			got, err := through(r, 1<<20)
			if ok != (err == nil) || ok && string(got) != text || !ok && !errors.Is(err, errBound) {
				t.Errorf("%.40q, %s: %v, %d octets", text, how, err, len(got))
			}
		}
	}
	if _, err := through(strings.NewReader("$9\r\n123456789\r\n"), 14); !errors.Is(err, errBound) {
		t.Errorf("more than there is to spend: %v", err)
	}
}

// Whatever a server says, it is an answer or an error, and takes no more room than
// it may.
func FuzzReplies(f *testing.F) {
	f.Add([]byte("*1\r\n$1\r\nx\r\n+OK\r\n$-1\r\n*1\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nk\r\n$1\r\nv\r\n*0\r\n*0\r\n"))
	f.Add([]byte("-NOAUTH x\r\n"))
	f.Add([]byte("*2\r\n$1\r\n0\r\n*1\r\n$9\r\npostern:1\r\n"))
	f.Fuzz(func(t *testing.T, said []byte) {
		s := newServer(Address{network: "tcp", place: "192.0.2.1:1"})
		s.client.Close()
		s.client = redis.NewClient(&redis.Options{Protocol: 2, MaxRetries: -1, DialerRetries: 1, DisableIdentity: true, PoolSize: 1,
			Dialer: func(context.Context, string, string) (net.Conn, error) {
				ours, its := net.Pipe()
				go func() {
					go io.Copy(io.Discard, its)
					io.Copy(its, bytes.NewReader(said))
					its.Close()
				}()
				return &bounded{Conn: ours, budget: &s.budget}, nil
			}})
		defer s.client.Close()
		l := &Link{server: s, report: func(error) {}}
		_, _ = l.read(t.Context(), l.began)
		l.whole = true
		_, _ = l.read(t.Context(), l.began)
	})
}
