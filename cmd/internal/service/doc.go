// Package service is what the program and its service manager say to each other:
// readiness and its changes, the watchdog, sockets that were open before the
// program was, and the signals to reload and to stop.
//
// It does none of what it tells of: it reloads nothing, stops nothing, accepts no
// connection and judges no health, and without a service manager it does nothing
// at all. It opens no socket to listen on; when none were inherited that is for
// its caller to do.
package service
