package proxytest

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"net"
	"strings"
	"testing"
	"time"
)

// counted starts a counter with a certificate and returns what arrives at it.
func counted(t *testing.T, whim Whim) (*Counter, <-chan Arrival, *tls.Config) {
	t.Helper()
	pki, err := NewPKI("counter")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pki.Issue(Leaf{Names: []string{"mx.test"}})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	arrived := make(chan Arrival, 8)
	c := Count(listener, CounterConfig{
		Name: "mx.test", TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Timeout: time.Minute,
		Whim: func() Whim { return whim }, Arrived: func(a Arrival) { arrived <- a },
	})
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, arrived, &tls.Config{RootCAs: pki.Pool(), ServerName: "mx.test"}
}

// deliverTo sends mails in one session.
func deliverTo(t *testing.T, c *Counter, d Delivery) Report {
	t.Helper()
	conn, err := net.Dial("tcp", c.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d.Timeout = time.Minute
	return Deliver(conn, d)
}

func TestACounterKnowsAMessageByItsMarkAndDigestHoweverItComes(t *testing.T) {
	const below = Mark + "one\r\n\r\n.\r\n..\r\nx\r\n"
	content := []byte("Received: by somebody\r\n\twith care\r\n" + below + strings.Repeat("line\r\n", 10000))
	want := sha256.Sum256(content[bytes.Index(content, []byte(Mark)):])
	mails := []Mail{
		{From: "a@x.test", To: []string{"b@y.test"}, Content: content},
		{From: "a@x.test", To: []string{"b@y.test"}, Content: content, Chunk: 13, Pipelined: true},
	}
	for _, starttls := range []STARTTLS{NeverTLS, AlwaysTLS} {
		c, arrived, config := counted(t, Whim{})
		d := Delivery{STARTTLS: starttls, TLS: config, Mails: mails}
		if r := deliverTo(t, c, d); !r.Accepted(d) {
			t.Fatal(r.Err, r.Transcript)
		}
		for i := range mails {
			got := <-arrived
			expected := Arrival{ID: "one", SHA256: want, Size: int64(len(content)), Chunked: i == 1, TLS: starttls == AlwaysTLS}
			if got != expected {
				t.Errorf("%+v, want %+v", got, expected)
			}
		}
		if c.Connections() != 1 || len(c.Hangups()) > 0 {
			t.Errorf("%d connections, hangups %v", c.Connections(), c.Hangups())
		}
	}
}

func TestACounterHangsUpWhereItHasTheWhimTo(t *testing.T) {
	for _, stage := range []Stage{AtBanner, AtHello, InContent, AtEndOfData, AtAcceptance} {
		for _, chunk := range []int{0, 100} {
			c, arrived, _ := counted(t, Whim{At: stage, Reset: chunk > 0 && stage != AtBanner})
			mail := Mail{From: "a@x.test", To: []string{"b@y.test"}, Content: []byte(Mark + "one\r\n\r\nhello\r\n"), Chunk: chunk}
			d := Delivery{Mails: []Mail{mail}}
			if r := deliverTo(t, c, d); r.Err == nil || r.Accepted(d) {
				t.Errorf("%s: accepted", stage)
			}
			if stage == AtAcceptance {
				if a := <-arrived; !a.Unsaid || a.ID != "one" {
					t.Errorf("%+v", a)
				}
			}
			if c.Hangups()[stage] != 1 || len(arrived) > 0 {
				t.Errorf("%s: hangups %v, %d arrivals", stage, c.Hangups(), len(arrived))
			}
		}
	}
}
