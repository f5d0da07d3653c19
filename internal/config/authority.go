package config

import (
	"path/filepath"
	"strconv"
	"time"
)

// Authority is the identity plane of the trust domain: store, CA, registration, enrolment of nodes.
type Authority struct {
	// DataDir is the folder of the embedded store, the sealed keys and the event log. It is created with mode 0700.
	DataDir string `config:"data_dir,required,path"`
	// Listen is where nodes follow the authority and renew: mutual TLS only. Leave it out when no remote node follows.
	Listen Address `config:"listen"`
	// Public is where a node that has no identity yet attests: TLS that never asks for a client certificate.
	Public Address `config:"public"`
	// Sealing says what the authority's private keys are encrypted with at rest.
	Sealing Sealing `config:"sealing"`
	// SVIDTTL is the life of a workload's SVID when its entry names none. At least 10s; below 1m is a warning.
	SVIDTTL time.Duration `config:"svid_ttl"`
	// NodeSVIDTTL is the life of a node's own SVID, with which it follows and renews. No SVID outlives the signing authority, so
	// signing_ttl bounds it.
	NodeSVIDTTL time.Duration `config:"node_svid_ttl"`
	// SigningTTL is the life of the signing authority; it rotates at half of it.
	SigningTTL time.Duration `config:"signing_ttl"`
	// RootTTL is the life of the self-signed root.
	RootTTL time.Duration `config:"root_ttl"`
}

// Sealing names exactly one source of the key that encrypts the authority's private keys at rest.
type Sealing struct {
	// LocalFile is a random key in a file of mode 0600, made at first start. It protects a copied store, not a copied disk:
	// whoever can read both files has the keys. Default: sealing.key in data_dir.
	LocalFile string `config:"local_file,path,unset"`
	// PassphraseFile holds a passphrase; the key is derived from it with argon2id. A trailing line break is not part of it.
	PassphraseFile string `config:"passphrase_file,path"`
	// PassphraseEnv names the environment variable that holds the passphrase, such as POSTERN_PASSPHRASE.
	PassphraseEnv string `config:"passphrase_env"`
}

func (a *Authority) setDefaults() {
	a.SVIDTTL = time.Hour
	a.NodeSVIDTTL = 7 * day
	a.SigningTTL = day
	a.RootTTL = 10 * year
}

// complete fills what depends on other keys.
func (a *Authority) complete() {
	if a.Sealing == (Sealing{}) && a.DataDir != "" {
		a.Sealing.LocalFile = filepath.Join(a.DataDir, "sealing.key")
	}
}

func (a *Authority) check(k *checker, path string) {
	k.between(path+".svid_ttl", a.SVIDTTL, minSVIDTTL, 30*day)
	k.between(path+".node_svid_ttl", a.NodeSVIDTTL, minSVIDTTL, year)
	k.between(path+".signing_ttl", a.SigningTTL, time.Minute, 10*year)
	k.between(path+".root_ttl", a.RootTTL, time.Hour, 50*year)
	if a.SVIDTTL > a.SigningTTL/2 && !k.anyBad(path+".svid_ttl", path+".signing_ttl") {
		k.fail(path+".svid_ttl", CodeRange, formatDuration(a.SVIDTTL)+" is more than half of signing_ttl, at which the signing authority rotates", "at most "+formatDuration(a.SigningTTL/2))
	}
	if a.SigningTTL > a.RootTTL/2 && !k.anyBad(path+".root_ttl", path+".signing_ttl") {
		k.fail(path+".signing_ttl", CodeRange, formatDuration(a.SigningTTL)+" is more than half of root_ttl", "at most "+formatDuration(a.RootTTL/2))
	}
	if a.SVIDTTL < time.Minute && !k.bad[path+".svid_ttl"] {
		k.warn(path+".svid_ttl", WarnShortTTL, "SVIDs that live "+formatDuration(a.SVIDTTL)+" do not survive an outage of the authority", "1h is the default")
	}
	a.Sealing.check(k, path+".sealing")
}

func (s *Sealing) check(k *checker, path string) {
	given := 0
	for _, text := range []string{s.LocalFile, s.PassphraseFile, s.PassphraseEnv} {
		if text != "" {
			given++
		}
	}
	if given > 1 {
		k.fail(path, CodeConflict, "local_file, passphrase_file and passphrase_env exclude each other", "keep one of them")
	}
	if s.PassphraseEnv != "" && (!isWord(s.PassphraseEnv) || isDigit(s.PassphraseEnv[0])) {
		k.fail(path+".passphrase_env", CodeFormat, strconv.Quote(abbreviate(s.PassphraseEnv))+" is not the name of an environment variable", "such as POSTERN_PASSPHRASE")
	}
}

const (
	// minSVIDTTL leaves time to renew at half of life with a retry or two.
	minSVIDTTL = 10 * time.Second

	day  = 24 * time.Hour
	year = 365 * day
)
