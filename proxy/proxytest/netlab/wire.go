package netlab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Weather is what a [Wire] does to frames, each way alike. The zero value
// does nothing.
type Weather struct {
	Loss      float64       // the share of frames that vanish, 0 to 1
	Duplicate float64       // the share that arrives twice
	Delay     time.Duration // of every frame
	Jitter    time.Duration // at most so much more, drawn for each: frames overtake each other
}

// Passed counts the frames that came to a [Wire], both ways together.
type Passed struct {
	Frames, Lost, Duplicated, Delayed, Overtaken int64
}

// A Wire is a cable on which it rains: frames are lost, delayed, reordered and
// doubled. It is for kernels without netem. Its two ends are cables to a host of
// its own, between which this program carries frames.
type Wire struct {
	host *Host
	ways [2]*way
}

// ConnectWire is Connect with a Wire in place of the cable, in fine weather. What
// befalls which frame is drawn from seed. Segmentation and checksums are left to
// the kernel's software at both ends, so that what is carried is what a real
// wire carries: whole frames of the size of the link.
func ConnectWire(a, b End, seed uint64) (*Wire, error) {
	host, err := NewHost("wire " + a.Host.name + "–" + b.Host.name)
	if err != nil {
		return nil, err
	}
	w := &Wire{host: host}
	if err := w.lay(a, b, seed); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// lay makes both cables and begins to carry.
func (w *Wire) lay(a, b End, seed uint64) error {
	// The host in the middle has nothing to say of its own.
	if err := w.host.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return err
	}
	var sockets [2]*os.File
	for i, end := range []End{a, b} {
		inner := []string{"left", "right"}[i]
		if err := Connect(end, End{w.host, inner, nil}); err != nil {
			return err
		}
		if err := end.Host.Do(func() error { return wholeFrames(end.Interface) }); err != nil {
			return fmt.Errorf("netlab: host %s: %s: %w", end.Host.name, end.Interface, err)
		}
		err := w.host.Do(func() error {
			socket, err := packetSocket(inner)
			if err != nil {
				return err
			}
			sockets[i] = socket
			return ignoreOutgoing(socket)
		})
		if err != nil {
			return fmt.Errorf("netlab: wire: %w", errors.Join(err, closeAll(sockets[:])))
		}
	}
	for i := range w.ways {
		w.ways[i] = newWay(sockets[i], sockets[1-i], seed+uint64(i))
		go w.ways[i].take()
		go w.ways[i].give()
	}
	return nil
}

func closeAll(files []*os.File) error {
	var errs []error
	for _, file := range files {
		if file != nil {
			errs = append(errs, file.Close())
		}
	}
	return errors.Join(errs...)
}

// ignoreOutgoing keeps what is put on the wire from being taken off it again.
func ignoreOutgoing(socket *os.File) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) {
		option = unix.SetsockoptInt(int(fd), unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	})
	return errors.Join(err, os.NewSyscallError("setsockopt", option))
}

// Set changes the weather for frames that come from now on.
func (w *Wire) Set(weather Weather) {
	for _, one := range w.ways {
		one.mu.Lock()
		one.weather = weather
		one.mu.Unlock()
	}
}

// Passed returns what was counted until now.
func (w *Wire) Passed() Passed {
	var sum Passed
	for _, one := range w.ways {
		one.mu.Lock()
		sum.Frames += one.passed.Frames
		sum.Lost += one.passed.Lost
		sum.Duplicated += one.passed.Duplicated
		sum.Delayed += one.passed.Delayed
		sum.Overtaken += one.passed.Overtaken
		one.mu.Unlock()
	}
	return sum
}

// Close cuts the wire. What is under way is lost.
func (w *Wire) Close() error {
	var errs []error
	for _, one := range w.ways {
		if one != nil {
			errs = append(errs, one.from.Close()) // ends take, which ends give
		}
	}
	for _, one := range w.ways {
		if one != nil {
			<-one.ended
		}
	}
	return errors.Join(append(errs, w.host.Close())...)
}

// A way is one direction of a Wire.
type way struct {
	from, to *os.File
	late     chan frame // delayed frames, from take to give
	ended    chan struct{}

	mu      sync.Mutex
	weather Weather
	random  *rand.Rand
	passed  Passed
	number  int64 // of the last frame that was delayed
}

// lateFrames may wait before the wire loses what comes, as a full queue would.
const lateFrames = 4096

func newWay(from, to *os.File, seed uint64) *way {
	return &way{
		from: from, to: to, random: rand.New(rand.NewPCG(seed, 0)),
		late: make(chan frame, lateFrames), ended: make(chan struct{}),
	}
}

// take takes frames off one end until the wire is cut, and decides on each.
func (w *way) take() {
	defer close(w.late)
	buffer := make([]byte, snapLength)
	for {
		n, err := w.from.Read(buffer)
		switch {
		case errors.Is(err, unix.ENETDOWN):
			continue // is said once, when the interface comes up or goes down
		case err != nil:
			return
		}
		copies, delay := w.decide()
		for range copies {
			w.pass(buffer[:n], delay)
		}
	}
}

// decide says how often a frame arrives, and how late.
func (w *way) decide() (copies int, delay time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.passed.Frames++
	weather := w.weather
	if w.random.Float64() < weather.Loss {
		w.passed.Lost++
		return 0, 0
	}
	copies, delay = 1, weather.Delay
	if w.random.Float64() < weather.Duplicate {
		w.passed.Duplicated++
		copies = 2
	}
	if weather.Jitter > 0 {
		delay += time.Duration(w.random.Int64N(int64(weather.Jitter)))
	}
	return copies, delay
}

// pass puts a frame on the other end, or has give do that later.
func (w *way) pass(data []byte, delay time.Duration) {
	if delay == 0 {
		_, _ = w.to.Write(data) // what cannot be written is lost, as on any wire
		return
	}
	w.mu.Lock()
	w.passed.Delayed++
	w.number++
	one := frame{time.Now().Add(delay), w.number, append([]byte(nil), data...)}
	w.mu.Unlock()
	select {
	case w.late <- one:
	default:
		w.mu.Lock()
		w.passed.Lost++
		w.mu.Unlock()
	}
}
