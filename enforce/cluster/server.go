package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

const (
	patience     = 2 * time.Second // for a connection, and for an answer
	mostPassword = 4096            // octets of a password's file
	mostText     = 256             // octets quoted of a server
)

// A server is a client of one.
type server struct {
	address Address
	client  *redis.Client
	budget  atomic.Int64
	dials   atomic.Int64 // connections that were made
}

// silent is a logger of the library's that says nothing: a Link reports.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

func newServer(a Address) *server {
	redis.SetLogger(silent{})
	s := &server{address: a}
	s.client = redis.NewClient(&redis.Options{
		Network: a.network, Addr: a.place, DB: a.database,
		Dialer: s.dial,
		CredentialsProviderContext: func(context.Context) (string, string, error) {
			password, err := a.secret()
			return a.user, password, err
		},
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		// One connection, which is asked one thing after the other; a Link tries again
		// itself, from the beginning.
		PoolSize: 1, MaxRetries: -1, DialerRetries: 1,
		DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience, PoolTimeout: patience,
		ContextTimeoutEnabled: true,
	})
	return s
}

// dial gives a connection that fails where there is none: of an error the library
// would try by itself, once a second, in a goroutine that outlives its client.
func (s *server) dial(ctx context.Context, network, place string) (net.Conn, error) {
	s.dials.Add(1)
	conn, err := s.connect(ctx, network, place)
	if err != nil {
		return unconnected{err}, nil
	}
	return &bounded{Conn: conn, budget: &s.budget}, nil
}

// An unconnected says why it is none.
type unconnected struct{ err error }

func (u unconnected) Read([]byte) (int, error)         { return 0, u.err }
func (u unconnected) Write([]byte) (int, error)        { return 0, u.err }
func (u unconnected) Close() error                     { return nil }
func (u unconnected) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (u unconnected) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (u unconnected) SetDeadline(time.Time) error      { return nil }
func (u unconnected) SetReadDeadline(time.Time) error  { return nil }
func (u unconnected) SetWriteDeadline(time.Time) error { return nil }

func (s *server) connect(ctx context.Context, network, place string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, network, place)
	if err != nil {
		return nil, err
	}
	if s.address.tls {
		roots, err := s.address.roots()
		if err != nil {
			conn.Close()
			return nil, err
		}
		host, _, _ := net.SplitHostPort(place)
		secure := tls.Client(conn, &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host, RootCAs: roots})
		if err := secure.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return secure, nil
	}
	return conn, nil
}

func (a Address) roots() (*x509.CertPool, error) {
	if a.ca == "" {
		return nil, nil
	}
	text, err := os.ReadFile(a.ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate, PEM", a.ca)
	}
	return pool, nil
}

// secret is the password. Its file is read for each connection, so that it can be
// changed; a line's end at its end does not count.
func (a Address) secret() (string, error) {
	if a.passwordFile == "" {
		return a.password, nil
	}
	f, err := os.Open(a.passwordFile)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostPassword+1))
	password := strings.TrimRight(string(text), "\r\n")
	switch {
	case err != nil:
		return "", err
	case password == "" || len(text) > mostPassword:
		return "", fmt.Errorf("%s has no password of at most %d octets", a.passwordFile, mostPassword)
	}
	return password, nil
}

// ask lets as much come in as one round trip may bring, and sends what do gives it.
func (s *server) ask(ctx context.Context, do func(redis.Pipeliner)) ([]redis.Cmder, error) {
	s.budget.Store(mostReplies)
	p := s.client.Pipeline()
	do(p)
	all, err := p.Exec(ctx)
	if firstWord(err) == "" {
		return all, err
	}
	// The server's word. That of one command concerns whoever reads its answer; without
	// such a command it is that nobody comes in.
	its := false
	for _, one := range all {
		if e := one.Err(); e != nil {
			if its = true; firstWord(e) == "" {
				return all, e
			}
		}
	}
	if its {
		return all, nil
	}
	return all, err
}

// refused is what a server said instead of an answer, but for "there is none".
func refused(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// says reports whether err is the server's own word, beginning with one of these.
func says(err error, words ...string) bool {
	return slices.Contains(words, firstWord(err))
}

// firstWord is that of what the server said, "" where it said nothing.
func firstWord(err error) string {
	refusal := redis.Error(nil)
	if !errors.As(err, &refusal) {
		return ""
	}
	word, _, _ := strings.Cut(refusal.Error(), " ")
	return word
}

// told is err for a log: what a server said is cut and printable.
func told(err error) error {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, err.Error())
	return errors.New(text[:min(len(text), mostText)])
}
