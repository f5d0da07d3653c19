package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
)

func (s *Server) processRoutes(mux *http.ServeMux) {
	p := s.process
	mux.Handle("GET /v1/status", answer(s, func(r *http.Request, _ string) (Status, error) { return p.Status(r.Context()), nil }))
	mux.Handle("POST /v1/reload", answer(s, func(r *http.Request, actor string) (done, error) {
		return done{true}, p.Reload(r.Context(), actor)
	}))
	mux.Handle("POST /v1/drain", answer(s, func(r *http.Request, actor string) (done, error) {
		p.Drain(r.Context(), actor)
		return done{true}, nil
	}))
	mux.Handle("POST /v1/log-level", change(s, func(r *http.Request, level string, actor string) (done, error) {
		var l slog.Level
		if err := l.UnmarshalText([]byte(level)); err != nil {
			return done{}, &Error{Code: CodeInvalid, Err: fmt.Errorf("log level %q: use debug, info, warn or error", level)}
		}
		p.SetLogLevel(r.Context(), l, actor)
		return done{true}, nil
	}))
	mux.Handle("POST /v1/explain", change(s, func(r *http.Request, in ExplainRequest, _ string) (Explanation, error) {
		return p.Explain(r.Context(), in)
	}))
	mux.Handle("GET /v1/decisions/{id}", answer(s, func(r *http.Request, _ string) (Explanation, error) {
		return p.ExplainDecision(r.Context(), r.PathValue("id"))
	}))
	mux.Handle("GET /v1/bundle", answer(s, func(r *http.Request, _ string) (Bundle, error) { return p.Bundle(r.Context()) }))
}

func (s *Server) directoryRoutes(mux *http.ServeMux) {
	d := s.directory
	mux.Handle("GET /v1/entries", answer(s, func(r *http.Request, _ string) ([]Entry, error) { return d.Entries(r.Context()) }))
	mux.Handle("GET /v1/entries/{id}", answer(s, func(r *http.Request, _ string) (Entry, error) {
		return d.Entry(r.Context(), r.PathValue("id"))
	}))
	mux.Handle("POST /v1/entries", change(s, func(r *http.Request, in Entry, actor string) (Entry, error) {
		return d.CreateEntry(r.Context(), in, actor)
	}))
	mux.Handle("PATCH /v1/entries/{id}", change(s, func(r *http.Request, in EntryChange, actor string) (Entry, error) {
		return d.UpdateEntry(r.Context(), r.PathValue("id"), in, actor)
	}))
	mux.Handle("DELETE /v1/entries/{id}", answer(s, func(r *http.Request, actor string) (done, error) {
		return done{true}, d.DeleteEntry(r.Context(), r.PathValue("id"), actor)
	}))
	mux.Handle("POST /v1/tokens", change(s, func(r *http.Request, in TokenRequest, actor string) (Token, error) {
		return d.CreateToken(r.Context(), in, actor)
	}))
	mux.Handle("GET /v1/authorities", answer(s, func(r *http.Request, _ string) ([]Authority, error) { return d.Authorities(r.Context()) }))
	mux.Handle("POST /v1/authorities/rotate", change(s, func(r *http.Request, kind string, actor string) ([]Authority, error) {
		return d.Rotate(r.Context(), kind, actor)
	}))
	mux.Handle("GET /v1/credentials", answer(s, func(r *http.Request, _ string) ([]Credential, error) {
		return d.Credentials(r.Context(), r.URL.Query().Get("spiffe_id"))
	}))
	mux.Handle("GET /v1/revocations", answer(s, func(r *http.Request, _ string) ([]Revocation, error) { return d.Revocations(r.Context()) }))
	mux.Handle("POST /v1/revocations", change(s, func(r *http.Request, in Revocation, actor string) (Revocation, error) {
		return d.Revoke(r.Context(), in, actor)
	}))
	mux.Handle("DELETE /v1/revocations/{id}", answer(s, func(r *http.Request, actor string) (done, error) {
		return done{true}, d.LiftRevocation(r.Context(), r.PathValue("id"), actor)
	}))
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &Error{Code: CodeNotFound, Err: errors.New("no such call: " + r.Method + " " + r.URL.Path)})
	})
}
