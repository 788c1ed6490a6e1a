package notice

import "time"

// backoff are the pauses between the tries to send a notice.
var backoff = [...]time.Duration{2 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute}

// maxRetryAfter is the longest pause that a server gets when it asks for one.
const maxRetryAfter = 15 * time.Minute

// tryAgain is an error that may be gone later.
type tryAgain struct {
	err   error
	after time.Duration // what the server asked for; 0 if it did not
}

func (e *tryAgain) Error() string { return e.err.Error() }
func (e *tryAgain) Unwrap() error { return e.err }

// delay returns the pause after a try, the first being 1.
func (e *tryAgain) delay(try int) time.Duration {
	return max(backoff[try-1], min(e.after, maxRetryAfter))
}
