package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"postern/proxy/proxytest"
)

// spareFiles are those that are open besides two for each idle session.
const spareFiles = 400

// raiseFiles allows this program and those it starts to have so many files open,
// or as many as this user can have, and returns how many that are.
func raiseFiles(want uint64) (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	if limit.Max < want {
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: want, Max: want}) == nil {
			return want, nil
		}
	}
	return limit.Max, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit.Max, Max: limit.Max})
}

// memory is what is resident of postern, in octets; 0 when it has ended.
func (l *assault) memory() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", l.daemon.command.Process.Pid))
	if fields := strings.Fields(string(text)); err == nil && len(fields) > 1 {
		pages, _ := strconv.ParseInt(fields[1], 10, 64)
		return pages * int64(os.Getpagesize())
	}
	return 0
}

func megabytes(octets int64) float64 { return float64(octets) / (1 << 20) }

const (
	reloadsUnderLoad = 20
	// growth is what a second peak may be above the first: the same load again
	// needs the same memory again, or something is not given back.
	growth = 1.25
	// uncollected is what garbage postern lets gather before it collects, in octets:
	// at a peak more or less of it may be there.
	uncollected = 32 << 20
	// perSession bounds what one idle session may need, in octets.
	perSession = 200 << 10
)

// idle holds very many sessions: twice in TLS on both legs, and in clear on the
// client's in between.
func (l *assault) idle(ctx context.Context) error {
	start := l.memory()
	var peaks []int64
	for _, secure := range []bool{true, false, true} {
		peak, err := l.crowd(ctx, secure, start)
		if err != nil {
			return err
		}
		if secure {
			peaks = append(peaks, peak)
		}
	}
	if float64(peaks[1]) > growth*float64(peaks[0])+uncollected {
		l.finding("memory grows: %.1f MB at the first peak, %.1f MB at the second", megabytes(peaks[0]), megabytes(peaks[1]))
	}
	return l.subside(ctx, start, peaks[0])
}

// crowd holds the sessions of one kind and returns what postern needed for them.
func (l *assault) crowd(ctx context.Context, secure bool, start int64) (int64, error) {
	began := time.Now()
	open, err := l.gather(ctx, secure)
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	if err != nil {
		return 0, err
	}
	took := time.Since(began)
	at := 0
	for _, counter := range l.counters {
		at += counter.Open()
	}
	peak := l.memory()
	each := (peak - start) / int64(len(open))
	kind := "in clear and TLS"
	if secure {
		kind = "in TLS and TLS"
	}
	l.row(fmt.Sprintf("%d sessions, %s", len(open), kind), fmt.Sprintf("made in %s; %.1f MB resident, %.1f KB a session", took.Round(time.Millisecond),
		megabytes(peak), float64(each)/1024))
	if at < len(open) {
		l.finding("%d sessions reached a server, expected %d", at, len(open))
	}
	// What the program itself grows by is not the sessions'.
	if l.sessions >= 1000 && each > perSession {
		l.finding("%d octets a session", each)
	}
	if err := l.reloads(ctx); err != nil {
		return 0, err
	}
	return peak, nil
}

// reloads has the configuration read again and again.
func (l *assault) reloads(ctx context.Context) error {
	before, began := l.memory(), time.Now()
	for range reloadsUnderLoad {
		status, err := l.daemon.reload(ctx)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(status, "serving") {
			return fmt.Errorf("reload: %s", status)
		}
	}
	l.row(fmt.Sprintf("  %d reloads", reloadsUnderLoad), fmt.Sprintf("in %s; %.1f MB resident before, %.1f MB after",
		time.Since(began).Round(time.Millisecond), megabytes(before), megabytes(l.memory())))
	return nil
}

// gather opens the sessions and leaves each at rest behind its EHLO.
func (l *assault) gather(ctx context.Context, secure bool) ([]net.Conn, error) {
	open := make([]net.Conn, l.sessions)
	errs := make([]error, surgeAtOnce)
	var running sync.WaitGroup
	for worker := range surgeAtOnce {
		running.Go(func() {
			for n := worker; n < l.sessions && errs[worker] == nil; n += surgeAtOnce {
				open[n], errs[worker] = l.restful(ctx, n, secure)
			}
		})
	}
	running.Wait()
	var all []net.Conn
	for _, conn := range open {
		if conn != nil {
			all = append(all, conn)
		}
	}
	return all, errors.Join(errs...)
}

func (l *assault) restful(ctx context.Context, n int, secure bool) (net.Conn, error) {
	conn, err := l.dial(ctx, l.sources[n%len(l.sources)], idleServers[n/len(l.sources)%len(idleServers)])
	if err != nil {
		return nil, err
	}
	client := proxytest.NewClient(conn, patience)
	if err := sayHello(client); err != nil || !secure {
		return conn, err
	}
	reply, err := client.StartTLS(&tls.Config{InsecureSkipVerify: true})
	if err = wanted(reply, 220, err); err != nil {
		return conn, err
	}
	reply, err = client.Hello("EHLO", "idle.hospital.example")
	return conn, wanted(reply, 250, err)
}

// subside waits for the memory to be given back. The runtime does that by and by:
// it collects at the latest after two minutes.
func (l *assault) subside(ctx context.Context, start, peak int64) error {
	want := start + (peak-start)/4
	began := time.Now()
	for time.Since(began) < l.settle && l.memory() > want && pause(ctx, time.Second) {
	}
	l.row("memory some time after", fmt.Sprintf("%.1f MB after %s", megabytes(l.memory()), time.Since(began).Round(time.Second)))
	if l.settle > 0 && l.memory() > want {
		l.finding("%.1f MB are still resident, of %.1f MB at the peak", megabytes(l.memory()), megabytes(peak))
	}
	return nil
}
