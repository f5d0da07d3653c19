// Package corpus is a corpus of requests and answers that try to be read in two ways, sent to the built binary over HTTP/1.1 and HTTP/2.
//
// A case is data: the bytes or frames that a hostile client sends, and what has to come of them: a refusal with one of some statuses, or
// one request at the upstream in the one form that was judged. The upstreams are deliberately naive. They take down every byte they
// get, which is then read by several lenient readers (reader_test.go); all of them have to find the same requests. Each request that an
// upstream got is held against the line of the access log and against the decision: method, host and path have to be equal
// (oracle_test.go). The answers of lying upstreams are data too (lies_test.go): a client never takes half of one for a whole one, nor
// gets bytes of another.
//
// Where two verdicts could be defended, the case says which was chosen, and why.
package corpus
