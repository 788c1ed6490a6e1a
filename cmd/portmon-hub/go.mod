module github.com/portmon/portmon/cmd/portmon-hub

go 1.25.0

replace github.com/portmon/portmon => ../..

require github.com/portmon/portmon v0.0.0

require golang.org/x/sys v0.47.0 // indirect
