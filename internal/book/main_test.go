package book

import "time"

var clock = Clock{Moment(5025118 * time.Millisecond), time.Date(2026, 1, 18, 11, 4, 26, 123e6, time.UTC)}

func config(path string, rows int) Config {
	return Config{Path: path, MaxRows: rows, Now: clock, Here: Origin{Machine: "m", Boot: "b", NetNS: 1, Table: 2}}
}
