package workloadattestor

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// maxGroups is the kernel's NGROUPS_MAX.
const maxGroups = 65536

// identity is who a process runs as.
type identity struct {
	pid           int    // thread group id
	uid           uint32 // effective
	gid           uint32 // effective
	supplementary []uint32
	dead          bool // a zombie, or on its way out
}

// parseStatus reads /proc/PID/status (proc_pid_status(5)): "Uid:" and "Gid:" have the real, effective, saved and file system ids.
func parseStatus(data []byte) (identity, error) {
	var id identity
	var seen struct{ pid, uid, gid, groups bool }
	for line := range bytes.Lines(data) {
		key, value, found := bytes.Cut(line, []byte(":"))
		if !found {
			continue
		}
		fields := bytes.Fields(value)
		var err error
		switch string(key) {
		case "State":
			id.dead = len(fields) > 0 && bytes.ContainsAny(fields[0][:1], "ZXx")
		case "Tgid":
			seen.pid = true
			id.pid, err = pidField(fields)
		case "Uid":
			seen.uid = true
			id.uid, err = effective(fields)
		case "Gid":
			seen.gid = true
			id.gid, err = effective(fields)
		case "Groups":
			seen.groups = true
			id.supplementary, err = groups(fields)
		}
		if err != nil {
			return identity{}, fmt.Errorf("read field %q of process status: %w", string(key), err)
		}
	}
	if !seen.pid || !seen.uid || !seen.gid || !seen.groups {
		return identity{}, errors.New("process status lacks user or groups")
	}
	return id, nil
}

func pidField(fields [][]byte) (int, error) {
	if len(fields) != 1 {
		return 0, fmt.Errorf("%d values instead of 1", len(fields))
	}
	return strconv.Atoi(string(fields[0]))
}

func effective(fields [][]byte) (uint32, error) {
	if len(fields) != 4 {
		return 0, fmt.Errorf("%d values instead of 4", len(fields))
	}
	return number(fields[1])
}

func groups(fields [][]byte) ([]uint32, error) {
	if len(fields) > maxGroups {
		return nil, fmt.Errorf("%d groups", len(fields))
	}
	ids := make([]uint32, len(fields))
	for i, field := range fields {
		id, err := number(field)
		if err != nil {
			return nil, err
		}
		ids[i] = id
	}
	return ids, nil
}

func number(field []byte) (uint32, error) {
	n, err := strconv.ParseUint(string(field), 10, 32)
	return uint32(n), err
}
