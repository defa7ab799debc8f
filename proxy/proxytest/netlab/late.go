package netlab

import (
	"container/heap"
	"time"
)

// A frame waits to be put on the other end of a Wire.
type frame struct {
	due    time.Time
	number int64 // in the order of arrival
	data   []byte
}

// lateness orders frames by when they are due.
type lateness []frame

func (l lateness) Len() int           { return len(l) }
func (l lateness) Less(i, j int) bool { return l[i].due.Before(l[j].due) }
func (l lateness) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *lateness) Push(x any)        { *l = append(*l, x.(frame)) }
func (l *lateness) Pop() any {
	old := *l
	last := old[len(old)-1]
	old[len(old)-1] = frame{}
	*l = old[:len(old)-1]
	return last
}

// give puts delayed frames on the other end, each when it is due, until the wire
// is cut.
func (w *way) give() {
	defer close(w.ended)
	var waiting lateness
	var newest int64
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for len(waiting) > 0 && !time.Now().Before(waiting[0].due) {
			one := heap.Pop(&waiting).(frame)
			_, _ = w.to.Write(one.data)
			if one.number < newest {
				w.mu.Lock()
				w.passed.Overtaken++
				w.mu.Unlock()
			}
			newest = max(newest, one.number)
		}
		next := time.Hour
		if len(waiting) > 0 {
			next = time.Until(waiting[0].due)
		}
		timer.Reset(next)
		select {
		case one, ok := <-w.late:
			if !ok {
				return
			}
			heap.Push(&waiting, one)
		case <-timer.C:
		}
	}
}
