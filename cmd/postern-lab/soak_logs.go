package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	logDisk   = 48 << 20 // octets
	rotatedAt = 4 << 20
)

// A logbook is the daemon's log: a file on a disk of its own.
type logbook struct {
	dir     string
	mounted bool

	records, unreadable   int // lines
	reloaded, kept        int // reloads that came into force, and that did not
	acceptFailed, missing int
	crashed               []string // sessions
}

func (b *logbook) path() string    { return filepath.Join(b.dir, "postern.log") }
func (b *logbook) rotated() string { return filepath.Join(b.dir, "postern.log.1") }

// fill takes all room on the disk, free gives it back.
func (b *logbook) fill() error {
	file, err := os.Create(filepath.Join(b.dir, "filler"))
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	for piece := make([]byte, 64<<10); err == nil; {
		_, err = file.Write(piece)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	return file.Close()
}

func (b *logbook) free() error { return os.Remove(filepath.Join(b.dir, "filler")) }

// rotate puts the file out of the way once it is long, for the daemon to open
// another at its next reload; and takes in the last one that it has let go.
func (b *logbook) rotate() error {
	now, err := os.Stat(b.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the daemon has not come round to opening it anew
	}
	if err != nil {
		return err
	}
	if _, err := os.Stat(b.rotated()); err == nil {
		return errors.Join(b.absorb(b.rotated()), os.Remove(b.rotated()))
	}
	if now.Size() < rotatedAt {
		return nil
	}
	return os.Rename(b.path(), b.rotated())
}

func (b *logbook) absorbAll() error { return errors.Join(b.absorb(b.rotated()), b.absorb(b.path())) }

// absorb counts what a file says.
func (b *logbook) absorb(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Msg   string
			Lines int
		}
		if json.Unmarshal(lines.Bytes(), &line) != nil {
			b.unreadable++
			continue
		}
		switch line.Msg {
		case "session":
			b.records++
		case "reloaded":
			b.reloaded++
		case "reload failed, everything stays as it was":
			b.kept++
		case "accept failed, trying again":
			b.acceptFailed++
		case "lines of the log were lost here: it could not be written":
			b.missing += line.Lines
		case "session crashed":
			b.crashed = append(b.crashed, lines.Text())
		}
	}
	return lines.Err()
}

// A postfixLog is what Postfix wrote down of the messages that it was given.
type postfixLog struct {
	accepted  map[string]bool // messages whose recipient's server said 250
	doubtful  attempts        // that ended behind the end of data, without a reply
	bounced   int
	deferrals int
	secured   int // handshakes
}

// The lines of Postfix's log: which message has which queue id, and what became
// of a delivery.
var (
	messageLine  = regexp.MustCompile(`postfix/cleanup\[\d+\]: (\w+): message-id=<([^@>]+)@`)
	deliveryLine = regexp.MustCompile(`postfix/\w+\[\d+\]: (\w+): to=<.*, status=(\w+) (.*)$`)
)

// sentTwice is what Postfix says of an attempt that it does not know the end of.
const sentTwice = "message may be sent more than once"

func readPostfixLog(lines []string) postfixLog {
	p := postfixLog{accepted: map[string]bool{}, doubtful: attempts{}}
	ids := map[string]string{}
	for _, line := range lines {
		if found := messageLine.FindStringSubmatch(line); found != nil {
			ids[found[1]] = found[2]
			continue
		}
		if strings.Contains(line, "TLS connection established to ") {
			p.secured++
		}
		found := deliveryLine.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		id := ids[found[1]]
		switch found[2] {
		case "sent":
			p.accepted[id] = true
		case "bounced", "expired":
			p.bounced++
		case "deferred":
			p.deferrals++
		}
		if strings.Contains(found[3], sentTwice) {
			p.doubtful[id]++
		}
	}
	return p
}
