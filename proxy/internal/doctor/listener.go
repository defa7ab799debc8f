package doctor

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"postern/proxy/internal/intercept"
)

func littleEndian() bool { return binary.NativeEndian.Uint16([]byte{1, 0}) == 1 }

// listener looks at who has the addresses to which connections are handed.
func listener(_ context.Context, e *examination) ([]Finding, error) {
	sockets, err := listeningSockets()
	if err != nil {
		return nil, err
	}
	var found []Finding
	var missing []string
	for _, address := range e.Plan.Listen {
		i := slices.IndexFunc(sockets, func(l listening) bool { return l.takes(address) })
		if i < 0 {
			missing = append(missing, address.String())
			continue
		}
		found = append(found, e.taken(address, sockets[i])...)
	}
	if len(missing) > 0 {
		found = append(found, e.nobody(missing))
	}
	return found, nil
}

// nobody is that nothing listens, which only matters while connections are sent
// there.
func (e *examination) nobody(missing []string) Finding {
	f := Finding{Severity: Problem, What: "nothing listens on " + strings.Join(missing, " and "), Mend: []string{e.start("run")}}
	switch {
	case !e.intercepts():
		f.Why = "connections made there are refused"
	case e.stateErr == nil && !e.state.Taking:
		f.Severity, f.Why = Note, "it has to, before interception is put in force"
	case e.stateErr != nil:
		f.Why = "if interception is in force, when_down holds: connections are reset, or pass without Postern"
	case e.Plan.WhenDown == intercept.Pass:
		f.Why = `when_down = "pass" holds: connections pass without Postern, unguarded and unrecorded`
	default:
		f.Why = `when_down = "block" holds: connections are reset, and senders try again later`
	}
	return f
}

// taken is that somebody else has the address.
func (e *examination) taken(address netip.AddrPort, l listening) []Finding {
	who := owners(l.inode)
	switch {
	case len(who) == 0 && os.Geteuid() != 0:
		return []Finding{{Severity: Unknown, What: fmt.Sprintf("a program listens on %s, and which one this user may not see", l.address),
			Why: "if it is not Postern, that one gets the connections", Mend: e.asRoot()}}
	case len(who) == 0 || slices.ContainsFunc(who, func(p process) bool { return p.isPostern() || p.isSystemd() }):
		return nil
	}
	return []Finding{{Severity: Problem, What: fmt.Sprintf("%s listens on %s, and Postern cannot listen on %s", who[0], l.address, address),
		Why: "Postern does not start, and intercepted connections may come to that program", Mend: []string{
			fmt.Sprintf("systemctl status %d # what it is; stop it, or name another port in listen.addresses, then: %s", who[0].id, e.postern("intercept up"))}}}
}

// capability looks at the Postern that runs. Without its privilege it would not
// have started, unless it was taken away or is of a user namespace of its own.
func capability(_ context.Context, e *examination) ([]Finding, error) {
	if e.Plan.Method != intercept.TProxy && !e.Plan.PreserveSource {
		return nil, nil
	}
	sockets, err := listeningSockets()
	if err != nil {
		return nil, err
	}
	var found []Finding
	seen := map[int]bool{}
	for _, l := range sockets {
		if !slices.ContainsFunc(e.Plan.Listen, l.takes) {
			continue
		}
		for _, p := range owners(l.inode) {
			if !p.isPostern() || seen[p.id] {
				continue
			}
			seen[p.id] = true
			f, err := able(p)
			if err != nil {
				return found, err
			}
			found = append(found, f...)
		}
	}
	return found, nil
}

const (
	unitMend = "systemctl cat postern.service # AmbientCapabilities= and CapabilityBoundingSet= have CAP_NET_RAW, PrivateUsers= is off"
	why      = "it can neither accept connections to other addresses nor dial from the client's"
)

// able tells whether a process may do what transparent sockets take, in the user
// namespace that owns the network, which is taken to be this one.
func able(p process) ([]Finding, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", p.id))
	if err != nil {
		return nil, nil // it has just ended
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		text, ok := strings.CutPrefix(lines.Text(), "CapEff:")
		if !ok {
			continue
		}
		effective, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
		if err != nil {
			return nil, err
		}
		if effective&(1<<unix.CAP_NET_RAW|1<<unix.CAP_NET_ADMIN) == 0 {
			return []Finding{{Severity: Problem, What: fmt.Sprintf("%s has no CAP_NET_RAW", p), Why: why, Mend: []string{unitMend, "systemctl restart postern.service"}}}, nil
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/user", p.id))
	if errors.Is(err, os.ErrPermission) {
		return nil, errUnprivileged
	}
	own, ownErr := os.Readlink("/proc/self/ns/user")
	if err == nil && ownErr == nil && its != own {
		return []Finding{{Severity: Problem, What: fmt.Sprintf("%s has its privileges in a user namespace of its own", p), Why: why, Mend: []string{unitMend, "systemctl restart postern.service"}}}, nil
	}
	return nil, nil
}
