package keyring

import (
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Found is a certificate with the key that belongs to it.
type Found struct {
	Cert, Key string // files
	Names     []string
	NotAfter  time.Time
	Valid     bool // today
}

// places are where people and programs keep certificates, as patterns below a
// root: any certificate of the first may belong to any key of the second.
func places() [][2][]string {
	return [][2][]string{
		{{"etc/postern/tls/*.pem", "etc/postern/tls/*.crt"}, {"etc/postern/tls/*.pem", "etc/postern/tls/*.key"}},
		{{"etc/letsencrypt/live/*/fullchain.pem"}, {"etc/letsencrypt/live/*/privkey.pem"}},
		{{"etc/ssl/certs/*.crt", "etc/ssl/private/*.crt", "etc/ssl/private/*.pem"}, {"etc/ssl/private/*.key", "etc/ssl/private/*.pem"}},
		{{"etc/pki/tls/certs/*.crt"}, {"etc/pki/tls/private/*.key"}},
	}
}

// maxFound bounds how many files of one kind are tried in one place.
const maxFound = 64

// Find looks for certificates below root, in the places where they usually are,
// that Load would take: key and certificate belong together and are strong
// enough. Those of Postern's own directory come first. What may not be read is
// not found.
func Find(root string, now time.Time) []Found {
	var all []Found
	taken := map[string]bool{} // by certificate: one key is enough
	for _, place := range places() {
		keys := matching(root, place[1])
		for _, cert := range matching(root, place[0]) {
			for _, key := range keys {
				if taken[cert] || strings.Contains(cert, "snakeoil") {
					continue // Debian's example, which nobody trusts
				}
				pair, err := loadPair("", Certificate{Cert: cert, Key: key})
				if err != nil {
					continue
				}
				taken[cert] = true
				leaf := pair.Leaf
				all = append(all, Found{Cert: cert, Key: key, Names: leaf.DNSNames, NotAfter: leaf.NotAfter,
					Valid: !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter)})
			}
		}
	}
	return all
}

func matching(root string, patterns []string) []string {
	var out []string
	for _, p := range patterns {
		// The only error is of a bad pattern, and these are ours.
		found, _ := filepath.Glob(filepath.Join(root, p))
		out = append(out, found...)
	}
	slices.Sort(out)
	return out[:min(len(out), maxFound)]
}
