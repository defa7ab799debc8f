package main

import (
	"time"

	"github.com/spf13/cobra"
)

func newExplain(o *options) *cobra.Command {
	var f explainFlags
	var asked question
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

Exit codes: 0 allowed; 1 refused (in mode = "observe" it would be recorded and not
spoken); 2 the command line or the configuration is at fault.`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) (err error) {
			asked, err = f.question(cmd.Flags().Changed)
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
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
	return o.printed(cmd)
}
