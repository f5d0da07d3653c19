package config

// Identity says where this process's own credentials come from. Only the section that source names is used.
type Identity struct {
	// Source is authority (this process's own, or the one that the section authority names), workload_api or files.
	Source IdentitySource `config:"source"`
	// Authority is the remote authority to follow. Left out: the authority in this process.
	Authority *RemoteAuthority `config:"authority"`
	// WorkloadAPI is a SPIFFE Workload API, postern's or another, that gives the credentials.
	WorkloadAPI *WorkloadAPISource `config:"workload_api"`
	// Files are PEM files that something else renews.
	Files *FileSource `config:"files"`
}

// RemoteAuthority is the authority that this node follows.
type RemoteAuthority struct {
	// Address of the authority's listen socket, as host:port.
	Address Address `config:"address,required"`
	// Public is the address of the authority's public socket, where the node attests first. Default: the next port of the address
	// above.
	Public Address `config:"public,unset"`
	// JoinTokenFile holds the join token of the first start. It is not needed once the node has its SVID.
	JoinTokenFile string `config:"join_token_file,path"`
	// JoinToken is the token itself. Prefer join_token_file: a token in a configuration file is copied with it.
	JoinToken Secret `config:"join_token,secret"`
	// DataDir keeps the node's key (mode 0600), its SVID and the bundle, so that it needs no new token when it starts again. What
	// the authority told it (entries, policies) it learns again.
	DataDir string `config:"data_dir,path"`
}

// WorkloadAPISource is a Workload API to take credentials from.
type WorkloadAPISource struct {
	// Socket is the path of the unix socket, or unix:// and the path.
	Socket Socket `config:"socket,required"`
}

// FileSource is a set of PEM files, read again when they change.
type FileSource struct {
	// Certificate is the X.509-SVID: leaf first, then intermediates.
	Certificate string `config:"certificate,required,path"`
	// Key is its private key, PKCS #8 or SEC 1. It must not be readable by everybody (Kubernetes mounts secrets so unless defaultMode says 0440).
	Key string `config:"key,required,path"`
	// Bundle has the trust domain's authorities.
	Bundle string `config:"bundle,required,path"`
	// CRL has certificate revocation lists of those authorities.
	CRL string `config:"crl,path"`
}

// IdentitySource is a kind of credential source.
type IdentitySource string

// Sources of credentials.
const (
	SourceAuthority   IdentitySource = "authority"
	SourceWorkloadAPI IdentitySource = "workload_api"
	SourceFiles       IdentitySource = "files"
)

func (IdentitySource) values() []string {
	return []string{string(SourceAuthority), string(SourceWorkloadAPI), string(SourceFiles)}
}

func (i *Identity) setDefaults() { i.Source = SourceAuthority }

func (r *RemoteAuthority) setDefaults() { r.DataDir = "postern-node" }

func (r *RemoteAuthority) complete() {
	if r.Public.IsZero() && r.Address.port != 0 {
		r.Public = r.Address
		r.Public.port++
	}
}

func (i *Identity) check(k *checker, path string) {
	present := []struct {
		source IdentitySource
		key    string
		there  bool
	}{
		{SourceAuthority, ".authority", i.Authority != nil},
		{SourceWorkloadAPI, ".workload_api", i.WorkloadAPI != nil},
		{SourceFiles, ".files", i.Files != nil},
	}
	for _, section := range present {
		selected := section.source == i.Source
		switch {
		case k.bad[path+".source"] || k.bad[path+section.key]:
		case section.there && !selected:
			k.warn(path+section.key, WarnNotSelected, "not used, since source is "+string(i.Source), "")
		case selected && !section.there && section.source != SourceAuthority:
			k.fail(path+section.key, CodeMissing, "source is "+string(i.Source)+", and this section is missing", "")
		}
	}
	if i.Authority != nil {
		i.Authority.check(k, path+".authority")
	}
	served := k.config.WorkloadAPI
	if i.WorkloadAPI != nil && i.Source == SourceWorkloadAPI && served != nil && served.Socket == i.WorkloadAPI.Socket {
		k.fail(path+".workload_api.socket", CodeConflict, "this process serves that socket itself", "name the socket of another process")
	}
}

func (r *RemoteAuthority) check(k *checker, path string) {
	k.dialled(path+".address", r.Address)
	if k.source.has(path + ".public") {
		k.dialled(path+".public", r.Public)
	}
	if r.JoinToken == "" {
		return
	}
	k.warn(path+".join_token", WarnSecret, "the join token stands in the file", "join_token_file keeps it apart")
	if r.JoinTokenFile != "" {
		k.fail(path+".join_token", CodeConflict, "join_token and join_token_file exclude each other", "keep join_token_file")
	}
}

// WorkloadAPI serves the SPIFFE Workload API on a unix socket to which every local process may connect; each is attested.
type WorkloadAPI struct {
	// Socket is the path of the unix socket, or unix:// and the path.
	Socket Socket `config:"socket,required"`
}
