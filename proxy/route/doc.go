// Package route compiles the routes of a listener into a table that leads a canonical request to one of them.
//
// The most specific route wins, wherever it stands in the configuration. What is compared, in this order:
//
//  1. the host: an exact name before a wildcard, a longer wildcard before a shorter one, any host last;
//  2. the path: exact before a prefix, a longer prefix before a shorter one, no path last;
//  3. a list of methods before none;
//  4. more headers before fewer;
//  5. what stands first in the configuration.
//
// A route of a more specific host or path whose other conditions fail does not hide a less specific one.
//
// Matching looks up hosts and prefixes in maps and allocates nothing. The package sees canonical requests only (l7/canonical):
// it compares and does not normalise.
package route
