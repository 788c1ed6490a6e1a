package watch

const stateVariable = "PORTMON_WATCH_TEST_STATE"

func watchUntilKilled() error { return nil }
