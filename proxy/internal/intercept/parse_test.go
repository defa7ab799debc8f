package intercept

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func sockaddr4(ip string, port uint16) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
	b = append(binary.BigEndian.AppendUint16(b, port), netip.MustParseAddr(ip).AsSlice()...)
	return append(b, make([]byte, 8)...)
}

func sockaddr6(ip string, port uint16) []byte {
	b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
	b = append(binary.BigEndian.AppendUint16(b, port), 0, 0, 0, 0)
	b = append(b, netip.MustParseAddr(ip).AsSlice()...)
	return append(b, 0, 0, 0, 0)
}

func TestASocketAddressIsReadAsTheKernelWritesIt(t *testing.T) {
	for _, row := range []struct {
		bytes []byte
		want  string
	}{
		{sockaddr4("203.0.113.2", 25), "203.0.113.2:25"},
		{sockaddr6("2001:db8::2", 25), "[2001:db8::2]:25"},
		{sockaddr6("::ffff:203.0.113.2", 587), "203.0.113.2:587"},
	} {
		if got, err := parseSockaddr(row.bytes); err != nil || got != netip.MustParseAddrPort(row.want) {
			t.Errorf("% x: %s, %v, want %s", row.bytes, got, err, row.want)
		}
	}
	for _, bad := range [][]byte{nil, {2}, make([]byte, 16), sockaddr6("::1", 1)[:20]} {
		if got, err := parseSockaddr(bad); err == nil {
			t.Errorf("% x was read as %s", bad, got)
		}
	}
}

// message is a control message.
func message(level, kind int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], uint32(level))
	binary.NativeEndian.PutUint32(b[12:], uint32(kind))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func TestTheInterfaceIndexIsFoundAmongControlMessages(t *testing.T) {
	index4 := append(binary.NativeEndian.AppendUint32(nil, 7), make([]byte, 8)...)
	index6 := append(make([]byte, 16), binary.NativeEndian.AppendUint32(nil, 9)...)
	other := message(unix.SOL_IP, unix.IP_TTL, []byte{64, 0, 0, 0})
	for _, row := range []struct {
		name  string
		bytes []byte
		want  int
	}{
		{"IPv4", message(unix.SOL_IP, unix.IP_PKTINFO, index4), 7},
		{"IPv4 behind another", append(other, message(unix.SOL_IP, unix.IP_PKTINFO, index4)...), 7},
		{"IPv6", message(unix.SOL_IPV6, unix.IPV6_PKTINFO, index6), 9},
		{"IPv6 as RFC 2292 had it", message(unix.SOL_IPV6, unix.IPV6_2292PKTINFO, index6), 9},
		{"nothing", nil, 0},
		{"another only", other, 0},
		{"too short", message(unix.SOL_IP, unix.IP_PKTINFO, index4[:8]), 0},
		{"cut", message(unix.SOL_IPV6, unix.IPV6_PKTINFO, index6)[:20], 0},
	} {
		if got := packetInfoIndex(row.bytes); got != row.want {
			t.Errorf("%s: %d, want %d", row.name, got, row.want)
		}
	}
}

func TestConnectionsAreCountedInTheTextOfConntrack(t *testing.T) {
	const text = `ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.2 dst=203.0.113.2 sport=40000 dport=25 src=203.0.113.2 dst=10.1.0.2 sport=25 dport=40000 [ASSURED] mark=0 zone=0 use=2
ipv4     2 tcp      6 119 TIME_WAIT src=10.1.0.2 dst=203.0.113.2 sport=40001 dport=25 src=203.0.113.2 dst=10.1.0.2 sport=25 dport=40001 [ASSURED] mark=0 zone=0 use=2
ipv6     10 tcp      6 431999 ESTABLISHED src=2001:db8:1::2 dst=2001:db8:2::2 sport=40000 dport=25 src=2001:db8:2::2 dst=2001:db8:1::2 sport=25 dport=40000 [ASSURED] mark=0 zone=0 use=2
ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.2 dst=203.0.113.2 sport=25 dport=443 src=203.0.113.2 dst=10.1.0.2 sport=443 dport=25 [ASSURED] mark=0 zone=0 use=2
ipv4     2 udp      17 29 src=10.1.0.2 dst=203.0.113.2 sport=53 dport=25 [UNREPLIED] src=203.0.113.2 dst=10.1.0.2 sport=25 dport=53 mark=0 zone=0 use=2
`
	count, tracked, err := flowsFromText(strings.NewReader(text), []uint16{25})
	if count != 2 || !tracked || err != nil {
		t.Errorf("%d, %v, %v, want 2", count, tracked, err)
	}
	if _, tracked, _ := flowsFromText(strings.NewReader(""), []uint16{25}); tracked {
		t.Error("an empty table was taken for a tracked one")
	}
}

func FuzzControlMessagesGiveNoInterfaceOutOfTooFewBytes(f *testing.F) {
	f.Add(message(unix.SOL_IP, unix.IP_PKTINFO, make([]byte, 12)))
	f.Add(message(unix.SOL_IPV6, unix.IPV6_PKTINFO, make([]byte, 20)))
	f.Fuzz(func(t *testing.T, control []byte) {
		if packetInfoIndex(control) != 0 && len(control) < unix.CmsgLen(unix.SizeofInet4Pktinfo) {
			t.Fatal("an index out of too few bytes")
		}
	})
}

func FuzzASocketAddressIsReadOrRefused(f *testing.F) {
	f.Add(sockaddr4("203.0.113.2", 25))
	f.Add(sockaddr6("2001:db8::2", 25))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := parseSockaddr(b)
		if err == nil && (!got.IsValid() || got.Addr().Is4In6() || len(b) < sizeofSockaddrIn) {
			t.Fatalf("% x: %s", b, got)
		}
	})
}

func FuzzConntrackTextIsCountedWithinItsLines(f *testing.F) {
	f.Add("ipv4 2 tcp 6 1 ESTABLISHED dport=25\n")
	f.Fuzz(func(t *testing.T, text string) {
		count, _, err := flowsFromText(strings.NewReader(text), []uint16{25})
		if err == nil && count > strings.Count(text, "\n")+1 {
			t.Fatalf("%d connections in %q", count, text)
		}
	})
}

func FuzzAttributesOfAnyKindAreCompared(f *testing.F) {
	f.Add([]byte("\x0b\x00\x01\x00lookup\x00\x00\x0c\x00\x02\x80\x08\x00\x04\x00\x00\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) { _ = contains(b, b) })
}
