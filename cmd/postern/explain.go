package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newExplain(o *options) *cobra.Command {
	var f explainFlags
	var asked question
	var record, session string
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "What would happen to a connection, and by which rule?",
		Long: `Say which rules bind a connection and its mail, and which verdict comes of it. No
connection is made: who connects where, and what both sides would do, is told by
flags, and judged by the very code that "postern run" judges with.

Two sorts of rules bind. A connection rule is chosen by the addresses of client and
server alone, when the connection comes in. An envelope rule (one with to_domains
or from_domains) comes on top of it, at MAIL or at each RCPT. Both must hold. For
each point of the session the verdict is printed, the codes of the reply that the
sender would get, whose demand was not met, and why each rule that was asked binds
or does not.

Left out, the server is a good one: it offers STARTTLS, speaks TLS 1.3 and has a
certificate that verifies, but for no name, as long as --names gives none. The
client uses no TLS. Addresses left out are 192.0.2.1 for the client and
198.51.100.25 for the server (documentation addresses, which networks in rules
should not have in them). Without --to no recipient is judged.

    postern explain --upstream 203.0.113.7 --to someone@contoso.com
    postern explain --upstream 203.0.113.7 --tls 1.0
    postern explain --to contoso.com --tls 1.2 --verified expired
    postern explain --client 10.7.0.9 --from hospital.example --starttls=no

With --record it is a record of the log that is explained: what was found of both
sides, what each reason means, who demanded what was not met, and what would have
to change on the other side or in the configuration. The file has one record, or
--session says which; "-" is standard input. Lines of the log that are no records
are passed over. With --session alone the file of [log] output is read.

    postern explain --session 7KQ2M4XA
    journalctl -u postern -o json --all | postern explain --record - --session 7KQ2M4XA

Exit codes: 0 allowed; 1 refused (in mode = "observe" it would be recorded and not
spoken); 2 the command line or the configuration is at fault.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) (err error) {
			if record != "" || session != "" {
				return onlyRecord(cmd)
			}
			asked, err = f.question(cmd.Flags().Changed)
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if record != "" || session != "" {
				return o.explainRecord(cmd, record, session)
			}
			file, err := o.load()
			if err != nil {
				return err
			}
			e := explain(file, asked, time.Now())
			if o.json() {
				err = printJSON(cmd.OutOrStdout(), e)
			} else {
				err = e.print(cmd.OutOrStdout())
			}
			switch {
			case err != nil:
				return runtimeError{err}
			case e.Verdict != allowed:
				return errFinding
			}
			return nil
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&record, "record", "", "explain a record in this `file` of the log instead; - is standard input")
	cmd.Flags().StringVar(&session, "session", "", "the `id` of the record, as refusals quote it")
	return o.printed(cmd)
}

// onlyRecord refuses what has no effect on a record, which has its facts.
func onlyRecord(cmd *cobra.Command) (err error) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if !slices.Contains([]string{"record", "session", "config", "format"}, f.Name) {
			err = fmt.Errorf("--%s has no effect beside --record and --session", f.Name)
		}
	})
	return err
}
