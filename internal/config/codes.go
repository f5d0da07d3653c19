package config

import "slices"

// Code names a kind of error for tools and for search. A code keeps its meaning; one that is no longer used is not given again.
type Code string

// The document: PST001 to PST009.
const (
	CodeSyntax    Code = "PST001" // not YAML
	CodeTooLarge  Code = "PST002" // larger than the bound
	CodeTooDeep   Code = "PST003" // nested deeper than the bound
	CodeAlias     Code = "PST004" // anchors, aliases and merge keys are not taken
	CodeDocuments Code = "PST005" // more than one document
	CodeEmpty     Code = "PST006" // nothing in it
	CodeUnread    Code = "PST007" // the file cannot be read
	CodeTag       Code = "PST008" // YAML tags are not taken
	CodeTooMany   Code = "PST009" // more errors than are worth telling
)

// Keys and values: PST010 to PST029.
const (
	CodeUnknownKey   Code = "PST010" // no such key here
	CodeDuplicateKey Code = "PST011" // the key stands there twice
	CodeMissing      Code = "PST012" // a required key is missing
	CodeType         Code = "PST013" // text where a list is wanted, and the like
	CodeUnknownValue Code = "PST014" // not one of the values that there are
	CodeFormat       Code = "PST015" // not a duration, size, address, SPIFFE ID, pattern, …
	CodeRange        Code = "PST016" // too small or too large
	CodeNotOffered   Code = "PST017" // known, but this version does not have it
	CodeEmptyValue   Code = "PST018" // empty where something is wanted
	CodePathTemplate Code = "PST019" // no canonical path can match it
)

// What the sections say of each other: PST030 to PST059.
const (
	CodeDuplicate     Code = "PST030" // two of the same name, address or value
	CodeUnknownRef    Code = "PST031" // names something that is not declared
	CodeConflict      Code = "PST032" // keys that exclude each other
	CodePlaintext     Code = "PST033" // no TLS where other machines reach
	CodeNoExpect      Code = "PST034" // TLS to an endpoint without saying who it must be
	CodeCaller        Code = "PST035" // caller and TLS mode do not fit
	CodeForeignDomain Code = "PST036" // own identity in another trust domain
	CodeNoIdentity    Code = "PST037" // credentials are needed and have no source
	CodeProtocol      Code = "PST038" // does not fit the protocol
	CodeNoEffect      Code = "PST039" // would never do anything
	CodePolicyTest    Code = "PST040" // a policy's own test gets another answer
)

// Warnings: from PST100.
const (
	WarnShortTTL       Code = "PST100" // SVIDs that live less than a minute
	WarnNoPolicy       Code = "PST101" // a service that no policy allows anything on
	WarnUnknownService Code = "PST102" // a policy for a service that no listener has
	WarnUnused         Code = "PST103" // declared and used by nothing
	WarnInsecure       Code = "PST104" // weaker than the default, as written
	WarnSecret         Code = "PST105" // a secret in the file itself
	WarnNotSelected    Code = "PST106" // a section that source does not select
)

// Explanation is what a code means.
type Explanation struct {
	Code    Code
	Meaning string
}

// Codes lists every code with its meaning, in order.
func Codes() []Explanation { return slices.Clone(explanations) }

var explanations = []Explanation{
	{CodeSyntax, "The document is not YAML. YAML is indented with spaces, never with tabs."},
	{CodeTooLarge, "The document is larger than 4 MiB."},
	{CodeTooDeep, "The document is nested deeper than 32 levels."},
	{CodeAlias, "The document has an anchor, an alias or a merge key. Write the value out."},
	{CodeDocuments, "The file has more than one YAML document."},
	{CodeEmpty, "The document is empty, or is not a mapping of keys to values."},
	{CodeUnread, "The file cannot be read."},
	{CodeTag, "The document has a YAML tag (!…). Values get their type from their key."},
	{CodeTooMany, "There are more errors than are listed."},
	{CodeUnknownKey, "There is no such key at this place."},
	{CodeDuplicateKey, "The key stands there twice."},
	{CodeMissing, "A required key is missing."},
	{CodeType, "The value has another type than the key wants, such as text where a list is wanted."},
	{CodeUnknownValue, "The value is not one of those that the key takes."},
	{CodeFormat, "The value is not written as the key wants: a duration, size, address, SPIFFE ID, pattern, name."},
	{CodeRange, "The value is smaller or larger than the key takes."},
	{CodeNotOffered, "The value is known, but this version does not offer it."},
	{CodeEmptyValue, "The value is empty. Leave the key out for its default."},
	{CodePathTemplate, "No request's path can match, since requests are brought into canonical form first."},
	{CodeDuplicate, "Two of a list have the same name, address or value."},
	{CodeUnknownRef, "The name is not declared."},
	{CodeConflict, "Keys exclude each other, or one is there without which the other says nothing."},
	{CodePlaintext, "Traffic would leave the machine without TLS. insecure_plaintext: true says that this is meant."},
	{CodeNoExpect, "TLS to an endpoint needs expect: the SPIFFE IDs that it may have."},
	{CodeCaller, "The caller does not fit the TLS mode or the address of the listener."},
	{CodeForeignDomain, "An identity of this process is in another trust domain than the process."},
	{CodeNoIdentity, "Something needs an identity, and nothing gives this process one."},
	{CodeProtocol, "The key does not fit the protocol, such as HTTP fields in a policy for a TCP service."},
	{CodeNoEffect, "The declaration would never do anything."},
	{CodePolicyTest, "A test that stands beside a policy gets another answer than it expects. Either the rules or the test say something else than is meant."},
	{WarnShortTTL, "Warning: SVIDs live less than a minute; an outage of the authority is felt at once."},
	{WarnNoPolicy, "Warning: no policy allows anything on the service, so everything is denied."},
	{WarnUnknownService, "Warning: the policy is for a service that no listener of this file has."},
	{WarnUnused, "Warning: nothing uses the declaration."},
	{WarnInsecure, "Warning: weaker than the default, as the file says."},
	{WarnSecret, "Warning: the file itself holds a secret."},
	{WarnNotSelected, "Warning: identity.source selects another section than this one."},
}
