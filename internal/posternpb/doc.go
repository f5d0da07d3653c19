// Package posternpb has the messages that postern processes send each other, generated from the .proto files beside it: the
// resource types that a node follows over delta ADS, and the enrolment service through which it gets its SVIDs signed.
//
// Run make generate after a change of a .proto file.
package posternpb
