package companion

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/portmon/portmon/internal/config"
	"github.com/portmon/portmon/internal/state"
)

// reloads reads the configuration again whenever it is told to.
func (c *companion) reloads(ctx context.Context, reload <-chan struct{}) {
	// To say that it is ready after a reload, it must have been so before.
	select {
	case <-c.isReady:
	case <-ctx.Done():
		return
	}
	for {
		select {
		case <-reload:
			c.config.Notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", time.Duration(state.Clock().Mono).Microseconds()))
			if err := c.reloadNow(ctx); err != nil {
				c.config.Log.Error(fmt.Sprintf("the configuration stays as it was: %v", err))
			}
			c.config.Notify("READY=1")
		case <-ctx.Done():
			return
		}
	}
}

// reloadNow reads the configuration again. If it is wrong, nothing has changed.
func (c *companion) reloadNow(ctx context.Context) error {
	c.reloading.Lock()
	defer c.reloading.Unlock()
	conf, err := c.config.Load()
	if err != nil {
		return err
	}
	before := c.current
	if err := c.refuse(before, conf); err != nil {
		return err
	}
	select {
	case c.reload <- c.watchConfig(conf):
	case <-ctx.Done():
		return ctx.Err()
	}
	c.mu.Lock()
	c.current = conf
	c.mu.Unlock()
	if !sameNotices(before, conf) {
		c.startNotices(ctx, conf)
	}
	if before.Watch.Metrics != conf.Watch.Metrics || !c.hasMetrics() {
		c.startMetrics(ctx, conf)
	}
	c.config.Log.Info("configuration read again", "file", conf.Source)
	return nil
}

// refuse returns an error for what cannot change in a watcher that runs.
func (c *companion) refuse(before, after *config.Config) error {
	if before.Watch.State != after.Watch.State {
		return errors.New("state in [watch] has changed: restart the watcher for that")
	}
	return nil
}
