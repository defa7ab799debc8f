package mta

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// MissingError says what this machine lacks to run a mail server in a lab, and
// how to go on.
type MissingError struct {
	// What is missing: "Postfix", "newuidmap", "user ids", "subordinate user ids".
	What string
	// Advice is what the person at the keyboard can do.
	Advice string
	// Err is how it showed; may be nil.
	Err error
}

func (e *MissingError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("mta: %s missing: %s", e.What, e.Advice)
	}
	return fmt.Sprintf("mta: %s missing: %s (%v)", e.What, e.Advice, e.Err)
}

func (e *MissingError) Unwrap() error { return e.Err }

// installation is where the machine keeps Postfix and whom it runs as.
type installation struct {
	commands, daemons string // directories
	owner             account
	nobody            account         // mailboxes belong to it
	dropGroup         int             // may add to the queue
	knows             map[string]bool // parameters that not every version has
}

type account struct{ uid, gid int }

// findInstallation looks for Postfix and for the users that it needs.
func findInstallation() (installation, error) {
	const advice = "install it (Debian: apt-get install postfix); it need not be running"
	var in installation
	postconf, err := exec.LookPath("postconf")
	if err != nil {
		// Ordinary users' PATH often leaves the place out.
		if postconf, err = exec.LookPath("/usr/sbin/postconf"); err != nil {
			return in, &MissingError{What: "Postfix", Advice: advice, Err: err}
		}
	}
	in.commands = filepath.Dir(postconf)
	directory, err := exec.Command(postconf, "-d", "-h", "daemon_directory").Output()
	if err != nil {
		return in, fmt.Errorf("mta: postconf: %w", err)
	}
	in.daemons = strings.TrimSpace(string(directory))
	if _, err := os.Stat(filepath.Join(in.daemons, "master")); err != nil {
		return in, &MissingError{What: "Postfix", Advice: advice, Err: err}
	}
	// It prints those that it knows, and fails if there is one that it does not.
	known, _ := exec.Command(postconf, "-d", "smtpd_forbid_bare_newline").Output()
	in.knows = map[string]bool{"smtpd_forbid_bare_newline": len(known) > 0}
	if in.owner, err = accountOf("postfix"); err != nil {
		return in, err
	}
	if in.nobody, err = accountOf("nobody"); err != nil {
		return in, err
	}
	group, err := user.LookupGroup("postdrop")
	if err != nil {
		return in, &MissingError{What: "group postdrop", Advice: advice, Err: err}
	}
	in.dropGroup, err = strconv.Atoi(group.Gid)
	return in, err
}

func accountOf(name string) (account, error) {
	found, err := user.Lookup(name)
	if err != nil {
		return account{}, &MissingError{What: "user " + name, Advice: "it comes with the Debian package postfix", Err: err}
	}
	uid, uidErr := strconv.Atoi(found.Uid)
	gid, gidErr := strconv.Atoi(found.Gid)
	return account{uid, gid}, errors.Join(uidErr, gidErr)
}

// severalIDs says whether this process is root and may become others.
func severalIDs() error {
	missing := &MissingError{What: "user ids", Advice: "run as root, or make the lab with Enter"}
	if os.Geteuid() != 0 {
		return missing
	}
	for _, name := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		file, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("mta: %w", err)
		}
		mapped := 0
		for lines := bufio.NewScanner(file); lines.Scan(); {
			var inside, outside, count int
			if _, err := fmt.Sscan(lines.Text(), &inside, &outside, &count); err == nil {
				mapped += count
			}
		}
		if err := file.Close(); err != nil {
			return fmt.Errorf("mta: %w", err)
		}
		if mapped < manyIDs {
			missing.Err = fmt.Errorf("%s has %d", name, mapped)
			return missing
		}
	}
	return nil
}

// manyIDs is enough for all users that packages make, and for nobody (65534).
const manyIDs = 65535
