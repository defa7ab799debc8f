package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Certificate is one that Postern shows or uses.
type Certificate struct {
	Name, Cert, Key     string // Cert and Key are files
	NotBefore, NotAfter time.Time
	// Err is why it could not be loaded, and nothing is known of its dates.
	Err error
}

// soon is how long before its end a certificate is spoken of: time enough to get
// another, and for a partner that has pinned it.
const soon = 30 * 24 * time.Hour

func certificates(_ context.Context, e *examination) ([]Finding, error) {
	var found []Finding
	for _, c := range e.Certificates {
		found = append(found, e.certificate(c)...)
		found = append(found, e.readable(c)...)
	}
	return found, nil
}

func (e *examination) certificate(c Certificate) []Finding {
	const day = time.DateOnly
	renew := []string{"# renew it, write it to " + c.Cert + ", then: systemctl reload postern.service", e.postern("certificate") + " # the sheet for partners that pinned the old one"}
	f := Finding{Severity: Problem, Mend: renew}
	switch {
	case errors.Is(c.Err, fs.ErrPermission) && os.Geteuid() != 0:
		f.Severity, f.What, f.Why, f.Mend = Unknown, fmt.Sprintf("the certificate %q could not be looked at: %v", c.Name, c.Err),
			"whether it is valid, and belongs to its key, is not known", e.asRoot()
	case c.Err != nil:
		f.What, f.Why, f.Mend = fmt.Sprintf("the certificate %q cannot be used: %v", c.Name, c.Err),
			"Postern does not start with it, and a reload keeps the old configuration", []string{e.postern("check")}
	case e.now.After(c.NotAfter):
		f.What, f.Why = fmt.Sprintf("the certificate %q expired on %s", c.Name, c.NotAfter.UTC().Format(day)), "clients that verify refuse it"
	case e.now.Before(c.NotBefore):
		f.What, f.Why = fmt.Sprintf("the certificate %q is not valid before %s", c.Name, c.NotBefore.UTC().Format(day)),
			"clients that verify refuse it, or the clock of this machine is slow"
		f.Mend = []string{"date # or wait, or show another certificate until then"}
	case e.now.Add(soon).After(c.NotAfter):
		f.What, f.Why = fmt.Sprintf("the certificate %q expires on %s", c.Name, c.NotAfter.UTC().Format(day)), "from then on clients that verify refuse it"
	default:
		return nil
	}
	return []Finding{f}
}

// readable looks at the files with the eyes of the service's user.
func (e *examination) readable(c Certificate) []Finding {
	who, ok := accountOf(e.User)
	if !ok {
		return nil // whoever runs Postern here is not known
	}
	var found []Finding
	for _, path := range []string{c.Cert, c.Key} {
		obstacle, kind, err := who.mayRead(path)
		switch {
		case errors.Is(err, fs.ErrPermission):
			found = append(found, Finding{Severity: Unknown, What: fmt.Sprintf("whether the user %s may read %s cannot be seen", who.name, path),
				Why: "the service does not start without it", Mend: e.asRoot()})
		case err != nil || obstacle == "":
			// what is missing or broken was said
		case kind == hasACL:
			found = append(found, Finding{Severity: Unknown, What: fmt.Sprintf("whether the user %s may use %s depends on its access control list", who.name, obstacle),
				Why: "the service does not start without it", Mend: []string{"getfacl " + ShellWord(obstacle)}})
		case kind == isDirectory:
			found = append(found, Finding{Severity: Problem, What: fmt.Sprintf("the user %s may not enter %s, where %s is", who.name, obstacle, path),
				Why:  "the service does not start",
				Mend: []string{fmt.Sprintf("chgrp %s %s && chmod g+x %s", who.group, ShellWord(obstacle), ShellWord(obstacle))}})
		default:
			found = append(found, Finding{Severity: Problem, What: fmt.Sprintf("the user %s may not read %s", who.name, obstacle),
				Why:  "the service does not start",
				Mend: []string{fmt.Sprintf("chgrp %s %s && chmod g+r %s", who.group, ShellWord(obstacle), ShellWord(obstacle))}})
		}
	}
	return found
}

func files(_ context.Context, e *examination) ([]Finding, error) {
	var found []Finding
	for _, err := range e.Faults {
		f := Finding{Severity: Problem, What: err.Error(), Why: "Postern does not start with it", Mend: []string{e.postern("check")}}
		if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
			f.Severity, f.Why, f.Mend = Unknown, "this user may not read it", e.asRoot()
		}
		found = append(found, f)
	}
	return found, nil
}
