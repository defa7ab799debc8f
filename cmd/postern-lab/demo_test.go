package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// nobody is a user without any right, where this program may become another user.
const nobody = 65534

// withoutRoot prepares a program that has no right that an ordinary user has not.
// Real root becomes nobody; within the user namespace of an ordinary user there
// is nothing to give up.
func withoutRoot(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	command := exec.CommandContext(ctx, name, args...)
	command.Dir = "/"
	command.Env = []string{"PATH=/nonexistent", "HOME=/nonexistent"}
	mapped, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(string(mapped)); len(fields) == 3 && len(fields[2]) > len("65534") {
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	} else {
		t.Logf("not root: running as the user that this is (%q)", mapped)
	}
	return command
}

func TestTheDemoRunsWithoutRootAndGoesAsExpected(t *testing.T) {
	command := withoutRoot(t, program("postern-lab"), "demo", "--postern", program("postern"))
	var out, errs bytes.Buffer
	command.Stdout, command.Stderr = &out, &errs
	if err := command.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, out.String(), errs.String())
	}
	shown := strings.Join(strings.Fields(out.String()), " ") // however it is wrapped
	for _, want := range []string{
		"DELIVERED A scanner that knows no TLS is upgraded from scanner.hospital.example, 10.1.0.21: a scanner, knows no TLS " +
			"to mx.partner.example, 203.0.113.10: TLS 1.2 and 1.3, a good certificate " +
			"client in clear upstream TLS 1.3, TLS_AES_128_GCM_SHA256, X25519MLKEM768; certificate verified",
		"DELIVERED TLS on both legs from relay.hospital.example",
		"DELIVERED A device that only says HELO is upgraded",
		"DELIVERED TLS on both legs, over IPv6 from six.hospital.example, 2001:db8:1::23",
		"upstream TLS 1.0, TLS_RSA_WITH_AES_128_CBC_SHA, handshake failed verdict defer: tls-version-too-low",
		"said 421 4.7.5 mx.old.example: TLS 1.0 is below TLS 1.2 (tls-version-too-low) [",
		"upstream in clear verdict allow; connection rule \"default\" (may:none)",
		"said 421 4.7.4 mx.clinic.example: STARTTLS is not offered (starttls-not-offered) [",
		"said 421 4.7.5 mx2.bank.example: the certificate is for elsewhere.invalid (cert-name-mismatch) [",
		"IN PART One recipient's domain asks for more than this server has",
		"said 451 4.7.5 mx.partner.example: the certificate is for mx.partner.example (cert-name-mismatch) [",
		"octets arrived within TLS, unchanged (SHA-256 ",
		"0 of 11 messages that servers took within TLS, 2 of 2 that they took in clear, 0 of 13 refused.",
		"26 conversations: 10 delivered, 1 in part, 13 refused, 2 observed; 0 otherwise than expected.",
	} {
		if !strings.Contains(shown, want) {
			t.Errorf("not shown: %s", want)
		}
	}
	if t.Failed() {
		t.Log(out.String())
	}
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, "\x1b") {
			t.Errorf("colours where there is no terminal: %q", line)
		}
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
			t.Errorf("a line of %d characters: %s", n, line)
		}
	}
	if errs.Len() > 0 {
		t.Errorf("standard error: %s", errs.String())
	}
}

func TestTheDemoPrintsTheRecordsForPrograms(t *testing.T) {
	var out, errs bytes.Buffer
	if code := demo(program("postern"), true, &out, &errs); code != exitFine {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	sessions := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		var r struct{ Msg, Session string }
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.Msg != "session" {
			t.Errorf("not a record: %q: %v", line, err)
		}
		sessions[r.Session] = true
	}
	if len(sessions) != 26 {
		t.Errorf("%d records, want 26", len(sessions))
	}
}

// Where the kernel gives no network namespace, as in many containers, the demo
// says what forbids it and what to do. A user namespace of its own has limits of
// its own, so that nothing of the machine is changed.
func TestWhereNamespacesAreForbiddenTheDemoSaysHowToGoOn(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "/bin/sh", "-c",
		`echo 0 >/proc/sys/user/max_net_namespaces && exec "$@"`, "sh",
		program("postern-lab"), "demo", "--postern", program("postern"))
	command.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
	}
	said, err := command.CombinedOutput()
	if command.ProcessState == nil {
		t.Fatal(err)
	}
	if code := command.ProcessState.ExitCode(); code != exitUsage {
		t.Errorf("exit %d, want %d", code, exitUsage)
	}
	for _, want := range []string{"user.max_net_namespaces = 0", "sysctl -w user.max_net_namespaces=10000"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("%q is not in %q", want, said)
		}
	}
}
