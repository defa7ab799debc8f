package mta

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// eximFile is exim4.conf. Nothing in it asks DNS or the client's host, and nothing
// happens by a clock within a test: what is deferred goes on with Flush.
func eximFile(o Options) string {
	settings := map[string]string{
		"primary_hostname":           o.Name,
		"domainlist here":            strings.Join(o.Domains, " : "),
		"local_interfaces":           "<; " + joined(o.Listen, " ; "),
		"daemon_smtp_ports":          "25",
		"log_file_path":              "/var/log/exim4/%slog",
		"log_selector":               "+all",
		"host_lookup":                "",
		"rfc1413_hosts":              "",
		"message_size_limit":         "100M",
		"smtp_banner":                "$primary_hostname ESMTP Exim",
		"smtp_accept_max":            "0",
		"acl_smtp_rcpt":              "to_here",
		"tls_advertise_hosts":        "",
		"keep_environment":           "",
		"ignore_bounce_errors_after": "0s",
		// Without them a session with many messages, or many sessions, would have
		// messages wait for the next queue run.
		"smtp_accept_queue_per_connection": "0",
		"smtp_accept_queue":                "0",
		"chunking_advertise_hosts":         "*",
		"smtputf8_advertise_hosts":         "*",
	}
	if len(o.Listen) == 0 {
		settings["local_interfaces"] = ownLoopback(o.Name).String()
	}
	if o.Certificate != "" {
		settings["tls_advertise_hosts"] = "*"
		settings["tls_certificate"] = certificateFile
		settings["tls_privatekey"] = keyFile
	}
	if o.Staple != "" {
		settings["tls_ocsp_file"] = stapleFile
	}
	if o.Together {
		settings["queue_smtp_domains"] = "*"
	}
	maps.Copy(settings, o.Parameters)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintf(&b, "%s = %s\n", key, settings[key])
	}
	b.WriteString(eximReceives)
	b.WriteString(eximRouters(o))
	fmt.Fprintf(&b, eximTransports, keeper.name, eximTLS(o.TLS))
	return b.String()
}

const eximReceives = `
begin acl
to_here:
  accept domains = +here
  deny   message = not here

begin routers
keep:
  driver = accept
  domains = +here
  transport = keep
`

// eximRouters are the routes.
func eximRouters(o Options) string {
	var b strings.Builder
	for i, domain := range routesInOrder(o.Routes) {
		to := o.Routes[domain]
		fmt.Fprintf(&b, "route%d:\n  driver = manualroute\n  domains = %s\n  transport = out\n"+
			"  route_data = <;[%s]:%d\n  self = send\n", i, domain, to.Addr(), to.Port())
	}
	return b.String()
}

const eximTransports = `
begin transports
keep:
  driver = appendfile
  maildir_format
  directory = /mail/` + inbox + `
  create_directory
  envelope_to_add
  return_path_add
  user = %[1]s
  group = %[1]s
out:
  driver = smtp
%[2]s  hosts_try_dane =
  hosts_try_fastopen =
  dnssec_request_domains =

begin retry
* * F,1d,1h
`

func eximTLS(level Level) string {
	switch level {
	case Encrypt:
		return "  hosts_require_tls = *\n"
	case May:
		return ""
	default:
		return "  hosts_avoid_tls = *\n"
	}
}
