package mtasts

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

const (
	mostFile    = 256 << 10 // bytes: MostMX patterns of the longest kind, and room
	unfinished  = ".new-"   // before the name of a file that is being written
	clockSlack  = time.Minute
	mostStrange = 10 // files that are none of ours, named one by one
)

// errExpired is that of a stored policy which has run out.
var errExpired = errors.New("expired")

// A disk is a directory with one file a domain, named as the domain. A name that
// isDomain accepts has no slash and no dot in front, and os.Root follows nothing
// out of the directory. The nil disk keeps nothing.
type disk struct{ root *os.Root }

// A stored is what a file says, as JSON.
type stored struct {
	Domain  string    `json:"domain"`
	ID      string    `json:"id"`
	Mode    Mode      `json:"mode"`
	MX      []string  `json:"mx"`
	MaxAge  int64     `json:"max_age"` // seconds
	Fetched time.Time `json:"fetched"`
	Expires time.Time `json:"expires"`
	Asked   time.Time `json:"asked"` // by a session, when this was written
}

func openDisk(dir string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStored, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStored, err)
	}
	return &disk{root}, nil
}

func (d *disk) close() error {
	if d == nil {
		return nil
	}
	return d.root.Close()
}

// list names the domains that have a file, and files that have no business there.
// What was being written when the power went is removed.
func (d *disk) list() (domains, strange []string, err error) {
	dir, err := d.root.Open(".")
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrStored, err)
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(MostDomains)
		for _, e := range entries {
			switch name := e.Name(); {
			case e.Type().IsRegular() && isDomain(name):
				domains = append(domains, name)
			case e.Type().IsRegular() && strings.HasPrefix(name, unfinished):
				_ = d.root.Remove(name)
			case len(strange) < mostStrange:
				strange = append(strange, name)
			}
		}
		if errors.Is(err, io.EOF) {
			return domains, strange, nil
		}
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", ErrStored, err)
		}
	}
}

// read gives the policy stored for domain, which is held to all that one fetched is
// held to, and when it was last asked for. errExpired is one that has run out.
func (d *disk) read(domain string, now time.Time) (p Policy, asked time.Time, err error) {
	f, err := d.root.Open(domain)
	if err != nil {
		return Policy{}, time.Time{}, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, mostFile+1))
	if err != nil {
		return Policy{}, time.Time{}, err
	}
	if len(text) > mostFile {
		return Policy{}, time.Time{}, fmt.Errorf("more than %d bytes", mostFile)
	}
	return readStored(text, domain, now)
}

func readStored(text []byte, domain string, now time.Time) (p Policy, asked time.Time, err error) {
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return Policy{}, time.Time{}, err
	}
	if s.Asked.After(now) {
		s.Asked = now
	}
	p = Policy{Domain: s.Domain, State: Found, Mode: s.Mode, MX: s.MX, ID: s.ID,
		MaxAge: time.Duration(s.MaxAge) * time.Second, Fetched: s.Fetched, Expires: s.Expires}
	switch {
	case s.Domain != domain:
		err = errors.New("of another domain")
	case !isID(s.ID), !s.Mode.known(), len(s.MX) > MostMX, len(s.MX) == 0 && s.Mode != ModeNone:
		err = errors.New("not a policy")
	case s.MaxAge < 0, s.MaxAge > int64(MostAge/time.Second), !s.Expires.Equal(s.Fetched.Add(life(p.MaxAge))):
		err = errors.New("its times don't agree")
	case s.Fetched.After(now.Add(clockSlack)):
		err = errors.New("fetched in the future")
	case !now.Before(s.Expires):
		err = errExpired
	}
	for _, mx := range s.MX {
		if !isPattern(mx) {
			err = errors.New("not a policy")
		}
	}
	if err != nil {
		return Policy{}, time.Time{}, err
	}
	return p, s.Asked, nil
}

// encode is how p stands in its file.
func encode(p Policy, asked time.Time) []byte {
	text, err := json.MarshalIndent(stored{p.Domain, p.ID, p.Mode, p.MX, int64(p.MaxAge / time.Second), p.Fetched, p.Expires,
		asked.UTC().Round(0)}, "", "\t")
	if err != nil {
		return nil // a year beyond 9999; what is empty is damaged when it is read
	}
	return append(text, '\n')
}

// write stores p whole or not at all, and has it on the disk when it returns.
func (d *disk) write(p Policy, asked time.Time) error {
	temporary := unfinished + p.Domain
	f, err := d.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(encode(p, asked))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = d.root.Rename(temporary, p.Domain)
	}
	if err != nil {
		_ = d.root.Remove(temporary)
		return err
	}
	dir, err := d.root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// remove is content with what is not there, and what cannot be removed is expired
// or damaged when it is read again.
func (d *disk) remove(domain string) { _ = d.root.Remove(domain) }

// read takes in what is on disk of domain, if that was not done. A file that is no
// good is reported and left for somebody to look at; the next fetch replaces it.
func (c *Cache) read(domain string) {
	c.mu.Lock()
	e := c.entries[domain]
	unread := e != nil && e.unread && c.ctx.Err() == nil
	c.mu.Unlock()
	if !unread {
		return
	}
	now := time.Now()
	p, asked, err := c.disk.read(domain, now)

	c.mu.Lock()
	if e = c.entries[domain]; e == nil || !e.unread || c.ctx.Err() != nil {
		c.mu.Unlock()
		return // somebody else was first, or the directory was closed
	}
	e.unread = false
	switch {
	case err == nil:
		e.policy, e.last, e.asked, e.refresh = p, Found, asked, refreshAt(p)
		c.note(domain)
	case errors.Is(err, errExpired), errors.Is(err, fs.ErrNotExist):
		c.unlink(e)
		err = nil
	}
	c.settle(e)
	c.mu.Unlock()
	if err != nil {
		c.report(domain, failed(ErrStored, err, err))
	}
}

// keep writes p to the disk. An entry that was pushed out meanwhile has no file.
func (c *Cache) keep(p Policy, asked time.Time) {
	if c.disk == nil {
		return
	}
	err := c.disk.write(p, asked)
	c.mu.Lock()
	if e := c.entries[p.Domain]; e != nil {
		e.onDisk = true
	} else {
		c.disk.remove(p.Domain)
	}
	c.mu.Unlock()
	if err != nil {
		c.report(p.Domain, failed(ErrStored, err, err))
	}
}
