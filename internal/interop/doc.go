// Package interop runs postern against software that others wrote: certificate verifiers, SPIFFE clients, TLS stacks, container
// tools. It is a module of its own, so that what it needs never reaches the product, and it knows postern only as a binary.
//
// "make interop" installs the foreign software and sets POSTERN_BIN and POSTERN_PYTHON. Where a program is missing, a test fails in
// CI and for root, who could install it, and is skipped with a message for anybody else. No case is skipped for a known
// difference; those would be listed here with their reason.
package interop
