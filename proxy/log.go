package proxy

import "postern/proxy/internal/record"

// A LogFile is an open log: a zap logger, and the file under it that Reopen opens
// anew.
type LogFile = record.Log

// OpenLog opens the log that config describes. Errors name what is wrong with
// its format, level or output.
func OpenLog(config Log) (*LogFile, error) {
	return record.NewLog(config.Format, config.Output, config.Level)
}
