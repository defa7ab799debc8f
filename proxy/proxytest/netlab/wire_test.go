package netlab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"
)

// wired is a network whose two cables are wires.
func wired(t *testing.T) (*Network, []*Wire) {
	t.Helper()
	var wires []*Wire
	n, err := NewRoutedWith(func(a, b End) error {
		w, err := ConnectWire(a, b, uint64(len(wires)))
		if err == nil {
			wires = append(wires, w)
		}
		return err
	})
	t.Cleanup(func() {
		for _, w := range wires {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
		if n != nil {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, wires
}

// carry sends octets from the client to the server and returns what arrived.
func carry(t *testing.T, n *Network, content []byte) []byte {
	t.Helper()
	to := netip.AddrPortFrom(n.Server4, 2500)
	listener, err := n.Server.Listen(to)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	sent := make(chan error, 1)
	go func() {
		conn, err := n.Client.Dial(within(t, time.Minute), netip.AddrPort{}, to)
		if err == nil {
			_, err = conn.Write(content)
			err = errors.Join(err, conn.Close())
		}
		sent <- err
	}()
	if err := listener.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err, <-sent)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err := errors.Join(err, <-sent); err != nil {
		t.Fatal(err)
	}
	return got
}

func octets(n int) []byte {
	content := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(content)
	return content
}

func TestAWireInFineWeatherCarriesEverythingAsItIs(t *testing.T) {
	n, wires := wired(t)
	capture, err := n.Server.Capture("eth0", nil)
	if err != nil {
		t.Fatal(err)
	}
	content := octets(4 << 20)
	if !bytes.Equal(carry(t, n, content), content) {
		t.Error("what arrived is not what was sent")
	}
	packets, err := capture.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, packet := range packets {
		if len(packet.Data) > 1514 {
			t.Fatalf("a frame of %d octets: more than a real wire carries", len(packet.Data))
		}
	}
	for _, w := range wires {
		if p := w.Passed(); p.Frames < 4<<20/1500 || p.Lost+p.Duplicated+p.Delayed+p.Overtaken > 0 {
			t.Errorf("%+v", p)
		}
	}
}

func TestWhatTCPCarriesOverAWireInBadWeatherArrivesWhole(t *testing.T) {
	n, wires := wired(t)
	for _, w := range wires {
		w.Set(Weather{Loss: 0.02, Duplicate: 0.05, Delay: time.Millisecond, Jitter: 3 * time.Millisecond})
	}
	content := octets(1 << 20)
	if !bytes.Equal(carry(t, n, content), content) {
		t.Error("what arrived is not what was sent")
	}
	for _, w := range wires {
		if p := w.Passed(); p.Lost == 0 || p.Duplicated == 0 || p.Delayed == 0 || p.Overtaken == 0 {
			t.Errorf("the weather was not that bad: %+v", p)
		}
	}
}

func TestTheWeatherChangesWhileAWireCarries(t *testing.T) {
	n, wires := wired(t)
	content := octets(64 << 10)
	carry(t, n, content)
	wires[0].Set(Weather{Loss: 1})
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	conn, err := n.Client.Dial(short, netip.AddrPort{}, netip.AddrPortFrom(n.Server4, 2501))
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%v %v through a wire that loses all", conn, err)
	}
	wires[0].Set(Weather{})
	if !bytes.Equal(carry(t, n, content), content) {
		t.Error("what arrived after it is not what was sent")
	}
}

func TestTheSameSeedMakesTheSameWeather(t *testing.T) {
	bad := Weather{Loss: 0.3, Duplicate: 0.3, Delay: time.Millisecond, Jitter: time.Second}
	one, same, other := newWay(nil, nil, 7), newWay(nil, nil, 7), newWay(nil, nil, 8)
	one.weather, same.weather, other.weather = bad, bad, bad
	differ := false
	for range 1000 {
		copies, delay := one.decide()
		if c, d := same.decide(); c != copies || d != delay {
			t.Fatal("the same seed decided otherwise")
		}
		c, d := other.decide()
		differ = differ || c != copies || d != delay
	}
	if !differ {
		t.Error("another seed decided the same a thousand times")
	}
}
