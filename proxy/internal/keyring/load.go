package keyring

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// Files are what a Ring is loaded from.
type Files struct {
	Certificates []Certificate
	Authority    Authority
	TrustCA      string // "system", or a file of PEM roots
	RuleCAs      []RuleCA
}

// Certificate names the files of one [[tls.certificate]].
type Certificate struct {
	Name, Cert, Key string
}

// RuleCA is the file of roots that one rule names.
type RuleCA struct {
	Rule int // which rule of the configuration, counted from 0
	Path string
}

// A FileError is one thing that could not be loaded.
type FileError struct {
	Key string // the configuration key that names it: "tls.certificate[0].key"
	Err error
}

// ConfigKey gives the configuration key that names what could not be loaded.
func (e *FileError) ConfigKey() string { return e.Key }

// Problem gives the message without the key.
func (e *FileError) Problem() string { return e.Err.Error() }

// Error gives key and message.
func (e *FileError) Error() string { return e.Key + ": " + e.Err.Error() }

func (e *FileError) Unwrap() error { return e.Err }

// maxFile bounds a file of certificates, octets. The roots of a system take up a
// quarter of one MiB.
const maxFile = 16 << 20

// Load reads all of files and makes a Ring of them. If anything cannot be loaded
// there is no Ring, and the error joins a *FileError for each thing. No
// certificate at all is no error; the Ring then has none to show. The time now
// decides what Warnings says, and whether the authority is one.
func Load(files Files, now time.Time) (*Ring, error) {
	r := &Ring{named: map[string]*tls.Certificate{}, roots: map[string]*x509.CertPool{}, subjects: map[string]map[string]bool{}}
	var errs []error
	for i, c := range files.Certificates {
		key := fmt.Sprintf("tls.certificate[%d]", i)
		cert, err := loadPair(key, c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		r.add(c.Name, cert)
		r.warnings = append(r.warnings, examine(key, c, cert, now)...)
	}

	if files.Authority != (Authority{}) {
		authority, warnings, err := loadAuthority(files.Authority, now)
		if err == nil {
			r.minter, err = newMinter(authority, now)
		}
		if err != nil {
			errs = append(errs, err)
		}
		r.warnings = append(r.warnings, warnings...)
	}

	pool, err := loadTrust(files.TrustCA)
	if err != nil {
		errs = append(errs, &FileError{"tls.trust.ca", err})
	}
	r.trust("", pool)
	if pool != nil && pool.Equal(x509.NewCertPool()) {
		r.warnings = append(r.warnings, Warning{"tls.trust.ca", "the system has no roots: no chain will verify"})
	}
	for _, ca := range files.RuleCAs {
		pool, err := loadRoots(ca.Path)
		if err != nil {
			errs = append(errs, &FileError{fmt.Sprintf("rule[%d].ca", ca.Rule), err})
		}
		r.trust(ca.Path, pool)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return r, nil
}

// trust has pool be the roots called ca.
func (r *Ring) trust(ca string, pool *x509.CertPool) {
	r.roots[ca], r.subjects[ca] = pool, map[string]bool{}
	if pool == nil {
		return
	}
	//lint:ignore SA1019 on Linux those of the system are among them
	for _, subject := range pool.Subjects() {
		r.subjects[ca][string(subject)] = true
	}
}

func loadTrust(ca string) (*x509.CertPool, error) {
	if ca == "system" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			return nil, fmt.Errorf("roots of the system: %w", err)
		}
		return pool, nil
	}
	return loadRoots(ca)
}

func loadRoots(path string) (*x509.CertPool, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	certs, err := parseCertificates(path, data)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

// loadPair loads one certificate and its key. Both are looked at, so that one
// who has to mend two files hears of two.
func loadPair(key string, c Certificate) (*tls.Certificate, error) {
	certPEM, err := readFile(c.Cert)
	var chain []*x509.Certificate
	if err == nil {
		chain, err = parseCertificates(c.Cert, certPEM)
	}
	var errs []error
	if err != nil {
		errs = append(errs, &FileError{key + ".cert", err})
	}
	private, err := loadKey(c.Key)
	if err != nil {
		errs = append(errs, &FileError{key + ".key", err})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}

	leaf := chain[0]
	if err := strongEnough(leaf.PublicKey); err != nil {
		return nil, &FileError{key + ".cert", fmt.Errorf("%s: %w", c.Cert, err)}
	}
	if !sameKey(leaf.PublicKey, private.Public()) {
		return nil, &FileError{key + ".key", fmt.Errorf("%s: the key is not that of the first certificate in %s", c.Key, c.Cert)}
	}
	cert := &tls.Certificate{PrivateKey: private, Leaf: leaf}
	for _, x := range chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	return cert, nil
}

func readFile(path string) ([]byte, error) {
	// Non-blocking: opening a FIFO would wait for somebody to write.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: more than %d octets", path, maxFile)
	}
	return data, nil
}
