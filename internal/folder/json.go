package folder

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
)

// ReadBeside returns what a file of JSON, in the folder of the file with that
// path, holds. It is nil if there is no such file or folder, and if the path is
// empty.
func ReadBeside[T any](path, name string, limit int64) (*T, error) {
	if path == "" {
		return nil, nil
	}
	dir := filepath.Dir(path)
	d, err := Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer d.Close()
	data, err := d.ReadFile(name, limit)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	v := new(T)
	if err == nil {
		err = json.Unmarshal(data, v)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", filepath.Join(dir, name), err)
	}
	return v, nil
}
