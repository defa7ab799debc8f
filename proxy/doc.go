// Package proxy is the server: it accepts intercepted connections, limits them,
// gives each the current snapshot of rules and keys, and lets it run. It reloads
// by swapping the snapshot whole and stops by draining.
//
// It decides no policy (package enforce does) and reads no SMTP (package
// smtpwire does); the conversation itself lives in its internal packages.
package proxy
