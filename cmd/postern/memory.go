package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/cmd/internal/config"
	"postern/enforce/cluster"
	"postern/enforce/kept"
	"postern/enforce/memory"
)

func newMemory(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "memory",
		Short: "What is remembered of servers and domains, and how to forget it",
		Long: `Look at what Postern remembers, or have it forget.

Of each server and each recipient domain it is kept that there was TLS, with which
version and which key, so that a STARTTLS that somebody took away can be told from
one that never was ([memory] downgrade says what becomes of such a session). It is
relied on at once where the certificate was verified, and otherwise when the same
key was seen on three occasions over a day or more. Nothing that is said in clear
weakens it. It runs out [memory] remember after the last session with TLS. Clients
that are held to a TLS handshake below the floor ([tls] hold) are kept beside it.

A server that really gave up TLS is refused until that has run out, or until
"postern memory forget".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newMemoryList(o), newMemoryShow(o), newMemoryForget(o))
	return cmd
}

func newMemoryList(o *options) *cobra.Command {
	return o.printed(&cobra.Command{
		Use:   "list",
		Short: "Print all that is remembered",
		Long: `Print all that is remembered, a line each, those seen last at the end. What the
daemon saw in the last few seconds may not be written yet.

Exit codes: 0 fine; 1 nothing is known, or it could not be read; 2 the
command line or the configuration is at fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.remembered(nil)
			if err != nil {
				return err
			}
			return o.printMemory(cmd.OutOrStdout(), m, remembered.list)
		},
	})
}

func newMemoryShow(o *options) *cobra.Command {
	var of memory.Subject
	return o.printed(&cobra.Command{
		Use:   "show ADDRESS|NETWORK|DOMAIN",
		Short: "Print what is remembered of a server, a domain or a client",
		Long: `Print what is remembered of a server, a domain or a client that is held, with every
key that was seen. An address may have a port; a network shows all that is in it.

    postern memory show 203.0.113.7
    postern memory show contoso.com

Exit codes: 0 fine; 1 nothing is known, or it could not be read; 2 the
command line or the configuration is at fault.`,
		Args:    cobra.ExactArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) { of, err = subjectOf(args[0]); return err },
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, err := o.remembered(&of)
			if err != nil {
				return err
			}
			return o.printMemory(cmd.OutOrStdout(), m, remembered.show)
		},
	})
}

func newMemoryForget(o *options) *cobra.Command {
	var of memory.Subject
	return o.printed(&cobra.Command{
		Use:   "forget ADDRESS|NETWORK|DOMAIN",
		Short: "Forget a server, a domain or a client",
		Long: fmt.Sprintf(`Forget what is remembered of a server, of all servers in a network, of a domain, or
of a client that is held. It is learnt anew from the next session with TLS.

It may be said while the daemon runs, which forgets within %s what it has in
memory, with whatever it learnt of it in between; or while none runs. The file
stays whose it was, whoever says it. On a server that gateways share, it is said
once for all of them, and those that cannot be reached forget it when they can.

    postern memory forget 203.0.113.7
    postern memory forget contoso.com

Exit codes: 0 fine; 1 nothing was known, or it could not be written; 2 the
command line or the configuration is at fault.`, memory.Behind),
		Args:    cobra.ExactArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) (err error) { of, err = subjectOf(args[0]); return err },
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := o.load()
			if err != nil {
				return err
			}
			store, err := storeOf(file)
			if err != nil {
				return err
			}
			n, err := memory.Forget(store, of)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return runtimeError{fmt.Errorf("memory %s: %w", store.place, err)}
			}
			return o.printForgotten(cmd.OutOrStdout(), of, n)
		},
	})
}

// subjectOf reads an argument; a domain may be written as people write it.
func subjectOf(text string) (memory.Subject, error) {
	s, err := memory.ParseSubject(text)
	if err == nil || strings.ContainsAny(text, "@<>[]/:") {
		return s, err
	}
	a, wrong := readAddress(text, "TO:")
	if wrong != nil || a.Literal || a.Domain == "" {
		return s, err
	}
	return memory.ParseSubject(a.Domain)
}

// A store is where memory is kept, and what people call it.
type store struct {
	kept.Archive
	place string
}

func storeOf(file *config.File) (store, error) {
	m := file.Proxy.Memory
	switch {
	case !m.Server.IsZero():
		return store{cluster.OnServer(m.Server), m.Server.String()}, nil
	case m.Store != "":
		return store{memory.InFile(m.Store), m.Store}, nil
	}
	return store{}, runtimeError{errors.New(`nothing is kept in a file ([memory] store = ""): only the daemon knows what it remembers`)}
}

// remembered reads what there is of a subject, or all of it.
func (o *options) remembered(of *memory.Subject) (remembered, error) {
	file, err := o.load()
	if err != nil {
		return remembered{}, err
	}
	store, err := storeOf(file)
	if err != nil {
		return remembered{}, err
	}
	c, err := memory.Read(store)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return remembered{}, runtimeError{fmt.Errorf("memory %s: %w", store.place, err)}
	}
	if of != nil {
		c = c.Of(*of)
	}
	return rememberedOf(c, file.Proxy.Memory.Remember, file.Proxy.TLS.Hold, time.Now()), nil
}

func (o *options) printMemory(w io.Writer, m remembered, table func(remembered, io.Writer) error) error {
	var err error
	if o.json() {
		err = printJSON(w, m)
	} else {
		err = table(m, w)
	}
	switch {
	case err != nil:
		return runtimeError{err}
	case len(m.Destinations)+len(m.Domains)+len(m.Holds) == 0:
		return errFinding
	}
	return nil
}

func (o *options) printForgotten(w io.Writer, of memory.Subject, n int) error {
	var err error
	switch {
	case o.json():
		err = printJSON(w, struct {
			Subject   string `json:"subject"`
			Forgotten int    `json:"forgotten"`
		}{of.String(), n})
	case n == 0:
		_, err = fmt.Fprintf(w, "Nothing was known of %s.\n", of)
	default:
		_, err = fmt.Fprintf(w, "%s is forgotten (%s). A daemon that runs forgets it within %s.\n", of, entryCount(n), memory.Behind)
	}
	switch {
	case err != nil:
		return runtimeError{err}
	case n == 0:
		return errFinding
	}
	return nil
}

func entryCount(n int) string {
	if n == 1 {
		return "1 entry"
	}
	return fmt.Sprintf("%d entries", n)
}
