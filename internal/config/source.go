package config

import "strings"

// Position is a place in a document; lines and columns count from 1, and 0 means that it is not known.
type Position struct {
	Line   int
	Column int
}

// source remembers where each path of a document stood.
type source struct {
	file   string
	base   string // folder that relative paths start from
	places map[string]Position
}

func (s *source) has(path string) bool {
	if s == nil {
		return false
	}
	_, ok := s.places[path]
	return ok
}

// at returns the place of the path, or of the nearest section around it that the document has.
func (s *source) at(path string) Position {
	for path != "" {
		if place, ok := s.places[path]; ok {
			return place
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return Position{Line: 1, Column: 1}
}

// At returns an error about a path of this configuration, such as "policies[2].rules[0]", with its place. What compiles a
// configuration reports with it what only compiling shows.
func (c *Config) At(path string, code Code, message, hint string) Error {
	e := Error{Path: path, Code: code, Message: message, Hint: hint}
	if c.source != nil {
		at := c.source.at(path)
		e.File, e.Line, e.Column = c.source.file, at.Line, at.Column
	}
	return e
}

// File is the name of the document, as it was given to Load or Parse.
func (c *Config) File() string {
	if c.source == nil {
		return ""
	}
	return c.source.file
}
