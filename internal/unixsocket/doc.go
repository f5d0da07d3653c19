// Package unixsocket binds unix sockets that no other user can put a socket of his own in the place of, and says whether a socket that
// is there could be such a one.
//
// It knows nothing of what is spoken on a socket, nor of who may connect: the mode of the file and the protocol behind it say that.
package unixsocket
