package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"unicode"

	"github.com/BurntSushi/toml"

	"postern/enforce"
	"postern/proxy"
)

// maxSize bounds a configuration file, octets. The largest that people write are
// a hundredth of it.
const maxSize = 1 << 20

// A File is a configuration without faults.
type File struct {
	Path   string
	Proxy  proxy.Config
	Policy *enforce.Policy // the rules of Proxy, compiled with its floor

	// Notes are no faults: what an administrator should know of the file and
	// would not hear otherwise, such as an exception without an owner.
	Notes Errors

	at *positions
}

// Load reads the configuration file at path. If the file can be read and is
// faulty the error is of type Errors and holds every fault; then there is no File.
func Load(path string) (*File, error) {
	// Non-blocking: opening a FIFO would wait for somebody to write, and a reload
	// would stand still with it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("configuration: %s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse is Load for a file that was read already. Data beyond 1 MiB is a fault.
// The path is only named in what is returned.
func Parse(path string, data []byte) (*File, error) {
	values, lines, fault := decode(path, data)
	if fault != nil {
		return nil, Errors{fault}
	}
	r := &reader{file: path, at: &positions{lines: lines, titles: map[string]string{}}}
	f := &File{Path: path, Proxy: defaults(), at: r.at}

	top := r.table("", values)
	read(top, "mode", &f.Proxy.Observe, oneOf(word[bool]{text: "enforce"}, word[bool]{text: "observe", value: true}))
	readIntercept(top, &f.Proxy)
	tls := top.inner("tls")
	readTLS(tls, &f.Proxy.TLS)
	readSMTP(top.inner("smtp"), &f.Proxy.SMTP)
	resolver := top.inner("resolver")
	readResolver(resolver, &f.Proxy.Resolver)
	readVerify(top.inner("verify"), &f.Proxy.Verify)
	readMemory(top.inner("memory"), &f.Proxy.Memory)
	readLimits(top.inner("limits"), &f.Proxy.Limits)
	readTimeouts(top.inner("timeouts"), &f.Proxy.Timeouts)
	readLog(top.inner("log"), &f.Proxy.Log)
	readLater(top)
	rules := readRules(top, &f.Proxy)
	needsResolver(rules, resolver, &f.Proxy)
	top.done()
	f.Policy = compile(rules, tls, &f.Proxy)

	if len(r.errs) > 0 {
		return nil, r.sorted()
	}
	f.Notes = notes(f)
	return f, nil
}

// decode parses the syntax. At the first fault of that there is no telling what
// the rest would mean, so this is the one fault that comes alone.
func decode(path string, data []byte) (values map[string]any, lines map[string]int, fault *Error) {
	if len(data) > maxSize {
		return nil, nil, &Error{File: path, Line: 1, Msg: fmt.Sprintf("more than %d octets found, expected a configuration file", maxSize)}
	}
	lines, exceeded, at := scanLines(string(data))
	if exceeded != "" {
		return nil, nil, &Error{File: path, Line: at, Msg: exceeded}
	}
	// The library has panics of its own for what it believes cannot happen.
	defer func() {
		if p := recover(); p != nil {
			fault = &Error{File: path, Line: 1, Msg: "expected TOML: " + oneLine(fmt.Sprint(p))}
		}
	}()
	if _, err := toml.Decode(string(data), &values); err != nil {
		fault = &Error{File: path, Line: 1, Msg: "expected TOML: " + oneLine(err.Error())}
		if syntax := (toml.ParseError{}); errors.As(err, &syntax) {
			fault.Line = max(1, syntax.Position.Line)
			fault.Msg = "expected TOML: " + oneLine(syntax.Message)
		}
	}
	return values, lines, fault
}

// oneLine makes a message of the library fit to be printed: it quotes what it
// found as it stands, control characters and all.
func oneLine(msg string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, cut(msg)))
}
