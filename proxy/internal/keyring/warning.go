package keyring

import (
	"crypto/tls"
	"fmt"
	"os"
	"time"
)

// A Warning is something about a file that is no error and will be one for some
// peer, or some day.
type Warning struct {
	Key string // the configuration key that names the file
	Msg string
}

// ConfigKey gives the configuration key that names the file.
func (w Warning) ConfigKey() string { return w.Key }

// Problem gives the message without the key.
func (w Warning) Problem() string { return w.Msg }

// Error gives key and message, for those who print warnings as they do errors.
func (w Warning) Error() string { return w.Key + ": " + w.Msg }

// soon is how long before its end a certificate is warned of: time enough for a
// partner that has pinned it.
const soon = 14 * 24 * time.Hour

// examine gives the warnings for one certificate. Key is its configuration key.
func examine(key string, c Certificate, cert *tls.Certificate, now time.Time) []Warning {
	var all []Warning
	warn := func(field, format string, args ...any) {
		all = append(all, Warning{key + "." + field, fmt.Sprintf(format, args...)})
	}
	leaf := cert.Leaf
	const day = "2006-01-02"
	switch {
	case now.After(leaf.NotAfter):
		warn("cert", "expired on %s", leaf.NotAfter.UTC().Format(day))
	case now.Before(leaf.NotBefore):
		warn("cert", "not valid before %s", leaf.NotBefore.UTC().Format(day))
	case now.Add(soon).After(leaf.NotAfter):
		warn("cert", "expires on %s", leaf.NotAfter.UTC().Format(day))
	}
	if len(leaf.DNSNames) == 0 {
		warn("cert", "has no subject alternative name: no client can verify it by name")
	}
	issued := leaf
	for i, x := range intermediates(cert) {
		if err := issued.CheckSignatureFrom(x); err != nil {
			all = append(all, strangeChain(key, i+2))
			break
		}
		issued = x
	}
	return append(all, examineKey(key, c.Key)...)
}

func strangeChain(key string, number int) Warning {
	return Warning{key + ".cert", fmt.Sprintf("certificate %d of the file did not issue the one before it: clients may find no chain", number)}
}

func examineKey(key, path string) []Warning {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return nil
	}
	return []Warning{{key + ".key", fmt.Sprintf("everybody on this machine can use it (mode %04o)", info.Mode().Perm())}}
}

// soonAuthority is how long before its end an authority is warned of: its
// successor has to reach every client first.
const soonAuthority = 90 * 24 * time.Hour

// examineAuthority gives the warnings for [tls.authority], which is one.
func examineAuthority(key string, a Authority, i *issuer, now time.Time) []Warning {
	var all []Warning
	if now.Add(soonAuthority).After(i.cert.NotAfter) {
		all = append(all, Warning{key + ".cert", "expires on " + i.cert.NotAfter.UTC().Format("2006-01-02")})
	}
	if len(i.cert.PermittedDNSDomains)+len(i.cert.ExcludedDNSDomains) > 0 {
		all = append(all, Warning{key + ".cert", "is constrained in the names that it may issue: clients refuse what is minted with others"})
	}
	return append(all, examineKey(key, a.Key)...)
}
