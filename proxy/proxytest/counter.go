package proxytest

import (
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// AtAcceptance is a stage of a [Counter] alone: the message has been taken, and
// the reply that says so is never sent.
const AtAcceptance Stage = "acceptance"

// A Whim is where a [Counter] hangs up on a connection. The zero value is never.
// It knows the stages AtBanner (in place of the banner), AtHello (upon EHLO),
// InContent, AtEndOfData (the message is not taken) and AtAcceptance.
type Whim struct {
	At    Stage
	Reset bool // by a TCP reset
}

// An Arrival is a message that a [Counter] took.
type Arrival struct {
	ID      string // behind Mark; "" where there was none
	SHA256  [32]byte
	Size    int64 // of all content
	Chunked bool  // by BDAT
	TLS     bool
	Unsaid  bool // its 250 was not sent: a Whim, or the connection was gone
}

// Mark begins the line that tells a [Counter] which message it is. What stands
// above the line, as relays put it there, does not go into the digest.
const Mark = "X-Proxytest-Message: "

// CounterConfig is what a [Counter] is like.
type CounterConfig struct {
	Name    string
	TLS     *tls.Config
	Timeout time.Duration // of each read and write; 0: 5 minutes

	// Whim is asked for each connection; nil: none has any. Arrived is given each
	// message when its fate is known. Both are called from several goroutines.
	Whim    func() Whim
	Arrived func(Arrival)
}

// A Counter is an SMTP server for very many messages, or very many connections:
// unlike a [Server] it keeps nothing of them, and little is needed for each. It
// knows the commands that senders of mail use, and does not check what they
// offer or are offered.
type Counter struct {
	listener net.Listener
	config   CounterConfig
	running  sync.WaitGroup
	closing  chan struct{}

	connections atomic.Int64

	mu      sync.Mutex
	open    map[net.Conn]struct{}
	hangups map[Stage]int
}

// Count starts a counter on a listener, which it then owns.
func Count(ln net.Listener, config CounterConfig) *Counter {
	if config.Timeout == 0 {
		config.Timeout = defaultTimeout
	}
	if config.Whim == nil {
		config.Whim = func() Whim { return Whim{} }
	}
	c := &Counter{listener: ln, config: config, closing: make(chan struct{}),
		open: map[net.Conn]struct{}{}, hangups: map[Stage]int{}}
	c.running.Go(c.accept)
	return c
}

// Connections is how many there have been.
func (c *Counter) Connections() int64 { return c.connections.Load() }

// Hangups is how many of these ended by a Whim, and where.
func (c *Counter) Hangups() map[Stage]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.hangups)
}

// Open is how many connections there are.
func (c *Counter) Open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open)
}

// Close closes the listener and all connections, and returns when nothing of the
// counter runs any more.
func (c *Counter) Close() error {
	close(c.closing)
	err := c.listener.Close()
	c.mu.Lock()
	for conn := range c.open {
		_ = conn.Close()
	}
	c.mu.Unlock()
	c.running.Wait()
	return err
}

func (c *Counter) accept() {
	for {
		conn, err := c.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			select {
			case <-c.closing:
				return
			case <-time.After(10 * time.Millisecond):
				continue
			}
		}
		c.connections.Add(1)
		c.enter(conn)
	}
}

// enter begins a visit, unless the counter is closing.
func (c *Counter) enter(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.closing:
		_ = conn.Close()
		return
	default:
	}
	c.open[conn] = struct{}{}
	c.running.Go(func() {
		v := &visit{counter: c, whim: c.config.Whim(), raw: conn}
		v.run()
		_ = conn.Close()
		c.mu.Lock()
		delete(c.open, conn)
		c.mu.Unlock()
	})
}
