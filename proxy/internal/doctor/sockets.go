package doctor

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// listening is a TCP socket that accepts, as /proc/net/tcp lists it.
type listening struct {
	address netip.AddrPort
	inode   string
}

// listeningSockets are those of the network namespace of the calling thread.
func listeningSockets() ([]listening, error) {
	var all []listening
	for _, name := range []string{"tcp", "tcp6"} {
		file, err := os.Open("/proc/thread-self/net/" + name)
		if errors.Is(err, os.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(file)
		for lines.Scan() {
			if l, ok := listeningOf(lines.Text()); ok {
				all = append(all, l)
			}
		}
		if err := errors.Join(lines.Err(), file.Close()); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// listeningOf reads one line: its number, the local address, the remote one, the
// state, five more columns, and the inode.
func listeningOf(line string) (listening, bool) {
	const listens = "0A" // TCP_LISTEN
	fields := strings.Fields(line)
	if len(fields) < 10 || fields[3] != listens {
		return listening{}, false
	}
	host, port, found := strings.Cut(fields[1], ":")
	octets, err := hex.DecodeString(host)
	number, portErr := strconv.ParseUint(port, 16, 16)
	if !found || err != nil || portErr != nil || len(octets) != 4 && len(octets) != 16 {
		return listening{}, false
	}
	if littleEndian() {
		for at := 0; at < len(octets); at += 4 {
			slices.Reverse(octets[at : at+4]) // words as the machine has them
		}
	}
	address, _ := netip.AddrFromSlice(octets)
	return listening{netip.AddrPortFrom(address.Unmap(), uint16(number)), fields[9]}, true
}

// takes tells whether the socket is the one that connections to the address come
// to, or keeps others from it.
func (l listening) takes(address netip.AddrPort) bool {
	if l.address.Port() != address.Port() {
		return false
	}
	mine, its := address.Addr(), l.address.Addr()
	// Whether one on [::] takes IPv4 too cannot be seen here.
	return mine.Is4() == its.Is4() && (its == mine || its.IsUnspecified() || mine.IsUnspecified())
}

// process is a program that runs.
type process struct {
	id   int
	name string
	path string // of its file; "" where it cannot be seen
}

// owners are the processes that hold the socket. None where it cannot be seen,
// which root always can.
func owners(inode string) []process {
	target := "socket:[" + inode + "]"
	directories, err := filepath.Glob("/proc/[0-9]*/fd")
	if err != nil {
		return nil
	}
	var out []process
	for _, directory := range directories {
		entries, err := os.ReadDir(directory)
		if err != nil {
			continue // another's, or gone
		}
		holds := slices.ContainsFunc(entries, func(e os.DirEntry) bool {
			link, err := os.Readlink(filepath.Join(directory, e.Name()))
			return err == nil && link == target
		})
		if holds {
			out = append(out, processAt(filepath.Dir(directory)))
		}
	}
	return out
}

func processAt(directory string) process {
	p := process{}
	p.id, _ = strconv.Atoi(filepath.Base(directory))
	if name, err := os.ReadFile(filepath.Join(directory, "comm")); err == nil {
		p.name = strings.TrimSpace(string(name))
	}
	p.path, _ = os.Readlink(filepath.Join(directory, "exe"))
	return p
}

func (p process) String() string { return fmt.Sprintf("%s (process %d)", p.name, p.id) }

// isPostern knows the program by its name, or by being the same file as this one.
func (p process) isPostern() bool {
	own, err := os.Readlink("/proc/self/exe")
	path := strings.TrimSuffix(p.path, " (deleted)") // upgraded since
	return p.name == "postern" || filepath.Base(path) == "postern" || err == nil && own == p.path
}

// isSystemd holds the sockets of units before and while their service runs.
func (p process) isSystemd() bool { return p.id == 1 && p.name == "systemd" }
