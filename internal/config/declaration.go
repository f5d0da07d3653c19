package config

import (
	"reflect"
)

// Declaration is the policy as JSON in the schema of policies[], which ParsePolicy reads.
func (p Policy) Declaration() []byte {
	return appendJSON(nil, encoder{}.section(reflect.ValueOf(p)))
}

// MarshalJSON returns the Declaration.
func (p Policy) MarshalJSON() ([]byte, error) { return p.Declaration(), nil }

// UnmarshalJSON is ParsePolicy.
func (p *Policy) UnmarshalJSON(declaration []byte) error {
	parsed, err := ParsePolicy(declaration)
	*p = parsed
	return err
}

// ParsePolicy reads one declared policy, JSON or YAML, as strictly as a file: an unknown key is an error, so that an older proxy
// rejects what it does not understand. An error is of type Errors. What stands around the policy, such as its service's listeners,
// is not looked at.
func ParsePolicy(declaration []byte) (Policy, error) {
	const name = "policy"
	root, errs := readDocument(name, declaration)
	if len(errs) > 0 {
		return Policy{}, errs
	}
	d := newDecoder(name, "")
	var p Policy
	d.section(root, "", reflect.ValueOf(&p).Elem())
	k := &checker{source: d.source, bad: d.bad, errs: d.errs, config: &Config{}}
	k.name("name", p.Name, map[string]string{})
	p.check(k, "")
	if len(k.errs) > 0 {
		return Policy{}, bounded(k.errs.sorted())
	}
	return p, nil
}
