// Package netlab builds small networks out of Linux network namespaces, so
// that tests and demonstrations put real packets through real kernels without
// touching the machine they run on, and without root where the kernel lets
// ordinary users make namespaces.
//
// [Enter] moves the program into namespaces of its own. Inside, [NewHost] makes
// hosts, [Connect] lays cables between them, [NewRouted] and [NewBridged] are
// ready-made client–gateway–server networks, and [Host.Capture] records what
// crossed an interface.
//
// It does not isolate programs from each other: hosts share processes, users
// and files, and differ in their network alone. It knows nothing of SMTP, and it
// never touches the network namespace it was started in.
package netlab
