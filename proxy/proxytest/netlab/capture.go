package netlab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"
)

// snapLength is longer than any packet: segmentation offload lets veth carry
// packets of up to 64 KiB and their headers.
const snapLength = 256 << 10

// captureBuffer is asked of the kernel, in bytes. A capture that lost packets
// proves nothing, so Stop fails when any were lost.
const captureBuffer = 64 << 20

// Packet is one Ethernet frame as an interface carried it, checksums possibly
// not filled in yet, as happens with offloading.
type Packet struct {
	Time time.Time
	Data []byte
}

// Capture records what crosses an interface, both directions, from the moment
// Host.Capture returns until Stop.
type Capture struct {
	socket  *os.File
	writer  *pcapgo.Writer
	ended   chan struct{}
	once    sync.Once
	packets []Packet
	err     error
}

// Capture starts recording an interface of the host. Each packet is kept for
// Stop and, unless w is nil, written to w in pcap format.
func (h *Host) Capture(name string, w io.Writer) (*Capture, error) {
	c := &Capture{ended: make(chan struct{})}
	if w != nil {
		c.writer = pcapgo.NewWriter(w)
		if err := c.writer.WriteFileHeader(snapLength, layers.LinkTypeEthernet); err != nil {
			return nil, fmt.Errorf("netlab: capture: %w", err)
		}
	}
	err := h.Do(func() error {
		socket, err := packetSocket(name)
		c.socket = socket
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("netlab: capture on %s:%s: %w", h.name, name, err)
	}
	go c.read()
	return c, nil
}

// packetSocket opens an AF_PACKET socket that sees one interface. It is opened
// for no protocol and bound afterwards, so that it never holds packets of
// another interface.
func packetSocket(name string) (*os.File, error) {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer); err != nil {
		// In a user namespace only the unforced form is allowed, which the
		// kernel caps; losses are noticed by Stop.
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, captureBuffer)
		if err != nil {
			return nil, errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(fd))
		}
	}
	all := htons(unix.ETH_P_ALL)
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index}); err != nil {
		return nil, errors.Join(os.NewSyscallError("bind", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet:"+name), nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// read takes packets until Stop sets the deadline, then what is still queued:
// a packet sent before Stop is in the queue already.
func (c *Capture) read() {
	defer close(c.ended)
	buffer := make([]byte, snapLength)
	for {
		n, err := c.socket.Read(buffer)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			c.err = err
			return
		}
		c.keep(buffer[:n])
	}
	raw, err := c.socket.SyscallConn()
	if err != nil {
		c.err = err
		return
	}
	err = raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buffer)
			if err != nil {
				break
			}
			c.keep(buffer[:n])
		}
		statistics, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
		if err == nil && statistics.Drops > 0 {
			err = fmt.Errorf("netlab: capture lost %d packets", statistics.Drops)
		}
		c.err = errors.Join(c.err, err)
	})
	c.err = errors.Join(c.err, err)
}

func (c *Capture) keep(data []byte) {
	packet := Packet{Time: time.Now(), Data: append([]byte(nil), data...)}
	c.packets = append(c.packets, packet)
	if c.writer == nil {
		return
	}
	info := gopacket.CaptureInfo{Timestamp: packet.Time, CaptureLength: len(data), Length: len(data)}
	if err := c.writer.WritePacket(info, data); err != nil {
		c.err = errors.Join(c.err, fmt.Errorf("netlab: capture: %w", err))
		c.writer = nil
	}
}

// Stop ends the recording and returns what crossed the interface, in order. The
// error is non-nil when anything is missing. A second Stop returns the same.
func (c *Capture) Stop() ([]Packet, error) {
	c.once.Do(func() {
		err := c.socket.SetReadDeadline(time.Unix(1, 0))
		if err != nil {
			// Without the deadline only closing ends the reader.
			err = errors.Join(err, c.socket.Close())
		}
		<-c.ended
		if closeErr := c.socket.Close(); err == nil {
			err = closeErr
		}
		c.err = errors.Join(c.err, err)
	})
	return c.packets, c.err
}
