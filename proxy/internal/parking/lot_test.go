package parking

import (
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// Nothing runs while the lot is empty.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if far, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if near, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

const soon = 5 * time.Second

// parked parks two pairs and returns how to see that they were woken, once.
func parked(t *testing.T, l *Lot, until time.Time) (far [2]net.Conn, woken chan struct{}, leave func()) {
	t.Helper()
	var near [2]net.Conn
	for i := range near {
		near[i], far[i] = pair(t)
	}
	woken = make(chan struct{}, 2)
	leave, err := l.Park(near[:], until, func() { woken <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	return far, woken, leave
}

func once(t *testing.T, woken chan struct{}) {
	t.Helper()
	select {
	case <-woken:
	case <-time.After(soon):
		t.Fatal("nobody was woken")
	}
	select {
	case <-woken:
		t.Error("woken twice")
	case <-time.After(20 * time.Millisecond):
	}
}

func TestAGuestIsWokenOnceByWhateverComesFirst(t *testing.T) {
	later := func() time.Time { return time.Now().Add(time.Hour) }
	for name, c := range map[string]struct {
		until time.Time
		do    func(far [2]net.Conn, leave func())
	}{
		"octets at the first":  {later(), func(far [2]net.Conn, _ func()) { io.WriteString(far[0], "x") }},
		"octets at the second": {later(), func(far [2]net.Conn, _ func()) { io.WriteString(far[1], "x") }},
		"octets at both":       {later(), func(far [2]net.Conn, _ func()) { io.WriteString(far[0], "x"); io.WriteString(far[1], "x") }},
		"the end of one":       {later(), func(far [2]net.Conn, _ func()) { far[0].Close() }},
		"half of its end":      {later(), func(far [2]net.Conn, _ func()) { far[1].(*net.TCPConn).CloseWrite() }},
		"the time":             {time.Now().Add(30 * time.Millisecond), func([2]net.Conn, func()) {}},
		"a time that is past":  {time.Now().Add(-time.Second), func([2]net.Conn, func()) {}},
		"leaving":              {later(), func(_ [2]net.Conn, leave func()) { leave(); leave() }},
		"all of it":            {time.Now(), func(far [2]net.Conn, leave func()) { io.WriteString(far[0], "x"); far[1].Close(); leave() }},
	} {
		t.Run(name, func(t *testing.T) {
			l := new(Lot)
			far, woken, leave := parked(t, l, c.until)
			c.do(far, leave)
			once(t, woken)
			leave()
			never(t, woken)
		})
	}
}

// never sees that nobody is woken any more.
func never(t *testing.T, woken chan struct{}) {
	t.Helper()
	select {
	case <-woken:
		t.Error("woken twice")
	case <-time.After(5 * time.Millisecond):
	}
}

func TestOctetsThatWereThereBeforeWakeAtOnce(t *testing.T) {
	near, far := pair(t)
	io.WriteString(far, "x")
	time.Sleep(20 * time.Millisecond)
	woken := make(chan struct{}, 1)
	if _, err := new(Lot).Park([]net.Conn{near}, time.Now().Add(time.Hour), func() { woken <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	once(t, woken)
}

func TestWhatIsNoSocketIsNotParked(t *testing.T) {
	l := new(Lot)
	near, _ := pair(t)
	pipe, end := net.Pipe()
	defer end.Close()
	closed, _ := pair(t)
	closed.Close()
	for _, with := range []net.Conn{pipe, closed} {
		if _, err := l.Park([]net.Conn{near, with}, time.Now(), func() { t.Error("woken") }); err == nil {
			t.Errorf("%T was parked", with)
		}
	}
	if _, err := l.Park([]net.Conn{near, near}, time.Now().Add(time.Hour), func() { t.Error("woken") }); err == nil {
		t.Error("one socket was parked twice")
	}
}

// Many come and go at once, some woken by their peers, some leaving: each wakes
// once, and the lot is empty afterwards.
func TestManyGuestsComeAndGo(t *testing.T) {
	l := new(Lot)
	var woken atomic.Int64
	const rounds, guests = 20, 20
	for range rounds {
		done := make(chan struct{}, guests)
		for i := range guests {
			near, far := pair(t)
			go func() {
				leave, err := l.Park([]net.Conn{near}, time.Now().Add(time.Hour), func() { woken.Add(1); done <- struct{}{} })
				if err != nil {
					t.Error(err)
					done <- struct{}{}
					return
				}
				if i%2 == 0 {
					leave()
				} else {
					io.WriteString(far, "x")
				}
			}()
		}
		for range guests {
			select {
			case <-done:
			case <-time.After(soon):
				t.Fatal("not all were woken")
			}
		}
	}
	if n := woken.Load(); n != rounds*guests {
		t.Errorf("%d woken, expected %d", n, rounds*guests)
	}
}

// Whoever leaves rings a bell, which must not go on ringing while others stay.
func TestALotThatSomebodyLeftIsQuiet(t *testing.T) {
	for range 20 {
		l := new(Lot)
		one, _ := pair(t)
		other, _ := pair(t)
		woken := make(chan struct{}, 2)
		wake := func() { woken <- struct{}{} }
		leave, err := l.Park([]net.Conn{one}, time.Now().Add(time.Hour), wake)
		if err != nil {
			t.Fatal(err)
		}
		leave()
		if leave, err = l.Park([]net.Conn{other}, time.Now().Add(time.Hour), wake); err != nil {
			t.Fatal(err)
		}
		<-woken
		before := processorTime(t)
		time.Sleep(50 * time.Millisecond)
		if used := processorTime(t) - before; used > 25*time.Millisecond {
			t.Fatalf("%s of processor time while nothing happens", used)
		}
		leave()
		once(t, woken)
	}
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
