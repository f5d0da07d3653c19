// Package config has postern's declared configuration: its types, how YAML becomes them, and everything that is said about a file
// that does not fit.
//
// A document goes through four steps, and the errors of all of them come back together, each with its line, column, path, code
// and hint: read (one YAML document, bounded, without aliases), decode (strict: unknown and duplicate keys are errors, text becomes
// typed values), complete (defaults, one function per section, and what a listener inherits), check (what the sections say of
// each other). What Parse returns is valid and complete; nobody downstream checks it again.
//
// One table, the struct tags of the section types, drives decoding, encoding, the JSON Schema and docs/config.md, so they cannot
// disagree. The tag is `config:"key,option..."`; options are required (the key must be there), path (a relative path is resolved
// against the folder of the file), secret (never printed) and unset (a default of none, said in words by the comment).
//
// The package reads no file, clock, environment or network; Load alone opens the one file it is given. What it does not do: look
// whether a certificate file exists, resolve a name, compile a policy, or know what is running.
package config
