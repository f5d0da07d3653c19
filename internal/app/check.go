package app

import (
	"errors"
	"fmt"
	"time"

	"github.com/postern-proxy/postern/authz/policy"
	"github.com/postern-proxy/postern/internal/config"
	"github.com/postern-proxy/postern/proxy"
)

// Check does everything to a configuration that a reload does, except to make it the one that serves: it compiles it, and runs the
// tests that stand beside its policies. The error is of type config.Errors where a place in the file is to blame.
func Check(cfg *config.Config) error {
	if _, err := proxy.Compile(cfg, 0); err != nil {
		return fmt.Errorf("compile the configuration: %w", err)
	}
	var failed config.Errors
	for i := range cfg.Policies {
		for _, f := range policy.RunTests(cfg.Policies[i], time.Now()) {
			message := fmt.Sprintf("test %q expects %s, and the policy answers %s", f.Name, f.Want, f.Decision.Effect)
			failed = append(failed, cfg.At(fmt.Sprintf("policies[%d].tests[%d]", i, f.Test), config.CodePolicyTest, message, hint(f)))
		}
	}
	if len(failed) > 0 {
		return failed
	}
	return nil
}

// hint says what the rules made of a test that failed.
func hint(f policy.TestFailure) string {
	if f.Advice != "" {
		return f.Advice
	}
	return fmt.Sprintf("rule %s allows it", f.Decision.Rule)
}

// load reads a configuration file and checks it.
func load(file string) (*config.Config, error) {
	cfg, err := config.Load(file)
	if err == nil {
		err = Check(cfg)
	}
	var all config.Errors
	if !errors.As(err, &all) {
		return cfg, err
	}
	return nil, refusedConfig(all)
}
