package mta

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Where a server in a room finds its certificate.
const (
	certificateFile = "/etc/mta.pem"
	keyFile         = "/etc/mta.key"
	stapleFile      = "/etc/mta.ocsp"
)

// prepareRoom finds an unpacked program and furnishes a room for it, with the
// certificate in it.
func prepareRoom(program string, o Options, file string, people []person, folders []folder) (room, error) {
	if err := severalIDs(); err != nil {
		return room{}, err
	}
	if o.TLS == Verify {
		return room{}, fmt.Errorf("mta: %s: only Postfix is configured to verify", program)
	}
	tree, err := findUnpacked(program, strings.ToLower(program), file)
	if err != nil {
		return room{}, err
	}
	r, err := furnish(tree, program, people, folders)
	if err != nil || o.Certificate == "" {
		return r, err
	}
	err = errors.Join(r.adopt(o.Certificate, certificateFile), r.adopt(o.Key, keyFile))
	if o.Staple != "" {
		err = errors.Join(err, r.adopt(o.Staple, stapleFile))
	}
	if err != nil {
		return r, errors.Join(fmt.Errorf("mta: %s: %w", program, err), r.clear(), os.RemoveAll(r.dir))
	}
	return r, nil
}

// routesInOrder are the domains, "*" behind all others.
func routesInOrder(routes map[string]netip.AddrPort) []string {
	domains := slices.Sorted(maps.Keys(routes))
	if i := slices.Index(domains, "*"); i >= 0 {
		domains = append(slices.Delete(domains, i, i+1), "*")
	}
	return domains
}

// lines ends them as programs on a Unix host do.
func lines(content []byte) io.Reader {
	return bytes.NewReader(bytes.ReplaceAll(content, []byte("\r\n"), []byte("\n")))
}

// ownLoopback is where a server listens that has nothing to receive but must
// listen somewhere: an address that others on its host, with other names, do not
// take.
func ownLoopback(name string) netip.Addr {
	hash := fnv.New32a()
	hash.Write([]byte(name))
	sum := hash.Sum(nil)
	return netip.AddrFrom4([4]byte{127, sum[0], sum[1], max(2, sum[2])})
}

func joined(addresses []netip.Addr, separator string) string {
	var all []string
	for _, a := range addresses {
		all = append(all, a.String())
	}
	return strings.Join(all, separator)
}
