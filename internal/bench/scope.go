package main

import (
	"errors"
	"fmt"
	"slices"
	"testing"
)

// scope stands in for a *testing.T, which the hosts of netnstest live and die
// with.
type scope struct {
	testing.TB // nil: it only brings the method that nobody outside of package testing can have
	cleanups   []func()
	errs       []error
}

// fatal is what Fatalf panics with.
type fatal struct{ error }

func (s *scope) Helper()          {}
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }
func (s *scope) Errorf(format string, args ...any) {
	s.errs = append(s.errs, fmt.Errorf(format, args...))
}
func (s *scope) Fatalf(format string, args ...any) { panic(fatal{fmt.Errorf(format, args...)}) }

// within runs f with a scope, ends what was begun in it, and returns the errors
// of all of it.
func within(f func(*scope) error) error {
	s := &scope{}
	err := s.run(func() error { return f(s) })
	for _, cleanup := range slices.Backward(s.cleanups) {
		err = errors.Join(err, s.run(func() error { cleanup(); return nil }))
	}
	return errors.Join(append(s.errs, err)...)
}

// run turns what Fatalf raised, maybe in another namespace, back into an error.
func (s *scope) run(f func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case error:
			var f fatal
			if !errors.As(v, &f) {
				panic(v)
			}
			err = f.error
		default:
			panic(v)
		}
	}()
	return f()
}
