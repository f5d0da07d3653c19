// Package keys keeps the private keys of the authority: sealed in the store, open only in memory.
//
// A Manager seals each key with AES-256-GCM under one sealing key, with the key's id as associated data, so that a sealed key cannot
// be passed off as another. Where the sealing key comes from is the Sealer's affair:
//
//   - Passphrase derives it with Argon2id; salt and costs stand in the store. Whoever copies the data directory has to guess the
//     passphrase. Somebody must type it, or a service manager hand it over, at every start.
//   - LocalFile keeps 32 random bytes in a file (mode 0600) beside the data. It is the default because an authority must come up by
//     itself after a reboot, and it is named for what it is: whoever copies the whole directory has the keys; whoever gets the
//     store alone (a backup that leaves the file out) has not. Kind reports it, so that status can say so.
//
// What cannot be opened is never replaced: a missing or wrong sealing key is an error that says what to do, not a reason to make new
// authorities. The package signs nothing and knows nothing of certificates.
package keys
