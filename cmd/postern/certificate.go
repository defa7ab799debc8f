package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"postern/proxy"
)

func newCertificate(o *options) *cobra.Command {
	return o.printed(&cobra.Command{
		Use:   "certificate",
		Short: "Print what a partner needs to know of our certificates",
		Long: `Print the sheet that a partner needs who wants to verify what Postern shows: the
names, who issued the certificate and under which root, whose it is, its key, how
long it is valid, and the fingerprints of certificate and public key. The output
fits into an e-mail as it is, and holds nothing secret.

A partner that pins the certificate takes sha256; one that pins the public key,
which outlives a renewal with the same key, takes spki-sha256. Both are written as
Postern's own rules take them (verify = "fingerprint").

    postern certificate | mail -s "our certificate" postmaster@partner.example

Where certificates are minted ([tls.authority]), the authority has a sheet, too:
clients have to trust it, as a root, and need no more.

Exit codes: 0 fine; 1 there is no certificate, or one is not valid today; 2 the
command line, the configuration or a file that it names is at fault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, err := o.load()
			if err != nil {
				return err
			}
			all, err := proxy.Sheets(file.Proxy)
			if err != nil {
				return file.Locate(err)
			}
			return o.printSheets(cmd.OutOrStdout(), all, time.Now())
		},
	})
}

func (o *options) printSheets(w io.Writer, all []proxy.Sheet, now time.Time) error {
	sheets := make([]sheet, len(all))
	finding := len(all) == 0
	for i, s := range all {
		sheets[i] = sheetOf(s, now)
		finding = finding || !sheets[i].Valid
	}
	var err error
	if o.json() {
		err = printJSON(w, sheets)
	} else {
		err = writeSheets(w, sheets)
	}
	switch {
	case err != nil:
		return runtimeError{err}
	case finding:
		return errFinding
	}
	return nil
}

// A sheet is what "certificate --format json" prints of one certificate.
type sheet struct {
	Authority    bool      `json:"authority,omitempty"` // that of [tls.authority]; it has no name
	Name         string    `json:"name"`
	Subject      string    `json:"subject"`
	Organisation string    `json:"organisation,omitempty"`
	Issuer       string    `json:"issuer"`
	Chain        []string  `json:"chain"`
	Root         string    `json:"root,omitempty"` // absent: it leads to no root that is trusted here
	Key          string    `json:"key"`
	KeyBits      int       `json:"key_bits"`
	NotBefore    time.Time `json:"not_before"`
	NotAfter     time.Time `json:"not_after"`
	Valid        bool      `json:"valid"` // today
	DaysLeft     int       `json:"days_left"`
	Names        []string  `json:"names"`
	SHA256       string    `json:"sha256"`
	SPKISHA256   string    `json:"spki_sha256"`
}

func sheetOf(s proxy.Sheet, now time.Time) sheet {
	return sheet{
		Authority: s.Authority, Name: s.Name, Subject: s.Subject, Organisation: s.Organisation, Issuer: s.Issuer,
		Chain: notNil(s.Chain), Root: s.Root, Key: s.Key, KeyBits: s.KeyBits,
		NotBefore: s.NotBefore.UTC(), NotAfter: s.NotAfter.UTC(),
		Valid:    !now.Before(s.NotBefore) && !now.After(s.NotAfter),
		DaysLeft: days(s.NotAfter.Sub(now)),
		Names:    notNil(s.Names),
		SHA256:   hex.EncodeToString(s.SHA256[:]), SPKISHA256: hex.EncodeToString(s.SPKISHA256[:]),
	}
}

// days counts whole days, those past as negative ones.
func days(d time.Duration) int {
	const day = 24 * time.Hour
	if d < 0 {
		return -int((-d + day - 1) / day)
	}
	return int(d / day)
}

func writeSheets(w io.Writer, sheets []sheet) error {
	if len(sheets) == 0 {
		_, err := io.WriteString(w, "There is no [[tls.certificate]]: clients are shown none, and are not offered STARTTLS.\n")
		return err
	}
	var b strings.Builder
	for i, s := range sheets {
		if i > 0 {
			b.WriteString("\n")
		}
		s.write(&b)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (s sheet) write(b *strings.Builder) {
	if s.Authority {
		b.WriteString("Authority that mints certificates: who connects here has to trust it\n")
	} else {
		fmt.Fprintf(b, "Certificate %q\n", s.Name)
	}
	line := func(about, words string) {
		if words != "" {
			paragraph(b, fmt.Sprintf("  %-13s ", about), words)
		}
	}
	root := s.Root
	if root == "" {
		root = "none: it leads to no root that is trusted here"
	}
	names := strings.Join(s.Names, ", ")
	if names == "" {
		names = "none: no peer can verify it by name"
	}
	line("subject", s.Subject)
	line("organisation", s.Organisation)
	line("issuer", s.Issuer)
	line("root", root)
	line("key", s.keyWords())
	line("valid", s.validity())
	if !s.Authority {
		line("names", names)
	}
	fmt.Fprintf(b, "  fingerprints\n  sha256:%s\n  spki-sha256:%s\n", s.SHA256, s.SPKISHA256)
}

func (s sheet) keyWords() string {
	if s.KeyBits == 0 {
		return s.Key
	}
	return fmt.Sprintf("%s, %d bits", s.Key, s.KeyBits)
}

func (s sheet) validity() string {
	words := fmt.Sprintf("from %s to %s", s.NotBefore.Format(time.DateOnly), s.NotAfter.Format(time.DateOnly))
	switch {
	case s.Valid && s.DaysLeft == 1:
		return words + " (1 day left)"
	case s.Valid:
		return fmt.Sprintf("%s (%d days left)", words, s.DaysLeft)
	case s.DaysLeft < 0:
		return words + " (EXPIRED)"
	}
	return words + " (NOT YET VALID)"
}
