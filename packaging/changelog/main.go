// Command changelog writes the versions of CHANGELOG.md as Debian's changelog, or
// as the list that nfpm makes rpm's %changelog of, so that there is one source.
//
//	changelog -format deb|rpm -version 1.2.3 -maintainer "Name <address>" CHANGELOG.md
//
// What is not released yet goes under -version, dated SOURCE_DATE_EPOCH, for it is
// what is being packaged. The clock is not read: two builds give the same bytes.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Getenv("SOURCE_DATE_EPOCH"), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "changelog:", err)
		os.Exit(1)
	}
}

func run(args []string, epoch string, w io.Writer) error {
	flags := flag.NewFlagSet("changelog", flag.ContinueOnError)
	format := flags.String("format", "deb", "deb or rpm")
	current := flags.String("version", "", "what is being packaged")
	maintainer := flags.String("maintainer", "", "who signs")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() != 1 || *current == "" || *maintainer == "" {
		return fmt.Errorf("expected -version, -maintainer and a file")
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	text, err := os.ReadFile(flags.Arg(0))
	if err != nil {
		return err
	}
	versions, err := read(string(text), *current, time.Unix(seconds, 0).UTC())
	if err != nil {
		return fmt.Errorf("%s: %w", flags.Arg(0), err)
	}
	switch *format {
	case "deb":
		return writeDebian(w, versions, *maintainer)
	case "rpm":
		return writeRPM(w, versions, *maintainer)
	}
	return fmt.Errorf("-format %q found, expected deb or rpm", *format)
}

// A version is one section of the file.
type version struct {
	number string
	date   time.Time
	items  []string
}

// unreleased is the heading of what is not in a version yet.
const unreleased = "Unreleased"

var heading = regexp.MustCompile(`^## (?:` + unreleased + `|([0-9][0-9A-Za-z.~+]*) \((\d{4}-\d{2}-\d{2})\))$`)

// read gives the versions, newest first. The first is always current.
func read(text, current string, now time.Time) ([]version, error) {
	var list []version
	for i, line := range strings.Split(text, "\n") {
		last := len(list) - 1
		switch {
		case strings.HasPrefix(line, "## "):
			m := heading.FindStringSubmatch(line)
			if m == nil {
				return nil, fmt.Errorf("line %d: %q found, expected \"## %s\" or \"## 1.2.3 (2006-01-02)\"", i+1, line, unreleased)
			}
			v := version{number: current, date: now}
			if m[1] != "" {
				date, err := time.Parse(time.DateOnly, m[2])
				if err != nil {
					return nil, fmt.Errorf("line %d: %w", i+1, err)
				}
				v = version{number: m[1], date: date}
			}
			list = append(list, v)
		case last < 0 || strings.TrimSpace(line) == "":
		case strings.HasPrefix(line, "  ") && len(list[last].items) > 0:
			items := list[last].items
			items[len(items)-1] += " " + strings.TrimSpace(line)
		default:
			list[last].items = append(list[last].items, strings.TrimPrefix(line, "- "))
		}
	}
	if len(list) > 0 && list[0].number == current && len(list[0].items) == 0 {
		list = list[1:]
	}
	if len(list) == 0 || list[0].number != current {
		list = append([]version{{current, now, []string{"Built from what has no entry here yet."}}}, list...)
	}
	return list, nil
}

// writeDebian writes the format of deb-changelog(5).
func writeDebian(w io.Writer, versions []version, maintainer string) error {
	var b strings.Builder
	for i, v := range versions {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "postern (%s) unstable; urgency=medium\n\n", v.number)
		for _, item := range v.items {
			b.WriteString(wrapped(plain(item)))
		}
		fmt.Fprintf(&b, "\n -- %s  %s\n", maintainer, v.date.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// wrapped is an item in lines of less than 80 characters.
func wrapped(item string) string {
	const width = 76
	var b strings.Builder
	line := "  *"
	for _, word := range strings.Fields(item) {
		if len(line)+1+len(word) > width {
			b.WriteString(line + "\n")
			line = "   "
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}

// plain takes away what only Markdown means.
func plain(item string) string { return strings.ReplaceAll(item, "`", "") }

// An entry is what nfpm reads, by its names.
type entry struct {
	Semver   string    `json:"semver"`
	Date     time.Time `json:"date"`
	Packager string    `json:"packager"`
	Changes  []change  `json:"changes"`
}

type change struct {
	Note string `json:"note"`
}

// writeRPM writes YAML, of which JSON is a part. The release of the package is part
// of what rpm calls a version there.
func writeRPM(w io.Writer, versions []version, maintainer string) error {
	list := make([]entry, len(versions))
	for i, v := range versions {
		list[i] = entry{Semver: v.number + "-1", Date: v.date, Packager: maintainer}
		for _, item := range v.items {
			list[i].Changes = append(list[i].Changes, change{plain(item)})
		}
	}
	return json.NewEncoder(w).Encode(list)
}
