package mta

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// The directories of one Postfix, below its own.
func (p *Postfix) config() string { return filepath.Join(p.dir, "config") }
func (p *Postfix) spool() string  { return filepath.Join(p.dir, "queue") }
func (p *Postfix) data() string   { return filepath.Join(p.dir, "data") }
func (p *Postfix) mail() string   { return filepath.Join(p.dir, "mail") }

// configure makes all that the master wants to find.
func (p *Postfix) configure(o Options) error {
	// MkdirTemp keeps others out, and the daemons are others.
	if err := os.Chmod(p.dir, 0o755); err != nil {
		return err
	}
	if err := p.makeDirectories(); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"main.cf":   p.mainFile(o),
		"master.cf": masterFile(o),
		"transport": transportFile(o),
	} {
		path := filepath.Join(p.config(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		// Postfix distrusts a file that has just been written: it waits until that
		// is seconds ago.
		if err := os.Chtimes(path, longAgo, longAgo); err != nil {
			return err
		}
	}
	return nil
}

var longAgo = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// makeDirectories does what "postfix check" does at the first start, with the
// owners and modes of postfix-files.
func (p *Postfix) makeDirectories() error {
	root := account{0, 0}
	owner := account{p.in.owner.uid, 0}
	dropper := account{p.in.owner.uid, p.in.dropGroup}
	type directory struct {
		path  string
		mode  os.FileMode
		owner account
	}
	directories := []directory{
		{p.config(), 0o755, root},
		{p.spool(), 0o755, root},
		{p.data(), 0o700, owner},
		{p.mail(), 0o700, p.in.nobody},
		{filepath.Dir(p.log), 0o755, root},
		{filepath.Join(p.spool(), "pid"), 0o755, root},
		{filepath.Join(p.spool(), "maildrop"), 0o730 | os.ModeSticky, dropper},
		{filepath.Join(p.spool(), "public"), 0o710 | os.ModeSetgid, dropper},
	}
	for _, name := range []string{"active", "bounce", "corrupt", "defer", "deferred", "flush", "hold",
		"incoming", "private", "saved", "trace"} {
		directories = append(directories, directory{filepath.Join(p.spool(), name), 0o700, owner})
	}
	for _, d := range directories {
		if err := os.Mkdir(d.path, 0o700); err != nil {
			return err
		}
		// The mode last: a change of owner takes the set-group-id bit off.
		if err := os.Chown(d.path, d.owner.uid, d.owner.gid); err != nil {
			return err
		}
		if err := os.Chmod(d.path, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// mainFile is main.cf. Nothing in it asks DNS, and nothing happens by a clock
// within a test: what is deferred goes on with Flush.
func (p *Postfix) mainFile(o Options) string {
	parameters := map[string]string{
		"compatibility_level":   "3.6",
		"queue_directory":       p.spool(),
		"data_directory":        p.data(),
		"command_directory":     p.in.commands,
		"daemon_directory":      p.in.daemons,
		"mail_owner":            "postfix",
		"setgid_group":          "postdrop",
		"maillog_file":          p.log,
		"maillog_file_prefixes": p.dir,

		"myhostname":           o.Name,
		"mydestination":        "",
		"mynetworks":           "",
		"local_transport":      "error:no local mail",
		"alias_maps":           "",
		"alias_database":       "",
		"local_recipient_maps": "",
		"inet_interfaces":      "all",
		"inet_protocols":       "all",
		"message_size_limit":   "104857600",
		"mailbox_size_limit":   "0",
		"queue_minfree":        "0",
		"queue_run_delay":      "1h",
		"minimal_backoff_time": "1h",
		"maximal_backoff_time": "2h",
		"notify_classes":       "",
		"tls_random_source":    "dev:/dev/urandom",

		"smtpd_peername_lookup":            "no",
		"smtpd_relay_restrictions":         "reject_unauth_destination",
		"smtpd_recipient_restrictions":     "",
		"smtpd_tls_loglevel":               "1",
		"smtpd_tls_received_header":        "yes",
		"smtpd_tls_session_cache_database": "",

		"virtual_mailbox_domains": strings.Join(o.Domains, " "),
		"virtual_mailbox_base":    p.mail(),
		"virtual_mailbox_maps":    "static:" + inbox + "/",
		"virtual_alias_maps":      "",
		"virtual_mailbox_limit":   "0",
		"virtual_uid_maps":        fmt.Sprintf("static:%d", p.in.nobody.uid),
		"virtual_gid_maps":        fmt.Sprintf("static:%d", p.in.nobody.gid),

		"smtp_dns_support_level":  "disabled",
		"smtp_host_lookup":        "native",
		"smtp_tls_loglevel":       "1",
		"smtp_tls_security_level": string(None),
		"transport_maps":          "texthash:" + filepath.Join(p.config(), "transport"),
		"default_transport":       "error:no route",
		"address_verify_map":      "",
	}
	if o.Certificate != "" {
		parameters["smtpd_tls_security_level"] = "may"
		parameters["smtpd_tls_chain_files"] = o.Key + " " + o.Certificate
	}
	if o.TLS != "" {
		parameters["smtp_tls_security_level"] = string(o.TLS)
	}
	if o.Roots != "" {
		parameters["smtp_tls_CAfile"] = o.Roots
	}
	if len(o.Names) > 0 {
		parameters["smtp_tls_verify_cert_match"] = strings.Join(o.Names, " ")
	}
	if len(o.Listen) == 0 {
		parameters["inet_interfaces"] = "loopback-only"
	}
	if o.Together {
		parameters["smtp_connection_cache_destinations"] = "static:all"
		parameters["smtp_tls_connection_reuse"] = "yes"
		parameters["smtp_destination_concurrency_limit"] = "1"
		parameters["default_destination_concurrency_limit"] = "1"
		parameters["initial_destination_concurrency"] = "1"
	}
	// A version that does not know it is always so.
	if o.Lenient && p.in.knows["smtpd_forbid_bare_newline"] {
		parameters["smtpd_forbid_bare_newline"] = "no"
	}
	maps.Copy(parameters, o.Parameters)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(parameters)) {
		fmt.Fprintf(&b, "%s = %s\n", key, parameters[key])
	}
	return b.String()
}

// services of master.cf: name, type, private, unprivileged, wake-up time, process
// limit, command. None runs in a chroot, which would have to be filled first.
const services = `pickup    unix  n  -  n  60   1  pickup
cleanup   unix  n  -  n  -    0  cleanup
qmgr      unix  n  -  n  3600 1  qmgr
tlsmgr    unix  -  -  n  1000 1  tlsmgr
rewrite   unix  -  -  n  -    -  trivial-rewrite
bounce    unix  -  -  n  -    0  bounce
defer     unix  -  -  n  -    0  bounce
trace     unix  -  -  n  -    0  bounce
verify    unix  -  -  n  -    1  verify
flush     unix  n  -  n  1000 0  flush
proxymap  unix  -  -  n  -    -  proxymap
smtp      unix  -  -  n  -    -  smtp
showq     unix  n  -  n  -    -  showq
error     unix  -  -  n  -    -  error
retry     unix  -  -  n  -    -  error
discard   unix  -  -  n  -    -  discard
virtual   unix  -  n  n  -    -  virtual
anvil     unix  -  -  n  -    1  anvil
scache    unix  -  -  n  -    1  scache
tlsproxy  unix  -  -  n  -    0  tlsproxy
postlog   unix-dgram n - n -  1  postlogd
`

func masterFile(o Options) string {
	var b strings.Builder
	for _, address := range o.Listen {
		place := address.String()
		if address.Is6() {
			place = "[" + place + "]"
		}
		fmt.Fprintf(&b, "%s:25 inet n - n - - smtpd\n", place)
	}
	b.WriteString(services)
	return b.String()
}

func transportFile(o Options) string {
	var b strings.Builder
	for _, domain := range slices.Sorted(maps.Keys(o.Routes)) {
		to := o.Routes[domain]
		fmt.Fprintf(&b, "%s smtp:[%s]:%d\n", domain, to.Addr(), to.Port())
	}
	return b.String()
}
