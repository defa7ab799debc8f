package intercept

import (
	"sync"
	"time"
)

// nameLife is how long an interface name is believed: interfaces are renamed
// and their indexes used again, but rarely.
const nameLife = time.Minute

// mostNames bounds the cache; a machine with more interfaces than this that
// receive mail merely asks more often.
const mostNames = 1024

// interfaceNames spares a system call a connection.
type interfaceNames struct {
	mu    sync.Mutex
	known map[int]knownName
}

type knownName struct {
	name  string
	until time.Time
}

func newInterfaceNames() *interfaceNames {
	return &interfaceNames{known: map[int]knownName{}}
}

// of is the name of the interface that an accepted connection came in on.
func (n *interfaceNames) of(fd int) string {
	index := arrivalInterface(fd)
	if index <= 0 {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if known, ok := n.known[index]; ok && now.Before(known.until) {
		return known.name
	}
	if len(n.known) >= mostNames {
		clear(n.known)
	}
	name := interfaceName(fd, index)
	n.known[index] = knownName{name, now.Add(nameLife)}
	return name
}
