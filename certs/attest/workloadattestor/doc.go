// Package workloadattestor establishes facts about the process at the other end of a unix socket: its user and groups, and the file
// it executes.
//
// A process id says little: by the time /proc is read it may belong to another process. So the peer is pinned first, with the pidfd
// that the kernel keeps with the connection (SO_PEERPIDFD, Linux 6.5); then /proc is read; then the pidfd is asked whether that same
// process still lives. What was read belongs to it, or is thrown away. On older kernels the pidfd is opened by the process id of
// SO_PEERCRED, which leaves a gap between connect and accept; such connections are counted.
//
// The user is compared with the credentials of the moment of connect (SO_PEERCRED): a process that became somebody else since then,
// by executing a setuid program with the open connection, is refused.
//
// Facts, as selectors:
//
//	unix:uid:1000                  effective user id, and unix:user:NAME when it has a name here
//	unix:gid:1000                  effective group id, and unix:group:NAME
//	unix:supplementary_gid:27      each supplementary group
//	unix:path:/usr/bin/orders      the file it executes, when that path names this very file to us
//	unix:sha256:HEX                digest of that file
//
// A path is given only if it leads, in this process's own view of the file system, to the very inode that is executed. A deleted or
// replaced executable, a container's, or one that a user mounted over another has no path selector. A file that cannot be
// read (this process is neither root nor the same user) has none, or no digest.
//
// What a user's own processes may not be protected from is that user: whoever may trace a process or choose its environment can act
// through it. Path and digest tell programs apart, the uid tells users apart; entries that guard against another user
// name the uid.
//
// Windows, macOS and the BSDs offer no such pin: there New returns ErrUnsupported, and only PeerUID works where the system has it.
package workloadattestor
