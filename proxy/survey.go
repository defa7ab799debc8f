package proxy

import (
	"context"
	"time"

	"postern/proxy/internal/doctor"
	"postern/proxy/internal/intercept"
	"postern/proxy/internal/keyring"
)

// What a machine has to tell before there is a configuration.
type (
	// Machine is a machine's network, as far as a configuration depends on it.
	Machine = doctor.Machine
	// MachineInterface is one that packets come in on.
	MachineInterface = doctor.Interface
	// FoundCertificate is a certificate with the key that belongs to it.
	FoundCertificate = keyring.Found
	// InputHindrance is an input chain that keeps intercepted packets out, or may.
	InputHindrance = intercept.InputHindrance
)

// Survey asks the machine, and changes nothing. It looks at the network namespace
// of the calling thread, and ends within some seconds.
func Survey(ctx context.Context) (Machine, error) { return doctor.Survey(ctx) }

// FindCertificates looks below root, which is "/", where certificates usually are,
// for those that could be used.
func FindCertificates(root string, now time.Time) []FoundCertificate { return keyring.Find(root, now) }

// MayRead tells whether a user of this machine may read a file, as far as modes
// tell. Of a user that does not exist it is true: nobody runs as that one.
func MayRead(user, path string) bool { return doctor.MayRead(user, path) }

// InputHindrances are the input chains that keep what config intercepts out, or
// may. It needs CAP_NET_ADMIN.
func InputHindrances(config Config) ([]InputHindrance, error) { return plan(config).InputHindrances() }

// ShellWord is a path or a name as a shell takes it for one word.
func ShellWord(s string) string { return doctor.ShellWord(s) }
