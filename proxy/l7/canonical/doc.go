// Package canonical brings a request into its one form, which is both judged and forwarded.
//
// Two readers of one request must see one resource. So the form is computed once, before routing and policy, and the bytes that
// were judged are those that go upstream. What could be read in two ways is refused, never guessed:
//
//   - method: a token without lower-case letters;
//   - host: lower case, no trailing dot, no user information, addresses in their shortest form; the port apart;
//   - path: begins with "/", unreserved characters decoded, the other percent-encodings in upper case, no dot segments, no empty
//     segments (RFC 3986, Section 6.2.2). Encoded or raw separators ("%2F", "\", "%5C"), path parameters (";", "%3B"), controls,
//     double encodings and what is no UTF-8 are refused as ambiguous.
//
// A Profile relaxes the last rule for services that need it, by name and never for dot segments, controls or what is no UTF-8.
//
// Every function is idempotent: what it returns, it returns unchanged. The package is pure, and shared by requests and by
// explanations of decisions. It does not look at the query, which no rule matches, beyond what the engines check.
package canonical
