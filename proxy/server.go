package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"postern/proxy/internal/intercept"
	"postern/proxy/internal/parking"
	"postern/proxy/internal/session"
)

// A Server takes intercepted connections and holds a session for each. Make one
// with NewServer, give it listeners with Listen or Adopt, run it with Serve,
// change what it goes by with Reload and end it with Shutdown.
type Server struct {
	gate    *intercept.Gate
	started Config // what a reload cannot change
	current atomic.Pointer[snapshot]

	listeners []*listener

	stopping chan struct{} // closed by Shutdown
	stop     sync.Once

	known *knowledge // over all reloads
	lot   parking.Lot

	mu       sync.Mutex
	sessions map[*session.Session]netip.Addr
	sources  map[netip.Addr]int // sessions by client, IPv6 by /64
	running  sync.WaitGroup     // sessions
}

// A listener is a listening socket and the loops that accept from it.
type listener struct {
	*net.TCPListener
	rounds []atomic.Int64 // when each loop last came round, ns
}

func (s *Server) add(l *net.TCPListener) {
	one := &listener{TCPListener: l, rounds: make([]atomic.Int64, max(1, runtime.GOMAXPROCS(0)/processorsPerLoop))}
	for loop := range one.rounds {
		one.beat(loop)
	}
	s.listeners = append(s.listeners, one)
}

func (l *listener) beat(loop int) { l.rounds[loop].Store(time.Now().UnixNano()) }

// NewServer makes a server that goes by config. The error joins everything that
// is wrong with the files that config names, each with the methods ConfigKey and
// Problem; nothing has been opened then.
func NewServer(config Config, log *zap.Logger) (*Server, error) {
	snap, err := newSnapshot(config, log, 1)
	if err != nil {
		return nil, err
	}
	gate, err := intercept.NewGate(intercept.Options{
		Method:         intercept.Method(config.Intercept.Method),
		PreserveSource: config.Intercept.PreserveSource,
	})
	if err != nil {
		return nil, err
	}
	s := &Server{
		gate:     gate,
		started:  config,
		stopping: make(chan struct{}),
		sessions: make(map[*session.Session]netip.Addr),
		sources:  make(map[netip.Addr]int),
	}
	if s.known, err = newKnowledge(config, log); err != nil {
		return nil, err
	}
	s.equip(snap)
	s.current.Store(snap)
	return s, nil
}

// CheckPrivileges says what this process lacks to intercept as config asks.
func CheckPrivileges(config Config) error {
	return errors.Join(
		intercept.Check(intercept.Method(config.Intercept.Method), config.Intercept.PreserveSource),
		plan(config).CheckUser(),
	)
}

// Listen opens the listening sockets of the configuration.
func (s *Server) Listen(ctx context.Context) error {
	for _, address := range s.started.Listen.Addresses {
		l, err := s.gate.Listen(ctx, address)
		if err != nil {
			return errors.Join(fmt.Errorf("listen %s: %w", address, err), s.closeListeners())
		}
		s.add(l)
	}
	return nil
}

// Adopt takes listening sockets that somebody else opened in place of those of
// the configuration.
func (s *Server) Adopt(listeners []*net.TCPListener) error {
	for _, l := range listeners {
		if err := s.gate.Adopt(l); err != nil {
			return err
		}
		s.add(l)
	}
	return nil
}

// Misplaced lists adopted sockets to which no connection will be sent: the kernel
// sends them to the addresses of the configuration.
func (s *Server) Misplaced() []netip.AddrPort {
	if s.started.Intercept.Method == string(intercept.None) {
		return nil
	}
	return slices.DeleteFunc(s.Addresses(), func(a netip.AddrPort) bool {
		return slices.Contains(s.started.Listen.Addresses, a)
	})
}

// Addresses are where the server listens.
func (s *Server) Addresses() []netip.AddrPort {
	var all []netip.AddrPort
	for _, l := range s.listeners {
		all = append(all, l.Addr().(*net.TCPAddr).AddrPort())
	}
	return all
}

// processorsPerLoop is how many processors one loop that accepts can keep busy with
// sessions: it takes about a thirtieth of what a whole session does.
const processorsPerLoop = 8

// Serve accepts connections until Shutdown, and returns nil then. Any other
// return is a listener that broke for good.
func (s *Server) Serve() error {
	if len(s.listeners) == 0 {
		return errors.New("no listening socket")
	}
	all := 0
	for _, l := range s.listeners {
		all += len(l.rounds)
	}
	broken := make(chan error, all)
	var loops sync.WaitGroup
	for _, l := range s.listeners {
		for loop := range l.rounds {
			loops.Go(func() { broken <- s.accept(l, loop) })
		}
	}
	loops.Go(s.remindOfExpired)
	background, end := context.WithCancel(context.Background())
	loops.Go(func() { s.known.run(background) })
	loops.Go(func() { <-s.stopping; end() })
	var err error
	for range all {
		if e := <-broken; e != nil && err == nil {
			err = e
			s.beginStop() // half a proxy is none: let the service manager start a whole one
		}
	}
	loops.Wait()
	return err
}

// Reload puts config in force for the sessions that begin from now on, or keeps
// what was and says why: whole or not at all. What the sockets depend on cannot
// be changed so.
func (s *Server) Reload(config Config, log *zap.Logger) error {
	old := s.current.Load()
	if err := errors.Join(s.sameSockets(config), s.known.canTake(s.started, config)); err != nil {
		return err
	}
	snap, err := newSnapshot(config, log, old.Generation+1)
	if err != nil {
		return err
	}
	s.known.take(old.config, config, log)
	s.equip(snap)
	s.current.Store(snap)
	return nil
}

// restAfter is when a session that nothing is said in rests. Few who are about to say
// something take longer. It must be later than beat: a deadline that is earlier than
// any other may have the runtime wake a thread for it, at every command. With 2 s in
// its place a session of many messages needed an eighth more processor time.
const restAfter = 2 * beat

// equip gives a snapshot what outlives it.
func (s *Server) equip(snap *snapshot) {
	s.known.equip(snap, snap.config)
	snap.Park, snap.RestAfter = s.lot.Park, restAfter
}

// Generation counts configurations put in force, from 1.
func (s *Server) Generation() uint64 { return s.current.Load().Generation }

func (s *Server) sameSockets(config Config) error {
	was, is := s.started, config
	switch {
	case was.Intercept.Method != is.Intercept.Method:
		return &KeyError{"intercept.method", "it cannot be changed by a reload: restart"}
	case was.Intercept.PreserveSource != is.Intercept.PreserveSource:
		return &KeyError{"intercept.preserve_source", "it cannot be changed by a reload: restart"}
	case fmt.Sprint(was.Listen.Addresses) != fmt.Sprint(is.Listen.Addresses):
		return &KeyError{"listen.addresses", "they cannot be changed by a reload: restart"}
	}
	return nil
}

// A KeyError is a fault of the configuration that came up in using it.
type KeyError struct{ Key, Msg string }

func (e *KeyError) Error() string { return e.Key + ": " + e.Msg }

// ConfigKey is where the fault is: "intercept.method".
func (e *KeyError) ConfigKey() string { return e.Key }

// Problem is what is wrong there.
func (e *KeyError) Problem() string { return e.Msg }

// Sessions is how many are running.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions)
}

// Shutdown ends the server in this order: its listeners close; sessions in
// dialogue are told 421; messages under way finish; after the configured drain
// time all sockets get an immediate deadline, but for sessions that wait for the
// reply to a whole message, which the sender might otherwise deliver twice. It
// returns when every session has ended and written its record, or with the error
// of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.beginStop()
	s.each((*session.Session).Drain)
	ended := make(chan struct{})
	go func() { s.running.Wait(); close(ended) }()
	limit := time.NewTimer(s.current.Load().drain)
	defer limit.Stop()
	for {
		select {
		case <-ended:
			s.known.close()
			return nil
		case <-limit.C:
			s.each((*session.Session).Abort)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *Server) beginStop() {
	s.stop.Do(func() {
		close(s.stopping)
		s.closeListeners()
	})
}

func (s *Server) closeListeners() error {
	var errs error
	for _, l := range s.listeners {
		errs = errors.Join(errs, l.Close())
	}
	return errs
}

func (s *Server) each(do func(*session.Session)) {
	s.mu.Lock()
	all := make([]*session.Session, 0, len(s.sessions))
	for one := range s.sessions {
		all = append(all, one)
	}
	s.mu.Unlock()
	for _, one := range all {
		do(one)
	}
}

// Check is for a watchdog: it reports an error unless every accept loop has come
// round lately and the table of sessions can be had.
func (s *Server) Check(ctx context.Context) error {
	select {
	case <-s.stopping:
		return nil // draining has limits of its own
	default:
	}
	for _, l := range s.listeners {
		for loop := range l.rounds {
			if silent := time.Since(time.Unix(0, l.rounds[loop].Load())); silent > 3*beat {
				return fmt.Errorf("accepting on %s has been silent for %s", l.Addr(), silent.Round(time.Second))
			}
		}
	}
	got := make(chan struct{})
	go func() { s.Sessions(); close(got) }()
	select {
	case <-got:
		return nil
	case <-ctx.Done():
		return errors.New("the table of sessions is stuck")
	}
}

// remindOfExpired logs the rules whose day has passed, at once and every hour.
func (s *Server) remindOfExpired() {
	hourly := time.NewTicker(time.Hour)
	defer hourly.Stop()
	for {
		snap := s.current.Load()
		for _, r := range snap.Policy.Expired(time.Now()) {
			snap.log.Warn("rule has expired and no longer matches", zap.String("rule", r.Name), zap.String("owner", r.Owner))
		}
		select {
		case <-hourly.C:
		case <-s.stopping:
			return
		}
	}
}
