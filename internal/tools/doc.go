// Package tools is the module of what builds and checks postern: linters and code generators as tool dependencies, pinned in this
// go.mod so that they never enter the module of the product, and the scripts that the Makefile calls.
package tools
