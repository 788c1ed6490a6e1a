package watch

// Once does what [Watcher.Run] does before it is ready, and then is done: what was saved and is missing is put back, offences that
// nobody heard of are counted and the repeat offenders among them taken up the ladder, and the state is saved. Where there is no
// table it does nothing, and reports false.
//
// If a watcher runs, it does all of this itself, and knows more.
func Once(config Config) (bool, error) {
	l, err := deaf(config)
	if err != nil {
		return false, err
	}
	defer l.close()
	s, err := l.readTable()
	if err != nil || !s.Exists {
		return false, err
	}
	if err := l.recall(); err != nil {
		return false, err
	}
	if err := l.resync(); err != nil {
		return false, err
	}
	l.finish()
	return true, l.save()
}
