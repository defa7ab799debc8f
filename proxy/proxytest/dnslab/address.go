package dnslab

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
)

// choose settles who listens where. All of 127.0.0.0/8 is this machine, so that
// every lab has addresses of its own, and labs beside each other don't take away
// each other's ports between the moment at which one was found free and its use.
func (l *Lab) choose() error {
	return l.place.Do(func() error {
		for range 20 {
			host := netip.AddrFrom4([4]byte{127, byte(64 + rand.N(64)), byte(rand.N(256)), byte(1 + rand.N(254))})
			var ports [3]uint16
			if l.claim(host, &ports) != nil {
				continue
			}
			l.server, l.dead = netip.AddrPortFrom(host, ports[0]), netip.AddrPortFrom(host, ports[2])
			if !l.resolver.IsValid() {
				l.resolver = netip.AddrPortFrom(host, ports[1])
			}
			return nil
		}
		return fmt.Errorf("no free ports on loopback")
	})
}

// claim finds ports that are free for UDP and TCP, and keeps the last of them,
// where nobody is going to answer.
func (l *Lab) claim(host netip.Addr, ports *[3]uint16) error {
	for i := range ports {
		talk, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(host, 0)))
		if err != nil {
			return err
		}
		at := talk.Addr().(*net.TCPAddr).AddrPort()
		packets, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		if err != nil {
			talk.Close()
			return err
		}
		ports[i] = at.Port()
		if i == len(ports)-1 {
			l.mute, l.mutetalk = packets, talk
			break
		}
		defer talk.Close()
		defer packets.Close()
	}
	return nil
}
