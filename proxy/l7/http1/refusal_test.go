package http1

// refusal is a message that is refused, and with which status; 502 for a response.
type refusal struct {
	name, raw string
	status    int
}

// What is refused, by what is wrong with it. The tables stand with the other tests of their concern.
var (
	refusedRequests = map[string][]refusal{
		"lengths and transfer codings": framingRequests,
		"names and values of fields":   fieldRequests,
		"line ends and folding":        lineEndRequests,
		"start lines":                  startLineRequests,
		"sizes and counts":             limitRequests,
		"expectations":                 expectRequests,
		"fields of one hop":            hopByHopRequests,
		"upgrades":                     upgradeRequests,
	}
	refusedResponses = map[string][]refusal{
		"lengths and transfer codings": framingResponses,
		"names and values of fields":   fieldResponses,
		"line ends and folding":        lineEndResponses,
		"start lines":                  startLineResponses,
		"sizes and counts":             limitResponses,
		"expectations":                 expectResponses,
		"fields of one hop":            hopByHopResponses,
		"upgrades":                     upgradeResponses,
	}
)

// Lines with which nothing is wrong.
const (
	getLine  = "GET / HTTP/1.1"
	hostLine = "Host: a"
	okLine   = "HTTP/1.1 200 OK"
)
